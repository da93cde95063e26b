"""Quantizers that follow the data: principal components as projection, running means as codes (Xu et al. 2026, arXiv 2606.30671).

    P ← the first h eigenvectors of the covariance of the frames, along the first epoch, then fixed
    C_n ← the mean of the projected frames whose nearest code was C_n, every few steps: a k-means that runs along with the training

Frames are those that get labels: masked ones, a random half of all, so no frame is projected for this alone.
Shape suffixes: M frames, N codebooks, D input width, V codes, h code width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from birq.model.quantizer import RandomQuantizer

SPLIT = 0.01  # distance of a revived code from the code that it shares frames with, over the code's length


@dataclass(frozen=True)
class Refinement:
    """What of a quantizer follows the data."""

    projection: str = "random"  # or pca
    codebook: str = "random"  # or refined
    projection_steps: int = 1  # steps along which principal components are estimated
    refine_every_steps: int = 1

    @property
    def follows(self) -> bool:
        """Whether anything does."""
        return self.projection == "pca" or self.codebook == "refined"


def principal_axes(frames: Tensor, sum_D: Tensor, product_DD: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The first `n` eigenvectors of the covariance [D, n] and the standard deviations along them [n], float64.

    From the number of frames, their sum and the sum of their products x xᵀ. The largest entry of a vector is positive, so that signs do not
    depend on the machine's eigensolver.
    """
    mean_D = sum_D / frames
    variance_D, axes_DD = torch.linalg.eigh(product_DD / frames - torch.outer(mean_D, mean_D))
    axes_Dn, variance_n = axes_DD.flip(1)[:, :n], variance_D.flip(0)[:n]
    largest_n = axes_Dn.gather(0, axes_Dn.abs().argmax(0, keepdim=True)).squeeze(0)
    return axes_Dn * largest_n.sign(), variance_n.clamp_min(0).sqrt()


def revived(codes_Vh: Tensor, count_V: Tensor, generator: torch.Generator) -> Tensor:
    """Codes without frames move beside the most used ones, which they will share frames with (LBG's splitting, Linde et al. 1980).

    A code at the mean of its frames and one very near it cut these frames in two along the line between them, so both have frames then.
    The direction is drawn; of equal counts the first code comes first.
    """
    dead_R = (count_V == 0).nonzero().flatten()
    used_V = count_V.argsort(descending=True, stable=True)[: int((count_V > 0).sum())]
    if not len(dead_R) or not len(used_V):
        return codes_Vh
    parent_Rh = codes_Vh[used_V[torch.arange(len(dead_R)) % len(used_V)]]
    step_Rh = F.normalize(torch.randn(parent_Rh.shape, generator=generator, dtype=codes_Vh.dtype), dim=-1)
    return codes_Vh.index_copy(0, dead_R, parent_Rh + SPLIT * parent_Rh.norm(dim=-1, keepdim=True) * step_Rh)


