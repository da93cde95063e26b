"""Several ranks train one model: the same numbers as one, whatever their count, and one voice."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import gang
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import child_environment, curve, job, noise, objective, params, pretrainer, tree

from birq import __main__ as birq
from birq.errors import BirqError, Diverged, Stopped
from birq.model import objectives
from birq.pipeline import stage as stages
from birq.saved import snapshots
from birq.speech.batches import Feed, shares
from birq.speech.shards import open_split, read_front_end
from birq.stages import finetune, pretrain
from birq.train import distributed, finetuning, pretraining
from birq.train.checkpoint import load_checkpoint
from birq.train.loop import step_seed
from birq.train.runtime import devices, launch

# micro-batches of few utterances, every figure in every line, everything random that does not depend on the ranks
SETTINGS = {"birq__label_share": 0.5, "birq__gradient_cosine_every_steps": 3, "finetune__evaluations": 2}
SETTINGS |= {
    f"{s}__{k}": v for s in ("pretrain", "finetune") for k, v in {"steps": 8, "micro_batch_seconds": 4.0, "log_every_steps": 1}.items()
}
SETTINGS |= {f"finetune__{k}": 0 for k in ("time_masks", "freq_masks", "frozen_steps")} | {"finetune__dropout": 0.0}
SETTINGS |= {f"{s}__checkpoint_seconds": 3600.0 for s in ("pretrain", "finetune")}
STAGES = {"pretrain": pretrain, "finetune": finetune}


def train_here(stage: str, folder: Path, inputs: dict[str, list[Path]], changes: dict, stop_at: tuple[int, int] | None = None) -> str:
    """One rank's part of a stage; rank 0 fills `folder/out0`. `stop_at`: this rank gets SIGUSR1 in this step."""
    rank = int(os.environ.get("RANK", "0"))
    j = job(stage, folder if rank == 0 else folder / f"rank{rank}", inputs, params(**SETTINGS | changes))
    if rank:
        j = dataclasses.replace(j, scratch=folder / "scratch")
        snapshots.save = None  # only rank 0 writes
    task = {"pretrain": pretraining.PretrainTask, "finetune": finetuning.FinetuneTask}[stage]
    real = task.backward

    def backward(self, batches, step, epoch):
        if stop_at == (rank, step):
            os.kill(os.getpid(), signal.SIGUSR1)
        real(self, batches, step, epoch)

    task.backward = backward
    STAGES[stage].compute(j)
    assert not rank or not list(j.out.iterdir()), "only rank 0 writes"
    return j.out.name


def figures(out: Path) -> np.ndarray:
    """All of the curve, [lines, figures]."""
    return np.array([[np.nan if v is None else v for v in line.values()] for line in curve(out)])


def weights(out: Path, file: str = "*.safetensors") -> torch.Tensor:
    (path,) = out.glob(file)
    return torch.cat([w.flatten().float() for _, w in sorted(load_file(path).items())])


@pytest.fixture(scope="module")
def inputs(features: Path, letters: Path, scratch_encoder: Path) -> dict[str, list[Path]]:
    return {"features": [features], "pretrain": [scratch_encoder], "tokenizer": [letters]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, list[Path]]) -> dict[str, Path]:
    """Both stages, as one process makes them."""
    root = tmp_path_factory.mktemp("alone")
    made = {}
    for stage, module in STAGES.items():
        j = job(stage, root / stage, inputs, params(**SETTINGS))
        module.compute(j)
        made[stage] = j.out
    return made


# ---- the same numbers


