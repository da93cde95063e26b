"""The oldest Snakemake that birq claims to work with, installed beside the present one and run for real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import ROOT, tracked_copy

from birq.pipeline import dag
from birq.settings import presets

OLDEST = re.search(r'^min_version\("(.*)"\)$', (ROOT / "Snakefile").read_text(), flags=re.M)[1]


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> dict[str, str]:
    """An environment in which `python -m snakemake` is the oldest release; all but Snakemake's own packages are the present ones."""
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", "--target", str(folder)]
    done = subprocess.run([*pip, f"snakemake=={OLDEST}.0"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install snakemake {OLDEST}.0: {done.stderr[-300:]}")
    return environment | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_the_oldest_snakemake_runs_birq(tmp_path: Path, oldest: dict[str, str]) -> None:
    """Profiles, rules, growing resources and a run: a stage is made, a second time there is nothing to do, and a change is seen."""
    project = tracked_copy(tmp_path)
    (project / "presets").mkdir()
    (project / "presets" / "tiny.yaml").write_text((ROOT / "tests" / "tiny.yaml").read_text())
    presets.apply("tiny", [], project / "params.yaml")

    def snakemake(*args: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *args]
        done = subprocess.run(command, cwd=project, env=oldest, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    assert snakemake("--version").strip() == f"{OLDEST}.0"
    target = "data/corpus/synth/provenance.json"
    said = snakemake(target)
    assert "profiles/default" in said and "corpus/synth: done" in said
    assert "Nothing to be done" in snakemake(target)
    presets.apply(None, ["corpora.synth.seed=2"], project / "params.yaml")
    assert set(re.findall(r"^(?:local)?rule (\w+):", snakemake("--dry-run", "--profile", "slurm"), flags=re.M)) >= {*dag.STAGES} - {
        "labels",
        "study",
    }
