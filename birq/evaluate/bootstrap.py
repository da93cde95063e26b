"""Bootstrap intervals (Bisani and Ney 2004) of rates: utterances, or whole speakers, are drawn with replacement.

Shape suffixes: N units that are drawn, C columns of counts, R resamples.
"""

from __future__ import annotations

import numpy as np

DRAWS_AT_ONCE = 1 << 22  # 32 MiB of indices


def resampled_sums(counts_NC: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Column sums of `samples` resamples of the rows, [R, C] float64; exact for integer counts, the same for the same seed."""
    n = len(counts_NC)
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, DRAWS_AT_ONCE // n)
    out_RC = np.empty((samples, counts_NC.shape[1]))
    for begin in range(0, samples, rows):
        r = min(rows, samples - begin)
        drawn = rng.integers(0, n, size=(r, n)) + np.arange(r)[:, None] * n
        times_RN = np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n)
        out_RC[begin : begin + r] = times_RN.astype(np.float64) @ counts_NC.astype(np.float64)
    return out_RC


def sums_by(labels: list[str], counts_NC: np.ndarray) -> np.ndarray:
    """Counts summed over the rows that share a label, one row per label in sorted order."""
    names, index = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    out = np.zeros((len(names), counts_NC.shape[1]), counts_NC.dtype)
    np.add.at(out, index, counts_NC)
    return out


def ratio(errors: np.ndarray, total: np.ndarray) -> np.ndarray:
    """errors / total, NaN where a resample drew nothing to count (empty references only)."""
    return np.divide(errors, total, out=np.full(len(total), np.nan), where=total > 0)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile interval; NaN values are left out."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Twice the smaller share of resampled differences at or beyond zero, never 0: the sample itself counts as one resample."""
    d = differences[~np.isnan(differences)]
    fewer = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(d) + 1))