class Refiner:
    """Sums over the frames that one quantizer labels, and what the quantizer becomes by them.

    The quantizer's projection and codebook are the model's state, equal on all ranks. The sums since the last change are the training's:
    each rank has those of its own frames. Made before training begins, since codes scale with what was drawn.
    """

    def __init__(self, quantizer: RandomQuantizer, refinement: Refinement):
        _, d, h = quantizer.projection.shape
        if refinement.projection == "pca" and h > d:
            raise ValueError(f"{h} principal components of frames that have {d} values")
        self.quantizer, self.refinement, self.steps, self.fed = quantizer, refinement, 0, False
        self.drawn_NVh = quantizer.codebook.detach().cpu().clone()
        self.shift: float | None = None  # mean distance that used codes moved at the last refinement
        self.revived = 0  # codes, all codebooks, since `shift` was looked at
        self._begin()

    def _begin(self) -> None:
        d, codebook = self.quantizer.projection.shape[1], self.quantizer.codebook
        count, total = ({"dtype": kind, "device": codebook.device} for kind in (torch.int64, torch.float64))
        self.sums: dict[str, Tensor] = {}
        if self.estimating:
            self.sums = {"frames": torch.zeros((), **count), "sum_D": torch.zeros(d, **total), "product_DD": torch.zeros(d, d, **total)}
        elif self.refinement.codebook == "refined":
            self.sums = {"count_NV": torch.zeros(codebook.shape[:2], **count), "sum_NVh": torch.zeros(codebook.shape, **total)}

    @property
    def estimating(self) -> bool:
        """Whether the projection is not final."""
        return self.refinement.projection == "pca" and self.steps < self.refinement.projection_steps

    @torch.no_grad()
    def add(self, x_MD: Tensor, codes_MN: Tensor) -> None:
        """Frames as the quantizer reads them, and their labels. Sums stay on the device, in float64."""
        self.fed, s = True, self.sums
        if self.estimating:
            x_MD = x_MD.float()
            s["frames"] += len(x_MD)
            s["sum_D"] += x_MD.sum(0, dtype=torch.float64)
            with torch.autocast(x_MD.device.type, enabled=False):
                s["product_DD"] += x_MD.T @ x_MD
        elif s:
            n, v, _ = s["sum_NVh"].shape
            place = (codes_MN.T + torch.arange(n, device=codes_MN.device)[:, None] * v).flatten()
            s["count_NV"].view(-1).index_add_(0, place, torch.ones_like(place))
            s["sum_NVh"].flatten(0, 1).index_add_(0, place, self.quantizer.vectors(x_MD).double().flatten(0, 1))

    def update(self, seed: int, total: Callable[[Tensor], Tensor]) -> bool:
        """After a step: True if the quantizer has changed. `total`: a CPU tensor summed over the ranks.

        Along the estimation after steps 1, 2, 4, 8, … and the last one: the estimate gets better with the number of frames, not of steps.
        Errors: ValueError if the frames of the estimation are too few.
        """
        if not self.fed:
            return False
        self.fed = False
        r, was_estimating = self.refinement, self.estimating
        self.steps += 1
        if was_estimating:
            last = self.steps == r.projection_steps
            changed = (last or self.steps & (self.steps - 1) == 0) and self._project(total, last)
            if last:
                self._begin()
            return changed
        since = self.steps - (r.projection_steps if r.projection == "pca" else 0)
        if r.codebook != "refined" or since % r.refine_every_steps:
            return False
        self._refine(seed, total)
        self._begin()
        return True

    def _totals(self, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {k: total(x.detach().cpu().clone()) for k, x in self.sums.items()}

    def _project(self, total: Callable[[Tensor], Tensor], last: bool) -> bool:
        """Take the principal axes as projection, and the codes as drawn times the deviation along each axis: so frames and codes are spread
        alike. All codebooks have the same axes and differ in their codes."""
        s, h = self._totals(total), self.quantizer.projection.shape[2]
        if s["frames"] <= h:  # their covariance has fewer than h directions
            if last:
                raise ValueError(f"{int(s['frames'])} frames are too few for {h} principal components, which need {h + 1} at least")
            return False
        if not torch.isfinite(s["product_DD"]).all():
            return False  # the loss is not finite either, which ends the training
        axes_Dh, deviation_h = principal_axes(s["frames"], s["sum_D"], s["product_DD"], h)
        self.quantizer.projection.copy_(axes_Dh.expand_as(self.quantizer.projection))
        codes_NVh = self.drawn_NVh.double() * deviation_h
        self.quantizer.codebook.copy_(self._as_codes(codes_NVh))
        return True

    def _refine(self, seed: int, total: Callable[[Tensor], Tensor]) -> None:
        s, before_NVh = self._totals(total), self.quantizer.codebook.detach().cpu().double()
        used_NV, generator = s["count_NV"] > 0, torch.Generator().manual_seed(seed)
        mean_NVh = torch.where(used_NV[:, :, None], s["sum_NVh"] / s["count_NV"].clamp_min(1)[:, :, None], before_NVh)
        codes_NVh = self._as_codes(mean_NVh)
        self.shift = float((codes_NVh - before_NVh).norm(dim=-1)[used_NV].mean()) if used_NV.any() else None
        self.revived += int((~used_NV).sum())
        codes = [revived(c_Vh, n_V, generator) for c_Vh, n_V in zip(codes_NVh, s["count_NV"], strict=True)]
        self.quantizer.codebook.copy_(self._as_codes(torch.stack(codes)))

    def _as_codes(self, codes_NVh: Tensor) -> Tensor:
        """Of unit length where frames are (spherical k-means), else as they are."""
        return F.normalize(codes_NVh, dim=-1) if self.quantizer.unit else codes_NVh

    def figures(self) -> dict[str, float | None]:
        """Of the refinements since the last call."""
        out, self.shift, self.revived = {"codebook_shift": self.shift, "revived_codes": self.revived}, None, 0
        return out

    def state(self, total: Callable[[Tensor], Tensor]) -> dict[str, object]:
        """For a checkpoint: the sums of all ranks together; changes nothing."""
        return {"steps": self.steps, "shift": self.shift, "revived": self.revived, "sums": self._totals(total)}

    def restore(self, state: dict, here: bool) -> None:
        """Go on from a state. `here`: whether this rank gets the sums."""
        self.steps, self.shift, self.revived, self.fed = state["steps"], state["shift"], state["revived"], False
        self._begin()
        if here:
            for k, x in state["sums"].items():
                self.sums[k].copy_(x)
