"""What tests share: the project's root, and small processes run in a folder of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import forked as fork_server
import pytest

ROOT = Path(__file__).resolve().parent.parent
# begun first, the longest first: none of these should be what all wait for at the end. slurm/ is one, because its files share a cluster
LONGEST = ["slurm", "test_scenarios_tools", "test_reproduce", "test_pipeline", "test_oldest_snakemake", "test_scenarios_dvc"]
LONGEST += ["test_bad_input", "test_distributed", "test_speed", "test_dvc", "test_workflow", "test_train", "test_scenarios_params"]
LONGEST += ["test_scenarios_inputs", "test_pretended", "test_containers", "test_shared_store"]
# left out by `make test-fast`, and pipeline/ and slurm/: more than about 20 s of processor time each. Single tests have the mark themselves
SLOW = {f"test_{n}" for n in ["benchmarks", "browser", "distributed", "docs_site", "dvc", "huggingface", "live", "new_corpus"]}
SLOW |= {f"test_{n}" for n in ["oldest_snakemake", "onnx", "pool", "presets", "pretended", "report", "reproduce", "slot"]}
SLOW |= {f"test_{n}" for n in ["small_install", "speed", "study", "train", "workflow"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs",
        action="store_true",
        help="write the tables of docs/workflow.md (tests/pipeline) and docs/study.md (tests/test_study.py)",
    )
    parser.addoption("--real-commands", action="store_true", help="every command with imports of its own, no fork server (tests/forked.py)")


def unit(path: Path) -> str:
    """Tests that one process runs: a file, or all of slurm/."""
    return "slurm" if path.parent.name == "slurm" else path.stem


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in SLOW or item.path.parent.name in ("pipeline", "slurm"):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        order = {name: i for i, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(unit(item.path), len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """`--dist loadfile`, as `make test` has it: by units, in the order in which they were collected."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByUnit(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(Path(super()._split_scope(nodeid)))

    config.option.loadscopereorder = False
    return ByUnit(config, log)


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


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes that run tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def fork_server_address(request: pytest.FixtureRequest, shared: Path, environment: dict[str, str]) -> Iterator[str | None]:
    """Where the fork server of all processes that run tests listens; the first one that asks starts it. None: every command is real."""
    if request.config.getoption("--real-commands") or not hasattr(os, "pidfd_open"):
        yield None
        return
    note = shared / "fork-server"
    with open(shared / "fork-server.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lease = socket.socket(socket.AF_UNIX)
        if not note.exists() or lease.connect_ex(note.read_text()):
            address = fork_server.install(tempfile.mkdtemp(prefix="birq-"))  # short: a socket's path has at most 107 characters
            env = {k: v for k, v in environment.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
            with open(shared / "fork-server.log", "a") as log:
                command = [sys.executable, fork_server.__file__, address]
                subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            deadline = time.monotonic() + 60
            while lease.connect_ex(address):
                assert time.monotonic() < deadline, (shared / "fork-server.log").read_text()
                time.sleep(0.02)
            note.write_text(address)
    with contextlib.closing(lease):  # the server ends when nobody holds a connection any more
        yield note.read_text()


@pytest.fixture(scope="session")
def forked(fork_server_address: str | None, environment: dict[str, str]) -> dict[str, str]:
    """As `environment`, but `python`, `snakemake` and `dvc` are forked from a process that has the big packages loaded.

    REAL_PATH: where the real commands are. For tests whose subject is not the process itself.
    """
    paths = [environment["PATH"]]
    if fork_server_address:
        paths.insert(0, str(Path(fork_server_address).parent))
    return environment | {"PATH": os.pathsep.join(paths), "REAL_PATH": environment["PATH"]}


@pytest.fixture
def birq(tmp_path: Path, forked: dict[str, str]):
    """Runs `python -m birq ARGS` in a temporary folder; returns the finished process."""

    def call(*args: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["python", "-m", "birq", *args], cwd=cwd, env=forked, capture_output=True, text=True, check=False)

    return call


# ---- the toy stages


@pytest.fixture
def toy_project(tmp_path: Path, root: Path) -> Path:
    """A folder with params.yaml and the toy stages."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copy(root / "tests" / "toy.py", tmp_path)
    return tmp_path


@pytest.fixture
def toy(toy_project: Path, forked: dict[str, str]):
    """Runs toy.py; returns the finished process."""

    def call(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = ["python", "toy.py", *args]
        return subprocess.run(command, cwd=toy_project, env=forked | env, capture_output=True, text=True, check=False)

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
