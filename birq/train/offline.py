"""Pre-training on labels from a file: the task of pretraining.py, whose batches bring the labels of their masked frames."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from birq.model.prediction import BestRq
from birq.pipeline.stage import Job
from birq.saved.labels import Labels, open_labels
from birq.speech.batches import Batch, Utterances
from birq.speech.frontend import FrontEnd
from birq.train import pretraining
from birq.train.pretraining import MaskedBatch, PretrainTask


class OfflineTask(PretrainTask):
    """Masked prediction of given labels."""

    def __init__(self, labels: Labels, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.labels = labels

    def ready(self, batches: list[Batch], step: int, epoch: int) -> list[Batch]:
        """With masks, and the labels of the masked frames, which are read from the file ahead of the step."""
        out: list[Batch] = []
        for b in super().ready(batches, step, epoch):
            assert isinstance(b, MaskedBatch) and b.masked is not None
            out.append(replace(b, masked=replace(b.masked, given=self.labels.given(b.index, b.masked.mask_BT))))
        return out


def train(job: Job, model: BestRq, utterances: Utterances, front_end: FrontEnd, values: dict[str, Any]) -> None:
    """As `pretraining.train`. Errors: BirqError for labels that do not fit the utterances."""
    labels = open_labels(job.input("labels"), utterances, front_end.n_stack)
    pretraining.train(job, model, utterances, front_end, values, partial(OfflineTask, labels))
