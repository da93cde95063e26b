"""The one training loop, for pre-training and fine-tuning.

Everything random at a step follows from (seed, step), and a checkpoint holds all sums that are not yet written. So a run that was
stopped anywhere and resumed ends in the same bits (CPU), its curve included.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from birq import files
from birq.errors import Diverged, Stopped
from birq.pipeline.stage import Job
from birq.progress import Progress, say
from birq.settings.params import Optimisation
from birq.speech.batches import Batch, Feed, Utterances
from birq.speech.frontend import FrontEnd
from birq.train.checkpoint import load_checkpoint, save_checkpoint
from birq.train.distributed import Group
from birq.train.runtime.ahead import Ahead, pinned
from birq.train.runtime.hardware import peak_gib, peak_tflops
from birq.train.runtime.interrupt import StopRequest
from birq.train.schedule import Schedule


class Task(Protocol):
    """The part of a training that differs between pre-training and fine-tuning."""

    group: Group  # every method that is called in each step or line is called by all ranks
    flops_per_audio_second: float  # of a training step, by formula

    def ready(self, batches: list[Batch], step: int, epoch: int) -> list[Batch]:
        """Batches with all that the CPU can work out before the step; changes nothing, and runs in the feeding thread."""

    def backward(self, batches: list[Batch], step: int, epoch: int) -> None:
        """Accumulate this rank's part of the gradient of one optimiser step and sum up the figures to log.

        `batches`: as `ready` makes them, or as the feed does. On a GPU nothing here waits for a result.
        """

    def figures(self, step: int) -> dict[str, float | None]:
        """Figures since the last call, for the curve; starts a new sum."""

    def after_step(self, step: int, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Evaluate where it is due; figures for this step's line of the curve. `step` counts finished steps.

        None, with nothing changed, if `stop` said so before the evaluation was over.
        """

    def due(self, step: int) -> bool:
        """Whether a line of the curve must be written after this step besides the regular ones."""

    def state(self) -> dict[str, Any]:
        """The task's own state for a checkpoint, of all ranks together; changes nothing."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; its sums go to rank 0."""


@dataclass
class Position:
    """Where training stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # next batch of the epoch
    seconds: float = 0.0  # spent on training, over all resumes
    audio_seconds: float = 0.0
    curve_lines: int = 0
    written: int = 0  # step of the last line
    norm_sum: float = 0.0  # of gradients since that line


def precision(device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 on a GPU, float32 on the CPU, where bf16 is slower."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A seed for everything random at a step; `rank`: for numbers that each rank draws for itself."""
    return (seed * 1_000_003 + step * 7919 + 12345 + (rank << 48)) % (2**63)


