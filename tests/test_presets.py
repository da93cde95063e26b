"""Presets: both tools can run each, as far as a dry run shows it, and those of published experiments are what their headers say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_workflow import tracked_copy

from benchmarks import training
from birq.model.encoder import Shape, count_parameters
from birq.model.masking import span_frames, stacked_start_probability
from birq.pipeline import dag, snakemake
from birq.settings import params, presets
from birq.study import plan

ROOT = Path(__file__).resolve().parent.parent
RUN = [name for name in presets.names(ROOT / "presets") if not name.startswith("study-")]  # tests/test_study.py has the study's
PUBLISHED = {  # preset: millions of weights, masked share, hours that `birq plan` cannot know
    "paper-c1-librispeech": (137, 0.33, {}),
    "paper-c2-librispeech": (155, 0.33, {}),
    "paper-c3-yodas-ami": (275, 0.33, {"yodas": 5000.0, "ami": 170.0}),
    "rwth-librispeech": (83, 0.60, {}),
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tracked_copy(tmp_path_factory.mktemp("presets"))


def applied(folder: Path, name: str, *settings: str) -> params.Params:
    """params.yaml of `folder`, as tracked, with a preset."""
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    if not (folder / "presets").exists():
        (folder / "presets").symlink_to(ROOT / "presets")
    presets.apply(name, list(settings), folder / "params.yaml")
    return params.load(folder / "params.yaml")


def header(name: str) -> str:
    """The comment at a preset's beginning, in one line."""
    lines = (ROOT / "presets" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def said(folder: Path, environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RUN)
def test_a_dry_run_by_both_tools_has_every_stage(tracked: Path, forked: dict[str, str], name: str) -> None:
    """Without the corpora, which are not here: neither tool asks for them before it runs.

    DVC follows a stage only where the folders that it reads exist, so they stand there empty.
    """
    shutil.rmtree(tracked / "data", ignore_errors=True)
    wanted = dag.nodes(applied(tracked, name))
    text = said(tracked, forked, "snakemake", "--dry-run", "--cores", "2", "--quiet", "reason", "rules")
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, flags=re.M))
    assert int(counts["total"]) == len(wanted) + 1, text
    assert {n.stage.name for n in wanted} == set(counts) - {"all", "total"}
    said(tracked, forked, "python", "-m", "birq", "digests")
    for node in wanted:
        (tracked / node.folder).mkdir(parents=True, exist_ok=True)
    commands = re.findall(r"^> python -m birq (.*)$", said(tracked, forked, "dvc", "repro", "--dry"), flags=re.M)
    verbs = [" ".join([n.stage.name, *(f"--{k} {v}" for k, v in n.wildcards.items())]) for n in wanted if n.stage.listed]
    assert commands[0] == "digests" and sorted(commands[1:]) == sorted(verbs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_experiment_has_its_published_size_and_masks(tmp_path: Path, name: str) -> None:
    """Weights within a hundredth, and the share of frames under spans that start independently."""
    p, (millions, share, _) = applied(tmp_path, name), PUBLISHED[name]
    f, m, t = p.features, p.model, p.pretrain
    assert count_parameters(Shape(**m.shape, n_mels=f.n_mels)) == pytest.approx(millions * 1e6, rel=0.01)
    span = span_frames(t.mask_span_ms, f.frame_shift_ms, m.n_stack)
    assert 1 - (1 - stacked_start_probability(t.mask_start_probability, m.n_stack)) ** span == pytest.approx(share, abs=0.005)
    assert p.finetune.anneal_stairs == 10 and p.finetune.final_rate_share == 2**-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_header_tells_what_the_plan_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """GPU-hours and disk of the preset as it is, rounded; and every list of methods in it is legal."""
    monkeypatch.chdir(tmp_path)
    text, hours = header(name), PUBLISHED[name][2]
    made = plan.make(applied(tmp_path, name), hours)
    gpu_hours = sum(t.hours(1, plan.Machine()) for t in made.trainings)
    assert float(re.search(r"peak: ([\d,]+) GPU-hours", text)[1].replace(",", "")) == round(gpu_hours)
    disk = made.feature_gib + sum(t.disk_gib for t in made.trainings)
    assert re.search(r"(\d+) GiB of disk \(features (\d+)", text).groups() == (f"{disk:.0f}", f"{made.feature_gib:.0f}")
    memory = max(t.weight_gib + t.activation_gib for t in made.trainings)
    assert re.search(r"(\d+) GiB of GPU memory", text)[1] == f"{memory:.0f}"
    for methods in re.findall(r"--set (run\.methods=)'(\[.*?\])'", text):
        applied(tmp_path, name, "".join(methods))
    applied(tmp_path, name, f"run.methods=[{', '.join(made_of(tmp_path, name))}]")


def made_of(folder: Path, name: str) -> list[str]:
    """All that a preset names: its methods and variants."""
    p = applied(folder, name)
    return [*p.run.methods, *p.variants]


def test_a_length_in_epochs_comes_through_both_tools(tmp_path: Path) -> None:
    """`dvc exp run -S 'pretrain.steps=100 epochs'` and `snakemake --config` hand it on as what `birq preset --set` writes."""
    from dvc.utils.hydra import apply_overrides

    applied(tmp_path, "paper-c2-librispeech")
    path = tmp_path / "params.yaml"
    apply_overrides(path, ["pretrain.steps=2.5 epochs"])
    assert params.load(path).pretrain.steps == "2.5 epochs"
    assert isinstance(training.load(path).pretrain.steps, int), "a step is timed, whatever the number of steps"
    path = snakemake.overridden({"pretrain": "{warmup_steps: 1 epoch}"}, path, tmp_path)
    assert params.load(path).pretrain.warmup_steps == "1 epoch"
