"""The pre-training methods. A variant in params.yaml has one of them and a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """One way to pre-train."""

    name: str
    title: str  # as a text writes it
    predicts: Literal["nothing", "input codes", "input and layer codes", "labels from a file"]


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("birq", "BiRQ", "input and layer codes"),
        Method("best_rq", "BEST-RQ", "input codes"),
        Method("scratch", "no pre-training", "nothing"),
    )
}
