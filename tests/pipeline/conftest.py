"""One finished project for all scenarios, and the option that writes their table into docs/workflow.md."""

from __future__ import annotations

import resource
from collections.abc import Iterator
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
def fresh(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Project:
    """Nothing made yet."""
    return tinyproject.new(tmp_path_factory.mktemp("scenarios") / "fresh", environment, scenario.LEDGER)


@pytest.fixture(scope="session")
def by_snakemake(fresh: Project) -> Project:
    """Made by Snakemake; DVC has not run."""
    project = fresh.copy(fresh.root.with_name("by_snakemake"))
    project.snakemake()
    return project


@pytest.fixture(scope="session")
def made(by_snakemake: Project) -> Project:
    """Made by Snakemake, found by DVC, committed: both tools know that there is nothing to do."""
    project = by_snakemake.copy(by_snakemake.root.with_name("made"))
    project.dvc()
    project.git("add", "-A")
    project.git("commit", "-qm", "results")
    return project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """A finished project of the test's own."""
    return made.copy(tmp_path / "project")
