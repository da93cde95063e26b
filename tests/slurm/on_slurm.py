"""What the tests on the cluster share."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster
from tinyproject import Done, Project

COMMAND = ("snakemake", "--cores", "all", "--profile", "slurm")


@dataclass(frozen=True)
class Run:
    """A project, what Snakemake printed, and the jobs as Slurm remembers them."""

    project: Project
    done: Done
    jobs: list[dict[str, str]]


def on(cluster: Cluster, project: Project) -> Project:
    """The project with this cluster's commands in its environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), cluster.environment["PATH"]])
    return project.at(project.root, **cluster.environment | {"PATH": path})


def rule(job: dict[str, str]) -> str:
    """The rule that a job was submitted for."""
    return re.match(r"rule_(.*?)(_wildcards_.*)?$", job["Comment"])[1]
