"""Masked prediction of labels that were made before the training: HuBERT's loss (Hsu et al. 2021) on BEST-RQ's encoder, masks and head.

The labels come with the batch (`Masked.given`). Where they are the anchoring labels, training is that of BEST-RQ to the bit.
Shape suffixes: M masked frames, K those with a label, N codebooks, B, T, S, D as in prediction.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from birq.model.masking import Masked
from birq.model.prediction import AnchorObjective, BestRq, Share


@dataclass(frozen=True, kw_only=True)
class OfflineObjective(AnchorObjective):
    """Constants of the loss. The quantizers stay in the model for the probe; the sizes of the labels are those of their file."""

    label_codebooks: int
    label_codebook_size: int

    @property
    def label_sizes(self) -> tuple[int, int]:
        return self.label_codebooks, self.label_codebook_size


class Offline(BestRq):
    """A quantized encoder whose head predicts the labels that the batch brings."""

    def masked_pass(
        self,
        x_BTS: Tensor,
        source_BTS: Tensor,
        lengths_B: Tensor,
        m: Masked,
        generator: torch.Generator,
        share: Share | None,
        outputs: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, None, int]:
        """As BEST-RQ's. Masked frames without a label are noise in the input as they are there, and have no loss."""
        given = m.given
        if given is None:
            raise ValueError("the batch brings no labels")
        h_MD = self.masked_output(x_BTS, lengths_B, m, generator, share, outputs)
        h_KD = h_MD if given.known_K is None else h_MD.index_select(0, given.known_K)
        # a batch may have no label at all: its loss is 0
        return h_KD, given.codes_KN, None, max(1, share.n_predicted if share else len(given.codes_KN))


Model, Constants = Offline, OfflineObjective
