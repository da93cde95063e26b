"""Quantizers that follow the data, as a part of pre-training (birq/model/refined.py has the equations)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from birq.errors import BirqError
from birq.model.prediction import BestRq, Forward
from birq.model.refined import Refinement, Refiner
from birq.train.distributed import Group
from birq.train.loop import step_seed


@dataclass(frozen=True)
class Refining:
    """Which quantizers follow the data, from the sections `random_projection` and `birq` of params.yaml."""

    projection: str = "random"  # of the input
    codebook: str = "random"
    label_projection: str = "random"  # of layer k
    label_codebook: str = "random"
    refine_every_steps: int = 1


class Refiners:
    """The quantizers of a model that follow the data, by what they label. Principal components are estimated along an epoch."""

    def __init__(self, model: BestRq, r: Refining, name: str, epoch_steps: int):
        self.name, self.refiners = name, {}
        wanted = {
            "anchor": (model.anchor_quantizer, r.projection, r.codebook),
            "enhanced": (model.quantizer, r.label_projection, r.label_codebook),
        }
        for labels, (quantizer, projection, codebook) in wanted.items():
            refinement = Refinement(projection, codebook, epoch_steps, r.refine_every_steps)
            if refinement.follows:
                try:
                    self.refiners[labels] = Refiner(quantizer, refinement)
                except ValueError as e:
                    raise self._error(labels, e) from None

    def _error(self, labels: str, e: ValueError) -> BirqError:
        key = {"anchor": "random_projection.projection", "enhanced": "birq.label_projection"}[labels]
        return BirqError(f"{self.name}: {key}: pca: {e}; set it to random, lower random_projection.codebook_dim, or add speech")

    def add(self, losses: Forward) -> None:
        """The labelled frames of a micro-batch, or of this rank's share of it. Nothing leaves the device."""
        frames = {
            "anchor": (losses.anchor_frames_MS, losses.anchor_codes_MN),
            "enhanced": (losses.enhanced_frames_MD, losses.enhanced_codes_MN),
        }
        for labels, refiner in self.refiners.items():
            frames_MD, codes_MN = frames[labels]
            if frames_MD is not None and codes_MN is not None:
                refiner.add(frames_MD, codes_MN)

    def after_step(self, seed: int, step: int, group: Group) -> None:
        """Change what is due, on all ranks alike. `step` counts finished steps. Errors: BirqError if frames are too few."""
        for labels, refiner in self.refiners.items():
            try:
                changed = refiner.update(step_seed(seed, step), group.add)
            except ValueError as e:
                raise self._error(labels, e) from None
            if changed and group.size > 1:
                for x in refiner.quantizer.buffers():
                    x.copy_(_first(x, group))

    def figures(self) -> dict[str, float | None]:
        """Of the refinements since the last call; none for a quantizer whose codes stay."""
        codebooks = {k: r.figures() for k, r in self.refiners.items() if r.refinement.codebook == "refined"}
        return {f"{labels}_{name}": value for labels, values in codebooks.items() for name, value in values.items()}

    def state(self, group: Group) -> dict[str, Any]:
        """For a checkpoint, of all ranks together; changes nothing."""
        return {labels: refiner.state(group.add) for labels, refiner in self.refiners.items()}

    def restore(self, state: dict[str, Any], group: Group) -> None:
        """Go on from a state; its sums go to rank 0."""
        for labels, refiner in self.refiners.items():
            refiner.restore(state[labels], group.writes)


def _first(x: Tensor, group: Group) -> Tensor:
    """Rank 0's tensor, on the CPU: another machine's eigenvectors may differ in the last bits."""
    return group.add(x.cpu() if group.writes else torch.zeros_like(x, device="cpu"))
