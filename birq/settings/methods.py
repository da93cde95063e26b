"""The methods of pre-training: one row each. The DAG, the keys, the command line and the report follow from this table.

A new method is a new row; docs/architecture.md shows one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Predicts = Literal["nothing", "input codes", "input and layer codes", "labels from a file"]


@dataclass(frozen=True)
class Method:
    """A method's prediction target, its params, and the source of its labels."""

    name: str
    title: str  # in tables and figures
    predicts: Predicts
    sections: tuple[str, ...]  # sections or keys of params.yaml, besides those that every encoder reads
    module: str  # holds `Model`, the encoder with the parts of the method, and its `Constants`
    task: str | None = "birq.train.pretraining"  # module that trains it; the imports of both are the method's code
    labels_from: str | None = None  # offline labels: "features", or the method whose encoder makes them

    @property
    def trains(self) -> bool:
        """False for an encoder that is left as it was drawn."""
        return self.task is not None

    @property
    def modules(self) -> tuple[str, ...]:
        """The roots of its code."""
        return (self.module, self.task) if self.task else (self.module,)


# the probe reads an untrained encoder through them
QUANTIZERS = tuple(f"random_projection.{key}" for key in ("n_codebooks", "codebook_size", "codebook_dim", "view", "view_window_frames"))

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("birq", "BiRQ", "input and layer codes", ("pretrain", "random_projection", "birq"), "birq.model.objectives"),
        Method("best_rq", "BEST-RQ", "input codes", ("pretrain", "random_projection"), "birq.model.prediction"),
        Method("scratch", "no pre-training", "nothing", QUANTIZERS, "birq.model.quantized", task=None),
    )
}
