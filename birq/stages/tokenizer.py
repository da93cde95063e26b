"""The tokenizer stage: training transcripts of the fine-tuning corpora to a tokenizer."""

from __future__ import annotations

from birq.pipeline.stage import Job
from birq.speech.shards import open_split
from birq.text import tokenizer


def compute(job: Job) -> None:
    """Errors: BirqError where no transcript trains it, or they cannot fill the vocabulary."""
    texts = [t for t in open_split(job.inputs["features"], "train").texts if t is not None]
    made = tokenizer.build(job.read("tokenizer"), texts)
    made.save(job.out)
    job.notes.update(kind=made.kind, size=made.size, transcripts=len(texts))
