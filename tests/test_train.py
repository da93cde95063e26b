"""Training for real on speech of tones: schedules are stepped, killed runs end in the same bits, failures are sentences, CTC learns."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import (
    LETTERS,
    ROOT,
    batch,
    child_environment,
    curve,
    finetune_job,
    job,
    objective,
    params,
    pretrained,
    pretrainer,
    rows,
    run_pretrain,
    shape,
    shipped,
    speech,
    tree,
    write_features,
)

from birq import __main__ as birq
from birq.errors import BirqError, Stopped
from birq.model import objectives
from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder
from birq.model.quantized import build
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.saved.weights import shape_of
from birq.speech.batches import Batch, Feed
from birq.speech.shards import open_split, read_front_end
from birq.stages import finetune, pretrain
from birq.text import tokenizer
from birq.train import finetuning, pretraining
from birq.train.checkpoint import load_checkpoint
from birq.train.distributed import ALONE, Group
from birq.train.runtime import interrupt
from birq.train.runtime.interrupt import last_moment
from birq.train.schedule import tri_stage, warmup_cosine

# ---- the schedule


def test_pretraining_steps_its_schedule(tmp_path: Path, features: Path) -> None:
    """The rates that were used stand in the curve: warm-up and cosine, step by step."""
    lines = curve(pretrained(tmp_path, features, pretrain__log_every_steps=1, pretrain__final_rate_share=0.1))
    factor = warmup_cosine(12, 4, 0.1)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.002 * factor(s) for s in range(12)], rel=1e-5)
    assert len({line["learning_rate"] for line in lines}) > 8


def test_finetuning_steps_its_tri_stage_schedule(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """Warm-up, hold, anneal, as used."""
    j = finetune_job(tmp_path, scratch_encoder, letters, features, finetune__log_every_steps=1, finetune__warmup_share=0.25)
    finetune.compute(j)
    factor = tri_stage(12, 0.25, 0.4, 0.02)
    assert [line["learning_rate"] for line in curve(j.out)] == pytest.approx([0.002 * factor(s) for s in range(12)], rel=1e-5)


def test_a_length_in_epochs_is_passes_over_the_split(tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bits as with the number of steps that the run says and its provenance keeps; the last step ends the last pass."""
    settings = {"pretrain__batch_seconds": 4.0, "pretrain__micro_batch_seconds": 4.0, "pretrain__log_every_steps": 1}
    passes = run_pretrain(tmp_path / "a", features, "best_rq", pretrain__steps="3 epochs", pretrain__warmup_steps="1 epoch", **settings)
    n = passes.notes["epoch_steps"]
    assert (passes.notes["steps"], passes.notes["warmup_steps"]) == (3 * n, n) and n > 5
    said = capsys.readouterr().err
    assert f"in {n} steps of 4 s; steps 3 epochs = {3 * n}, warmup_steps 1 epoch = {n}" in said and f"{3 * n}/{3 * n} step" in said
    steps = run_pretrain(tmp_path / "b", features, "best_rq", pretrain__steps=3 * n, pretrain__warmup_steps=n, **settings)
    assert contents(passes.out) == contents(steps.out) and "epoch_steps" not in steps.notes
    assert [line["epoch"] for line in curve(passes.out)] == sorted([0, 1, 2] * n)


def test_fine_tuning_by_epochs_goes_down_stairs(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """Three stages of an epoch each; an epoch is one of the labelled speech, not of the split."""
    thirds = {"finetune__warmup_share": 1 / 3, "finetune__hold_share": 1 / 3, "finetune__anneal_stairs": 2}
    few = {"finetune__labelled_minutes": 0.3, "finetune__batch_seconds": 4.0, "finetune__micro_batch_seconds": 4.0}
    changes = {"finetune__steps": "6 epochs", "finetune__log_every_steps": 1, **thirds, **few}
    j = finetune_job(tmp_path, scratch_encoder, letters, features, **changes)
    finetune.compute(j)
    n, lines = j.notes["epoch_steps"], curve(j.out)
    assert j.notes["steps"] == len(lines) == 6 * n and 3 < n < 9
    factor = tri_stage(6 * n, 1 / 3, 1 / 3, 0.02, 2)
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.002 * factor(s) for s in range(6 * n)], rel=1e-5)
    assert len({line["learning_rate"] for line in lines[4 * n :]}) == 2


