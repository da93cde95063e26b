"""Training on a pretended CUDA device (benchmarks/pretended): what would fail on a real one, wait for it, or take another kernel.

It says nothing of speed. It knows one version of torch, and skips on others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gang
import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from test_distributed import train_here
from tiny import batch, finetune_job, job, params, run_pretrain

from benchmarks import emulated, gpu
from benchmarks.pretended import device as pretended
from benchmarks.pretended.seen import SEEN
from birq.evaluate import layers
from birq.model import objectives, offline, prediction
from birq.model.encoder import Shape
from birq.model.quantized import build, constants
from birq.progress import Progress
from birq.saved import encoder
from birq.saved.labels import Labels
from birq.saved.recogniser import Recogniser
from birq.settings.methods import METHODS
from birq.settings.params import numbers
from birq.speech.shards import open_split
from birq.stages import finetune, pretrain
from birq.study.measure import measure
from birq.train import finetuning
from birq.train.loop import adamw
from birq.train.offline import OfflineTask
from birq.train.pretraining import PretrainTask, Refining, Watched, from_params
from birq.train.runtime.ahead import pinned
from birq.train.runtime.devices import choose_attention, for_inference

pytestmark = pytest.mark.skipif(bool(pretended.unknown_torch()), reason=pretended.unknown_torch() or "")
CUDA = torch.device("cuda", 0)

MODULES = {"birq": objectives, "best_rq": prediction, "phones": offline}
STEPS = 3


def train(device: torch.device, method: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A few steps as the loop takes them; of the last one, what was seen."""
    p = params(**changes)
    module, section = MODULES[method], p.pretrain
    values = numbers(p, METHODS[method]) | {"label_codebooks": 1, "label_codebook_size": 40}
    shape = Shape(**p.model.shape, n_mels=p.features.n_mels)
    model = build(module, shape, constants(module, values), 0, section.dropout).train().to(device)
    watched = Watched(gradient_cosine_every_steps=p.birq.gradient_cosine_every_steps)
    make_task = partial(OfflineTask, half_known()) if METHODS[method].labels_from else PretrainTask
    refining = from_params(Refining, values)
    task = make_task(model, section, "test", device, 0, 10.0, watched=watched, refining=refining, epoch_steps=2)
    optimiser = adamw([{"params": list(model.parameters())}], section)
    batches = [batch([33, 40, 40, 28, 17, 9]), batch([21, 35, 30], seed=1)]
    if p.model.input_mean == "utterance":
        batches = [replace(b, label_feats_BTF=b.feats_BTF.roll(1, dims=2)) for b in batches]
    for step in range(STEPS):
        ready = pinned(task.ready(batches, step, 0)) if device.type == "cuda" else task.ready(batches, step, 0)
        SEEN.clear()
        optimiser.zero_grad(set_to_none=True)
        task.backward(ready, step, 0)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip_norm)
        optimiser.step()
        norm = float(norm)
    seen = {"waits": list(SEEN.waits), "attention": dict(SEEN.attention), "float32": dict(SEEN.float32)}
    return seen | {"norm": norm, **task.figures(STEPS)}


def half_known() -> Labels:
    """Labels from a file of six utterances of 40 frames; every other frame has none."""
    codes_AN = np.random.default_rng(0).integers(40, size=(240, 1), dtype=np.uint16)
    codes_AN[::2] = 40
    return Labels(codes_AN, np.arange(6) * 40, 40)


