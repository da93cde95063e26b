"""Steps of BEST-RQ and BiRQ on one GPU, bf16: hours of audio per hour, share of the card's peak, memory.

The input is made here, so nothing needs to be copied to the machine. Share of peak (MFU) = floating-point operations that the objective
asks for, by birq/train/runtime/flops.py, over the step's seconds and over the dense bf16 peak of the card.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.harness import ROOT, Contender, Part, race
from benchmarks.step import LARGE, METHODS, ONE_CODEBOOK
from benchmarks.training import Change, changed, load, objective_of, shape_of
from birq.model.encoder import Encoder
from birq.train.runtime.devices import choose_attention
from birq.train.runtime.flops import pretraining_per_frame
from birq.train.runtime.hardware import compile_blocks, peak_tflops

# docs/method.md: the sizes that give the paper's counts
PAPER = {
    "model.n_stack": 2,
    "model.n_heads": 8,
    "model.ff_expansion": 4,
    "model.conv_kernel": 15,
    "model.conv_expansion": 2,
    "model.positions": "relative",
}
SIZES: dict[str, tuple[Change, int, int]] = {  # model, label layer, utterances of 12.4 s
    "12 x 512": (LARGE, 8, 128),
    "10 x 768, 155 M": (PAPER | {"model.d_model": 768, "model.n_layers": 10}, 7, 32),
    "10 x 1024, 275 M": (PAPER | {"model.d_model": 1024, "model.n_layers": 10, "model.attention_window": 200}, 7, 32),
}


def flops(b: models.Batch, method: str, change: Change) -> float:
    """Of one step, by birq/train/runtime/flops.py."""
    params = changed(load(ROOT / "params.yaml"), change)
    shape, objective = shape_of(params), objective_of(params, method)
    _, lengths_B, mask_BT = b.inputs(shape.n_stack)
    n_frames = int(lengths_B.sum())
    return n_frames * pretraining_per_frame(shape, objective, n_frames / len(lengths_B), int(mask_BT.sum()) / n_frames)


def with_cuda_graphs(encoder: Encoder) -> None:
    """Compiled for the one shape of this benchmark, and replayed without Python: the most that fixed shapes could gain."""
    for block in encoder.blocks:
        block.compile(mode="reduce-overhead", dynamic=False)


PREPARED: dict[str, Callable[[Encoder], None]] = {"": lambda _: None, ", compiled": compile_blocks, ", CUDA graphs": with_cuda_graphs}


def one_size(
    title: str, model: Change, label_layer: int, n_utterances: int, rounds: int, device: str, contenders: list[tuple[str, str]]
) -> Part:
    """`contenders`: methods of METHODS, with the preparation of their encoders from PREPARED. A failure becomes a fact."""
    b = models.batch(n_utterances)
    settings = model | ONE_CODEBOOK | {"birq.label_layer": label_layer}
    steps: dict[str, tuple[str, models.Step]] = {}
    failed = {}
    for method, how in contenders:
        row, form = METHODS[method]
        step = _replayed(models.birq_step(b, row, settings | form, device=device, prepared=PREPARED[how]))
        try:
            step()
            steps[method + how] = method, step
        except RuntimeError as e:  # torch's own, out of memory too
            failed[f"failed, {method}{how}"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"
    work = f"one step on {b.seconds:.0f} s, 8192 codes"
    part = race(f"GPU, {title}", work, [Contender(name, step) for name, (_, step) in steps.items()], rounds, warmup=3)
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    part.facts |= {"device": card} | failed
    for name, (method, step) in steps.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step()
        seconds = statistics.median(part.wall[name])
        part.facts[f"hours of audio per hour, {name}"] = b.seconds / seconds
        if device == "cuda":
            part.facts[f"GiB, {name}"] = torch.cuda.max_memory_allocated() / 2**30
        if peak := peak_tflops(card):
            part.facts[f"share of peak, {name}"] = flops(b, METHODS[method][0], settings | METHODS[method][1]) / seconds / peak / 1e12
    return part


def _replayed(step: models.Step) -> models.Step:
    def run() -> float:
        torch.compiler.cudagraph_mark_step_begin()  # memory of the last step's graphs may be used again
        return step()

    return run


def run(scratch: Path, quick: bool) -> list[Part]:
    if not torch.cuda.is_available():
        raise SystemExit("error: gpu needs a CUDA device, and torch sees none")
    choose_attention()
    rounds = 3 if quick else 20
    as_is = [(method, "") for method in METHODS]
    compiled = [(method, ", compiled") for method in METHODS if "whole" not in method]
    first, *others = SIZES
    parts = [one_size(first, *SIZES[first], rounds, "cuda", as_is + compiled)]
    # a small share of a batch, as on each of many GPUs: starting kernels takes longer than running them, if anywhere
    model, label_layer, _ = SIZES[first]
    small = [("BEST-RQ", how) for how in PREPARED]
    parts.append(one_size(f"{first}, a share of 50 s", model, label_layer, 4, rounds, "cuda", small))
    return parts + [one_size(title, *SIZES[title], rounds, "cuda", as_is) for title in others]
