"""Phones at the wrong time: the floor. Each utterance's labels are rotated by half its length, so how often and how long stays."""

from __future__ import annotations

import numpy as np

from birq.labels import phones
from birq.labels.frames import Making
from birq.pipeline.stage import Job
from birq.speech.shards import Split


def rotated(codes_T: np.ndarray) -> np.ndarray:
    """The second half first."""
    return np.roll(codes_T, len(codes_T) // 2)


def make(job: Job, split: Split) -> Making:
    """As `phones.make`, rotated."""
    return phones.make(job, split, rotated)
