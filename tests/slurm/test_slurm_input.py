"""A cluster that cannot be used as asked is said in one sentence before anything is submitted; accounting changes nothing but the books."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing
from conftest import PROFILE
from on_slurm import COMMAND, Run, on
from tinyproject import Project, edit

pytestmark = pytest.mark.pipeline

TOKENIZER = "data/tokenizer/provenance.json"


@pytest.fixture
def project(run: Run, place: Path) -> Iterator[Project]:
    """A finished project that lacks the tokenizer's artifact; its store has it."""
    copy = run.project.copy(place / "input")
    shutil.rmtree(copy.root / "data/tokenizer")
    yield copy
    shutil.rmtree(copy.root)


def listing(project: Project) -> dict[str, int]:
    """Every file of an artifact, in its place and in the store, with its time."""
    data = project.root / "data"
    folders = [p for p in data.iterdir() if p.name == ".store" or (p.is_dir() and p.name[0] != ".")]
    return {str(p): p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()}


def refused(project: Project, cluster: Cluster) -> str:
    """The one error of a run that submits nothing and leaves data/ as it is."""
    jobs, before = {j["JobId"] for j in cluster.jobs()}, listing(project)
    said = project.run(*COMMAND, TOKENIZER, status=1).text
    assert {j["JobId"] for j in cluster.jobs()} <= jobs, "Slurm may forget jobs meanwhile, but there is no new one"
    assert listing(project) == before
    assert "Error in rule" not in said
    (error,) = re.findall(r"^(?:this cluster|no such|Slurm cannot).*$", said, flags=re.M)
    return error


def test_slurm_cannot_be_reached(project: Project, cluster: Cluster, place: Path) -> None:
    """A controller that is not there is said at once, not by every job after its own wait."""
    away = place / "away.conf"
    text = re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1\nMessageTimeout=2", (cluster.folder / "slurm.conf").read_text())
    away.write_text(text)
    error = refused(project.at(project.root, SLURM_CONF=str(away)), cluster)
    assert "Unable to contact slurm controller" in error and "nothing was submitted" in error


def test_unknown_partition(project: Project, cluster: Cluster) -> None:
    """The error names what was asked for, what there is, and the file to correct."""
    edit(project.root / PROFILE, "slurm_partition=main", "slurm_partition=nosuch")
    error = refused(project, cluster)
    assert "nosuch; this cluster has main" in error and PROFILE in error


def test_a_cluster_that_forgets(project: Project, cluster: Cluster) -> None:
    """squeue would miss the end of a job that the controller has forgotten; sacct without accounting knows of none."""
    edit(cluster.folder / "slurm.conf", "MinJobAge=3600", "MinJobAge=60")
    cluster.call("scontrol", "reconfigure")
    try:
        assert "forgets a job 60 s after its end" in refused(project, cluster)
    finally:
        edit(cluster.folder / "slurm.conf", "MinJobAge=60", "MinJobAge=3600")
        cluster.call("scontrol", "reconfigure")
    edit(project.root / PROFILE, "slurm-status-command: squeue", "slurm-status-command: sacct")
    assert "sacct knows nothing" in refused(project, cluster)


def command(folder: Path, environment: dict[str, str], *words: str) -> str:
    """`python -m tests.slurm.cluster`, as a developer calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.slurm.cluster", *words, "--folder", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_accounting(project: Project, place: Path, environment: dict[str, str]) -> None:
    """The profile as it is works with accounting too, so do sacct and an account; a wrong one is refused. The cluster leaves nothing."""
    if lacking := missing(accounting=True):
        pytest.skip(f"no accounting on this machine ({', '.join(lacking)}): apt-get install slurmdbd mariadb-server-core")
    folder = place / "books"
    books = Cluster(folder, accounting=True)
    try:
        assert command(folder, environment, "start", "--accounting") == f"export SLURM_CONF={folder}/slurm.conf\n"
        begun = books.pids()
        command(folder, environment, "start", "--accounting")
        assert books.pids() == begun, "a cluster that runs is left as it is"

        here = on(books, project)
        here.run(*COMMAND, TOKENIZER)
        shutil.rmtree(here.root / "data/tokenizer")
        edit(here.root / PROFILE, "slurm-status-command: squeue", "slurm-status-command: sacct")
        edit(here.root / PROFILE, "# - slurm_account=ACCOUNT", "- slurm_account=speech")
        here.run(*COMMAND, TOKENIZER)
        kept = books.call("sacct", "-X", "-n", "-P", "-o", "Account,State").splitlines()
        assert kept == ["root|COMPLETED", "speech|COMPLETED"]
        shutil.rmtree(here.root / "data/tokenizer")
        edit(here.root / PROFILE, "slurm_account=speech", "slurm_account=nosuch")
        assert "The given account nosuch appears to be invalid" in here.run(*COMMAND, "--retries", "0", TOKENIZER, status=1).text
    finally:
        command(folder, environment, "stop")
    assert not folder.exists() and not books.left()