def adamw(groups: list[dict[str, Any]], section: Optimisation) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms) are not decayed. Groups carry `params` and `rate_factor`. One kernel for all weights."""
    split: list[dict[str, Any]] = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        for params, decay in ((matrices, section.weight_decay), (vectors, 0.0)):
            split.append({"params": params, "weight_decay": decay, "rate_factor": group.get("rate_factor", 1.0)})
    return torch.optim.AdamW(split, lr=section.learning_rate, betas=(0.9, section.adam_beta2), eps=1e-8, fused=True)


def feed_of(utterances: Utterances, index: np.ndarray, front_end: FrontEnd, section: Optimisation, seed: int, group: Group) -> Feed:
    """The utterances at `index` in batches of the section's size; of several ranks, this one's share."""
    sizes = {"batch_seconds": section.batch_seconds, "micro_batch_seconds": section.micro_batch_seconds}
    return Feed(utterances, index, front_end, **sizes, seed=seed, rank=group.rank, ranks=group.size)


@dataclass(frozen=True)
class Step:
    """The micro-batches of an optimiser step."""

    number: int
    epoch: int
    next_batch: int  # of the epoch
    batches: list[Batch]


def _steps(feed: Feed, number: int, epoch: int, batch: int) -> Iterator[Step]:
    """Every step from one on, without end."""
    while True:
        for batches in feed.epoch(epoch, start=batch):
            batch += 1
            yield Step(number, epoch, batch, batches)
            number += 1
        epoch, batch = epoch + 1, 0


CURVES = ("curve.jsonl", "timing.jsonl")


class _Curve:
    """curve.jsonl and timing.jsonl in the work folder; cut back to the checkpoint on resume. One rank writes them."""

    def __init__(self, folder: Path, lines: int, writes: bool):
        self.paths = [folder / name for name in CURVES] if writes else []
        for path in self.paths:
            kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
            files.write_text(path, "".join(kept))

    def write(self, curve: dict[str, Any], timing: dict[str, Any]) -> None:
        for path, line in zip(self.paths, (curve, timing), strict=False):
            with open(path, "a") as f:
                f.write(json.dumps({k: _rounded(v) for k, v in line.items()}) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


SHOWN = ("loss", "masked_accuracy", "enhanced_perplexity", "anchor_perplexity", "label_fidelity", "dev_wer")


class Training:
    """A training from its last checkpoint, if the work folder has one, to `section.steps` optimiser steps."""

    def __init__(
        self,
        job: Job,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        schedule: Schedule,
        feed: Feed,
        task: Task,
        section: Optimisation,
        seed: int,
    ):
        torch.set_flush_denormal(True)
        self.job, self.model, self.optimiser, self.schedule, self.feed = job, model, optimiser, schedule, feed
        self.task, self.section, self.seed, self.group = task, section, seed, task.group
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.position = Position()
        self.request = StopRequest(self.group.writes)

    def run(self) -> Position:
        """Train to the end; the curve goes into the artifact.

        Errors: Stopped after SIGTERM, SIGUSR1 or shortly before the end of a Slurm job, with a checkpoint at the step reached.
        Diverged when the loss or the gradient is not finite; the checkpoint before it stays.
        """
        with self.request:
            self._resume()
            self.model.train()
            with contextlib.closing(self.stream):
                self._until_done()
        if self.group.writes:
            self.progress.close()
            for file in CURVES:
                (self.job.out / file).write_bytes((self.job.scratch / file).read_bytes())
        return self.position

    def _resume(self) -> None:
        if saved := load_checkpoint(self.job.scratch):
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.task.restore(saved["task"])
            self.position = Position(**saved["position"])
            if self.group.writes:
                say(f"{self.job.name}: resumes at step {self.position.step} of {self.section.steps}")
        self.group.assert_equal(self.model, self.position.step)
        self.curve = _Curve(self.job.scratch, self.position.curve_lines, self.group.writes)
        self.progress = Progress(self.job.name, self.section.steps, start=self.position.step)
        self.stream = Ahead(_steps(self.feed, self.position.step, self.position.epoch, self.position.batch), self._ready)
        self.begun, self.earlier, self.saved_at = time.monotonic(), self.position.seconds, time.monotonic()

    def _ready(self, step: Step) -> Step:
        step = replace(step, batches=self.task.ready(step.batches, step.number, step.epoch))
        return pinned(step) if self.parameters[0].is_cuda else step

    def _until_done(self) -> None:
        while True:
            if self._line_due:
                self._write_line()
            if self._done and not self._line_due:
                return
            if self._stop():  # before the line is written, too: it is then written after resuming
                self._save()
                why = next(filter(None, self.group.gathered(self.request.reason)))
                at = f"step {self.position.step} of {self.section.steps}"
                raise Stopped(f"{self.job.name}: {at} is saved ({why}); the same command goes on from there")
            self._step()

    def _stop(self) -> bool:
        return self.group.any(self.request())

    @property
    def _done(self) -> bool:
        return self.position.step == self.section.steps

    def _save(self) -> None:
        self.position.seconds = self._seconds()
        state = self.task.state()
        if self.group.writes:
            save_checkpoint(self.job.scratch, self.model, self.optimiser, state, self.position.__dict__)
        self.group.wait()
        self.saved_at = time.monotonic()

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.begun

    def _step(self) -> None:
        """One optimiser step."""
        p = self.position
        step = next(self.stream)
        p.epoch, p.batch = step.epoch, step.next_batch
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(p.step) * group["rate_factor"]
        torch.manual_seed(step_seed(self.seed, p.step, self.group.rank))
        self.optimiser.zero_grad(set_to_none=True)
        self.task.backward(step.batches, p.step, p.epoch)
        self.group.sum_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_([x for x in self.parameters if x.grad is not None], self.section.clip_norm)
        self.optimiser.step()
        p.norm_sum += self._finite(float(norm))  # a GPU's step ends here: the one wait for it
        p.step += 1
        p.audio_seconds += sum(b.seconds for b in step.batches)

    def _finite(self, norm: float) -> float:
        if not math.isfinite(norm):
            raise Diverged(
                f"{self.job.name}: loss or gradient is not finite at step {self.position.step + 1}; try a lower learning_rate, a longer "
                "warm-up or a smaller clip_norm. The last checkpoint stays in the work folder"
            )
        return norm

    def _rate(self, step: int) -> float:
        return self.section.learning_rate * self.schedule(step)

    def _timing(self) -> dict[str, Any]:
        """Speed so far, all ranks together, over all resumes.

        mfu: operations that the objective asks for (train/runtime/flops.py) over those that the cards could have done in that time, dense
        bf16; None where the peak is not known. waiting_share: of the time since this process began, for batches. peak_gib: rank 0's.
        """
        p, peak = self.position, peak_tflops(self.job.notes["device"])
        flops_per_second = p.audio_seconds * self.task.flops_per_audio_second / p.seconds
        return {
            "audio_hours_per_hour": p.audio_seconds / p.seconds,
            "mfu": flops_per_second / (peak * 1e12 * self.group.size) if peak else None,
            "waiting_share": self.stream.waited_seconds / max(p.seconds - self.earlier, 1e-9),
            "peak_gib": peak_gib(self.parameters[0].device),
        }

    @property
    def _line_due(self) -> bool:
        step = self.position.step
        due = step % self.section.log_every_steps == 0 or step == 1 or self._done or self.task.due(step)
        return step > self.position.written and due

    def _write_line(self) -> None:
        """The curve's line for the steps since the last one; stays due if the run is asked to stop first."""
        p = self.position
        evaluated = self.task.after_step(p.step, self._stop)
        if evaluated is None:
            return
        p.seconds = self._seconds()
        line = {"step": p.step, "epoch": p.epoch, **self.task.figures(p.step), "gradient_norm": p.norm_sum / (p.step - p.written)}
        line |= {"learning_rate": self._rate(p.step - 1), "hours_seen": p.audio_seconds / 3600, **evaluated}
        timing = self._timing()
        self.curve.write(line, {"step": p.step, "seconds": p.seconds, **timing})
        p.curve_lines, p.written, p.norm_sum = p.curve_lines + 1, p.step, 0.0
        if self.group.writes:
            shown = {"h/h": round(timing["audio_hours_per_hour"]), "GiB": round(timing["peak_gib"], 1)}
            shown |= {"MFU %": round(100 * timing["mfu"], 1)} if timing["mfu"] else {}
            self.progress.update(p.step, **{k: line.get(k) for k in SHOWN}, **shown)
        due = time.monotonic() - self.saved_at >= self.section.checkpoint_seconds and not self._done
        if self.group.any(due and self.group.writes):
            self._save()
