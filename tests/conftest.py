"""What tests share: the project's root, and small processes run in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# each takes more than about 20 s, mostly in processes of its own; `make test-fast` leaves them out, and pipeline/ and slurm/
SLOW = {
    f"test_{n}"
    for n in ["benchmarks", "distributed", "dvc", "features", "finetune", "mistakes", "oldest_snakemake", "pool", "report", "reproduce"]
}
SLOW |= {"test_speed", "test_stage", "test_store", "test_synth", "test_train", "test_workflow"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW or item.path.parent.name in ("pipeline", "slurm"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment for child processes: this Python first, this checkout importable, one thread, no shared store."""
    env = {k: v for k, v in os.environ.items() if k not in ("BIRQ_STORE", "SNAKEMAKE_PROFILE")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    env["PYTHONPATH"] = str(ROOT)
    env["OMP_NUM_THREADS"] = "1"
    return env


@pytest.fixture
def birq(tmp_path: Path, environment: dict[str, str]):
    """Runs `python -m birq ARGS` in a temporary folder; returns the finished process."""

    def call(*args: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "birq", *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return call


# ---- the toy stages


@pytest.fixture
def toy_project(tmp_path: Path, root: Path) -> Path:
    """A folder with params.yaml and the toy stages."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copy(root / "tests" / "toy.py", tmp_path)
    return tmp_path


@pytest.fixture
def toy(toy_project: Path, environment: dict[str, str]):
    """Runs toy.py; returns the finished process."""

    def call(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "toy.py", *args], cwd=toy_project, env=environment | env, capture_output=True, text=True, check=False
        )

    return call


# ---- speech of tones and what is trained on it; imported late, because torch costs seconds that most tests need not wait for


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A features artifact: speech of tones."""
    from tiny import speech

    return speech(tmp_path_factory.mktemp("speech") / "features")


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer artifact: one token per letter of the speech of tones."""
    from tiny import LETTERS

    from birq.text import tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.characters(LETTERS + " ").save(folder)
    return folder


@pytest.fixture(scope="session")
def scratch_encoder(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    """The artifact of the method `scratch`: an encoder that was not pre-trained."""
    from tiny import pretrained

    return pretrained(tmp_path_factory.mktemp("scratch"), features, method="scratch")