def on_both(method: str, changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The same on the CPU, then on the pretended device."""
    choose_attention()
    cpu = train(torch.device("cpu"), method, changes)
    pretended.install()
    return [cpu, train(CUDA, method, changes)]


FOLLOWS = {"projection": "pca", "codebook": "refined"}  # the axes are final by the last step, and the codes are not due
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "BEST-RQ": ("best_rq", {}),
    "BEST-RQ, relative": ("best_rq", {"model__positions": "relative"}),
    "labels from a file": ("phones", {}),
    "BiRQ, eight codebooks": ("birq", {"random_projection__n_codebooks": 8}),
    "BiRQ, half the labels": ("birq", {"birq__label_share": 0.5, "birq__heads": "separate", "birq__label_gradient": 0.5}),
    "BiRQ, hard, layer_norm": ("birq", {"birq__labels": "hard", "birq__label_norm": "layer_norm", "birq__label_share": 0.25}),
    "BiRQ, detached, no noise": ("birq", {"birq__label_gradient": 0.0, "birq__noise": "none"}),
    "BiRQ, the printed form": ("birq", {"random_projection__distance": "raw", "birq__logit_scale": 1.0, "birq__noise": "reversed"}),
    "BiRQ, sums by utterance, no norm": ("birq", {"pretrain__reduction": "utterances", "birq__label_norm": "none"}),
    "BiRQ, relative in windows": ("birq", {"model__positions": "relative", "model__attention_window": 8}),
    "BiRQ, rotary in windows": ("birq", {"model__attention_window": 8}),
    "BiRQ, the utterance's mean removed": ("birq", {"model__input_mean": "utterance"}),
    "BiRQ, norms in bf16": ("birq", {"model__norms": "bf16"}),
    "BiRQ, dropout": ("birq", {"pretrain__dropout": 0.125}),
    "BEST-RQ, similarities, codes summed up": (
        "best_rq",
        {"random_projection__codebook": "refined", "random_projection__similarity_weight": 0.1},
    ),
    "BiRQ, a distilled codebook": ("birq", {"random_projection__distil_weight": 0.5}),
    "BiRQ, axes and codes": (
        "birq",
        {f"random_projection__{k}": v for k, v in FOLLOWS.items()} | {f"birq__label_{k}": v for k, v in FOLLOWS.items()},
    ),
    "BiRQ, cosine in every step": ("birq", {"birq__gradient_cosine_every_steps": 1}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_step_on_the_device_is_the_cpu_s_and_waits_once(option: str) -> None:
    """No tensor is on the wrong device; G is the CPU's up to bf16; the CPU waits for the gradient's norm only; attention has torch's
    memory-efficient kernel, whose bias is not copied first; quantizers and heads are in float32, and nothing of the encoder is."""
    method, changes = OPTIONS[option]
    ((cpu, gpu),) = gang.run(1, on_both, method, changes)
    drawn = changes.get("pretrain__dropout", 0) or changes.get("birq__label_share", 1) < 1  # from other random numbers
    assert gpu["anchor_loss"] == pytest.approx(cpu["anchor_loss"], rel=2e-2 if drawn else 2e-3)
    if method == "birq":
        assert gpu["enhanced_loss"] == pytest.approx(cpu["enhanced_loss"], rel=5e-2 if drawn else 5e-3)
    assert [gpu["norm"]] == pytest.approx([cpu["norm"]], rel=0.3 if drawn else 0.05)
    assert len(gpu["waits"]) == 1 and "item" in gpu["waits"][0], gpu["waits"]
    assert set(gpu["attention"]) == {"efficient"}
    files = {line.split(":")[0] for line in gpu["float32"]}
    quantizer = set() if method == "phones" else {"model/quantizer.py"}
    assert {"model/prediction.py"} | quantizer <= files <= {"model/prediction.py", "train/pretraining.py"} | quantizer


def test_codes_are_refined_on_the_device_as_on_the_cpu() -> None:
    """A refinement takes its sums from the device and puts codes back there; the draws of dead codes are the CPU's."""
    changes = {"random_projection__codebook": "refined", "random_projection__refine_every_steps": 1}
    ((cpu, gpu),) = gang.run(1, on_both, "best_rq", changes)
    assert gpu["anchor_codebook_shift"] == pytest.approx(cpu["anchor_codebook_shift"], rel=1e-4) and cpu["anchor_codebook_shift"] > 0.01
    assert gpu["anchor_revived_codes"] == cpu["anchor_revived_codes"]
    assert gpu["anchor_loss"] == pytest.approx(cpu["anchor_loss"], rel=2e-3)


# ---- true sizes, without data


@pytest.mark.parametrize("case", [emulated.CASES[i] for i in (1, 3, 6, 9, 11)], ids=lambda c: c.title)
def test_planned_memory_is_what_a_step_holds(case: emulated.Case) -> None:
    """`birq plan` decides whether a preset fits a card: all tensors of a step of true size that live together, against its formula."""
    (seen,) = gang.run(1, emulated.measured, case)
    assert emulated.planned_gib(case) == pytest.approx(seen["peak_gib"], rel=0.1)
    assert seen["waits"] == 1 and set(seen["attention"]) == {"efficient"}


def gpu_benchmark() -> list[tuple[set[str], list[str]]]:
    """Two contenders at true width and few seconds."""
    pretended.install(sizes_only=True)
    parts = gpu.timed(gpu.plan_of(quick=True), dict.fromkeys(gpu.AUDIO, 30.0), 1)
    return [(set(part.wall), list(part.facts)) for part in parts]


def test_the_gpu_benchmark_measures_every_contender() -> None:
    """An hour of a GPU must not be lost to an error in its script: all of it runs here but for the kernels and the compiler."""
    (((names, facts),),) = gang.run(1, gpu_benchmark)
    assert names == {"BEST-RQ", "BiRQ, a quarter of the labels"} and not any(f.startswith("failed") for f in facts)
    for name in names:
        wanted = ["hours of audio per hour, {}, new shapes", "hours of audio per hour, {}", "GiB, {}", "share of peak, {}"]
        assert {w.format(name) for w in [*wanted, "bound, hours of audio per hour, {}"]} <= set(facts)


# ---- whole stages


class Killed(Exception):
    """In place of a signal that cannot be caught."""


def stages(folder: Path, features: Path, letters: Path) -> dict[str, Any]:
    """Pre-training, killed and resumed, fine-tuning, decoding, probing and `birq plan --measure`."""
    pretended.install()
    whole = run_pretrain(folder / "whole", features)
    real = PretrainTask.backward

    def backward(self, batches, step, epoch):
        if step == 5:
            raise Killed
        real(self, batches, step, epoch)

    inputs = {"features": [features]}
    PretrainTask.backward = backward  # type: ignore[method-assign]
    with pytest.raises(Killed):
        pretrain.compute(job("pretrain", folder / "killed", inputs, params()))
    PretrainTask.backward = real  # type: ignore[method-assign]
    resumed = job("pretrain", folder / "killed", inputs, params())
    pretrain.compute(resumed)
    same = [all(torch.equal(a, b) for a, b in zip(*(w.values() for w in pair), strict=True)) for pair in [_weights(whole.out, resumed.out)]]

    tuned = finetune_job(folder / "tuned", whole.out, letters, features, finetune__frozen_steps=2, finetune__reset_layers=1)
    finetune.compute(tuned)
    split = open_split([features], "dev")
    everything = np.arange(len(split))
    SEEN.clear()
    device = for_inference({})
    texts = Recogniser.load(tuned.out).hypotheses(split, everything, 60.0, device, "decode")
    frames = layers.Frames(split, everything, encoder.load(whole.out), device)
    for layer in layers.read(frames, folder / "probed", Progress("probe", len(split))).layers[1:]:
        layers.codes_of(frames, layer)
    return {
        "same": same,
        "device": whole.notes["device"],
        "curves": [(j.out / "curve.jsonl").read_text() for j in (whole, resumed)],
        "texts": len(texts),
        "inference": set(SEEN.attention),
        "measured": measure(params(), "birq", 8.0, 2.0, CUDA).audio_hours_per_hour,
    }


def _weights(*folders: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(next(f.glob("*.safetensors"))) for f in folders]


def test_stages_run_on_the_device_and_a_killed_one_resumes(tmp_path: Path, features: Path, letters: Path) -> None:
    """From pre-training to the probe nothing meets a tensor of the other device; a kill changes no bit of weights or curve."""
    (seen,) = gang.run(1, stages, tmp_path, features, letters)
    assert seen["device"].startswith("NVIDIA") and seen["same"] == [True] and seen["curves"][0] == seen["curves"][1]
    assert seen["texts"] == 6 and seen["inference"] == {"efficient"} and seen["measured"] > 0


def finetuning_waits(folder: Path, enc: Path, letters: Path, features: Path) -> list[list[str]]:
    pretended.install()
    waits, real = [], finetuning.FinetuneTask.backward

    def backward(self, batches, step, epoch):
        SEEN.clear()
        real(self, batches, step, epoch)
        waits.append(list(SEEN.waits))

    finetuning.FinetuneTask.backward = backward  # type: ignore[method-assign]
    finetune.compute(finetune_job(folder, enc, letters, features))
    return waits


def test_fine_tuning_does_not_wait_in_a_step(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """Lengths and transcripts are known on the CPU, and the loss stays on the device until a line is due."""
    (waits,) = gang.run(1, finetuning_waits, tmp_path, scratch_encoder, letters, features)
    assert len(waits) == 12 and not any(waits)


# ---- several ranks


def collectives(size: int, stage: str, folder: Path, inputs: dict[str, list[Path]], changes: dict[str, Any]) -> list[tuple[str, ...]]:
    """Every collective call of a rank: the backend that takes it, sizes, type."""
    pretended.install(devices=size)
    log: list[tuple[str, ...]] = []
    reduce, gather, init = dist.all_reduce, dist.all_gather_object, dist.init_process_group

    def all_reduce(x, op=dist.ReduceOp.SUM, group=None, async_op=False):
        on_device = isinstance(x, pretended.Cuda)
        assert x.is_contiguous()
        log.append(("nccl" if on_device else "gloo", str(tuple(x.shape)), str(x.dtype)))
        return reduce(x.elem if on_device else x, op, group, async_op)

    def all_gather_object(values, value, group=None):
        log.append(("gloo", "object", ""))
        return gather(values, value, group)

    def init_process_group(backend, **options):
        assert backend == "cpu:gloo,cuda:nccl"
        return init("gloo", **options)

    dist.all_reduce, dist.all_gather_object, dist.init_process_group = all_reduce, all_gather_object, init_process_group
    train_here(stage, folder, inputs, changes)
    assert not dist.is_initialized()
    return log


FEW = {f"{s}__{k}": v for s in ("pretrain", "finetune") for k, v in {"steps": 3, "log_every_steps": 3}.items()}
FEW |= {"pretrain__warmup_steps": 1, "finetune__evaluations": 1}
RANKED = [
    ("pretrain", {"birq__gradient_cosine_every_steps": 0}),
    ("pretrain", {"birq__label_norm": "layer_norm", "birq__labels": "hard", "birq__label_share": 0.25}),
    ("finetune", {"finetune__frozen_steps": 2}),
]


@pytest.mark.parametrize(("stage", "changes"), RANKED)
def test_all_ranks_make_the_same_calls(tmp_path, features, letters, scratch_encoder, stage: str, changes: dict[str, Any]) -> None:
    """Another order, size or backend on one rank would hang all; empty shares and frozen steps are in it. Device tensors go by NCCL."""
    inputs = {"features": [features], "pretrain": [scratch_encoder], "tokenizer": [letters]}
    for size in (1, 2, 4):
        logs = gang.run(size, collectives, size, stage, tmp_path / str(size), inputs, FEW | changes)
        assert all(log == logs[0] for log in logs)
        kinds = {call[0] for call in logs[0]}
        assert kinds == (set() if size == 1 else {"gloo", "nccl"})
