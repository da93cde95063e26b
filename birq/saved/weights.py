"""A model as files: weights as safetensors, and a config.json from which it is rebuilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from birq.errors import BirqError
from birq.model.encoder import Shape


def save(folder: Path, file: str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write the weights to `file`, and config.json beside them."""
    save_weights(folder / file, model)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def save_weights(path: Path, model: nn.Module) -> None:
    """The weights alone."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, path)


def load(folder: Path, file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights. Errors: BirqError for files that are missing or damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config, load_file(folder / file)
    except (OSError, ValueError, SafetensorError) as e:
        raise BirqError(f"{folder / file}: not a readable model ({e}); delete {folder} and run again") from None


def shape_of(config: dict[str, Any]) -> Shape:
    """The encoder's shape in a config."""
    return Shape(**config["model"], n_mels=config["features"]["n_mels"])