def test_some_shares_are_empty_in_what_follows(features: Path) -> None:
    """Four ranks share micro-batches of three utterances: a rank without one must neither hang nor change the sum."""
    split = open_split([features], "train")
    speech = split, np.arange(len(split)), read_front_end([features], split, n_stack=4)
    sizes = {"batch_seconds": 8.0, "micro_batch_seconds": 4.0, "seed": 0}
    feeds = [Feed(*speech, **sizes, rank=r, ranks=4) for r in range(4)]
    whole = Feed(*speech, **sizes)
    empty = 0
    for one, *parts in zip(whole.epoch(0), *(f.epoch(0) for f in feeds), strict=True):
        assert {len(p) for p in parts} == {len(one)}, "as many micro-batches on every rank"
        for micro, *own in zip(one, *parts, strict=True):
            assert [i for o in own for i in o.ids] == micro.ids and {o.seconds for o in own} == {micro.seconds}
            assert [o.first for o in own] == [sum(len(b.ids) for b in own[:r]) for r in range(4)]
            empty += sum(not o.ids for o in own)
    assert empty > 0


@pytest.mark.parametrize(("stage", "size"), [("pretrain", 2), ("pretrain", 4), ("finetune", 4)])
def test_ranks_give_the_numbers_of_one_process(tmp_path: Path, inputs, alone, stage: str, size: int) -> None:
    """A step's batch, noise and masks do not depend on the number of ranks, and means and statistics are taken over all ranks' frames:
    every figure of every step, and the weights at the end, differ in float32 rounding only."""
    gang.run(size, train_here, stage, tmp_path, inputs, {})
    np.testing.assert_allclose(figures(tmp_path / "out0"), figures(alone[stage]), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(weights(tmp_path / "out0"), weights(alone[stage]), rtol=0, atol=2e-5)


def test_ranks_give_the_numbers_of_one_process_in_the_printed_form(tmp_path: Path, inputs) -> None:
    """Sums over the utterances of all ranks, raw distances, noise of either sign, and a branch that begins in the middle."""
    changes = {"random_projection__distance": "raw", "birq__logit_scale": 1.0, "birq__noise": "reversed"}
    changes |= {"pretrain__reduction": "utterances", "birq__begins_share": 0.25, "pretrain__snapshots": [0.5]}
    one = job("pretrain", tmp_path / "one", inputs, params(**SETTINGS | changes))
    pretrain.compute(one)
    gang.run(2, train_here, "pretrain", tmp_path, inputs, changes)
    assert np.isnan(figures(one.out)[:2]).any() and curve(one.out)[0]["loss"] > 20
    np.testing.assert_allclose(figures(tmp_path / "out0"), figures(one.out), rtol=2e-5, atol=2e-6)
    for file in ("encoder.safetensors", "encoder-step-4.safetensors"):
        torch.testing.assert_close(weights(tmp_path / "out0", file), weights(one.out, file), rtol=0, atol=2e-5)


def test_resume_with_another_number_of_ranks(tmp_path: Path, inputs, alone) -> None:
    """A signal to any rank stops all at the same step, with the sums of all ranks in one checkpoint; any number of ranks goes on."""
    changes = {"pretrain__log_every_steps": 3}
    errors = gang.run(2, train_here, "pretrain", tmp_path, inputs, changes, (1, 3))
    assert [type(e) for e in errors] == [Stopped, Stopped]
    assert "step 4 of 8 is saved (SIGUSR1)" in str(errors[0])
    assert load_checkpoint(tmp_path / "scratch")["position"]["step"] == 4
    gang.run(3, train_here, "pretrain", tmp_path, inputs, changes)
    torch.testing.assert_close(weights(tmp_path / "out1"), weights(alone["pretrain"]), rtol=0, atol=2e-5)
    one = job("pretrain", tmp_path / "one", inputs, params(**SETTINGS | changes))
    pretrain.compute(one)
    np.testing.assert_allclose(figures(tmp_path / "out1"), figures(one.out), rtol=2e-5, atol=2e-6)


def begin_unlike(folder: Path) -> None:
    model = pretrainer(seed=int(os.environ["RANK"]))
    distributed.join(torch.device("cpu")).assert_equal(model, 0)


def test_ranks_that_begin_unlike_are_an_error(tmp_path: Path) -> None:
    """Another version or another data folder on one node would give gradients of two models: every rank refuses."""
    errors = gang.run(2, begin_unlike, tmp_path)
    assert all(isinstance(e, BirqError) and "ranks [1] begin with other weights" in str(e) for e in errors)


def test_noise_of_a_share_is_its_part_of_the_batch_s_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator is led past the rows of other ranks, so a frame's Gumbel noise does not depend on who computes it."""
    logits = torch.randn(50, 2, 32, generator=noise(1))
    whole = objectives.enhanced_labels(logits, objective(), noise())
    monkeypatch.setattr(objectives, "SKIPPED_AT_ONCE", 1000)
    generator = noise()
    objectives._skip(37 * 2 * 32, generator, logits.device)
    assert torch.equal(objectives.enhanced_labels(logits[37:], objective(), generator), whole[37:])


def test_what_a_rank_draws_for_itself_is_its_own() -> None:
    """Dropout and SpecAugment differ between ranks, and rank 0 draws what a process alone does."""
    seeds = [step_seed(s, step, rank) for s in (0, 1) for step in range(500) for rank in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert step_seed(3, 7, 0) == step_seed(3, 7)


def test_shares_are_the_most_even_runs() -> None:
    """No way to cut a micro-batch into runs of neighbours has a smaller largest share, padding counted."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        frames = np.sort(rng.integers(50, 400, rng.integers(1, 9)))
        for ranks in (1, 2, 3):
            ends = shares(frames, ranks)
            assert len(ends) == ranks and ends[-1] == len(frames) and ends == sorted(ends)

            def cost(ends, frames=frames):
                return max((b - a) * frames[b - 1] for a, b in itertools.pairwise((0, *ends)) if b > a)

            best = min(cost((*cuts, len(frames))) for cuts in itertools.combinations_with_replacement(range(len(frames) + 1), ranks - 1))
            assert cost(ends) == best


# ---- the verb


def project(folder: Path, features: Path, **changes) -> Path:
    shutil.copytree(features, folder / "data" / "features" / "tones")
    (folder / "params.yaml").write_text(yaml.safe_dump(tree(**changes)))
    return folder


VERB = ["pretrain", "--method", "birq", "--seed", "0"]


def start_and_wait(folder: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """The verb, as soon as it has written a line of the curve."""
    seen = {p: p.read_text() for p in folder.glob("data/.work/pretrain/*/scratch/curve.jsonl")}
    child = subprocess.Popen([sys.executable, "-m", "birq", *VERB], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    while not any(p.read_text() > seen.get(p, "") for p in folder.glob("data/.work/pretrain/*/scratch/curve.jsonl")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.01)
    return child


def test_the_verb_starts_ranks_that_stop_when_told_and_torchrun_goes_on(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BIRQ_RANKS=2 runs the verb as two ranks: a signal reaches them, and 75 comes back; a launcher that is killed takes them with it. The
    same verb under torchrun goes on there, publishes once, and speaks once. What is made already starts no ranks."""
    folder = project(tmp_path, features, pretrain__steps=60, pretrain__checkpoint_seconds=3600.0)
    env = child_environment() | {"BIRQ_RANKS": "2"}
    child = start_and_wait(folder, env)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=300)[1]
    assert child.returncode == 75, said
    assert said.count("is saved (SIGTERM); the same command goes on") == 1 and "Traceback" not in said
    (scratch,) = folder.glob("data/.work/pretrain/*/scratch")
    first = load_checkpoint(scratch)["position"]["step"]

    child = start_and_wait(folder, env)
    child.kill()
    child.communicate(timeout=300)  # until the ranks have closed what they inherited: they are gone
    assert load_checkpoint(scratch)["position"]["step"] > first
    assert not (folder / "data" / "pretrain").exists()

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "birq", *VERB]
    done = subprocess.run(torchrun, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumes at step") == 1 and done.stderr.count("pretrain/birq-0: done in") == 1
    record = json.loads((folder / "data" / "pretrain" / "birq-0" / "provenance.json").read_text())
    assert record["notes"]["ranks"] == 2 and record["notes"]["steps"] == 60

    monkeypatch.chdir(folder)
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    monkeypatch.setattr(launch, "needed", None)
    assert birq.main(VERB) == 0
    assert "up to date" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "said_by"), [(Diverged("too fast"), [0]), (Stopped("step 3"), [0]), (BirqError("a bad file"), [0, 1])])
