"""An encoder with the two random-projection quantizers through which its input and its layers become labels.

Every method shares it, and so the probe reads every method's encoder the same way. Untrained, it is the method `scratch`.
Shape suffixes: B utterances, T log-mel or encoder frames, F mel bins, S stacked bins, N codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from birq.model import views
from birq.model.encoder import Encoder, Shape
from birq.model.quantizer import RandomQuantizer

QUANTIZER_SEED = 1 << 31  # above every legal seed; the generator takes 32 bits


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Sizes of the quantizers; the section `random_projection` of params.yaml."""

    n_codebooks: int
    codebook_size: int
    codebook_dim: int
    view: str = "log_mel"  # of the input, through which anchoring labels are made
    view_window_frames: int = 0


class QuantizedEncoder(nn.Module):
    """An encoder, the quantizer of its input (anchoring labels), and the quantizer of its layers (enhanced labels)."""

    def __init__(self, encoder: Encoder, objective: Quantization, seed: int):
        super().__init__()
        self.encoder, self.objective = encoder, objective
        sizes = (objective.codebook_dim, objective.codebook_size, objective.n_codebooks)
        # quantizers have a seed of their own: the labels are the same for every method of a seed
        # (and not the seed alone: the encoder's first weights would be drawn from the same numbers as the projection)
        generator = torch.Generator().manual_seed(QUANTIZER_SEED + seed)
        shape = encoder.shape
        self.anchor_quantizer = RandomQuantizer(views.width(objective.view, shape.n_mels, shape.n_stack), *sizes, generator)
        self.quantizer = RandomQuantizer(shape.d_model, *sizes, generator)
        self.quantizer.codebook.copy_(self.anchor_quantizer.codebook)  # the paper's one fixed codebook for both branches

    def anchor_view(self, x_BTS: Tensor, lengths_B: Tensor) -> Tensor:
        """Stacked log-mel -> what the anchoring quantizer reads, [B, T, S']."""
        o, shape = self.objective, self.encoder.shape
        if o.view == "log_mel":
            return x_BTS
        return views.stacked(o.view, x_BTS.reshape(len(x_BTS), -1, shape.n_mels), lengths_B, shape.n_stack, o.view_window_frames)

    def anchor_labels(self, feats_BTF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Eq. 2 for every frame: [B, T·n, F] normalised log-mel, lengths in encoder frames (None: no padding) -> [B, T, N] int64."""
        x_BTS = self.encoder.stack(feats_BTF)
        b, t, _ = x_BTS.shape
        lengths_B = torch.full((b,), t, device=x_BTS.device) if lengths_B is None else lengths_B
        return self.anchor_quantizer.nearest(self.anchor_view(x_BTS, lengths_B).flatten(0, 1)).view(b, t, -1)


def constants(module: ModuleType, values: dict[str, Any]) -> Any:
    """The constants of a method's objective, from the params that it reads. `module`: the method's."""
    return module.Constants(**{f.name: values[f.name] for f in fields(module.Constants)})


def build(module: ModuleType, shape: Shape, objective: Any, seed: int, dropout: float = 0.0) -> QuantizedEncoder:
    """A method's model with weights that follow from the seed; the encoder's are the same for every method."""
    torch.manual_seed(seed)
    return module.Model(Encoder(shape, dropout), objective, seed)


Model, Constants = QuantizedEncoder, Quantization
