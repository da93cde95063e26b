"""The whole DAG, for real, on two minutes of synthetic speech, from a kill to the report: one story, in order.

test_scenarios_*.py tell what is computed when; they start from other audio, with one method.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import tinyproject
from tinyproject import ROOT, Project, ended

from birq.pipeline import dag
from birq.settings import presets

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Project:
    """A project of its own with the params of tests/tiny.yaml."""
    project = tinyproject.new(tmp_path_factory.mktemp("pipeline") / "project", environment, [])
    project.git("checkout", "-q", "params.yaml")
    shutil.copy(ROOT / "params.yaml", project.root)
    shutil.copy(ROOT / "tests" / "tiny.yaml", project.root / "presets")
    presets.apply("tiny", [], project.root / "params.yaml")
    return project


def everything(project: Project) -> set[str]:
    loaded = project.params()
    return {node.name for node in dag.nodes(loaded)}


def test_kill_everything_while_pretraining(synth: Project) -> None:
    """SIGKILL to Snakemake and all of its children, as a power cut does; checkpoints stay, no half artifact appears."""
    running = synth.start("snakemake", "--cores", "2")
    with ended(running):
        running.wait_for(lambda: any(synth.root.glob("data/.work/pretrain/*/scratch/checkpoint.pt")))
        running.kill()
    made = synth.root / "data" / "pretrain" / "birq-0" / "provenance.json"
    assert not made.exists(), "done before the kill: give the tiny params more steps"
    assert all(json.loads(p.read_text())["files"] for p in synth.root.glob("data/[a-z]*/*/provenance.json"))


def test_the_same_command_ends_the_run(synth: Project) -> None:
    """Nothing to unlock or clean up; finished stages are not made again, pre-training goes on from its checkpoint."""
    synth.forget()
    done = synth.snakemake()
    assert not {"corpus", "features"} & {s.stage for s in synth.said() if s.what == "computing"}
    assert re.search(r"pretrain/\S+: resumes at step [1-9]", done.text), done.text[-4000:]
    assert {str(p.parent.relative_to(synth.root / "data")) for p in synth.root.glob("data/[a-z]*/**/provenance.json")} == everything(synth)
    for name in ("report/index.html", "report/metrics.json", "report/wer.json", "report/plots/wer.svg"):
        assert (synth.root / "data" / name).stat().st_size > 0
    log = synth.root / "data" / "logs" / "finetune" / "birq-0.log"
    assert "computing" in log.read_text(), "what was shown is kept"


def test_the_table_is_printed_and_everything_verifies(synth: Project) -> None:
    table = synth.birq("table").text
    assert "birq" in table and "scratch" in table and "WER" in table
    synth.verify()


def test_a_damaged_file_is_named(synth: Project) -> None:
    """`verify` reads everything again, so it finds a change that kept size and time."""
    path: Path = synth.root / "data" / "score" / "birq-0" / "scores.json"
    good, times = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(good.replace(b"1", b"2", 1))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "data/score/birq-0/scores.json has changed since it was made" in synth.birq("verify", status=2).text
    path.unlink()
    path.write_bytes(good)
    synth.verify()


def test_features_in_parts_and_plainly_are_the_same(project: Project) -> None:
    """Parts are a way of making, not another result: what was made in parts is found plainly, and the other way round."""
    target = "data/features/tones/provenance.json"
    project.set("features.shard_utterances=3")
    made = project.snakemake(target, "--config", "feature_parts=3")
    assert all(f"features/tones: part {i} of 3" in made.text for i in (1, 2, 3)), made.text
    assert "Nothing to be done" in project.snakemake(target).text
    assert "Nothing to be done" in project.snakemake(target, "--config", "feature_parts=2").text
    in_parts = json.loads((project.root / target).read_text())["digest"]
    shutil.rmtree(project.root / "data" / "features")
    shutil.rmtree(project.root / "data" / ".store" / "features")
    assert "computing" in project.birq("features", "--corpus", "tones").text
    assert json.loads((project.root / target).read_text())["digest"] == in_parts


def test_snakemake_report(synth: Project) -> None:
    """The figures with their captions, and what was run as a paragraph for a paper, in one file for a colleague."""
    synth.snakemake("--report", "report.zip")
    with zipfile.ZipFile(synth.root / "report.zip") as archive:
        page = archive.read("report/report.html").decode()
        figures = {name.rpartition("/")[2] for name in archive.namelist() if name.endswith(".svg")}
    steps = synth.params().pretrain.steps
    assert f"{steps} steps of" in page and "arXiv 2509.15430" in page and "snakemake.config" not in page
    assert {"wer.svg", "perplexity.svg"} <= figures and "word error rate by method" in page
