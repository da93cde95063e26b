"""Steps of BEST-RQ and BiRQ on one GPU, bf16: hours of audio per hour, share of the card's peak, memory.

The input is made here, so nothing needs to be copied to the machine. Share of peak (MFU) = floating-point operations that the objective
asks for, by birq/model/flops.py, over the step's seconds and over the dense bf16 peak of the card.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks import models
from benchmarks.harness import ROOT, Contender, Part, race
from benchmarks.step import LARGE, METHODS, ONE_CODEBOOK
from birq import params
from birq.model.encoder import Shape
from birq.model.flops import pretraining_per_frame
from birq.train.hardware import peak_tflops
from birq.train.state import objective_of

# docs/method.md: the sizes that give the paper's counts
PAPER = {"n_stack": 2, "n_heads": 8, "ff_expansion": 4, "conv_kernel": 15, "conv_expansion": 2, "positions": "relative"}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {  # model, label layer, utterances of 12.4 s
    "12 x 512": (LARGE, 8, 128),
    "10 x 768, 155 M": (PAPER | {"d_model": 768, "n_layers": 10}, 7, 32),
    "10 x 1024, 275 M": (PAPER | {"d_model": 1024, "n_layers": 10, "attention_window": 200}, 7, 32),
}


def flops(b: models.Batch, model: dict[str, Any], pretrain: dict[str, Any]) -> float:
    """Of one step, by birq/model/flops.py."""
    tree = params.load(ROOT / "params.yaml")
    shape = Shape(**tree.model.model_dump() | model, n_mels=80)
    objective = objective_of(tree.pretrain.model_dump() | pretrain)
    _, lengths_B, mask_BT = b.inputs(shape.n_stack)
    n_frames = int(lengths_B.sum())
    return n_frames * pretraining_per_frame(shape, objective, n_frames / len(lengths_B), int(mask_BT.sum()) / n_frames)


def one_size(
    title: str, model: dict[str, Any], label_layer: int, n_utterances: int, rounds: int, device: str, compile_too: bool = False
) -> Part:
    b = models.batch(n_utterances)
    settings = ONE_CODEBOOK | {"label_layer": label_layer}
    steps = {name: models.birq_step(b, model, settings | change, device=device) for name, change in METHODS.items()}
    compiled = [name for name in METHODS if "whole" not in name] if compile_too else []
    steps |= {f"{name}, compiled": models.birq_step(b, model, settings | METHODS[name], device=device, compiled=True) for name in compiled}
    part = race(
        f"GPU, {title}", f"one step on {b.seconds:.0f} s, 8192 codes", [Contender(n, s) for n, s in steps.items()], rounds, warmup=3
    )
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    part.facts["device"] = name
    for method, step in steps.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step()
        seconds = statistics.median(part.wall[method])
        part.facts[f"hours of audio per hour, {method}"] = b.seconds / seconds
        if device == "cuda":
            part.facts[f"GiB, {method}"] = torch.cuda.max_memory_allocated() / 2**30
        if peak := peak_tflops(name):
            part.facts[f"share of peak, {method}"] = (
                flops(b, model, settings | METHODS[method.removesuffix(", compiled")]) / seconds / peak / 1e12
            )
    return part


def run(scratch: Path, quick: bool) -> list[Part]:
    if not torch.cuda.is_available():
        raise SystemExit("error: gpu needs a CUDA device, and torch sees none")
    first = next(iter(SIZES))
    return [one_size(title, *size, 3 if quick else 20, "cuda", compile_too=title == first) for title, size in SIZES.items()]
