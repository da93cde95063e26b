"""A cluster for the session and a project to run on it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "pipeline")]

import tinyproject
from cluster import Cluster, missing
from on_slurm import COMMAND, Run, on
from tinyproject import Project, edit

PROFILE = "workflow/profiles/slurm/config.yaml"
# the plugin asks for its jobs' states every 40 to 180 s, which is kind to a controller of thousands of jobs
IMPATIENT = """

import snakemake_executor_plugin_slurm

snakemake_executor_plugin_slurm.Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
"""


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder with a short name: munge's socket lies in it."""
    folder = Path(tempfile.mkdtemp(prefix="birq-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(place: Path) -> Iterator[Cluster]:
    """Two nodes, no accounting."""
    if lacking := missing():
        pytest.skip(f"no Slurm on this machine ({', '.join(lacking)}): apt-get install slurmctld slurmd slurm-client munge")
    one = Cluster(place / "cluster")
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="session")
def fresh(place: Path, environment: dict[str, str]) -> Project:
    """Nothing made yet; the profile with the lines that a user would change, and shorter waits."""
    project = tinyproject.new(place / "project", environment, [])
    profile = project.root / PROFILE
    edit(profile, r"# - slurm_partition=PARTITION", "- slurm_partition=main")
    edit(profile, r"(latency-wait:) 60", r"\1 5")
    edit(profile, r"feature_parts=4", "feature_parts=2")
    # what a probe takes does not fit into the first of these
    edit(profile, r"(  probe:.*?mem_mb:) 16000 \* attempt", r"\1 150 + 4000 * (attempt - 1)")
    with open(project.root / "workflow/rules/cluster.smk", "a") as f:
        f.write(IMPATIENT)
    return project


@pytest.fixture(scope="session")
def run(cluster: Cluster, fresh: Project) -> Run:
    """The whole pipeline by the literal command."""
    project = on(cluster, fresh)
    done = project.run(*COMMAND)
    return Run(project, done, cluster.jobs())
