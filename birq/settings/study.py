"""The section `study` of params.yaml: which methods and variants are run with which seeds, apart from those that the report compares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from birq.settings.section import Name, Section, Seed

OTHERS = "others"  # in place of a form: each of the others


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


class Compared(Section):
    """A range in which the difference of two forms is expected, in points of the measure. Word and ABX errors: fewer is less than 0."""

    form: Name
    against: Name  # `others`: every other form of the part
    measure: Literal["linear", "abx_across", "wer"] = "linear"
    more_than: float | None = None
    less_than: float | None = None
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None  # of these alone; None: of all that both forms have

    @model_validator(mode="after")
    def _a_range(self) -> Compared:
        low, high = self.more_than, self.less_than
        if low is None and high is None:
            raise ValueError("a prediction needs more_than, less_than or both, in points")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"more_than: {low} is not below less_than, {high}")
        return self


class Prediction(Section):
    """What is expected, written before the runs, and what it says about differences: it holds if all of them hold."""

    says: Annotated[str, Field(min_length=1)]
    parts: Annotated[list[Name], Field(min_length=1)]  # in which it is looked at; a record may have those of other params
    compared: Annotated[list[Compared], Field(min_length=1)]


class Study(Section):
    """The parts of the study. Without one there is no study."""

    against: Name = "best_rq"  # differences are from it
    parts: dict[Name, Part] = Field(default={})
    predictions: dict[Name, Prediction] = Field(default={})

    def runs(self, words: bool = False) -> list[tuple[str, int]]:
        """Name and seed of every run, each once, in the order of the parts; `words`: only those that are scored."""
        parts = (p for p in self.parts.values() if p.words or not words)
        return list(dict.fromkeys((name, seed) for p in parts for name in p.names for seed in p.seeds))

    def check(self, legal: list[str]) -> None:
        """Errors: ValueError for a name that is neither a method nor a variant; it lists those."""
        named = [("study.against", self.against)]
        named += [(f"study.parts.{part}.names", name) for part, p in self.parts.items() for name in p.names]
        for prediction, p in self.predictions.items():
            pairs = [("form", c.form) for c in p.compared] + [("against", c.against) for c in p.compared if c.against != OTHERS]
            named += [(f"study.predictions.{prediction}.{key}", name) for key, name in pairs]
        for key, name in named:
            if name not in legal:
                raise ValueError(f"{key}: {name!r} is neither a method nor in variants; legal: {', '.join(legal)}")
