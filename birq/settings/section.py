"""A section of params.yaml: frozen, strict, without unknown keys; and the types of its values."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    unkeyed: ClassVar[frozenset[str]] = frozenset()  # fields that cannot change a stage's result: no key holds them


def ordered(name: str, pair: tuple[float, float]) -> None:
    """Errors: ValueError if a range is turned round."""
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: the lower end {pair[0]} is above the upper end {pair[1]}")
