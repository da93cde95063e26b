"""Pre-training steps of BEST-RQ and BiRQ on one GPU, bf16: hours of audio per hour, share of the card's peak, memory, and what bounds them.

The steps are those of the training loop: the task of pre-training, masks made ahead in the feeding thread, batches of different lengths.
The first pass over the batches, in which every shape is new, is timed apart from the second. One model is on the card at a time. The input
is noise made here, so nothing needs to be copied to the machine. It stops beginning models after BUDGET_SECONDS.

Share of peak (MFU) = floating-point operations that the objective asks for, by birq/train/runtime/flops.py, over the step's seconds and
over the dense bf16 peak of the card. `bound`: hours of audio per hour at which the bytes and products of these operations alone end, at
rates that good kernels reach on an H100 (benchmarks/bounds.py).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.bounds import Counted
from benchmarks.emulated import MODELS, Case
from benchmarks.harness import ROOT, Part
from benchmarks.training import Training, load
from birq.model.encoder import Encoder
from birq.speech.batches import Batch
from birq.train.runtime.ahead import Ahead, pinned
from birq.train.runtime.devices import name_of
from birq.train.runtime.hardware import compile_blocks, peak_gib, peak_tflops

BUDGET_SECONDS = 420.0  # a model that has begun takes up to a minute more
SHORTEST, LONGEST = 4.0, 24.0  # seconds of an utterance: between them, each batch has another length
METHODS = {"BEST-RQ": ("best_rq", 1.0), "BiRQ, a quarter of the labels": ("birq", 0.25), "BiRQ, all labels": ("birq", 1.0)}


def compile_around_convolutions(encoder: Encoder) -> None:
    """Compiled blocks with torch's own convolution over time, which stays outside: what the sum of shifted copies is held against."""
    compile_blocks(encoder)
    for block in encoder.blocks:
        depthwise = block.convolution.depthwise
        depthwise.forward = torch.compiler.disable(depthwise.forward)


PREPARED: dict[str, Callable[[Encoder], None]] = {
    "": lambda _: None,
    ", compiled": compile_blocks,
    ", compiled, torch's convolution": compile_around_convolutions,
}
AUDIO = {"12 x 512": 1600.0, "155 M": 400.0, "275 M": 320.0}  # seconds a step


