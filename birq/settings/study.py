"""The section `study` of params.yaml: which methods and variants are run with which seeds, apart from those that the report compares."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from birq.settings.section import Name, Section, Seed


class Part(Section):
    """A part of the study: every name with every seed."""

    names: Annotated[list[Name], Field(min_length=1)]  # methods, or names from `variants`
    seeds: Annotated[list[Seed], Field(min_length=1)]
    words: bool = False  # fine-tuned, decoded and scored too; else pre-trained and probed

    @model_validator(mode="after")
    def _no_repeats(self) -> Part:
        for key in ("names", "seeds"):
            values = getattr(self, key)
            if twice := [v for v in values if values.count(v) > 1]:
                raise ValueError(f"{key}: {twice[0]!r} stands there twice in {values}; remove one")
        return self


class Study(Section):
    """The parts of the study. Without one there is no study."""

    against: Name = "best_rq"  # differences are from it
    parts: dict[Name, Part] = Field(default={})

    def runs(self, words: bool = False) -> list[tuple[str, int]]:
        """Name and seed of every run, each once, in the order of the parts; `words`: only those that are scored."""
        parts = (p for p in self.parts.values() if p.words or not words)
        return list(dict.fromkeys((name, seed) for p in parts for name in p.names for seed in p.seeds))

    def check(self, legal: list[str]) -> None:
        """Errors: ValueError for a name that is neither a method nor a variant; it lists those."""
        named = [("study.against", self.against)]
        named += [(f"study.parts.{part}.names", name) for part, p in self.parts.items() for name in p.names]
        for key, name in named:
            if name not in legal:
                raise ValueError(f"{key}: {name!r} is neither a method nor in variants; legal: {', '.join(legal)}")
