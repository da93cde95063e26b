"""The corpus stage: whatever the kind, out come lhotse cuts per split, a quarantine table and, where known, phone times."""

from __future__ import annotations

from birq.corpora import manifests, synth
from birq.params import SynthCorpus
from birq.stage import Job


def compute(job: Job) -> None:
    """Make `data/corpus/<name>`; bad recordings go to the quarantine table, too many of them stop the stage."""
    name = job.wildcards["corpus"]
    corpus = job.read(f"corpora.{name}")
    features = job.read("features")
    alphabet = job.read("tokenizer.alphabet")
    if isinstance(corpus, SynthCorpus):
        limits = {k: getattr(features, k) for k in ("sample_rate_hz", "min_seconds", "max_seconds")}
        synth.prepare(name, corpus, job.out, job.scratch, alphabet=alphabet, **limits)
    facts = manifests.info(job.out)
    job.notes["synthetic"] = facts["synthetic"]
    job.notes["hours"] = {split: s["hours"] for split, s in facts["splits"].items()}
