"""A training on the params and features at hand, step by step: what experiments share. It follows birq.train.loop without its files.

With this repository's `benchmarks` it also runs on the `birq` of an earlier commit (`earlier`, `in_a_process`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import ROOT
from birq.settings.params import Params
from birq.speech.batches import Batch, Feed
from birq.speech.shards import open_split, read_stats
from birq.train.checkpoint import build_pretrainer
from birq.train.loop import adamw, step_seed
from birq.train.pretraining import PretrainTask, pretraining_feed

BEST_RQ = {"enhanced_weight": 0.0}


def on_one_thread(method: str) -> dict[str, Any]:
    """What a timed or compared step of a method differs in from params.yaml's section `pretrain`."""
    return {"gradient_cosine_every_steps": 0, "cpu_threads": 1} | (BEST_RQ if method == "best_rq" else {})


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


@contextlib.contextmanager
def earlier(commit: str) -> Iterator[Path]:
    """A folder with the `birq` of a commit, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "birq"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def in_a_process(module: str, code: Path, options: list[str]) -> Any:
    """What a benchmark prints last, as JSON, run in a process that imports birq from a folder."""
    command = [sys.executable, "-P", "-m", module, *options]
    path = os.pathsep.join([str(code), str(ROOT)])
    out = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])
