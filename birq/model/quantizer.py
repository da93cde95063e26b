"""The random-projection quantizer (Chiu et al. 2022): fixed projection, fixed codebook, never trained.

Shape suffixes: M frames, N codebooks, D input width, V codes, h code width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_VALUES = {"cpu": 1 << 20, "cuda": 1 << 26}  # frames × codes looked at together: 4 MiB stay in cache; 256 MiB need few kernels
BLOCK = 128  # codes of a block whose maximum is searched first


def standardise(z_MD: Tensor, mean_D: Tensor | None = None, std_D: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance per dimension over the frames given, or with the statistics given.

    LayerNorm would keep the mean that all frames share, and a shared mean makes all frames choose the same few codes.
    """
    if mean_D is None or std_D is None:
        mean_D, std_D = z_MD.mean(0), (z_MD.var(0, unbiased=False) + eps).sqrt()
    return (z_MD - mean_D) / std_D


def layer_norm(z_MD: Tensor) -> Tensor:
    """LayerNorm without trainable parts, frame by frame."""
    return F.layer_norm(z_MD, z_MD.shape[-1:])


def argmax(score_MV: Tensor) -> Tensor:
    """argmax over the last dimension, the first one where several are equal: [M] int64.

    A CPU finds a maximum several times faster than its index, so the index is searched in the best of many short blocks only.
    """
    m, v = score_MV.shape
    if v % BLOCK or v == BLOCK:
        return score_MV.argmax(-1)
    blocks = score_MV.view(m, v // BLOCK, BLOCK)
    best_M = blocks.amax(-1).argmax(-1)
    return best_M * BLOCK + blocks[torch.arange(m, device=score_MV.device), best_M].argmax(-1)


def framewise(z_MD: Tensor, label_norm: str) -> Tensor:
    """The norms of z that look at one frame only. `none`: z as the layer gives it, whose own last LayerNorm has a trained gain and bias."""
    return z_MD if label_norm == "none" else layer_norm(z_MD)


class RandomQuantizer(nn.Module):
    """`n_codebooks` independent pairs of projection (Xavier) and codebook (N(0, 1)); labels are the nearest codes.

    `distance`: raw compares x P with the codes as they are drawn (eq. 2 and 4 of BiRQ as printed); unit brings both to unit length
    (BEST-RQ). Both parts are buffers: they travel in checkpoints and no optimiser sees them.
    """

    projection: Tensor  # [N, D, h]
    codebook: Tensor  # [N, V, h]

    def __init__(
        self,
        d_in: int,
        codebook_dim: int,
        codebook_size: int,
        n_codebooks: int,
        generator: torch.Generator,
        distance: str = "unit",
    ):
        super().__init__()
        self.unit = distance == "unit"
        self.unit_codes = self.unit  # False for whoever replaces codes by others, such as means of frames
        bound = (6.0 / (d_in + codebook_dim)) ** 0.5
        projection = (torch.rand(n_codebooks, d_in, codebook_dim, generator=generator) * 2 - 1) * bound
        codebook = torch.randn(n_codebooks, codebook_size, codebook_dim, generator=generator)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(codebook, dim=-1) if self.unit else codebook)

    def project(self, x_MD: Tensor) -> Tensor:
        """x P, [N, M, h], float32 whatever the surrounding precision: bf16 would change 0.7 to 3 % of the labels."""
        with torch.autocast(x_MD.device.type, enabled=False):
            return torch.matmul(x_MD.float(), self.projection)

    def vectors(self, x_MD: Tensor) -> Tensor:
        """What is compared with the codes, with gradient to x: x P, or unit(x P); [N, M, h]."""
        v_NMh = self.project(x_MD)
        return F.normalize(v_NMh, dim=-1) if self.unit else v_NMh

    def offset(self) -> Tensor | None:
        """−‖C‖²/2 of every code, [N, V], since ‖v − C‖² = ‖v‖² − 2 (v · C − ‖C‖²/2); None where it is the same for all codes."""
        return None if self.unit_codes else self.codebook.square().sum(-1) / -2

    @torch.no_grad()
    def nearest(self, x_MD: Tensor) -> Tensor:
        """Index of the nearest code, [M, N] int64 (eq. 2): the largest v · C − ‖C‖²/2.

        Where the codes have unit length, it is the largest inner product, and the length of x P does not matter.
        """
        offset_NV = self.offset()
        v_NMh = self.project(x_MD) if offset_NV is None else self.vectors(x_MD)
        n, m, _ = v_NMh.shape
        codes_NM = torch.empty(n, m, dtype=torch.int64, device=x_MD.device)
        rows = max(1, min(m, CHUNK_VALUES[x_MD.device.type] // self.codebook.shape[1]))
        score_RV = torch.empty(rows, self.codebook.shape[1], device=x_MD.device)  # one piece of memory for all chunks
        with torch.autocast(x_MD.device.type, enabled=False):
            for i in range(n):
                for begin in range(0, m, rows):
                    v_Rh = v_NMh[i, begin : begin + rows]
                    score = torch.mm(v_Rh, self.codebook[i].T, out=score_RV[: len(v_Rh)])
                    codes_NM[i, begin : begin + rows] = argmax(score if offset_NV is None else score.add_(offset_NV[i]))
        return codes_NM.T

    def logits(self, v_NMh: Tensor, scale: float = 1.0) -> Tensor:
        """−s ‖v − C‖² up to a constant of the frame, [M, N, V] (eq. 4): s (2 v · C − ‖C‖²), or s · 2 v · C of unit codes. `scale`: s."""
        with torch.autocast(v_NMh.device.type, enabled=False):
            logits_NMV = 2.0 * torch.matmul(scale * v_NMh, self.codebook.transpose(1, 2))
            if (offset_NV := self.offset()) is not None:
                logits_NMV = logits_NMV + (2.0 * scale * offset_NV)[:, None]
            return logits_NMV.transpose(0, 1).contiguous()
