"""An encoder after pre-training, with its quantizers and its front end."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from birq.model.encoder import Encoder
from birq.model.quantized import Quantization, QuantizedEncoder
from birq.saved import weights
from birq.speech.frontend import FrontEnd, from_config

FILE = "encoder.safetensors"


@dataclass
class SavedEncoder:
    """The part of a model that every method saves; heads and masks are not saved."""

    model: QuantizedEncoder
    front_end: FrontEnd
    config: dict[str, Any]  # method, seed, model, objective, features, mean, std, hours_unlabelled, n_parameters

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder


def save(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a pretrain artifact's model."""
    weights.save(folder, FILE, model, config)


def load(folder: Path) -> SavedEncoder:
    """A pretrain artifact, on the CPU, in evaluation mode. Errors: BirqError for files that are missing or damaged."""
    config, state = weights.load(folder, FILE)
    known = config["objective"]  # an encoder from before an option has its default
    sizes = Quantization(**{f.name: known[f.name] for f in fields(Quantization) if f.name in known})
    model = QuantizedEncoder(Encoder(weights.shape_of(config)), sizes, config["seed"])
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    return SavedEncoder(model.eval(), from_config(config), config)
