"""The study stage: the runs of every part side by side, as a record, as tables and as one page."""

from __future__ import annotations

from birq.pipeline.stage import Job
from birq.report.study import build, record


def compute(job: Job) -> None:
    """Write study.json, study.md and index.html."""
    found = record.gather(job.node.project, lambda node: True)
    build.write(found.record, job.out)
    job.notes.update(device="cpu", runs=len(found.record["rows"]))
