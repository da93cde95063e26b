"""The shape of a layer's outputs: how many directions they use, and which groups they form.

Shape suffixes: M frames, D width.
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from birq.evaluate.layers import moments
from birq.evaluate.quality import entropy

SEED = 21  # of k-means; fixed, so that all encoders are clustered from the same draws
FRAMES_PER_CLUSTER = 16  # with fewer, counting errors are most of a PNMI


def effective_rank(x_MD: np.ndarray) -> float:
    """e to the entropy of the shares of variance along the principal axes (Roy and Vetterli 2007, on the covariance).

    1: all frames lie on a line; D: equal variance in all directions; 0: all frames are equal.
    """
    mean_D, _ = moments(x_MD)
    z_MD = x_MD.astype(np.float64) - mean_D
    variance_D = np.linalg.eigvalsh(z_MD.T @ z_MD / len(z_MD)).clip(0)
    # what rounding leaves of a constant is no direction
    if variance_D.sum() <= 1e-9 * (1 + np.square(mean_D.astype(np.float64)).sum()):
        return 0.0
    return float(np.exp(entropy(variance_D)))


def clusters(n_frames: int, codebook_size: int) -> int:
    """Number of clusters: the codebook's size, or fewer where there are few frames."""
    return max(1, min(codebook_size, n_frames // FRAMES_PER_CLUSTER))


def kmeans(x_MD: np.ndarray, n_clusters: int) -> np.ndarray:
    """Cluster of every frame by mini-batch k-means of the standardised outputs, int64 [M].

    Standardised as the layer's codes are, so the two differ in the codebook alone.
    """
    mean_D, std_D = moments(x_MD)
    z_MD = (x_MD - mean_D) / std_D
    fitted = MiniBatchKMeans(n_clusters, random_state=SEED, n_init=1, batch_size=1024, max_iter=30).fit(z_MD)
    return fitted.predict(z_MD).astype(np.int64)
