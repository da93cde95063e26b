"""The one training loop, for pre-training and fine-tuning.

Everything random at a step follows from (seed, step), so a run that was killed and resumed ends in the same bits (CPU).
Checkpoints are taken where a line of the curve is written, so no half-summed figure has to be saved.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from birq.batches import Batch, Feed
from birq.errors import BirqError
from birq.params import Optimisation
from birq.progress import Progress
from birq.stage import Job
from birq.train.schedule import Schedule
from birq.train.state import load_checkpoint, save_checkpoint


class Task(Protocol):
    """What pre-training and fine-tuning differ in."""

    def backward(self, batches: list[Batch], step: int, epoch: int) -> None:
        """Accumulate the gradient of one optimiser step and sum up the figures to log."""

    def figures(self, step: int) -> dict[str, float | None]:
        """Figures since the last call, for the curve; starts a new sum."""

    def after_step(self, step: int) -> dict[str, Any]:
        """Evaluate where it is due; figures for this step's line of the curve. `step` counts finished steps."""

    def due(self, step: int) -> bool:
        """Whether a line of the curve must be written after this step besides the regular ones."""

    def state(self) -> dict[str, Any]:
        """What the task itself must remember over a kill."""

    def restore(self, state: dict[str, Any]) -> None: ...


@dataclass
class Position:
    """Where training stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    seconds: float = 0.0  # spent on training, over all resumes
    audio_seconds: float = 0.0
    curve_lines: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def device_and_threads(section: Optimisation, job: Job) -> torch.device:
    """CUDA where there is one, else the CPU with the threads that params name; noted in the provenance."""
    torch.set_num_threads(section.cpu_threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job.notes["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    job.notes["threads"] = section.cpu_threads
    return device


def precision(device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 on a GPU, fp32 on the CPU, where bf16 is slower."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def step_seed(seed: int, step: int) -> int:
    """A seed for everything random at a step."""
    return (seed * 1_000_003 + step * 7919 + 12345) % (2**63)


def adamw(groups: list[dict[str, Any]], section: Optimisation) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms) are not decayed. Groups carry `params` and `rate_factor`."""
    split: list[dict[str, Any]] = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        for params, decay in ((matrices, section.weight_decay), (vectors, 0.0)):
            split.append({"params": params, "weight_decay": decay, "rate_factor": group.get("rate_factor", 1.0)})
    return torch.optim.AdamW(split, lr=section.learning_rate, betas=(0.9, section.adam_beta2), eps=1e-8, foreach=True)


def _steps(feed: Feed, position: Position) -> Iterator[list[Batch]]:
    while True:
        for batches in feed.epoch(position.epoch, start=position.batch):
            position.batch += 1
            yield batches
        position.epoch, position.batch = position.epoch + 1, 0


class _Curve:
    """curve.jsonl and timing.jsonl in the work folder; cut back to the checkpoint on resume."""

    def __init__(self, folder: Path, lines: int):
        self.paths = [folder / "curve.jsonl", folder / "timing.jsonl"]
        for path in self.paths:
            kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
            fresh = path.with_suffix(".new")  # a kill in the middle of cutting must not lose lines
            fresh.write_text("".join(kept))
            fresh.replace(path)

    def write(self, curve: dict[str, Any], timing: dict[str, Any]) -> None:
        for path, line in zip(self.paths, (curve, timing), strict=True):
            with open(path, "a") as f:
                f.write(json.dumps({k: _rounded(v) for k, v in line.items()}) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def train(
    job: Job,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    feed: Feed,
    task: Task,
    section: Optimisation,
    seed: int,
) -> Position:
    """Run `section.steps` optimiser steps, from the last checkpoint in the work folder if there is one.

    Errors: BirqError when the loss or the gradient is not finite; the checkpoint before it stays.
    """
    name = f"{job.stage}/{'-'.join(job.wildcards.values())}"
    position = Position()
    if saved := load_checkpoint(job.scratch):
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        task.restore(saved["task"])
        position = Position(**saved["position"])
        print(f"{name}: resumes at step {position.step} of {section.steps}", flush=True)
    curve = _Curve(job.scratch, position.curve_lines)
    progress = Progress(name, section.steps, start=position.step)
    parameters = [p for p in model.parameters() if p.requires_grad]
    stream = _steps(feed, position)
    begun, earlier, saved_at = time.monotonic(), position.seconds, time.monotonic()
    norm_sum, since = 0.0, 0

    model.train()
    while position.step < section.steps:
        batches = next(stream)
        rate = section.learning_rate * schedule(position.step)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["rate_factor"]
        torch.manual_seed(step_seed(seed, position.step))
        optimiser.zero_grad(set_to_none=True)
        task.backward(batches, position.step, position.epoch)
        norm = _clip(parameters, section.clip_norm, name, position.step)
        optimiser.step()
        position.step += 1
        position.audio_seconds += sum(b.seconds for b in batches)
        norm_sum, since = norm_sum + norm, since + 1

        last = position.step == section.steps
        if position.step % section.log_every_steps == 0 or position.step == 1 or last or task.due(position.step):
            position.seconds = earlier + time.monotonic() - begun
            hours = position.audio_seconds / 3600
            line = {"step": position.step, "epoch": position.epoch, **task.figures(position.step)}
            line |= {"gradient_norm": norm_sum / since, "learning_rate": rate, "hours_seen": hours}
            norm_sum, since = 0.0, 0
            line |= task.after_step(position.step)
            speed = hours / position.seconds * 3600
            curve.write(line, {"step": position.step, "seconds": position.seconds, "audio_hours_per_hour": speed})
            position.curve_lines += 1
            shown = {k: line.get(k) for k in SHOWN}
            progress.update(position.step, **shown, **{"h/h": round(speed)})
            if time.monotonic() - saved_at >= section.checkpoint_seconds and not last:
                save_checkpoint(job.scratch, model, optimiser, task.state(), position.__dict__)
                saved_at = time.monotonic()
    progress.close()
    for file in ("curve.jsonl", "timing.jsonl"):
        (job.out / file).write_bytes((job.scratch / file).read_bytes())
    return position


SHOWN = ("loss", "masked_accuracy", "enhanced_perplexity", "anchor_perplexity", "label_fidelity", "dev_wer")


def _clip(parameters: list[Tensor], clip_norm: float, name: str, step: int) -> float:
    norm = float(nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], clip_norm))
    if not math.isfinite(norm):
        raise BirqError(
            f"{name}: loss or gradient is not finite at step {step + 1}; try a lower learning_rate, a longer warm-up "
            "or a smaller clip_norm. The last checkpoint stays in the work folder"
        )
    return norm
