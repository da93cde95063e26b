"""A part of a split, for what does not need all of it."""

from __future__ import annotations

import numpy as np

from birq.speech.batches import Utterances


def spread(utterances: Utterances, index: np.ndarray, max_minutes: float, seed: int | np.random.SeedSequence) -> np.ndarray:
    """Of the positions in `index`, at most `max_minutes` of speech (one utterance at least): a seeded shuffle of the sorted ids."""
    index = np.array(sorted(index, key=lambda i: utterances.ids[i]), dtype=np.int64)
    order = index[np.random.Generator(np.random.PCG64(seed)).permutation(len(index))]
    within = np.cumsum(utterances.duration_s[order]) <= max_minutes * 60
    return order[: max(1, int(within.sum()))]
