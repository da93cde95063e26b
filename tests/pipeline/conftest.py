"""One finished project for all scenarios, and the option that writes their table into docs/workflow.md."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import forked as fork_server
import pytest
import scenario
import tinyproject
from tinyproject import Project

SECONDS: dict[str, float] = {}


def _processor_seconds(fork_server_address: str | None) -> float:
    """Of commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    forked = fork_server.seconds(fork_server_address, os.environ.get("PYTEST_XDIST_WORKER", "")) if fork_server_address else 0.0
    return used.ru_utime + used.ru_stime + forked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Iterator[None]:
    """Notes a test's processor seconds: wall time says more about what else the machine does."""
    address = item.funcargs.get("fork_server_address")
    before = _processor_seconds(address)
    yield
    item.user_properties.append(("processor_seconds", _processor_seconds(address) - before))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    noted = dict(report.user_properties)
    if report.when == "call" and report.passed and "processor_seconds" in noted:
        SECONDS[report.location[2]] = noted["processor_seconds"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-docs", default=False) and not hasattr(session.config, "workerinput"):
        scenario.write(SECONDS)


@pytest.fixture(scope="session")
def scenarios(shared: Path) -> Path:
    """What one of the processes that run tests has made here, the others copy."""
    return shared / "scenarios"


def _once(folder: Path, make: Callable[[], None]) -> None:
    """Make a folder's content in one process; the others wait for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = folder.with_suffix(".done")
    with open(folder.with_suffix(".lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if not mark.exists():
            make()
            mark.touch()


@pytest.fixture(scope="session")
def fresh(scenarios: Path, forked: dict[str, str]) -> Project:
    """Nothing made yet."""
    folder = scenarios / "fresh"
    _once(folder, lambda: tinyproject.new(folder, forked, []))
    return tinyproject.existing(folder, forked, scenario.LEDGER)


@pytest.fixture(scope="session")
def by_snakemake(fresh: Project, scenarios: Path) -> Project:
    """Made by Snakemake; DVC has not run."""
    folder = scenarios / "by_snakemake"
    _once(folder, lambda: fresh.copy(folder).snakemake())
    return fresh.at(folder)


@pytest.fixture(scope="session")
def made(by_snakemake: Project, scenarios: Path) -> Project:
    """Made by Snakemake, found by DVC, committed: both tools know that there is nothing to do."""
    folder = scenarios / "made"

    def make() -> None:
        project = by_snakemake.copy(folder)
        project.dvc()
        project.git("add", "-A")
        project.git("commit", "-qm", "results")

    _once(folder, make)
    return by_snakemake.at(folder)


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A finished project of the test's own."""
    return made.copy(tmp_path / "project")
