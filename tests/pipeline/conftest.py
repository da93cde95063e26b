"""One finished project for all scenarios, and the option that writes their table into docs/workflow.md."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scenario
import tinyproject
from tinyproject import Project

SECONDS: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write the table of scenarios into docs/workflow.md")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Notes a test's processor seconds: wall time says more about what else the machine does."""
    before = _processor_seconds()
    yield
    item.user_properties.append(("processor_seconds", _processor_seconds() - before))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    noted = dict(report.user_properties)
    if report.when == "call" and report.passed and "processor_seconds" in noted:
        SECONDS[report.location[2]] = noted["processor_seconds"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-docs", default=False) and not hasattr(session.config, "workerinput"):
        scenario.write(SECONDS)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes that run tests share: what one of them has made, the others copy."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "scenarios"


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
def fresh(shared: Path, environment: dict[str, str]) -> Project:
    """Nothing made yet."""
    folder = shared / "fresh"
    _once(folder, lambda: tinyproject.new(folder, environment, []))
    return tinyproject.existing(folder, environment, scenario.LEDGER)


@pytest.fixture(scope="session")
def by_snakemake(fresh: Project, shared: Path) -> Project:
    """Made by Snakemake; DVC has not run."""
    folder = shared / "by_snakemake"
    _once(folder, lambda: fresh.copy(folder).snakemake())
    return fresh.at(folder)


@pytest.fixture(scope="session")
def made(by_snakemake: Project, shared: Path) -> Project:
    """Made by Snakemake, found by DVC, committed: both tools know that there is nothing to do."""
    folder = shared / "made"

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
