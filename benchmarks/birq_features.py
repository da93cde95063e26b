"""birq's feature stage by itself: the stage's `compute` on a folder, without keys and store. Imports what the stage imports, no more.

python -m benchmarks.birq_features CORPUS FOLDER WORKERS
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from unittest import mock

from benchmarks.harness import ROOT
from birq.pipeline import stage
from birq.settings import params
from birq.speech import fbank as features


@lru_cache
def _params() -> params.Params:
    return params.load(ROOT / "params.yaml")


def birq_stage(corpus: Path, base: Path, workers: int) -> None:
    """The stage's own `compute`."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "out").mkdir(parents=True)
    (base / "scratch").mkdir()
    job = stage.Job("features", {"corpus": "bench"}, "key", {"corpus": [corpus]}, base / "out", base / "scratch", _params())
    cores = set(range(workers))
    hours = 1e9 if workers == 1 else 1e-9
    quiet = mock.patch.object(features, "Progress", mock.Mock())
    with quiet, mock.patch.object(features, "HOURS_PER_WORKER", hours), mock.patch.object(os, "sched_getaffinity", lambda _: cores):
        features.compute(job)
    assert job.notes["workers"] == len(cores)


if __name__ == "__main__":
    birq_stage(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
