"""Clusters of frames as labels (HuBERT, Hsu et al. 2021): of a view of the input, or of a layer of an encoder.

Centres come from scikit-learn's MiniBatchKMeans on minutes of speech; then every frame gets its nearest centre, in one pass.
Shape suffixes: M frames, D values of a frame, V clusters.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from birq.errors import BirqError
from birq.labels.frames import Making, Source, chosen, of_layer, of_view
from birq.pipeline.stage import Job
from birq.progress import say
from birq.speech.shards import Split

BATCH_FRAMES = 10_000  # of a step of mini-batch k-means; HuBERT's
DRAWS = 5  # sets of first centres, of which the best one is taken
DIGITS = 6


def fitted(x_MD: np.ndarray, clusters: int, seed: int) -> MiniBatchKMeans:
    """Centres of frames. It runs on one thread: sums in another order would give other centres."""
    found = MiniBatchKMeans(clusters, batch_size=BATCH_FRAMES, n_init=DRAWS, max_iter=100, max_no_improvement=100, random_state=seed)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct frames than clusters: said as codes that are not used
        return found.fit(x_MD)


def _frames(source: Source, minutes: float, clusters: int, seed: int) -> np.ndarray:
    """The frames to fit, [M, D]. Errors: BirqError for fewer frames than clusters."""
    index = chosen(source, minutes, seed)
    x_MD = np.concatenate([x.cpu().numpy() for _, _, x in source.batches(index)])
    if len(x_MD) < clusters:
        raise BirqError(
            f"kmeans.clusters: {clusters} is more than the {len(x_MD)} frames of {source.named} that kmeans.fit_minutes: {minutes:g} "
            "lets in; lower the one, raise the other, or add speech"
        )
    return x_MD


def make(job: Job, split: Split) -> Making:
    """The clusters of the view that params name, or of a layer of the encoder that the job has as input. Errors: as `_frames`."""
    if "pretrain" in job.inputs:
        return clustered(job, of_layer(job, split, job.read("kmeans.layer")))
    return clustered(job, of_view(job, split, job.read("kmeans.view"), job.read("model.n_stack")))


def clustered(job: Job, source: Source) -> Making:
    """One codebook, whose codes are the clusters. `centres.npy` holds the centres. Errors: as `_frames`."""
    clusters, minutes, seed = job.read("kmeans.clusters"), job.read("kmeans.fit_minutes"), int(job.wildcards["seed"])
    x_MD = _frames(source, minutes, clusters, seed)
    model = fitted(x_MD, clusters, seed)
    np.save(job.out / "centres.npy", model.cluster_centers_)
    about: dict[str, Any] = {
        "made": f"k-means of {source.named}",
        "fitted_frames": len(x_MD),
        "iterations": int(model.n_iter_),
        "inertia_per_frame": round(float(model.inertia_) / len(x_MD), DIGITS),
    }
    inertia = about["inertia_per_frame"]
    say(f"{job.name}: {clusters} clusters of {len(x_MD)} frames, {model.n_iter_} iterations, inertia {inertia:.4g} a frame")

    def code(x_MD: Tensor) -> np.ndarray:
        with threadpool_limits(1):
            return model.predict(x_MD.cpu().numpy())[:, None]

    return Making(source.front_end.n_stack, 1, clusters, source.coded(code), about)