# ---- kill and resume


def project(folder: Path, features: Path, **changes) -> Path:
    """A folder where `python -m birq` runs: params.yaml and features that are there already."""
    shutil.copytree(features, folder / "data" / "features" / "tones")
    (folder / "params.yaml").write_text(yaml.safe_dump(tree(**changes)))
    return folder


def kill_in_the_middle(folder: Path, command: list[str]) -> None:
    """Run `python -m birq COMMAND` in a folder and kill -9 it after its second checkpoint."""
    run = [sys.executable, "-m", "birq", *command]
    child = subprocess.Popen(run, cwd=folder, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = folder / "data" / ".work" / command[0]
    try:
        while not any(p.exists() for p in work.glob("*/scratch/checkpoint.pt.before")):
            assert child.poll() is None, f"{command} ended before it was killed"
            time.sleep(0.005)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not (folder / "data" / command[0]).exists(), "a killed run publishes nothing"


def contents(artifact: Path) -> dict[str, bytes]:
    names = ("encoder.safetensors", "model.safetensors", "curve.jsonl", "config.json")
    kept = {p.name: p.read_bytes() for p in artifact.glob("encoder-step-*.safetensors")}
    return kept | {n: (artifact / n).read_bytes() for n in names if (artifact / n).exists()}


def test_kill_9_then_the_same_command_ends_in_the_same_bits(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything random at a step follows from (seed, step), and the checkpoint holds the rest: weights and curve of a pre-training and a
    fine-tuning that were killed are those of runs that were not. Dropout, masks, Gumbel noise, SpecAugment and dev WER are all on."""
    changes = {
        "pretrain__steps": 60,
        "finetune__steps": 60,
        "pretrain__dropout": 0.1,
        "birq__gradient_cosine_every_steps": 10,
        "birq__begins_share": 0.1,
        "pretrain__snapshots": [0.02, 0.5],
    }
    killed, whole = (project(tmp_path / name, features, **changes) for name in ("killed", "whole"))
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    for verb in ("tokenizer", "pretrain", "finetune"):
        command = [verb] if verb == "tokenizer" else [verb, "--method", "birq", "--seed", "0"]
        for folder in (whole, killed):
            monkeypatch.chdir(folder)
            if folder == killed and verb != "tokenizer":
                kill_in_the_middle(folder, command)
                capsys.readouterr()
            assert birq.main(command) == 0
        if verb != "tokenizer":
            assert "resumes at step" in capsys.readouterr().err
            found, want = (contents(folder / "data" / verb / "birq-0") for folder in (killed, whole))
            assert set(found) == set(want) and len(found) == {"pretrain": 5, "finetune": 3}[verb]
            for name, value in want.items():
                assert found[name] == value, f"{verb}: {name} differs after a kill"
    steps = [json.loads(line)["step"] for line in found["curve.jsonl"].splitlines()]
    assert steps == sorted(set(steps)), "no line twice"


def resumed(j: Job, out: Path) -> Job:
    """The same work folder, a fresh output."""
    out.mkdir()
    return dataclasses.replace(j, out=out, notes={})


def stops_and_resumes(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, call: int, changes: dict, steps: int) -> None:
    """A pre-training that a signal stops in a call of backward ends in the bits of one that nothing stopped."""
    whole = job("pretrain", tmp_path / "whole", {"features": [features]}, params(**changes))
    pretrain.compute(whole)
    stopped = job("pretrain", tmp_path / "stopped", {"features": [features]}, params(**changes, pretrain__checkpoint_seconds=3600.0))
    with monkeypatch.context() as m, pytest.raises(Stopped, match=f"step {call} of {steps}"):
        signal_in_call(m, pretraining.PretrainTask, "backward", signal.SIGTERM, call)
        pretrain.compute(stopped)
    again = resumed(stopped, tmp_path / "again")
    pretrain.compute(again)
    assert contents(again.out) == contents(whole.out)


# ---- stopping when asked

# checkpoints on request only, in between two lines of the curve
REQUESTED = {f"{stage}__{key}": v for stage in ("pretrain", "finetune") for key, v in {"steps": 14, "log_every_steps": 5}.items()}
REQUESTED |= {f"{stage}__checkpoint_seconds": 3600.0 for stage in ("pretrain", "finetune")}
REQUESTED |= {"pretrain__dropout": 0.1, "birq__gradient_cosine_every_steps": 7, "finetune__evaluations": 2}


def signal_in_call(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: signal.Signals, call: int) -> None:
    """This process gets a signal at the start of a function's n-th call."""
    real, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("stage", "function", "number", "call", "step"),
    [
        ("pretrain", "PretrainTask.backward", signal.SIGTERM, 8, 8),
        ("finetune", "FinetuneTask.backward", signal.SIGUSR1, 8, 8),
        ("finetune", "FinetuneTask._on_dev", signal.SIGTERM, 1, 7),
    ],
    ids=["pretrain", "finetune", "dev evaluation"],
)
def test_a_signal_stops_at_a_checkpoint_that_ends_in_the_same_bits(
    tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path, monkeypatch, stage, function, number, call, step
) -> None:
    """The step under way is finished and saved, with what is summed up for the next line of the curve; an evaluation under way is dropped
    and made after resuming. So weights and curve are those of a run that nobody stopped."""
    module, tasks = {"pretrain": (pretrain, pretraining), "finetune": (finetune, finetuning)}[stage]
    inputs = {"pretrain": [scratch_encoder], "tokenizer": [letters], "features": [features]}
    whole, stopped = (job(stage, tmp_path / name, inputs, params(**REQUESTED)) for name in ("whole", "stopped"))
    module.compute(whole)
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    with monkeypatch.context() as m, pytest.raises(Stopped, match=rf"{stage}/birq-0: step {step} of 14 is saved \({number.name}\)"):
        owner, _, name = function.partition(".")
        signal_in_call(m, getattr(tasks, owner), name, number, call)
        module.compute(stopped)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert load_checkpoint(stopped.scratch)["position"]["step"] == step
    again = resumed(stopped, tmp_path / "again")
    module.compute(again)
    assert contents(again.out) == contents(whole.out) and len(contents(again.out)) == 3


def test_a_stopped_verb_exits_with_75_though_its_log_reader_is_gone(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EX_TEMPFAIL tells a stop from a failure. A signal to a whole job ends the rule's `tee` too: a broken pipe must cost neither the
    checkpoint nor the status. The lock is free, the store untouched, the time counted, and the same command finishes."""
    folder = project(tmp_path, features, pretrain__steps=40, pretrain__checkpoint_seconds=3600.0)
    command = ["pretrain", "--method", "birq", "--seed", "0"]
    run = [sys.executable, "-m", "birq", *command]
    child = subprocess.Popen(run, cwd=folder, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    work = folder / "data" / ".work" / "pretrain"
    while not list(work.glob("*/scratch/curve.jsonl")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.005)
    child.stdout.close()
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    (scratch,) = work.glob("*/scratch")
    assert 0 <= load_checkpoint(scratch)["position"]["step"] < 40
    assert float((scratch.parent / "seconds").read_text()) > 0
    assert not list((folder / "data" / ".store" / "pretrain").glob("*/")) and not (folder / "data" / "pretrain").exists()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    assert birq.main(command) == 0


def test_training_stops_by_itself_before_its_slurm_job_ends(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm kills at SLURM_JOB_END_TIME, which older versions tell by squeue only: a checkpoint a minute earlier (5 % of short jobs) costs
    no step. A time that is over already is another job's; none, or nonsense, means no limit."""
    at = {"SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "8200"}
    assert last_moment(at, 1000) == 8200 - 60
    assert last_moment(at | {"SLURM_JOB_END_TIME": "1600"}, 1000) == 1600 - 30
    assert last_moment(at, 9000) is None and last_moment({}, 0) is None
    assert last_moment(at | {"SLURM_JOB_END_TIME": "never"}, 0) is None

    (tmp_path / "squeue").write_text('#!/bin/sh\ntest "$3" = 7 && echo 2026-03-01T10:00:00 $END\n')
    (tmp_path / "squeue").chmod(0o755)
    asked = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:{os.environ['PATH']}", "END": "2026-03-01T12:00:00", "TZ": "UTC"}
    end = datetime(2026, 3, 1, 12).timestamp()
    assert last_moment(asked, end - 7200) == end - 60
    assert last_moment(asked | {"END": "N/A"}, 0) is None and last_moment(asked | {"SLURM_JOB_ID": "8"}, 0) is None
    now = time.time()
    monkeypatch.setattr(interrupt, "MARGIN_SECONDS", 5000.0)
    monkeypatch.setenv("SLURM_JOB_START_TIME", str(now - 1e6))
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(now + 1000))
    with pytest.raises(Stopped, match=r"step 0 of 12 is saved \(the Slurm job's time is nearly over\)"):
        pretrained(tmp_path, features)


def test_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path, features: Path) -> None:
    """A checkpoint that cannot be read costs the steps since the one before it, and nothing else: the same bits come out."""
    j = job("pretrain", tmp_path, {"features": [features]}, params())
    pretrain.compute(j)
    newest = j.scratch / "checkpoint.pt"
    step = load_checkpoint(j.scratch)["position"]["step"]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert load_checkpoint(j.scratch)["position"]["step"] == step - 2
    again = resumed(j, tmp_path / "again")
    pretrain.compute(again)
    assert contents(again.out) == contents(j.out)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "flipped"])
