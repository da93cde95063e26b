"""Steps of pre-training timed on this machine, with the params at hand and random features; the largest micro-batch that its GPU holds."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from birq.errors import BirqError
from birq.model.encoder import Shape
from birq.model.quantized import build
from birq.saved.labels import Labels
from birq.settings.params import Params, Pretrain, numbers
from birq.speech.batches import Batch
from birq.study.objective import objective
from birq.train.epochs import in_steps
from birq.train.loop import adamw
from birq.train.offline import OfflineTask
from birq.train.pretraining import PretrainTask, Refining, from_params
from birq.train.runtime.devices import choose_attention, name_of
from birq.train.runtime.hardware import peak_gib, peak_tflops, prepare

WARM_STEPS, TIMED_STEPS = 2, 5


@dataclass(frozen=True)
class Measured:
    """One method's steps."""

    method: str
    device: str
    micro_batch_seconds: float
    seconds_per_step: float  # of one micro-batch, optimiser included
    audio_hours_per_hour: float
    mfu: float | None
    peak_gib: float


def random_batch(seconds: float, utterance_seconds: float, frame_shift_ms: float, n_stack: int, n_mels: int) -> Batch:
    """Noise in place of normalised features: utterances of one length, about `seconds` in all, at least one."""
    n = max(1, round(seconds / utterance_seconds))
    frames = max(1, round(utterance_seconds * 1000 / (frame_shift_ms * n_stack)))
    feats_BTF = torch.randn(n, frames * n_stack, n_mels, generator=torch.Generator().manual_seed(0))
    lengths_B, audio = torch.full((n,), frames), n * frames * n_stack * frame_shift_ms / 1000
    return Batch(feats_BTF, lengths_B, [str(i) for i in range(n)], [None] * n, np.arange(n), audio)


def random_labels(batch: Batch, n_codebooks: int, codebook_size: int) -> Labels:
    """Codes in place of those of a file."""
    lengths = batch.lengths_B.numpy()
    codes_AN = np.random.default_rng(0).integers(codebook_size, size=(int(lengths.sum()), n_codebooks), dtype=np.uint16)
    return Labels(codes_AN, np.cumsum(lengths) - lengths, codebook_size)


def device_here(section: Pretrain) -> torch.device:
    """Where a training would run, with its threads."""
    torch.set_num_threads(section.cpu_threads)
    choose_attention()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(params: Params, method: str, micro_batch_seconds: float, utterance_seconds: float, device: torch.device) -> Measured:
    """Median of a few steps of one micro-batch. Errors: torch.OutOfMemoryError where it does not fit a GPU."""
    p, row = params.of_run(method), params.method(method)
    f, module = p.features, importlib.import_module(row.module)
    section = in_steps(p.pretrain, lambda: 1000)  # the last steps are timed, however many there are
    shape = Shape(**p.model.shape, n_mels=f.n_mels)
    model = build(module, shape, objective(p, row), 0, section.dropout).train().to(device)
    prepare(model.encoder)
    batch = random_batch(micro_batch_seconds, utterance_seconds, f.frame_shift_ms, shape.n_stack, shape.n_mels)
    make_task = partial(OfflineTask, random_labels(batch, *model.objective.label_sizes)) if row.labels_from else PretrainTask
    about = {"mean_frames": float(batch.lengths_B[0]), "refining": from_params(Refining, numbers(p, row))}
    task = make_task(model, section, method, device, 0, f.frame_shift_ms, **about)
    optimiser = adamw([{"params": list(model.parameters())}], section)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = []
    for step in range(section.steps - WARM_STEPS - TIMED_STEPS, section.steps):  # the last ones: by then all parts of a method have begun
        begun = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        task.backward([batch], step, 0)
        torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip_norm)
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begun)
    seconds = float(np.median(taken[WARM_STEPS:]))
    name = name_of(device)
    peak, speed = peak_tflops(name), batch.seconds / seconds
    mfu = speed * task.flops_per_audio_second / (peak * 1e12) if peak else None
    return Measured(method, name, batch.seconds, seconds, speed, mfu, peak_gib(device))


def largest_micro_batch(params: Params, method: str, utterance_seconds: float, device: torch.device) -> Measured:
    """Of utterances of that length, doubled until it does not fit. Errors: BirqError without a GPU, or if not even one utterance fits."""
    if device.type != "cuda":
        raise BirqError("--tune looks for the largest micro-batch that fits a GPU, and torch sees none here")
    best, seconds = None, utterance_seconds
    while seconds <= params.pretrain.batch_seconds * 64:
        try:
            best = measure(params, method, seconds, utterance_seconds, device)
        except torch.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
        seconds *= 2
    if best is None:
        raise BirqError(f"not even one utterance of {utterance_seconds:.1f} s fits this GPU: a smaller model, or BIRQ_RECOMPUTE=1")
    return best
