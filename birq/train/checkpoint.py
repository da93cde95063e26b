"""Checkpoints of a training: a killed run resumes from the last one."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from birq.errors import BirqError
from birq.progress import say

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer, task: dict[str, Any], position: dict[str, Any]
) -> None:
    """Write a checkpoint beside the last one and rename: at every moment there is a complete one."""
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