def test_no_readable_checkpoint_is_an_error_with_the_way_out(tmp_path: Path, features: Path, damage: str) -> None:
    """Starting anew in silence would throw hours away; the message names both files and what to delete."""
    j = job("pretrain", tmp_path, {"features": [features]}, params(pretrain__steps=6))
    pretrain.compute(j)
    for name in ("checkpoint.pt", "checkpoint.pt.before"):
        data = bytearray((j.scratch / name).read_bytes())
        middle = len(data) // 2
        with zipfile.ZipFile(j.scratch / name) as records:  # in the values of a tensor: the container itself stays whole
            largest = max((r for r in records.infolist() if "/data/" in r.filename), key=lambda r: r.file_size)
        place = largest.header_offset + largest.file_size // 2
        data[place : place + 4] = bytes(255 - b for b in data[place : place + 4])
        bad = {"empty": b"", "half": bytes(data[:middle]), "text": b"<html>quota exceeded</html>\n" * 40, "flipped": bytes(data)}
        (j.scratch / name).write_bytes(bad[damage])
    with pytest.raises(BirqError, match="no checkpoint can be read") as e:
        pretrain.compute(resumed(j, tmp_path / "again"))
    assert "checkpoint.pt:" in str(e.value) and "checkpoint.pt.before:" in str(e.value)
    assert f"delete {j.scratch}" in str(e.value)


