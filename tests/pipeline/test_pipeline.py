"""The whole DAG, for real, on two minutes of synthetic speech, under both tools in one story.

The tests of this file share one project and run in order: each starts where the one before it ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from birq import dag, params, presets

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.pipeline

LATER = {"finetune", "decode", "score", "report"}  # what comes out of a change in the finetune section
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files in a folder of their own, with tiny params, under git."""
    folder = tmp_path_factory.mktemp("pipeline")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if not source.exists():
            continue  # deleted, not yet committed
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            shutil.copy(source, target)
    shutil.copy(folder / "tests" / "tiny.yaml", folder / "presets")
    presets.apply("tiny", [], folder / "params.yaml")
    git = ["git", "-c", "user.name=birq", "-c", "user.email=birq@example.org"]
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "tiny"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def here(project: Path, environment: dict[str, str]) -> dict[str, str]:
    """The environment of the project's commands."""
    identity = {f"GIT_{who}_{what}": f"birq@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return environment | {"PYTHONPATH": str(project)} | identity


@pytest.fixture(scope="module")
def run(project: Path, here: dict[str, str]) -> Run:
    """Runs a command in the project; it must succeed unless told otherwise."""

    def call(*command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=project, env=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == status, done.stdout[-8000:]
        return done

    return call


def computed(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The artifacts that a command made anew, `stage/wildcards`."""
    return set(re.findall(r"^(\S+): computing \(", done.stdout, flags=re.M))


def stages(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {name.split("/")[0] for name in computed(done)}


def edit(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), flags=re.M | re.S)
    assert count == 1, f"{pattern!r} stands {count} times in {path}"
    path.write_text(text)


def set_finetune_steps(project: Path, steps: int) -> None:
    edit(project / "params.yaml", r"(^finetune:.*?^  steps: )\d+", rf"\g<1>{steps}")


def everything(project: Path) -> set[str]:
    loaded = params.load(project / "params.yaml")
    return {str(dag.artifact(s, w)).removeprefix("data/") for s in dag.STAGES for w in dag.instances(s, loaded)}


def test_kill_everything_while_pretraining(project: Path, here: dict[str, str]) -> None:
    """SIGKILL to Snakemake and all of its children, as a power cut does; checkpoints stay, no half artifact appears."""
    command = ["snakemake", "--cores", "2"]
    log = open(project / "killed.log", "w")  # noqa: SIM115
    process = subprocess.Popen(command, cwd=project, env=here, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 900
    try:
        while not (found := list(project.glob("data/.work/pretrain/*/scratch/checkpoint.pt"))):
            assert process.poll() is None and time.monotonic() < deadline, (project / "killed.log").read_text()[-4000:]
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
    assert found
    assert not (project / "data/pretrain/birq-0/provenance.json").exists(), "done before the kill: give the tiny params more steps"
    assert all(json.loads(p.read_text())["files"] for p in project.glob("data/[a-z]*/*/provenance.json"))


def test_the_same_command_ends_the_run(project: Path, run: Run) -> None:
    """Nothing to unlock or clean up; finished stages are not made again, pre-training goes on from its checkpoint."""
    done = run("snakemake", "--cores", "2")
    assert "corpus/synth" not in computed(done) and "features/synth" not in computed(done)
    assert re.search(r"pretrain/\S+: resumes at step [1-9]", done.stdout), done.stdout[-4000:]
    assert {str(p.parent.relative_to(project / "data")) for p in project.glob("data/[a-z]*/**/provenance.json")} == everything(project)
    for name in ("report/index.html", "report/metrics.json", "report/wer.json", "report/plots/wer.svg"):
        assert (project / "data" / name).stat().st_size > 0
    assert "computing" in (project / "data" / "logs" / "finetune" / "birq-0.log").read_text(), "what was shown is kept"


def test_the_table_is_printed_and_everything_verifies(run: Run) -> None:
    table = run(sys.executable, "-m", "birq", "table").stdout
    assert "birq" in table and "scratch" in table and "WER" in table
    assert "every hash and every key holds" in run(sys.executable, "-m", "birq", "verify").stdout


def test_a_second_time_there_is_nothing_to_do(run: Run) -> None:
    done = run("snakemake", "--cores", "2")
    assert "Nothing to be done" in done.stdout and not computed(done)


def test_a_finetune_change_reruns_what_comes_after(project: Path, run: Run) -> None:
    """Exactly finetune, decode, score and report: not even the verbs of the other stages are called."""
    set_finetune_steps(project, 5)
    done = run("snakemake", "--cores", "2")
    assert set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, flags=re.M)) == LATER | {"all"}
    # equal hypotheses have been scored already
    assert {"finetune", "decode", "report"} <= stages(done) <= LATER
    report = (project / "data" / "report" / "metrics.json").read_text()
    set_finetune_steps(project, 4)
    done = run("snakemake", "--cores", "2")
    assert not computed(done), "the way back is in the store"
    assert (project / "data" / "report" / "metrics.json").read_text() != report


def test_dvc_after_snakemake_computes_nothing(project: Path, run: Run) -> None:
    """DVC does not know Snakemake's run, so it calls the verbs once; they find their keys in the store."""
    done = run("dvc", "repro")
    assert not computed(done) and "restored from the store" in done.stdout
    assert "Data and pipelines are up to date" in run("dvc", "repro").stdout
    after = run("snakemake", "--cores", "2")
    assert "Nothing to be done" in after.stdout, "and Snakemake sees that nothing is left, its benchmark files included"
    assert "Data and pipelines are up to date" in run("dvc", "repro").stdout


def test_dvc_sees_a_change_of_params(project: Path, run: Run) -> None:
    """The same stages as under Snakemake, and what Snakemake made is not made again."""
    set_finetune_steps(project, 5)
    done = run("dvc", "repro")
    assert set(re.findall(r"^Running stage '(\w+)", done.stdout, flags=re.M)) == LATER and not computed(done)
    set_finetune_steps(project, 4)
    assert not computed(run("dvc", "repro"))
    assert "every hash and every key holds" in run(sys.executable, "-m", "birq", "verify").stdout
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first results")


def test_dvc_experiment(project: Path, run: Run) -> None:
    """A param is set from the command line, what depends on it is made, and the table of experiments shows WER beside it."""
    done = run("dvc", "exp", "run", "-S", "pretrain.label_layer=2", "-S", "run.methods=[birq]", "-n", "layer-two")
    assert {"pretrain", "probe", "finetune", "report"} <= stages(done) <= {"pretrain", "probe"} | LATER
    assert yaml.safe_load((project / "params.yaml").read_text())["pretrain"]["label_layer"] == 2
    shown = json.loads(run("dvc", "exp", "show", "--json").stdout)
    text = json.dumps(shown)
    assert "layer-two" in text
    (workspace,) = [row for row in shown if row["rev"] == "workspace"]
    metrics = workspace["data"]["metrics"]["data/report/wer.json"]["data"]
    assert set(metrics) == {"birq"} and metrics["birq"]["wer"] > 0
    assert workspace["data"]["params"]["params.yaml"]["data"]["pretrain"]["label_layer"] == 2


def test_plots_of_dvc(project: Path, run: Run) -> None:
    """Figures and curves of the report are DVC's as well."""
    run("dvc", "plots", "show", "--out", "plots")
    page = (project / "plots" / "index.html").read_text()
    assert "wer.svg" in page and "PNMI by layer" in page


def test_snakemake_is_not_fooled_by_what_dvc_did(project: Path, run: Run) -> None:
    """Params back to those of Snakemake's own last run: its memory says all is done, while data/ holds the experiment's artifacts."""
    run("git", "checkout", "-q", "--", "params.yaml")
    said = run(sys.executable, "-m", "birq", "verify", status=2).stdout
    assert "data/pretrain/birq-0 is stale: pretrain.label_layer was 2 when it was made, is 1 now" in said
    done = run("snakemake", "--cores", "2")
    assert not computed(done)
    assert "every hash and every key holds" in run(sys.executable, "-m", "birq", "verify").stdout


def test_damage_is_found_and_mended(project: Path, run: Run) -> None:
    """A file of an artifact that changed is found by `verify`, and the next run mends it."""
    path = project / "data" / "score" / "birq-0" / "scores.json"
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(good.replace(b"1", b"2", 1))
    said = run(sys.executable, "-m", "birq", "verify", status=2).stdout
    assert "data/score/birq-0/scores.json has changed since it was made" in said
    shutil.rmtree(path.parent)
    assert not computed(run("snakemake", "--cores", "2"))
    assert path.read_bytes() == good


def test_snakemake_report(project: Path, run: Run) -> None:
    """The figures with their captions, in one file for a colleague."""
    run("snakemake", "--cores", "1", "--report", "report.zip")
    assert (project / "report.zip").stat().st_size > 10_000
