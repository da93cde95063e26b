"""Clusters of cepstra whose mean and variance are normalised, as labels: the method `cmvn_kmeans`, ours.

HuBERT's first labels (Hsu et al. 2021) are clusters of cepstra with deltas. Here every value has zero mean and unit variance over its
utterance (CMVN), which takes the channel and the voice out and lets deltas count. docs/study.md has what it changes.
"""

from __future__ import annotations

from birq.labels.frames import Making, of_view
from birq.labels.kmeans import clustered
from birq.pipeline.stage import Job
from birq.speech.shards import Split


def make(job: Job, split: Split) -> Making:
    """One codebook, whose codes are the clusters. Errors: BirqError for fewer frames than clusters."""
    return clustered(job, of_view(job, split, "cmvn", job.read("model.n_stack")))
