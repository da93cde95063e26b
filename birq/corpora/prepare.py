"""The corpus stage: lhotse cuts per split, a quarantine table and, where known, phone times."""

from __future__ import annotations

import importlib

from birq.corpora import manifests
from birq.corpora.items import Limits
from birq.stage import Job


def compute(job: Job) -> None:
    """Make `data/corpus/<name>` with the reader `birq.corpora.<kind>`.

    Bad recordings go to the quarantine table; too many of them stop the stage. The import is by name: a corpus' key holds
    the code of its own reader, and an edit of another one does not touch it.
    """
    name = job.wildcards["corpus"]
    corpus, features = job.read(f"corpora.{name}"), job.read("features")
    reader = importlib.import_module(f"birq.corpora.{corpus.kind}")
    limits = Limits(features.sample_rate_hz, features.min_seconds, features.max_seconds, features.max_quarantined_share)
    reader.prepare(name, corpus, job.out, job.scratch, alphabet=job.read("tokenizer.alphabet"), limits=limits)
    facts = manifests.info(job.out)
    job.notes["synthetic"] = facts["synthetic"]
    job.notes["quarantined"] = facts["quarantined"]
    job.notes["hours"] = {split: s["hours"] for split, s in facts["splits"].items()}