def test_an_error_of_all_ranks_is_said_once(tmp_path, features, monkeypatch, capsys, error: BirqError, said_by: list[int]) -> None:
    """What every rank meets at the same step is said by rank 0; what one rank meets by itself is said by that one, with its number."""
    monkeypatch.chdir(project(tmp_path, features))
    monkeypatch.setattr(stages, "run", Mock(side_effect=error))
    monkeypatch.setattr(stages, "follow", Mock(side_effect=error))
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    heard = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert birq.main(VERB) == error.status
        text = capsys.readouterr().err
        heard += [rank] * (str(error) in text)
        assert not text or ("(rank 1)" in text) == (rank == 1)
    assert heard == said_by


def test_how_many_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """BIRQ_RANKS decides, else the GPUs that are seen, on BIRQ_NODES nodes of a Slurm job; ranks start no ranks."""
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BIRQ_RANKS", "1")
    assert launch.needed(VERB) is None
    monkeypatch.setenv("BIRQ_RANKS", "3")
    assert launch.needed(VERB) is not None
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert launch.needed(VERB) is None
    monkeypatch.delenv("RANK")
    for nonsense in ("0", "two", "-1"):
        monkeypatch.setenv("BIRQ_RANKS", nonsense)
        with pytest.raises(BirqError, match="BIRQ_RANKS"):
            launch.needed(VERB)
    monkeypatch.setenv("BIRQ_RANKS", "1")
    monkeypatch.setattr(launch.shutil, "which", lambda name: name)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert launch.needed(VERB) is None
    monkeypatch.setenv("BIRQ_NODES", "2")
    assert launch.needed(VERB) is not None
    monkeypatch.delenv("SLURM_JOB_ID")
    assert launch.needed(VERB) is None
    monkeypatch.delenv("BIRQ_RANKS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.needed(VERB) is not None


def test_gpus_are_counted_whatever_their_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container with GPUs 4 to 7 has no /dev/nvidia0; a machine without any is not asked, since that imports torch."""
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "BIRQ_RANKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    (tmp_path / "nvidiactl").touch()
    assert launch.needed(VERB) is None
    (tmp_path / "nvidia4").touch()
    assert launch.needed(VERB) is not None


def test_more_ranks_than_gpus_are_an_error_before_any_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two ranks cannot share a GPU; the message names both numbers and the way out. Without GPUs, ranks share the CPU."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(launch, "DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("BIRQ_RANKS", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BirqError, match=r"3 ranks on a node on which 2 GPU\(s\) are visible.*BIRQ_RANKS"):
        launch.needed(VERB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in {"RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BirqError, match="3 ranks on a node"):  # as torchrun starts them
        devices.for_training(1, {})
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.needed(VERB) is not None


def stop_and_look(folder: Path, inputs: dict[str, list[Path]]) -> bool:
    with contextlib.suppress(Stopped):
        train_here("pretrain", folder, inputs, {}, (0, 1))
    return torch.distributed.is_initialized()


def test_a_stop_leaves_no_group_behind(tmp_path: Path, inputs) -> None:
    """A group that is not ended makes a warning on every rank, and NCCL may hang at exit."""
    assert gang.run(2, stop_and_look, tmp_path, inputs) == [False, False]


def test_exit_status_of_several_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    """A stop is a stop and an error an error though the launcher ends the other ranks; a rank that was killed is named."""
    assert launch._status({0: -15, 1: 75}) == 75
    assert launch._status({0: 2, 1: -15}) == 2
    assert capsys.readouterr().err == ""
    assert launch._status({1: -9}) == 1
    assert "rank 1 was killed by SIGKILL" in capsys.readouterr().err