# ---- methods


def test_birq_with_w1_0_is_best_rq_bit_for_bit(tmp_path: Path, features: Path) -> None:
    """The whole stage: the same weights and the same curve, for a run that calls itself birq and one that calls itself best_rq."""
    zero = pretrained(tmp_path / "birq", features, "birq", birq__enhanced_weight=0.0)
    plain = pretrained(tmp_path / "best_rq", features, "best_rq")
    for name in ("encoder.safetensors", "curve.jsonl"):
        assert (zero / name).read_bytes() == (plain / name).read_bytes(), name
    assert all(line["enhanced_loss"] is None and line["enhanced_perplexity"] is None for line in curve(plain))


def test_until_the_enhanced_branch_begins_every_step_is_best_rq_s(tmp_path: Path, features: Path) -> None:
    """`begins_share` 0.5 of 12 steps: the first six lines are BEST-RQ's to the bit, with null in the enhanced figures."""
    every = {"pretrain__log_every_steps": 1, "birq__gradient_cosine_every_steps": 1}
    late = curve(pretrained(tmp_path / "late", features, birq__begins_share=0.5, **every))
    plain = curve(pretrained(tmp_path / "plain", features, "best_rq", **every))
    assert late[:6] == plain[:6] and late[6]["loss"] != plain[6]["loss"]
    for key in ("enhanced_loss", "label_fidelity", "enhanced_perplexity", "enhanced_used_share", "agreement", "gradient_cosine"):
        assert [line[key] is None for line in late] == [True] * 6 + [False] * 6, key


