"""Snapshots of an encoder along its pre-training: the weights of a run that stopped there, whatever stopped it; and the probe of each."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_probe import pretrained, probe_job, rows_of, run, tone_corpus
from test_train import resumed, signal_in_call
from tiny import job, params, run_pretrain

from birq.errors import BirqError, Stopped
from birq.evaluate import linear
from birq.pipeline.stage import Job
from birq.saved import encoder, snapshots
from birq.stages import pretrain
from birq.train import loop, pretraining
from birq.train.checkpoint import load_checkpoint
from birq.train.snapshots import steps_of

# steps 3 and 7 of 12; a line of the curve, and a checkpoint, after every second step
KEPT: dict[str, Any] = {"pretrain__snapshots": [0.25, 0.6]}
FILES = ["encoder-step-3.safetensors", "encoder-step-7.safetensors"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    """The artifact of a pre-training that nothing stopped."""
    return run_pretrain(tmp_path_factory.mktemp("whole"), features, **KEPT).out


def fresh(folder: Path, features: Path, **changes: Any) -> Job:
    return job("pretrain", folder, {"features": [features]}, params(**changes))


def contents(folder: Path) -> dict[str, bytes]:
    """All that counts of an artifact; how fast it was made does not."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "timing.jsonl"}


def test_the_rest_of_the_artifact_is_that_of_a_run_without(tmp_path: Path, features: Path, whole: Path) -> None:
    """Weights, curve and config to the bit; and without shares there is no file more."""
    without, found = contents(run_pretrain(tmp_path, features).out), contents(whole)
    assert sorted(set(found) - set(without)) == FILES == [snapshots.file_of(step) for step in snapshots.steps(whole)]
    assert {name: found[name] for name in without} == without


