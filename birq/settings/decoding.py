"""The sections of params.yaml about decoding: the network's part, the language model, the search with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from birq.settings.paths import expanded
from birq.settings.section import Count, Downloads, NonNegative, Positive, Section

LIBRISPEECH = "librispeech:"  # begins the names of the n-grams that LibriSpeech's owners publish
PUBLISHED = tuple(LIBRISPEECH + name for name in ("3-gram.pruned.3e-7", "3-gram.pruned.1e-7", "3-gram", "4-gram"))


class Decode(Section):
    batch_seconds: Positive
    splits: Annotated[list[Literal["train", "dev", "test"]], Field(min_length=1)]
    keep_mb: NonNegative = 256.0  # what params.yaml of earlier commits lacks


class Lm(Downloads):
    """The language model: an n-gram of words."""

    unkeyed: ClassVar = Downloads.unkeyed | {"root"}

    source: Annotated[str, Field(min_length=1)] = "none"  # none, transcripts, one of PUBLISHED, or the path of an ARPA or a text file
    order: Annotated[int, Field(ge=2, le=6)] = 3  # KenLM reads no others
    root: Annotated[str, Field(min_length=1)] = "data/raw/lm"  # the folder of a published n-gram

    @field_validator("source")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.startswith(LIBRISPEECH) and value not in PUBLISHED:
            raise ValueError(f"no published n-gram is called {value!r}; legal: {', '.join(PUBLISHED)}, or the path of a file")
        return value

    @property
    def kind(self) -> Literal["none", "transcripts", "published", "file"]:
        if self.source in PUBLISHED:
            return "published"
        return self.source if self.source in ("none", "transcripts") else "file"  # type: ignore[return-value]

    def folder(self) -> Path:
        """`root` as a path."""
        return expanded(self.root)


class Search(Section):
    """The beam search with that language model."""

    beam: Annotated[int, Field(ge=1, le=10_000)] = 32
    weights: Annotated[list[NonNegative], Field(min_length=1)] = Field(default=[0.5])
    bonuses: Annotated[list[float], Field(min_length=1)] = Field(default=[1.0])
    unknown: Annotated[float, Field(le=0)] = -10.0
    n_best: Count = 5


def with_lm(lm: Lm, alphabet: str) -> bool:
    """Whether there is a language model: transcripts without spaces have no words that one could be of."""
    return lm.kind in ("published", "file") or (lm.kind == "transcripts" and " " in alphabet)


def check_search(lm: Lm, search: Search, splits: list[str], alphabet: str) -> None:
    """Errors: ValueError where the search cannot be done so."""
    if lm.kind in ("published", "file") and " " not in alphabet:
        raise ValueError("lm.source: the language model is of words, but tokenizer.alphabet has no space; set lm.source: none")
    if not with_lm(lm, alphabet):
        return
    if len(search.weights) * len(search.bonuses) > 1 and "dev" not in splits:
        raise ValueError(
            f"search.weights, search.bonuses: the best ones are chosen on dev, but decode.splits = {splits}; "
            "add dev to it, or give one weight and one bonus"
        )