def test_the_watch_for_collapse_begins_with_the_enhanced_branch(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that are not there have not collapsed: with a bound that no codebook reaches, the run stops four steps after step 7."""
    monkeypatch.setattr(pretraining, "COLLAPSED_STEPS", 4)
    bound = {"birq__min_perplexity": 1e9, "pretrain__warmup_steps": 0, "pretrain__log_every_steps": 1}
    with pytest.raises(BirqError, match=r"have collapsed .* since step 7"):
        pretrained(tmp_path, features, birq__begins_share=0.5, **bound)
    assert curve(tmp_path / "scratch")[-1]["step"] == 10


@pytest.mark.parametrize("method", ["birq", "best_rq"])
def test_the_printed_form_runs_through_the_stage_under_a_name_of_its_own(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The variant that docs/method.md shows, and BEST-RQ's row with raw distances: pre-trained by the verb, read back with its labels."""
    printed = yaml.safe_load((ROOT / "docs" / "method.md").read_text().split("```yaml\n")[1].split("```")[0])["variants"]["birq_printed"]
    if method == "best_rq":
        printed = {"method": method} | {k: v for k, v in printed.items() if k.startswith(("random_projection", "pretrain"))}
    folder, changed = project(tmp_path, features), tree()
    changed |= {"variants": {"printed": printed}, "run": changed["run"] | {"methods": ["printed"]}}
    (folder / "params.yaml").write_text(yaml.safe_dump(changed))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    assert birq.main(["pretrain", "--method", "printed", "--seed", "0"]) == 0
    loaded = encoder.load(folder / "data" / "pretrain" / "printed-0")
    assert loaded.config["objective"]["distance"] == "raw" and not loaded.model.quantizer.unit
    assert loaded.model.anchor_quantizer.codebook.norm(dim=-1).std() > 0.1
    assert curve(folder / "data" / "pretrain" / "printed-0")[-1]["anchor_loss"] < 10


def test_methods_of_a_seed_share_quantizers_and_first_weights(tmp_path: Path, features: Path, scratch_encoder: Path) -> None:
    """Quantizer buffers travel in the artifact and are equal for all methods of a seed; another seed has others."""
    made = {m: load_file(pretrained(tmp_path / m, features, m, pretrain__steps=2) / "encoder.safetensors") for m in ("birq", "best_rq")}
    made["scratch"] = load_file(scratch_encoder / "encoder.safetensors")
    other = load_file(pretrained(tmp_path / "other", features, "scratch", seed=1) / "encoder.safetensors")
    names = [n for n in made["birq"] if "quantizer" in n]
    assert len(names) == 4
    for n in names:
        assert torch.equal(made["birq"][n], made["best_rq"][n]) and torch.equal(made["birq"][n], made["scratch"][n]), n
        assert not torch.equal(made["birq"][n], other[n])
    config = json.loads((scratch_encoder / "config.json").read_text())
    fresh = build(objectives, shape_of(config), objective(), seed=0).state_dict()
    assert all(torch.equal(fresh[n], w) for n, w in made["scratch"].items()), "scratch is the untrained encoder that the others began with"
    assert sorted(p.name for p in scratch_encoder.iterdir()) == ["config.json", "encoder.safetensors"], "no curve without a training"


OTHER_BIRQ = {f"birq__{k}": v for k, v in {"label_layer": 2, "enhanced_weight": 0.7, "heads": "separate", "min_perplexity": 1.5}.items()}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("scratch", OTHER_BIRQ | {"pretrain__steps": 5, "pretrain__dropout": 0.3, "random_projection__anchor_weight": 0.7}),
        ("best_rq", OTHER_BIRQ | {"birq__gradient_cosine_every_steps": 2}),
    ],
)
def test_what_a_method_does_not_read_does_not_change_its_artifact(tmp_path: Path, features: Path, method: str, changes: dict) -> None:
    """Such a param is not in its key, so it may change no byte: neither a weight nor a line of config.json, which fine-tuning reads."""
    one, two = (pretrained(tmp_path / str(n), features, method, **{"pretrain__steps": 3} | c) for n, c in enumerate(({}, changes)))
    assert contents(one) == contents(two) and len(contents(one)) == (2 if method == "scratch" else 3)


