"""The study stage: the runs of every part side by side, as a record, as tables and as one page."""

from __future__ import annotations

from birq.errors import BirqError
from birq.pipeline.stage import Job
from birq.report.study import build, record


def compute(job: Job) -> None:
    """Write study.json, study.md and index.html. Errors: BirqError where params name no part, or no run has a probe."""
    if not job.read("study").parts:
        raise BirqError(
            "study.parts is empty, so there is nothing to compare: `python -m birq preset study-screen` fills it, "
            "or write study.parts: {NAME: {names: [best_rq, birq], seeds: [0, 1, 2]}} into params.yaml"
        )
    found = record.gather(job.node.project, lambda node: True)
    build.write(found.record, job.out)
    job.notes.update(device="cpu", runs=len(found.record["rows"]))
