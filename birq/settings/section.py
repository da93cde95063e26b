"""A section of params.yaml: frozen, strict, without unknown keys; and the types of its values."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())
    unkeyed: ClassVar[frozenset[str]] = frozenset()  # fields that cannot change a stage's result: no key holds them


class Downloads(Section):
    """How files are fetched that birq knows. Their checksums are pinned, so it is in no key."""

    unkeyed: ClassVar = frozenset({"offline", "mirrors", "megabytes_per_second", "stall_seconds", "tries"})

    offline: bool = False  # the network is not asked, only root and the mirrors that are folders
    mirrors: list[str] = Field(default=[])  # addresses or folders that hold the files; asked before the public addresses
    megabytes_per_second: NonNegative = 0.0  # of all files of the section together; 0: no limit
    stall_seconds: Positive = 60.0  # without a byte from the server
    tries: Count = 4  # requests to one mirror that bring nothing

    @field_validator("mirrors")
    @classmethod
    def _schemes(cls, value: list[str]) -> list[str]:
        for mirror in value:
            if "://" in mirror and not mirror.startswith(("http://", "https://")):
                raise ValueError(f"{mirror!r} is neither a folder nor an address that begins with http:// or https://")
        return value


def ordered(name: str, pair: tuple[float, float]) -> None:
    """Errors: ValueError if a range is turned round."""
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: the lower end {pair[0]} is above the upper end {pair[1]}")
