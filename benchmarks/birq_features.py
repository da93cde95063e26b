"""birq's feature stage by itself: the stage's `compute` on a folder, without keys and store. It imports no more than the stage does.

python -m benchmarks.birq_features CORPUS FOLDER WORKERS
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock

from benchmarks.harness import ROOT
from birq.pipeline import dag
from birq.pipeline.stage import Job
from birq.settings import params
from birq.stages import features


@lru_cache
def _node() -> dag.Node:
    return dag.Node(dag.STAGES["features"], {"corpus": "bench"}, params.load(ROOT / "params.yaml"))


@dataclass(frozen=True)
class _Job(Job):
    """A job on a corpus that lies anywhere."""

    corpus: Path = Path()

    @property
    def inputs(self) -> dict[str, list[Path]]:
        return {"corpus": [self.corpus]}


def birq_stage(corpus: Path, base: Path, workers: int) -> None:
    """The stage's own `compute`."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "out").mkdir(parents=True)
    (base / "scratch").mkdir()
    job = _Job(_node(), "key", base / "out", base / "scratch", corpus=corpus)
    cores = set(range(workers))
    hours = 1e9 if workers == 1 else 1e-9
    quiet = mock.patch.object(features, "Progress", mock.Mock())
    with quiet, mock.patch.object(features, "HOURS_PER_WORKER", hours), mock.patch.object(os, "sched_getaffinity", lambda _: cores):
        features.compute(job)
    assert job.notes["workers"] == len(cores)


if __name__ == "__main__":
    birq_stage(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
