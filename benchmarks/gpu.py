"""Steps of BEST-RQ and BiRQ on one GPU, bf16: hours of audio per hour, share of the card's peak, memory.

The input is made here, so nothing needs to be copied to the machine. Share of peak (MFU) = floating-point operations of a step's matrix
products, convolutions and attention, forward and backward, as torch's FlopCounterMode counts them, over the step's seconds and over the
dense bf16 peak of the card.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.harness import Contender, Part, race
from benchmarks.step import BEST_RQ, LARGE, METHODS, ONE_CODEBOOK
from birq.train.hardware import peak_tflops

# docs/method.md: the sizes that give the paper's counts
PAPER = {"n_stack": 2, "n_heads": 8, "ff_expansion": 4, "conv_kernel": 15, "conv_expansion": 2, "positions": "relative"}
SIZES: dict[str, tuple[dict[str, Any], int, int]] = {  # model, label layer, utterances of 12.4 s
    "12 x 512": (LARGE, 8, 128),
    "10 x 768, 155 M": (PAPER | {"d_model": 768, "n_layers": 10}, 7, 32),
    "10 x 1024, 275 M": (PAPER | {"d_model": 1024, "n_layers": 10, "attention_window": 200}, 7, 32),
}


def one_size(title: str, model: dict[str, Any], label_layer: int, n_utterances: int, rounds: int, device: str) -> Part:
    b = models.batch(n_utterances)
    methods = {"BEST-RQ": BEST_RQ} | {name: change for name, change in METHODS.items() if name != "BEST-RQ"}
    settings = ONE_CODEBOOK | {"label_layer": label_layer}
    steps = {name: models.birq_step(b, model, settings | change, device=device) for name, change in methods.items()}
    part = race(
        f"GPU, {title}", f"one step on {b.seconds:.0f} s, 8192 codes", [Contender(n, s) for n, s in steps.items()], rounds, warmup=3
    )
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    part.facts["device"] = name
    for method, step in steps.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with FlopCounterMode(display=False) as counter:
            step()
        seconds = statistics.median(part.wall[method])
        part.facts[f"hours of audio per hour, {method}"] = b.seconds / seconds
        if device == "cuda":
            part.facts[f"GiB, {method}"] = torch.cuda.max_memory_allocated() / 2**30
        if peak := peak_tflops(name):
            part.facts[f"share of peak, {method}"] = counter.get_total_flops() / seconds / peak / 1e12
    return part


def run(scratch: Path, quick: bool) -> list[Part]:
    if not torch.cuda.is_available():
        raise SystemExit("error: gpu needs a CUDA device, and torch sees none")
    return [one_size(title, *size, rounds=3 if quick else 20, device="cuda") for title, size in SIZES.items()]
