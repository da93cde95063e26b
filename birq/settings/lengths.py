"""Lengths of a training: a number of optimiser steps, or `100 epochs`, which the train split turns into steps (birq/train/epochs.py)."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")
FIELDS = ("steps", "warmup_steps")  # of the sections of trainings


def epochs(length: int | str) -> float | None:
    """How many epochs a length is; None for one that is in steps."""
    match = _EPOCHS.fullmatch(length) if isinstance(length, str) else None
    return float(match[1]) if match else None


def _of_at_least(least: int) -> Callable[[object], int | str]:
    def check(value: object) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        if isinstance(value, str) and (n := epochs(value)) is not None and (n > 0 or least == 0):
            return value
        raise ValueError(f"Input should be a valid integer greater than or equal to {least}, or epochs, such as '100 epochs'")

    return check


def _schema(least: int) -> WithJsonSchema:
    pattern = f"^{_EPOCHS.pattern}$".replace("(?:", "(")  # JSON schema has no groups of that kind
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": least}, {"type": "string", "pattern": pattern}]})


def _rising(shares: list[float]) -> list[float]:
    if any(b <= a for a, b in pairwise(shares)):
        raise ValueError(f"{shares} must rise, each share once; legal: shares of the steps above 0 and below 1, such as [0.1, 0.5]")
    return shares


SharesOfSteps = Annotated[list[Annotated[float, Field(gt=0, lt=1)]], AfterValidator(_rising)]  # 1 is the end itself
Length = Annotated[int | str, PlainValidator(_of_at_least(1)), _schema(1)]
LengthOrNone = Annotated[int | str, PlainValidator(_of_at_least(0)), _schema(0)]
