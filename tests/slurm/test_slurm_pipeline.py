"""The literal `snakemake --cores all --profile slurm` on a real Slurm, from nothing to the report."""

from __future__ import annotations

import re

import pytest
from on_slurm import COMMAND, Run, rule

pytestmark = pytest.mark.pipeline

GPU_STAGES = {"pretrain", "finetune", "decode", "probe"}
CPU_STAGES = {"corpus", "features_part", "features", "tokenizer", "lm", "search"}


def test_every_stage_is_made_by_a_job_of_its_own(run: Run) -> None:
    """What Slurm ran is what the table of stages holds, but for the rules of seconds, which need no place in the queue."""
    assert {rule(j) for j in run.jobs} == GPU_STAGES | CPU_STAGES
    assert set(re.findall(r"^localrule (\w+):", run.done.text, flags=re.M)) == {"score", "report", "all"}
    run.project.verify()
    again = run.project.run(*COMMAND)
    assert "Nothing to be done" in again.text and not again.said()


def test_gpu_stages_ask_for_a_gpu_and_no_others(run: Run) -> None:
    """A GPU that is asked for and not used is taken from somebody else; one that is not asked for is not there."""
    asked = {(rule(j), j.get("TresPerJob", "none")) for j in run.jobs}
    assert asked == {(r, "gres:gpu:1") for r in GPU_STAGES} | {(r, "none") for r in CPU_STAGES}


def test_cpus_are_those_of_the_profile(run: Run) -> None:
    """Also where the login node has fewer: Snakemake would cut a rule's threads down to those."""
    cpus = {rule(j): int(j["NumCPUs"]) for j in run.jobs}
    assert cpus["features_part"] == 16 and cpus["pretrain"] == 8 and cpus["features"] == 4


def test_features_are_made_on_both_nodes(run: Run) -> None:
    """Two parts do not fit on one node here, so Slurm places them on two, and the stage finds both parts' shards done."""
    assert {j["NodeList"] for j in run.jobs if rule(j) == "features_part"} == {"n1", "n2"}
    logs = [(run.project.root / f"data/logs/features/tones-{i}-of-2.log").read_text() for i in (1, 2)]
    assert all(re.search(rf"part {i} of 2", log) for i, log in zip((1, 2), logs, strict=True))


def test_a_job_over_its_memory_gets_more(run: Run) -> None:
    """Slurm kills the first attempt; the next one asks for more, and nobody has to do anything."""
    first, second = sorted((j for j in run.jobs if rule(j) == "probe"), key=lambda j: int(j["JobId"]))
    assert first["MinMemoryNode"] == "150M" and first["JobState"] in ("OUT_OF_MEMORY", "FAILED", "CANCELLED")
    assert second["MinMemoryNode"] == "4150M" and second["JobState"] == "COMPLETED"
    assert f"SLURM-job '{first['JobId']}' failed, SLURM status is: '{first['JobState']}'" in run.done.text
