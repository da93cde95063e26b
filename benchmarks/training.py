"""A training on the params and features at hand, step by step: what experiments share. It follows birq.train.loop without its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from birq.batches import Batch, Feed
from birq.params import Params
from birq.shards import open_split, read_stats
from birq.train.loop import adamw, step_seed
from birq.train.pretrain import PretrainTask, pretraining_feed
from birq.train.state import build_pretrainer

BEST_RQ = {"enhanced_weight": 0.0}


class Training:
    """One method's model, optimiser and figures. `change`: what differs from params.yaml's section `pretrain`."""

    def __init__(self, params: Params, change: dict[str, Any], seed: int = 0):
        self.section, self.seed = params.pretrain.model_copy(update=change), seed
        torch.set_num_threads(self.section.cpu_threads)
        torch.set_flush_denormal(True)
        tree = {name: getattr(params, name).model_dump(mode="json") for name in ("model", "features")}
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = build_pretrainer({"seed": seed, **tree, "pretrain": self.section.model_dump(mode="json")}).train().to(self.device)
        self.task = PretrainTask(self.model, self.section, "benchmark", self.device, seed, params.features.frame_shift_ms)
        self.optimiser = adamw([{"params": list(self.model.parameters())}], self.section)

    def step(self, batches: list[Batch], step: int, epoch: int, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        torch.manual_seed(step_seed(self.seed, step))
        self.optimiser.zero_grad(set_to_none=True)
        self.task.backward(batches, step, epoch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.section.clip_norm)
        self.optimiser.step()


def feed(params: Params, seed: int = 0) -> Feed:
    """Every utterance of the pre-training corpora, as the stage feeds them."""
    folders = [Path("data/features") / c for c in params.run.pretrain_corpora]
    mean_F, std_F = read_stats(folders)
    shape = (params.model.n_stack, params.features.frame_shift_ms)
    return pretraining_feed(open_split(folders, "train"), mean_F, std_F, params.pretrain, *shape, seed)
