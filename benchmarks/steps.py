"""One optimiser step as birq.train.loop takes it, without its files; for the birq of this commit and of earlier ones."""

from __future__ import annotations

from typing import Any

import torch

from birq.train.loop import adamw, step_seed


def device_of(section: Any) -> torch.device:
    """Where a training runs, with its threads."""
    torch.set_num_threads(section.cpu_threads)
    torch.set_flush_denormal(True)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Steps:
    """A model, its optimiser and its figures. `section`: the section `pretrain` of params.yaml."""

    def __init__(self, model: Any, task: Any, section: Any, seed: int):
        self.model, self.task, self.section, self.seed = model, task, section, seed
        self.device: torch.device = task.device
        self.optimiser = adamw([{"params": list(model.parameters())}], section)

    def step(self, batches: list[Any], step: int, epoch: int, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(self.seed, step))
        self.optimiser.zero_grad(set_to_none=True)
        self.task.backward(batches, step, epoch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.section.clip_norm)
        self.optimiser.step()
