"""The report stage: metrics, comparisons, figures and one page, from everything that the run made."""

from __future__ import annotations

from birq.pipeline.dag import upstream
from birq.pipeline.stage import Job
from birq.report.build import report


def compute(job: Job) -> None:
    """See `birq.report.build.report`."""
    report(job.inputs, job.out, job.read("report"), job.read("run"), upstream(job.node), job.read("birq.label_layer"))
    job.notes["device"] = "cpu"
