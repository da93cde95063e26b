"""Snapshots of the encoder along pre-training, `pretrain.snapshots`.

A file of its own, which only pre-training imports: in the loop that fine-tuning shares, it would be in fine-tuning's keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from birq.saved import snapshots
from birq.train.loop import Position, Training


def steps_of(shares: Sequence[float], steps: int) -> list[int]:
    """The steps after which the encoder is kept, of a training of `steps`: rising, each once, from 1 on.

    The last step is not among them: its encoder is the finished one.
    """
    return sorted({max(round(share * steps), 1) for share in shares} - {steps})


class SnapshotTraining(Training):
    """A training that keeps `model.encoder` after some steps.

    Snapshots lie in the work folder until the end. Each is written before any checkpoint of its step or a later one, so a run that resumes
    behind it finds it, and one that resumes before it writes the same bytes again.
    """

    def __init__(self, *training: Any, snapshots_at: Sequence[int]):
        super().__init__(*training)
        self.snapshots_at = snapshots_at

    def run(self) -> Position:
        """As of any training; snapshots go into the artifact too."""
        position = super().run()
        if self.group.writes:
            for file in map(snapshots.file_of, self.snapshots_at):
                shutil.copyfile(self.job.scratch / file, self.job.out / file)
        return position

    def _step(self) -> None:
        super()._step()
        if self.group.writes and self.position.step in self.snapshots_at:
            snapshots.save(self.job.scratch, self.position.step, self.model.encoder)