def test_a_loaded_encoder_gives_the_labels_it_was_trained_with(tmp_path: Path, features: Path) -> None:
    """Projection and codebook come from the file, not from a seed that some later version might use otherwise."""
    out = pretrained(tmp_path, features, pretrain__steps=2)
    weights = load_file(out / "encoder.safetensors")
    loaded = encoder.load(out)
    assert torch.equal(loaded.model.anchor_quantizer.projection, weights["anchor_quantizer.projection"])
    assert torch.equal(loaded.model.quantizer.codebook, weights["quantizer.codebook"])
    assert loaded.front_end.mean_F.shape == loaded.front_end.std_F.shape == (20,) and not loaded.model.training


LITERAL = {"random_projection__anchor_weight": 0.0, "birq__entropy_weight": 0.0, "birq__min_perplexity": 1.0}
BUDGET = {"pretrain__steps": 120, "pretrain__log_every_steps": 10, "pretrain__checkpoint_seconds": 60.0}


@pytest.mark.parametrize(("label_norm", "left"), [("layer_norm", 1.5), ("standardise", 5.0)])
def test_w2_0_in_the_literal_form_collapses(tmp_path: Path, features: Path, label_norm: str, left: float) -> None:
    """F alone is lowest when all frames get one code: nothing holds the labels, and their perplexity falls towards 1."""
    lines = curve(pretrained(tmp_path, features, birq__label_norm=label_norm, **LITERAL, **BUDGET))
    assert lines[0]["enhanced_perplexity"] > 10
    assert lines[-1]["enhanced_perplexity"] < left


def test_the_shipped_form_does_not_collapse(tmp_path: Path, features: Path) -> None:
    """With the constants of params.yaml and the same budget the enhanced labels use codes as widely as the anchoring ones."""
    lines = curve(pretrained(tmp_path, features, **BUDGET, **shipped()))
    assert lines[-1]["enhanced_perplexity"] > 0.7 * lines[-1]["anchor_perplexity"] > 10
    assert lines[-1]["label_fidelity"] > 0.5


# ---- what a task remembers


