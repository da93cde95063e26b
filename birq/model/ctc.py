"""Connectionist temporal classification on top of the encoder: model and loss. The blank is the last unit."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.encoder import Encoder


class CtcModel(nn.Module):
    """Encoder and one linear layer: log-mel in, log-probabilities of `n_tokens` + 1 units per encoder frame out."""

    def __init__(self, encoder: Encoder, n_tokens: int):
        super().__init__()
        self.encoder, self.blank = encoder, n_tokens
        self.head = nn.Linear(encoder.shape.d_model, n_tokens + 1)

    def forward(self, feats_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """-> log-probabilities [B, T, n_tokens + 1] float32, lengths [B] in encoder frames."""
        h_BTD = self.encoder(self.encoder.stack(feats_BTF), lengths_B)
        return F.log_softmax(self.head(h_BTD).float(), dim=-1), lengths_B


def frames_needed(tokens: list[int]) -> int:
    """Frames that CTC needs for a sequence: one per token and one blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


@dataclass(frozen=True)
class Targets:
    """Token sequences one after another, and how many tokens each has; int64, on the CPU."""

    tokens_L: Tensor
    sizes_B: Tensor

    @classmethod
    def of(cls, rows: list[list[int]]) -> Targets:
        return cls(*(torch.tensor(x, dtype=torch.int64) for x in ([t for row in rows for t in row], [len(row) for row in rows])))


def ctc_loss(logp_BTV: Tensor, lengths_B: Tensor, targets: Targets, blank: int) -> Tensor:
    """Sum over the batch of −ln p(tokens | audio), in nats. Every utterance must have the frames that it needs.

    `lengths_B`: on the CPU, where torch wants lengths: it would wait for a GPU's.
    """
    tokens_L = targets.tokens_L.to(logp_BTV.device, non_blocking=True)
    return F.ctc_loss(logp_BTV.transpose(0, 1), tokens_L, lengths_B, targets.sizes_B, blank=blank, reduction="sum")
