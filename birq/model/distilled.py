"""Codebook distillation: a further codebook, which learns from layers of the encoder (after Xu et al. 2026, arXiv 2606.30671).

    u_t = unit(P view(x_t)),   y_t = argmax over n of u_t · E_n        labels of the further codebook; P is the first codebook's
    S_ij = E_y(i) · E_y(j),    S⁽ᵏ⁾_ij = cos(z_i − z̄, z_j − z̄)         self-similarity over time: of the codes, of layer k
    D = mean over utterances and layers of  Σ_ij |S_ij − S⁽ᵏ⁾_ij| / T²   i, j: the T frames of an utterance that are not masked

E, whose rows have unit length, learns by D alone, and D teaches nothing else. A head of its own predicts y of masked frames.
Layers are read from the pass that predicts, so D takes no further one. docs/labels.md says what is published of this.

Shape suffixes: B utterances, T encoder frames, D width, h code width, V codes, A all frames of the utterances.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.quantizer import RandomQuantizer, argmax


class DistilledCodebook(nn.Module):
    """The further codebook and its head. Both are the optimiser's."""

    def __init__(self, quantizer: RandomQuantizer, n_codes: int, d_model: int):
        super().__init__()
        _, v, h = quantizer.codebook.shape
        if n_codes > v:
            raise ValueError(f"distil_codes {n_codes} of {v}")
        self.codebook = nn.Parameter(torch.empty(n_codes, h))
        self.head = nn.Linear(d_model, n_codes)
        self.begin(quantizer)

    @torch.no_grad()
    def begin(self, quantizer: RandomQuantizer) -> None:
        """Begin with the first codes of the quantizer's first codebook, as they are by now: they may have followed the data."""
        self.codebook.copy_(F.normalize(quantizer.codebook[0, : len(self.codebook)], dim=-1))

    def codes(self) -> Tensor:
        """E: rows of unit length, [V, h], float32."""
        return F.normalize(self.codebook.float(), dim=-1)

    @torch.no_grad()
    def labels(self, quantizer: RandomQuantizer, view_AS: Tensor) -> Tensor:
        """y of every frame, [A] int64. The length of P view(x) does not matter."""
        with torch.autocast(view_AS.device.type, enabled=False):
            return argmax((view_AS.float() @ quantizer.projection[0]) @ self.codes().T)

    def distances(self, y_BT: Tensor, layers: list[Tensor], frames_BT: Tensor) -> Tensor:
        """The parts of D of each utterance, [B], with gradient to E alone. `layers`: [B, T, D] each; `frames_BT`: those that count, bool.

        An utterance without such a frame has 0.
        """
        with torch.autocast(y_BT.device.type, enabled=False):
            code_BTh, counts_BT1 = self.codes()[y_BT], frames_BT[:, :, None].float()
            own_BTT, total_B = code_BTh @ code_BTh.transpose(1, 2), 0.0
            n_B11 = counts_BT1.sum(1, keepdim=True).clamp_min(1)
            for z_BTD in layers:
                z_BTD = z_BTD.detach().float()
                unit_BTD = F.normalize(z_BTD - (z_BTD * counts_BT1).sum(1, keepdim=True) / n_B11, dim=-1)
                apart_BTT = (own_BTT - unit_BTD @ unit_BTD.transpose(1, 2)).abs() * counts_BT1 * counts_BT1.transpose(1, 2)
                total_B = total_B + apart_BTT.sum((1, 2))
            return total_B / (len(layers) * n_B11[:, 0, 0].square())