class Twins(Group):
    """A group in which another rank has the same sums as this one."""

    def add(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


def pretraining_task(folder: Path, features: Path) -> pretraining.PretrainTask:
    watched = pretraining.Watched(gradient_cosine_every_steps=1)
    section = params().pretrain
    return pretraining.PretrainTask(pretrainer(), section, "pretrain/birq-0", torch.device("cpu"), 0, 10.0, watched=watched)


def finetuning_task(folder: Path, features: Path) -> finetuning.FinetuneTask:
    split, dev = (open_split([features], name) for name in ("train", "dev"))
    letters = tokenizer.characters(LETTERS + " ")
    torch.manual_seed(0)
    model = CtcModel(Encoder(shape()), letters.size)
    front_end = read_front_end([features], split, n_stack=4)
    return finetuning.FinetuneTask(model, letters, front_end, params().finetune, dev, folder, torch.device("cpu"), ALONE)


@pytest.mark.parametrize("group", [ALONE, Twins(0, 2)], ids=["alone", "two ranks"])
@pytest.mark.parametrize("make", [pretraining_task, finetuning_task])
def test_asking_for_the_state_changes_nothing(tmp_path: Path, features: Path, make, group: Group) -> None:
    """A checkpoint may be written at any step: the sums go on, and the next line of the curve is that of a run without a checkpoint."""
    split = open_split([features], "train")
    feed = Feed(split, np.arange(len(split)), read_front_end([features], split, 4), batch_seconds=8.0, micro_batch_seconds=4.0, seed=0)
    steps = list(feed.epoch(0))[:2]
    lines, states = [], []
    for n_calls in (0, 2):
        task = make(tmp_path, features)
        task.group = ALONE
        for step, batches in enumerate(steps):
            torch.manual_seed(step)
            task.backward(batches, step, 0)
            task.group = group
            states += [task.state() for _ in range(n_calls)]
            task.group = ALONE
        task.group = group
        lines.append(task.figures(2))
    assert lines[0] == lines[1] and np.isfinite([v for v in lines[0].values() if v is not None]).all()
    (first, again), (second, once_more) = states[:2], states[2:]
    assert str(first) == str(again) != str(second) == str(once_more)


# ---- gradient accumulation


def pieces(b: Batch, cuts: list[slice]) -> list[Batch]:
    return [Batch(b.feats_BTF[c], b.lengths_B[c], b.ids[c], b.texts[c], b.index[c], float(b.lengths_B[c].sum()) / 25) for c in cuts]


def task_of(reduction: str, **changes) -> pretraining.PretrainTask:
    model = pretrainer(**{"noise": "none", "mask_fill_std": 0.0, **changes})
    section = params(pretrain__reduction=reduction).pretrain
    return pretraining.PretrainTask(model, section, "pretrain/birq-0", torch.device("cpu"), 0, 10.0)


def accumulated(batches: list[Batch], reduction: str = "frames", **changes) -> torch.Tensor:
    task = task_of(reduction, **changes)
    task.backward(batches, 0, 0)
    return torch.cat([w.grad.flatten() for w in task.model.parameters() if w.grad is not None])


FRAMEWISE = {"label_norm": "layer_norm", "entropy_weight": 0.0, "enhanced_weight": 1.0}


@pytest.mark.parametrize("changes", [{"enhanced_weight": 0.0}, FRAMEWISE], ids=["best_rq", "birq, frame-wise labels"])
def test_the_printed_reduction_is_a_mean_over_utterances_of_sums_over_masked_frames(changes: dict) -> None:
    """Eq. 5 to 7, one utterance at a time: cross-entropy summed over its masked frames, then the mean over the utterances of the step,
    whatever the micro-batches. The logged loss is that value; the parts stay per frame, as for the other reduction."""
    b = batch([60, 60, 40, 4, 3])
    cuts = [slice(0, 1), slice(1, 3), slice(3, 5)]
    task = task_of("utterances", **changes)
    value, sums, n_masked = 0.0, torch.zeros(sum(w.numel() for w in task.model.parameters() if w.requires_grad)), 0
    for one in pieces(b, [slice(i, i + 1) for i in range(5)]):
        (ready,) = task.ready([one], 0, 0)
        losses = task._forward(ready, ready.masked, 0, 0, None)
        task.model.zero_grad()
        (losses.total * losses.n_masked / 5).backward()
        sums += torch.cat([w.grad.flatten() for w in task.model.parameters()])
        value, n_masked = value + losses.total.item() * losses.n_masked / 5, n_masked + losses.n_masked
    torch.testing.assert_close(accumulated(pieces(b, cuts), "utterances", **changes), sums, atol=1e-5, rtol=1e-4)
    lines = {}
    for reduction in ("utterances", "frames"):
        task = task_of(reduction, **changes)
        task.backward(pieces(b, cuts), 0, 0)
        lines[reduction] = task.figures(1)
    assert lines["utterances"]["loss"] == pytest.approx(value, rel=1e-5)
    assert lines["utterances"]["loss"] == pytest.approx(lines["frames"]["loss"] * n_masked / 5, rel=1e-6)
    assert lines["utterances"]["anchor_loss"] == lines["frames"]["anchor_loss"]


@pytest.mark.parametrize("reduction", ["frames", "utterances"])
@pytest.mark.parametrize(
    "changes", [{"enhanced_weight": 0.0}, FRAMEWISE | {"label_gradient": 0.0}], ids=["best_rq", "birq, frame-wise labels"]
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(changes: dict, reduction: str) -> None:
    """A mean over masked frames is a sum over micro-batches weighted by their masked frames, however unlike these are. (Standardised z
    and the entropy of the mean label are those of a micro-batch: an approximation, which larger micro-batches make smaller.)"""
    b = batch([60, 60, 40, 4, 3])
    whole = accumulated([b], reduction, **changes)
    parts = accumulated(pieces(b, [slice(0, 1), slice(1, 3), slice(3, 5)]), reduction, **changes)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


# ---- failures are sentences


def test_loss_that_is_not_finite_is_an_error(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """Both stages stop at the step, name the remedy and publish nothing."""
    with pytest.raises(BirqError, match=r"pretrain/birq-0: .*not finite at step \d+; try a lower learning_rate"):
        pretrained(tmp_path / "pretrain", features, pretrain__learning_rate=1e30)
    assert not list((tmp_path / "pretrain").glob("out*/*"))
    j = finetune_job(tmp_path / "finetune", scratch_encoder, letters, features, finetune__learning_rate=1e30)
    with pytest.raises(BirqError, match=r"finetune/birq-0: .*not finite at step \d+"):
        finetune.compute(j)


def test_collapse_is_an_error_that_names_entropy_weight(tmp_path: Path, features: Path) -> None:
    """Labels that say nothing are found out in minutes, not after the run."""
    literal = {**LITERAL, **BUDGET, "birq__min_perplexity": 2.0, "pretrain__steps": 400, "birq__label_norm": "layer_norm"}
    with pytest.raises(BirqError, match=r"enhanced labels have collapsed .*raise birq\.entropy_weight"):
        pretrained(tmp_path, features, **literal)
    assert len(curve(tmp_path / "scratch")) < 20


def test_finetuning_without_labelled_speech_is_an_error(tmp_path: Path, letters: Path, scratch_encoder: Path) -> None:
    """It says what is missing and where to name it."""
    bare = speech(tmp_path / "features", n=4, labelled=False)
    with pytest.raises(BirqError, match=r"no labelled speech in the train split.*run\.finetune_corpora"):
        finetune.compute(finetune_job(tmp_path / "run", scratch_encoder, letters, bare))


def test_batch_shorter_than_an_utterance_is_an_error_that_names_both(tmp_path: Path, features: Path) -> None:
    """No silent loss of long utterances: the message has the utterance, its length and the budget."""
    split = open_split([features], "train")
    longest = int(split.n_frames.argmax())
    with pytest.raises(BirqError, match="batch_seconds is 1") as e:
        pretrained(tmp_path, features, pretrain__batch_seconds=1.0, pretrain__micro_batch_seconds=1.0)
    assert split.ids[longest] in str(e.value) and f"{split.n_frames[longest] / 100:.2f} s" in str(e.value)


def test_transcripts_too_fast_for_ctc_are_an_error(tmp_path: Path, letters: Path, scratch_encoder: Path) -> None:
    """More tokens than encoder frames have no path: the loss would be infinite. The message names n_stack and the tokenizer."""
    fast = write_features(tmp_path / "features", {"train": rows(["abcdefgh" * 5] * 4, "train", heard=["abc"] * 4)})
    with pytest.raises(BirqError, match=r"4 of 4 labelled utterances have more tokens than encoder frames; use a smaller model.n_stack"):
        finetune.compute(finetune_job(tmp_path / "run", scratch_encoder, letters, fast))
