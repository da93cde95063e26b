"""One training as several processes, within a node and over two nodes, started by Slurm as the rule is written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cluster import Cluster
from conftest import PROFILE
from on_slurm import COMMAND, Run, on, rule
from safetensors.torch import load_file
from tinyproject import Project, edit

from birq.pipeline import artifact

pytestmark = pytest.mark.pipeline

Start = Callable[[Project, Cluster], int]
PRETRAIN = Path("data/pretrain/best_rq-0")


def by_snakemake(project: Project, cluster: Cluster) -> int:
    """The rule's job, two ranks in it; the number of its nodes."""
    project.at(project.root, BIRQ_RANKS="2").run(*COMMAND, "--retries", "0", f"{PRETRAIN}/provenance.json")
    assert rule(cluster.jobs()[-1]) == "pretrain"
    return int(cluster.jobs()[-1]["NumNodes"])


def by_snakemake_over_nodes(project: Project, cluster: Cluster) -> int:
    """As the profile's comment says it."""
    edit(project.root / PROFILE, r"^  pretrain:\n    gpu: 1\n", '  pretrain:\n    nodes: 2\n    gres: "gpu:1"\n')
    project.at(project.root, BIRQ_RANKS="1").run(*COMMAND, "--retries", "0", f"{PRETRAIN}/provenance.json")
    assert rule(cluster.jobs()[-1]) == "pretrain"
    return int(cluster.jobs()[-1]["NumNodes"])


def by_sbatch(project: Project, cluster: Cluster) -> int:
    """The verb itself, without Snakemake, which finds the artifact afterwards."""
    verb = f"{sys.executable} -m birq pretrain --method best_rq --seed 0"
    asked = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=2", "--mem=4000", "--time=10", "--output=ranks.log")
    project.at(project.root, BIRQ_RANKS="1").run("sbatch", "--wait", *asked, f"--wrap={verb}")
    assert "Nothing to be done" in project.run(*COMMAND, f"{PRETRAIN}/provenance.json").text
    return int(cluster.jobs()[-1]["NumNodes"])


@pytest.mark.parametrize(("nodes", "start"), [(1, by_snakemake), (2, by_snakemake_over_nodes), (2, by_sbatch)])
def test_two_ranks_train_what_one_does(nodes: int, start: Start, run: Run, cluster: Cluster, place: Path) -> None:
    """The job has the nodes that were asked for, both ranks took part, and the weights differ in last digits only."""
    project = on(cluster, run.project.copy(place / f"ranks-{start.__name__}"))
    shutil.rmtree(project.root / PRETRAIN)
    shutil.rmtree(project.root / "data/.store/pretrain")
    assert start(project, cluster) == nodes
    assert artifact.read_provenance(project.root / PRETRAIN)["notes"]["ranks"] == 2
    ours, alone = (load_file(p.root / PRETRAIN / "encoder.safetensors") for p in (project, run.project))
    assert ours.keys() == alone.keys()
    for name, weights in ours.items():
        torch.testing.assert_close(weights, alone[name], rtol=1e-3, atol=1e-4)