@pytest.mark.parametrize("step", [3, 7])
def test_a_snapshot_is_the_encoder_of_a_run_that_stopped_there(
    tmp_path: Path, features: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """That run keeps none; its checkpoint has the weights after so many steps. `load` puts them into the artifact's model."""
    stopped = fresh(tmp_path, features, pretrain__checkpoint_seconds=3600.0)
    with pytest.raises(Stopped, match=f"step {step} of 12"):
        signal_in_call(monkeypatch, pretraining.PretrainTask, "backward", signal.SIGTERM, step)
        pretrain.compute(stopped)
    model = load_checkpoint(stopped.scratch)["model"]
    want = {name.removeprefix("encoder."): w for name, w in model.items() if name.startswith("encoder.")}
    found = load_file(whole / snapshots.file_of(step))
    loaded, finished = snapshots.load(whole, step), encoder.load(whole)
    assert set(found) == set(want) and all(torch.equal(found[name], w) for name, w in want.items())
    assert all(torch.equal(loaded.encoder.state_dict()[name], w) for name, w in want.items())
    assert torch.equal(loaded.model.quantizer.codebook, finished.model.quantizer.codebook) and not loaded.model.training
    assert any(not torch.equal(finished.encoder.state_dict()[name], w) for name, w in want.items())


@pytest.mark.parametrize("call", [2, 3, 5, 7, 8])
def test_a_run_that_stopped_and_went_on_has_the_same_files(
    tmp_path: Path, features: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Before a snapshot, at it, and behind it."""
    stopped = fresh(tmp_path, features, **KEPT)
    with monkeypatch.context() as m, pytest.raises(Stopped, match=f"step {call} of 12"):
        signal_in_call(m, pretraining.PretrainTask, "backward", signal.SIGTERM, call)
        pretrain.compute(stopped)
    again = resumed(stopped, tmp_path / "again")
    pretrain.compute(again)
    assert contents(again.out) == contents(whole)


def test_a_run_that_died_while_it_wrote_one_writes_it_again(
    tmp_path: Path, features: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name appears with the whole file, before the next checkpoint: a half one has another name and is not published."""
    died = fresh(tmp_path, features, **KEPT)

    def no_more(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m, pytest.raises(OSError, match="No space"):
        m.setattr(snapshots.os, "fsync", no_more)
        m.setattr(loop, "save_checkpoint", lambda *_: None)  # it would need the disk, too
        pretrain.compute(died)
    assert not (died.scratch / FILES[0]).exists() and (died.scratch / f"{FILES[0]}.new").exists()
    again = resumed(died, tmp_path / "again")
    pretrain.compute(again)
    assert contents(again.out) == contents(whole)


def test_no_checkpoint_is_past_a_snapshot_that_is_not_there(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every checkpoint, the files of its step and of all before it lie in the work folder."""
    seen, save = [], loop.save_checkpoint

    def look(folder: Path, *rest: Any) -> None:
        seen.append((rest[-1]["step"], snapshots.steps(folder)))
        save(folder, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", look)
    run_pretrain(tmp_path, features, **KEPT | {"pretrain__log_every_steps": 1})
    assert [step for step, _ in seen] == list(range(1, 12))
    assert all(kept == [s for s in (3, 7) if s <= step] for step, kept in seen)


@pytest.mark.parametrize(
    ("shares", "steps", "want"),
    [
        ([], 100, []),
        ([0.1, 0.25, 0.5], 1800, [180, 450, 900]),
        ([0.01, 0.02, 0.5], 10, [1, 5]),  # the first two are less than a step
        ([0.5, 0.99], 10, [5]),  # the second is the end
        ([0.5], 1, []),
    ],
)
def test_shares_become_steps(shares: list[float], steps: int, want: list[int]) -> None:
    assert steps_of(shares, steps) == want


def test_a_damaged_snapshot_is_named(tmp_path: Path, features: Path) -> None:
    out = run_pretrain(tmp_path, features, **KEPT).out
    os.truncate(out / FILES[0], 100)
    with pytest.raises(BirqError, match=f"{FILES[0]}: not a readable model"):
        snapshots.load(out, 3)


# ---- the probe


def test_every_snapshot_is_probed_as_a_finished_encoder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two encoders as finished ones and as snapshots of a third: the linear probe gives them the same figures, layer by layer."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 10, "dev": 6}, aligned="train dev")
    finished, others = pretrained(tmp_path / "finished", n_stack=8), {}  # frames of two phones, so none finds all
    for step in (90, 600):
        others[step] = pretrained(tmp_path / f"other{step}", n_stack=8)
        saved = encoder.load(others[step])
        torch.manual_seed(step)
        for weight in saved.encoder.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
        encoder.save(others[step], saved.model, saved.config)
    alone = run(probe_job(tmp_path, "alone", features, corpus, finished))
    for step, folder in others.items():
        snapshots.save(finished, step, encoder.load(folder).encoder)
    capsys.readouterr()
    found = run(probe_job(tmp_path, "found", features, corpus, finished))
    said = capsys.readouterr().err
    by_step = found.pop("snapshots")
    assert found == alone and [s["step"] for s in by_step] == [90, 600]
    for s in by_step:
        want = run(probe_job(tmp_path, f"want{s['step']}", features, corpus, others[s["step"]]))
        assert s["rows"] == [{key: row[key] for key in ("layer", *linear.KEYS)} for row in want["rows"][1:]]
        assert rows_of(s, "linear") != rows_of(alone, "linear")[1:]
        for line in ("16/16 utterance", "2/2 layer"):
            assert f"step {s['step']}  {line}" in said


def test_without_a_linear_probe_snapshots_have_no_figures(tmp_path: Path) -> None:
    features, corpus = tone_corpus(tmp_path, splits={"dev": 6}, aligned="dev")
    finished = pretrained(tmp_path / "finished")
    snapshots.save(finished, 90, encoder.load(finished).encoder)
    result = run(probe_job(tmp_path, "probe", features, corpus, finished))
    assert not result["linear"]["available"] and "snapshots" not in result
