"""Checkpoints (to resume) and models (to publish): the only place where weights meet files."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from birq.errors import BirqError
from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder, Shape
from birq.model.objectives import BiRq, Objective
from birq.params import Pretrain
from birq.progress import say
from birq.tokenizer import Tokenizer
from birq.tokenizer import load as load_tokenizer

CHECKPOINT = "checkpoint.pt"


# ---- resuming


def save_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, task: dict[str, Any], position: dict[str, Any]
) -> None:
    """Write a checkpoint beside the last one and rename: at every moment a whole one is there."""
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "task": task, "position": dict(position)}
    fresh = folder / (CHECKPOINT + ".new")
    with open(fresh, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    path = folder / CHECKPOINT
    if path.exists():
        os.replace(path, folder / (CHECKPOINT + ".before"))
    os.replace(fresh, path)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of a work folder, or None where there is none.

    Errors: BirqError if checkpoints exist and none can be read.
    """
    problems = []
    for path in (folder / CHECKPOINT, folder / (CHECKPOINT + ".before")):
        if not path.exists():
            continue
        try:
            with zipfile.ZipFile(path) as records:  # torch.load does not look at the checksums that torch.save wrote
                if damaged := records.testzip():
                    raise ValueError(f"checksum of {damaged} differs")
            return torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError, zipfile.BadZipFile) as e:
            problems.append(f"{path}: {str(e).splitlines()[0] if str(e) else type(e).__name__}")
            say(f"checkpoint {path} cannot be read and is left out")
    if problems:
        raise BirqError("no checkpoint can be read: " + "; ".join(problems) + f"; delete {folder} to begin anew")
    return None


# ---- models


def shape_of(model: dict[str, Any], n_mels: int) -> Shape:
    return Shape(**model, n_mels=n_mels)


def objective_of(pretrain: dict[str, Any]) -> Objective:
    return Objective(**{f.name: pretrain[f.name] for f in fields(Objective)})


def constants_of(method: str, section: Pretrain) -> dict[str, Any]:
    """What an encoder and its labels are made of, not how often a line was written: equal weights are then equal bytes.

    BEST-RQ is BiRQ with w1 = 0, and an untrained encoder is what BEST-RQ begins with.
    """
    constants = section.model_dump(mode="json", include={"dropout", *(f.name for f in fields(Objective))})
    return constants if method == "birq" else constants | {"enhanced_weight": 0.0}


def save_model(folder: Path, file: str, model: nn.Module, config: dict[str, Any]) -> None:
    """Weights as safetensors, everything needed to rebuild the model as config.json."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, folder / file)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _load(folder: Path, file: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / file)
    except (OSError, ValueError, SafetensorError) as e:
        raise BirqError(f"{folder / file}: not a readable model ({e}); delete {folder} and run again") from None


@dataclass
class Pretrained:
    """An encoder as pre-training left it, with its quantizers, heads and normalisation."""

    pretrainer: BiRq
    config: dict[str, Any]
    mean_F: np.ndarray
    std_F: np.ndarray


@dataclass
class CtcBundle:
    """A recogniser with all that it needs: normalisation and tokenizer travel with the weights."""

    model: CtcModel
    config: dict[str, Any]
    mean_F: np.ndarray
    std_F: np.ndarray
    tokenizer: Tokenizer


def _statistics(config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(config["mean"], np.float32), np.asarray(config["std"], np.float32)


def build_pretrainer(config: dict[str, Any]) -> BiRq:
    """A pretrainer with weights that follow from the seed; they are the same for every method."""
    torch.manual_seed(config["seed"])
    encoder = Encoder(shape_of(config["model"], config["features"]["n_mels"]), config["pretrain"]["dropout"])
    return BiRq(encoder, objective_of(config["pretrain"]), config["seed"])


def load_pretrained(folder: Path) -> Pretrained:
    """A pretrain artifact, on the CPU, in evaluation mode."""
    config, weights = _load(folder, "encoder.safetensors")
    pretrainer = build_pretrainer(config)
    pretrainer.load_state_dict(weights)
    return Pretrained(pretrainer.eval(), config, *_statistics(config))


def load_ctc(folder: Path) -> CtcBundle:
    """A finetune artifact, on the CPU, in evaluation mode."""
    config, weights = _load(folder, "model.safetensors")
    tokenizer = load_tokenizer(folder)
    model = CtcModel(Encoder(shape_of(config["model"], config["features"]["n_mels"])), tokenizer.size)
    model.load_state_dict(weights)
    return CtcBundle(model.eval(), config, *_statistics(config), tokenizer)
