"""Vectors and discrete units of recordings: `birq.load("data/pretrain/birq-0").encode(samples, 16000)`.

Shape suffixes: T log-mel frames, F mel bins, N encoder frames, D width, C codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from birq.errors import BirqError
from birq.model import encoder as model
from birq.model.quantized import QuantizedEncoder
from birq.model.quantizer import framewise, standardise
from birq.saved import encoder as saved
from birq.speech.batches import collate
from birq.speech.frontend import FrontEnd
from birq.speech.utterances import InMemory
from birq.use.samples import checked


@torch.inference_mode()
def layers(encoder: model.Encoder, front_end: FrontEnd, samples: np.ndarray, rate_hz: int) -> tuple[Tensor, list[Tensor]]:
    """Normalised log-mel [T, F] of a recording, a multiple of n_stack frames, and the outputs [N, D] of all layers.

    Less than one encoder frame has none. Errors: BirqError as `samples.checked`.
    """
    utterances = InMemory([(checked(samples), rate_hz)], front_end)
    device = device_of(encoder)
    if utterances.n_frames[0] < front_end.n_stack:
        empty_ND = torch.empty(0, encoder.shape.d_model, device=device)
        return torch.empty(0, front_end.n_mels, device=device), [empty_ND] * encoder.shape.n_layers
    batch = collate(utterances, np.array([0]), front_end)
    outputs = encoder.layers_out(batch.feats_BTF.to(device), batch.lengths_B.to(device))
    labelled = batch.feats_BTF if batch.label_feats_BTF is None else batch.label_feats_BTF
    return labelled[0].to(device), [x_BND[0] for x_BND in outputs]


def chosen(n_layers: int, layer: int | None) -> int:
    """A layer's number, from 1; None is the last. Errors: BirqError for one that is not there."""
    number = n_layers if layer is None else layer
    if not 1 <= number <= n_layers:
        raise BirqError(f"layer {layer}: the encoder has layers 1 to {n_layers}")
    return number


def vectors(encoder: model.Encoder, front_end: FrontEnd, samples: np.ndarray, rate_hz: int, layer: int | None) -> np.ndarray:
    """Outputs of a layer, from 1 (None: the last), for mono samples [n] in [-1, 1]: [N, D] float32."""
    number = chosen(encoder.shape.n_layers, layer)
    return layers(encoder, front_end, samples, rate_hz)[1][number - 1].cpu().numpy()


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(module.parameters()).device


@dataclass
class Encoder:
    """A pre-trained encoder, with the quantizers that it was trained with."""

    model: QuantizedEncoder
    front_end: FrontEnd
    config: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A pretrain artifact. Errors: BirqError for files that are missing or damaged."""
        found = saved.load(folder)
        return cls(found.model, found.front_end, found.config)

    def encode(self, samples: np.ndarray, rate_hz: int, layer: int | None = None) -> np.ndarray:
        """Outputs of a layer, from 1 (None: the last), for mono samples [n] in [-1, 1]: [N, D] float32."""
        return vectors(self.model.encoder, self.front_end, samples, rate_hz, layer)

    @torch.inference_mode()
    def label(self, samples: np.ndarray, rate_hz: int, layer: int | None = None) -> np.ndarray:
        """Discrete units, [N, C] int64: the anchoring labels of the input (eq. 2), or codes of a layer's outputs.

        A layer is standardised over the recording, where birq.label_norm says so; in training, over a batch.
        """
        feats_TF, outputs = layers(self.model.encoder, self.front_end, samples, rate_hz)
        if not len(feats_TF):
            return np.empty((0, self.model.objective.n_codebooks), np.int64)
        if layer is None:
            return self.model.anchor_labels(feats_TF[None])[0].cpu().numpy()
        x_ND = outputs[chosen(self.model.encoder.shape.n_layers, layer) - 1]
        norm = self.config["objective"].get("label_norm", "standardise")
        z_ND = standardise(x_ND) if norm == "standardise" else framewise(x_ND, norm)
        return self.model.quantizer.nearest(z_ND).cpu().numpy()
