"""One training as several processes, within a node and over two nodes, started by Slurm as the rule is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from cluster import Cluster
from conftest import PROFILE
from on_slurm import COMMAND, Run, on, rule
from safetensors.torch import load_file
from tinyproject import Project, edit

from birq import artifact

pytestmark = pytest.mark.pipeline

PRETRAIN = Path("data/pretrain/best_rq-0")


@pytest.fixture(params=["two ranks on one node"])
def trained(request: pytest.FixtureRequest, run: Run, cluster: Cluster, place: Path) -> tuple[Project, dict[str, str], int]:
    """The project with pre-training done anew by two ranks, its job, and the number of nodes asked for."""
    nodes = 1 if "one node" in request.param else 2
    project = on(cluster, run.project.copy(place / f"ranks-{nodes}"))
    shutil.rmtree(project.root / PRETRAIN)
    shutil.rmtree(project.root / "data/.store/pretrain")
    if nodes == 2:
        edit(project.root / PROFILE, r"^  pretrain:\n", "  pretrain:\n    nodes: 2\n")
    earlier = len(cluster.jobs())
    here = project.at(project.root, BIRQ_RANKS=str(2 // nodes))
    here.run(*COMMAND, "--retries", "0", f"{PRETRAIN}/provenance.json")
    (job,) = cluster.jobs()[earlier:]
    assert rule(job) == "pretrain"
    return project, job, nodes


def test_two_ranks_train_what_one_does(trained: tuple[Project, dict[str, str], int], run: Run) -> None:
    """The job has the nodes that were asked for, both ranks took part, and the weights differ in last digits only."""
    project, job, nodes = trained
    assert job["NumNodes"] == str(nodes)
    assert artifact.read_provenance(project.root / PRETRAIN)["notes"]["ranks"] == 2
    ours, alone = (load_file(p.root / PRETRAIN / "encoder.safetensors") for p in (project, run.project))
    assert ours.keys() == alone.keys()
    for name, weights in ours.items():
        torch.testing.assert_close(weights, alone[name], rtol=1e-3, atol=1e-4)
