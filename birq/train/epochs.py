"""Epochs become steps: passes over the train split, in the batches that it really makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from birq.pipeline.stage import Job
from birq.progress import say
from birq.settings.lengths import FIELDS, epochs
from birq.settings.params import Optimisation
from birq.speech.batches import Utterances, plan
from birq.speech.frontend import FrontEnd
from birq.train.distributed import Group

S = TypeVar("S", bound=Optimisation)


def in_steps(section: S, epoch_steps: Callable[[], float]) -> S:
    """The section with every length in steps. `epoch_steps` is asked only where one is in epochs; a length above 0 is a step at least."""
    asked = {key: n for key in FIELDS if (n := epochs(getattr(section, key, 0))) is not None}
    if not asked:
        return section
    per_epoch = epoch_steps()
    return section.model_copy(update={key: max(round(n * per_epoch), int(n > 0)) for key, n in asked.items()})


def epoch_steps(utterances: Utterances, index: np.ndarray, front_end: FrontEnd, section: Optimisation) -> int:
    """Steps of one pass over the utterances at `index`, the same for all seeds; a pass of one seed may have one or two more or less."""
    return len(plan(utterances.n_frames[index], front_end.n_frames(section.batch_seconds), seed=0, epoch=0))


def resolved(job: Job, section: S, utterances: Utterances, index: np.ndarray, front_end: FrontEnd, group: Group) -> S:
    """The section with every length in steps; where one was in epochs, the run says so, and its provenance has the numbers."""

    def counted() -> int:
        job.notes["epoch_steps"] = epoch_steps(utterances, index, front_end, section)
        return job.notes["epoch_steps"]

    found = in_steps(section, counted)
    changed = [key for key in FIELDS if getattr(section, key, 0) != getattr(found, key, 0)]
    job.notes.update({key: getattr(found, key) for key in changed})
    if changed and group.writes:
        hours = float(utterances.duration_s[index].sum()) / 3600
        lengths = ", ".join(f"{key} {getattr(section, key)} = {getattr(found, key)}" for key in changed)
        say(f"{job.name}: an epoch is {hours:.1f} h in {job.notes['epoch_steps']} steps of {section.batch_seconds:g} s; {lengths}")
    return found