def batches(audio_seconds: float, n: int, n_stack: int) -> list[Batch]:
    """`n` batches of noise, about as long as each other, of utterances that are alike in one batch and of another length in the next."""
    made = []
    for i, seconds in enumerate(np.random.default_rng(0).permutation(np.geomspace(SHORTEST, LONGEST, n))):
        lengths = np.full(max(1, round(audio_seconds / seconds)), int(100 * seconds) // n_stack)
        lengths[0] = max(1, lengths[0] - 1 - i % 4)  # a little padding, as in a bucket
        feats_BTF = torch.randn(len(lengths), int(lengths.max()) * n_stack, 80, generator=torch.Generator().manual_seed(i))
        ids = [f"{i}-{row}" for row in range(len(lengths))]
        made.append(
            Batch(feats_BTF, torch.from_numpy(lengths), ids, [None] * len(ids), np.arange(len(ids)), float(lengths.sum()) * n_stack / 100)
        )
    return made


def passes(run: Training, some: list[Batch], device: torch.device) -> list[list[float]]:
    """Seconds of every step, in a first pass over the batches and in a second one."""

    def steps() -> Iterator[tuple[int, list[Batch]]]:
        for step in range(2 * len(some)):
            yield step, [some[step % len(some)]]

    def ready(given: tuple[int, list[Batch]]) -> tuple[int, list[Batch]]:
        made = run.task.ready(given[1], given[0], 0)
        return given[0], pinned(made) if device.type == "cuda" else made

    taken, stream, begun = [], Ahead(steps(), ready), time.perf_counter()
    for step, made in stream:
        run.step(made, step, 0, 1e-4)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # in place of the loop's check of the norm: its one wait
        begun, before = time.perf_counter(), begun
        taken.append(begun - before)
    return [taken[: len(some)], taken[len(some) :]]


def one(part: Part, name: str, case: Case, how: str, audio_seconds: float, n: int) -> None:
    """Time a model alone on the card; its seconds of a step in the second pass, and the facts, go into `part`."""
    run = Training(load(ROOT / "params.yaml"), case.method, case.change)
    PREPARED[how](run.model.encoder)
    some = batches(audio_seconds, n, MODELS[case.model]["n_stack"])
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    first, steady = passes(run, some, run.device)
    memory = peak_gib(run.device)
    hours = [statistics.mean(b.seconds for b in some) / statistics.mean(taken) for taken in (first, steady)]
    part.wall[name], part.cpu[name] = steady, steady
    part.facts |= {f"hours of audio per hour, {name}, new shapes": hours[0], f"hours of audio per hour, {name}": hours[1]}
    part.facts[f"GiB, {name}"] = memory
    if peak := peak_tflops(name_of(run.device)):
        part.facts[f"share of peak, {name}"] = hours[1] * _flops(run, some) / peak / 1e12
    if run.device.type == "cuda" and not how:
        middle = sorted(some, key=lambda b: b.feats_BTF.shape[1])[n // 2]
        with Counted() as counted:
            run.step([middle], 2 * n, 0, 1e-4)
        part.facts[f"bound, hours of audio per hour, {name}"] = middle.seconds / counted.work.seconds
        part.facts[f"bytes and kernels of a step, {name}"] = f"{counted.work.bytes / 1e9:.0f} GB, {counted.work.kernels}"


def _flops(run: Training, some: list[Batch]) -> float:
    """Operations for a second of audio, with the mean length of these batches' utterances."""
    frames = sum(int(b.lengths_B.sum()) for b in some) / sum(len(b.ids) for b in some)
    return run.task._flops(frames, 10.0)


def plan_of(quick: bool) -> list[tuple[str, str, Case, str]]:
    """Part, contender, case, preparation; what matters most comes first."""
    todo = []
    for model in MODELS:
        for method, (row, share) in METHODS.items():
            todo.append((f"GPU, {model}", method, Case(model, row, share, 0, 0.0), ""))
    todo[2:2] = [("GPU, 12 x 512", f"BEST-RQ{how}", Case("12 x 512", "best_rq", 1.0, 0, 0.0), how) for how in list(PREPARED)[1:]]
    # a small share of a batch, as on each of many GPUs: starting kernels takes longer than running them, if anywhere
    for how in ("", ", compiled"):
        todo.append(("GPU, 12 x 512, a share of 50 s", f"BEST-RQ{how}", Case("12 x 512", "best_rq", 1.0, 0, 0.0), how))
    return todo[:2] if quick else todo


def run(scratch: Path, quick: bool) -> list[Part]:
    if not torch.cuda.is_available():
        raise SystemExit("error: gpu needs a CUDA device, and torch sees none")
    return timed(plan_of(quick), AUDIO, 6 if quick else 24)


def timed(todo: list[tuple[str, str, Case, str]], audio: dict[str, float], n: int) -> list[Part]:
    """A part for each title of `todo`. A failure, and what the budget left out, becomes a fact."""
    parts: dict[str, Part] = {}
    begun = time.monotonic()
    for title, name, case, how in todo:
        seconds = 50.0 if "share" in title else audio[case.model]
        part = parts.setdefault(title, Part(title, f"one step on about {seconds:.0f} s, 8192 codes, {n} lengths, each seen before"))
        part.facts.setdefault("device", name_of(torch.device("cuda", 0)))
        if time.monotonic() - begun > BUDGET_SECONDS:
            part.facts[f"left out after {BUDGET_SECONDS:.0f} s, {name}"] = True
            continue
        try:
            one(part, name, case, how, seconds, n)
        except RuntimeError as e:  # torch's own, out of memory too
            part.facts[f"failed, {name}"] = f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"
        gc.collect()
        torch.cuda.empty_cache()
    return [p for p in parts.values() if p.wall or p.facts]
