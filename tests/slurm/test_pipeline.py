"""The literal `snakemake --cores all --profile slurm` on a real Slurm, from nothing to the report."""

from __future__ import annotations

import re

import pytest
from cluster import Cluster
from conftest import on
from tinyproject import Done, Project

pytestmark = pytest.mark.pipeline

COMMAND = ("snakemake", "--cores", "all", "--profile", "slurm")
GPU_STAGES = {"pretrain", "finetune", "decode", "probe"}
CPU_STAGES = {"corpus", "features_part", "features", "tokenizer"}


@pytest.fixture(scope="session")
def run(cluster: Cluster, fresh: Project) -> tuple[Project, Done, list[dict[str, str]]]:
    """The finished project, what Snakemake printed, and the jobs as Slurm remembers them."""
    project = on(cluster, fresh)
    done = project.run(*COMMAND)
    return project, done, cluster.jobs()


def rule(job: dict[str, str]) -> str:
    return re.match(r"rule_(.*?)(_wildcards_.*)?$", job["Comment"])[1]


def test_every_stage_is_made_by_a_job_of_its_own(run: tuple[Project, Done, list[dict[str, str]]]) -> None:
    """What Slurm ran is what the table of stages holds, but for the rules of seconds, which need no place in the queue."""
    project, done, jobs = run
    assert {rule(j) for j in jobs} == GPU_STAGES | CPU_STAGES
    assert set(re.findall(r"^localrule (\w+):", done.text, flags=re.M)) == {"score", "report", "all"}
    project.verify()
    again = project.run(*COMMAND)
    assert "Nothing to be done" in again.text and not again.said()


def test_gpu_stages_ask_for_a_gpu_and_no_others(run: tuple[Project, Done, list[dict[str, str]]]) -> None:
    """A GPU that is asked for and not used is taken from somebody else; one that is not asked for is not there."""
    asked = {(rule(j), j.get("TresPerJob", "none")) for j in run[2]}
    assert asked == {(r, "gres:gpu:1") for r in GPU_STAGES} | {(r, "none") for r in CPU_STAGES}


def test_cpus_are_those_of_the_profile(run: tuple[Project, Done, list[dict[str, str]]]) -> None:
    """Also where the login node has fewer: Snakemake would cut a rule's threads down to those."""
    cpus = {rule(j): int(j["NumCPUs"]) for j in run[2]}
    assert cpus["features_part"] == 16 and cpus["pretrain"] == 8 and cpus["features"] == 4


def test_features_are_made_on_both_nodes(run: tuple[Project, Done, list[dict[str, str]]]) -> None:
    """Two parts do not fit on one node here, so Slurm places them on two, and the stage finds both parts' shards done."""
    project, _, jobs = run
    assert {j["NodeList"] for j in jobs if rule(j) == "features_part"} == {"n1", "n2"}
    logs = [(project.root / f"data/logs/features/tones-{i}-of-2.log").read_text() for i in (1, 2)]
    assert all(re.search(rf"part {i} of 2", log) for i, log in zip((1, 2), logs, strict=True))


def test_a_job_over_its_memory_gets_more(run: tuple[Project, Done, list[dict[str, str]]]) -> None:
    """Slurm kills the first attempt; the next one asks for more, and nobody has to do anything."""
    _, done, jobs = run
    first, second = sorted((j for j in jobs if rule(j) == "probe"), key=lambda j: int(j["JobId"]))
    assert first["MinMemoryNode"] == "150M" and first["JobState"] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert second["MinMemoryNode"] == "4150M" and second["JobState"] == "COMPLETED"
    assert f"SLURM-job '{first['JobId']}' failed, SLURM status is: '{first['JobState']}'" in done.text
