"""Both tools, in any order, at once, killed, in clones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from scenario import ALL, scenario
from tinyproject import Project, ended

from birq.pipeline import locking

pytestmark = pytest.mark.pipeline

MIXED, CLONES = "Two tools", "Clones and places"
LATER = "finetune decode search score report"


@scenario(MIXED, "Snakemake, then DVC", "DVC calls every verb once; all are found", restored=ALL)
def test_snakemake_then_dvc(by_snakemake: Project, tmp_path: Path) -> None:
    """DVC does not know of Snakemake's run; the store does."""
    project = by_snakemake.copy(tmp_path / "project")
    before = project.digests()
    project.dvc()
    assert project.digests() == before
    project.up_to_date()
    project.nothing_to_do()


@scenario(
    MIXED, "a clone without cache or store: DVC, then Snakemake", "all by DVC, to the same bytes; then no verb is called", computed=ALL
)
def test_dvc_then_snakemake(made: Project, tmp_path: Path) -> None:
    """The same params, audio and code give the same bytes in another folder under another tool, in processes that share nothing."""
    made.git("clone", "-q", str(made.root), str(tmp_path / "clone"))
    clone = made.at(tmp_path / "clone")
    clone.real().dvc()
    here, there = clone.digests(), made.digests()
    # the report shows hosts and minutes, so it is another one with every run
    assert {a: d for a, d in here.items() if a != "data/report"} == {a: d for a, d in there.items() if a != "data/report"}
    clone.nothing_to_do()
    clone.up_to_date()
    clone.verify()


@scenario(MIXED, "fine-tuning killed under Snakemake, ended by DVC", "resumed at its checkpoint", computed=LATER, again="finetune")
def test_killed_then_dvc(project: Project) -> None:
    """A checkpoint belongs to its key, not to the tool; the resumed run gives the bytes of an undisturbed one."""
    project.set("finetune.steps=60", "finetune.evaluations=1")
    running = project.real().start("snakemake", "--cores", "2")
    with ended(running):
        running.wait_for(lambda: any(project.root.glob("data/.work/finetune/*/scratch/checkpoint.pt")))
        running.kill()
    done = project.dvc()
    assert "finetune/best_rq-0: resumes at step" in done.text, done.text[-4000:]
    resumed = project.digests()
    undisturbed = project.at(project.root, BIRQ_STORE=str(project.root.with_name("another-store")))
    shutil.rmtree(project.root / "data" / "finetune")
    undisturbed.birq("finetune", "--method", "best_rq", "--seed", "0")
    assert undisturbed.digests() == resumed


@scenario(
    MIXED,
    "fine-tuning killed under DVC, ended by Snakemake; DVC again",
    "resumed at its checkpoint; then found",
    computed=LATER,
    restored=LATER,
    again="finetune",
)
def test_killed_then_snakemake(project: Project) -> None:
    """The other way round; what DVC noted of its running stages is no hindrance afterwards."""
    project.set("finetune.steps=60", "finetune.evaluations=1")
    running = project.real().start("dvc", "repro")
    with ended(running):
        running.wait_for(lambda: any(project.root.glob("data/.work/finetune/*/scratch/checkpoint.pt")))
        running.kill()
    done = project.snakemake()
    assert "finetune/best_rq-0: resumes at step" in done.text, done.text[-4000:]
    ended_by_snakemake = project.digests()
    project.dvc()
    assert project.digests() == ended_by_snakemake
    project.verify()


@scenario(MIXED, "both tools started together", "every key once; the second waits and finds it", computed=LATER, restored=None)
def test_started_together(project: Project) -> None:
    """The lock of a key lets one of them compute and the other wait."""
    project.set("finetune.learning_rate=0.02")
    both = [project.start("snakemake", "--cores", "2"), project.start("dvc", "repro")]
    with ended(*both):
        for one in both:
            one.end()
    project.verify()
    project.snakemake()
    project.up_to_date()


@scenario(MIXED, "Snakemake calls a verb again", "the artifact in place stays whole until the verb has ended")
def test_called_again(project: Project) -> None:
    """DVC, started beside it, would note what lacks the files that Snakemake removes before a job."""
    provenance = project.root / "data" / "score" / "best_rq-0" / "provenance.json"
    key = json.loads(provenance.read_text())["key"]
    (stamp,) = project.root.glob("data/.stamps/score*.json")
    os.utime(stamp)
    with contextlib.ExitStack() as held:
        held.enter_context(locking.lock(project.root / "data" / ".store" / "score" / key, print))
        running = project.start("snakemake", "--cores", "1")
        with ended(running):
            running.wait_for(lambda: "waiting: " in running.log.read_text())
            assert json.loads(provenance.read_text())["key"] == key
            project.up_to_date()
            held.close()
            done = running.end()
    assert "score/best_rq-0: up to date" in done.text


@scenario(CLONES, "two Snakemakes in two clones, one store", "every key once", computed=LATER, restored=None)
def test_two_clones_one_store(project: Project, tmp_path: Path) -> None:
    """With one store, what one clone makes is there for the other, also while it is being made."""
    store = tmp_path / "store"
    (project.root / "data" / ".store").rename(store)
    project.set("finetune.learning_rate=0.03")
    other = project.copy(tmp_path / "other")
    both = [p.at(p.root, BIRQ_STORE=str(store)) for p in (project, other)]
    running = [clone.start("snakemake", "--cores", "1") for clone in both]
    with ended(*running):
        for one in running:
            one.end()
    assert both[0].digests() == both[1].digests()
    for clone in both:
        clone.verify()


@scenario(CLONES, "a clone with `dvc pull`", "what was pulled is taken into the store; neither tool computes")
def test_clone_and_pull(project: Project, tmp_path: Path) -> None:
    """What was pulled carries its key and hashes, so it is as good as what was made here."""
    project.dvc("remote", "add", "--default", "storage", str(tmp_path / "remote"))
    project.git("commit", "-qam", "remote")
    project.dvc("push")
    project.git("clone", "-q", str(project.root), str(tmp_path / "clone"))
    clone = project.at(tmp_path / "clone")
    clone.dvc("pull")
    assert clone.digests() == project.digests()
    clone.snakemake()
    clone.up_to_date()
    clone.verify()


@scenario(CLONES, "the project folder is moved", "no verb is called")
def test_moved(project: Project) -> None:
    """Keys and stamps hold no absolute path."""
    target = project.root.with_name("moved")
    project.root.rename(target)
    moved = project.at(target)
    moved.nothing_to_do()
    moved.up_to_date()


@scenario(
    CLONES,
    "`snakemake --config 'score={confidence: 0.9}'`, then without",
    "as if it stood in params.yaml",
    computed="score probe report",
    restored="score probe report",
)
def test_config_override(project: Project) -> None:
    """The override reaches stamps and verbs, and leaves params.yaml alone."""
    before = project.digests()
    project.snakemake("--config", "score={confidence: 0.9}")
    overridden = project.digests()
    assert overridden != before
    project.snakemake()
    assert project.digests() == before
