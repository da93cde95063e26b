"""Connectionist temporal classification on top of the encoder: model and loss. The blank is the last unit."""

from __future__ import annotations

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


def ctc_loss(logp_BTV: Tensor, lengths_B: Tensor, targets: list[list[int]], blank: int) -> Tensor:
    """Sum over the batch of −ln p(tokens | audio), in nats. Every utterance must have the frames that it needs."""
    flat = torch.tensor([t for row in targets for t in row], dtype=torch.int64)
    sizes = torch.tensor([len(row) for row in targets], dtype=torch.int64)
    device = logp_BTV.device
    return F.ctc_loss(logp_BTV.transpose(0, 1), flat.to(device), lengths_B, sizes.to(device), blank=blank, reduction="sum")
