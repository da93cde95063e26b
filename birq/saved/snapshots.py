"""Snapshots of an encoder along its pre-training: files of weights beside the finished one's, in the same artifact.

Only the encoder is in them. Front end, config and quantizers are the artifact's own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import nn

from birq.saved import encoder, weights
from birq.saved.encoder import SavedEncoder

_FILE = re.compile(r"encoder-step-(\d+)\.safetensors")


def file_of(step: int) -> str:
    """The file's name."""
    return f"encoder-step-{step}.safetensors"


def save(folder: Path, step: int, model: nn.Module) -> None:
    """Write an encoder's weights, whole and on the disk when this returns: a checkpoint that follows relies on them."""
    path = folder / file_of(step)
    fresh = path.with_name(path.name + ".new")
    weights.save_weights(fresh, model)
    with open(fresh, "rb") as f:
        os.fsync(f.fileno())
    os.replace(fresh, path)


def steps(folder: Path) -> list[int]:
    """The steps whose snapshots a pretrain artifact has, rising."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _FILE.fullmatch(path.name)))


def load(folder: Path, step: int) -> SavedEncoder:
    """A pretrain artifact with the encoder of a step in place of the finished one. Errors: as `encoder.load`."""
    saved = encoder.load(folder)
    saved.encoder.load_state_dict(weights.load(folder, file_of(step))[1])
    return saved
