"""Samples as a user gives them."""

from __future__ import annotations

import numpy as np

from birq.errors import BirqError


def checked(samples: np.ndarray) -> np.ndarray:
    """Mono samples [n] as float32. Errors: BirqError for what are no mono samples in [-1, 1]."""
    wave = np.asarray(samples)
    if wave.ndim != 1:
        raise BirqError(f"samples of shape {wave.shape}: give mono samples [n], such as the mean of the channels")
    if not np.issubdtype(wave.dtype, np.floating):
        raise BirqError(f"samples of type {wave.dtype}: give floats in [-1, 1], such as 16-bit integers / 32768")
    if not np.isfinite(wave).all():
        raise BirqError("samples that are not finite numbers")
    return wave.astype(np.float32, copy=False)
