"""The sections of corpora: one class a kind; the stage imports the reader of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from birq.settings.paths import expanded
from birq.settings.section import Positive, Section, Seed, Share, ordered


class SynthCorpus(Section):
    """Speech synthesised by espeak-ng; it needs no download."""

    reads: ClassVar = ("features.sample_rate_hz", "features.min_seconds", "features.max_seconds")  # besides its own section
    kind: Literal["synth"]
    seed: Seed
    train_hours: Positive
    dev_hours: Positive
    test_hours: Positive
    n_voices: Annotated[int, Field(ge=6, le=480)]
    speed_wpm: tuple[Annotated[float, Field(ge=80, le=450)], Annotated[float, Field(ge=80, le=450)]]
    pitch: tuple[Annotated[float, Field(ge=0, le=99)], Annotated[float, Field(ge=0, le=99)]]
    snr_db: tuple[Annotated[float, Field(ge=-10, le=100)], Annotated[float, Field(ge=-10, le=100)]]

    @model_validator(mode="after")
    def _ranges(self) -> SynthCorpus:
        for key in ("speed_wpm", "pitch", "snr_db"):
            ordered(key, getattr(self, key))
        return self


class FolderCorpus(Section):
    """Corpora that lie in a folder."""

    reads: ClassVar = ("features.min_seconds", "features.max_seconds", "features.max_quarantined_share", "tokenizer.language")

    root: Annotated[str, Field(min_length=1)]
    alignments: list[str] = Field(default=[])  # TSV or TSV.gz: utt, start_s, end_s, phone, word
    dev_share: Share = 0.1  # of the speakers, where the corpus fixes no split
    test_share: Share = 0.1  # of the speakers, where the corpus fixes no split
    split_seed: Seed = 0
    # [noise], <unk>, {cough} and (laughter) in transcripts: taken out, set aside with their recording, or kept as words that were said
    annotations: Literal["drop", "quarantine", "words"] = "drop"

    def folder(self) -> Path:
        """`root` as a path; `~` and `$NAME` stand for the home folder and environment variables."""
        return expanded(self.root)

    def alignment_files(self) -> list[Path]:
        return [expanded(path) for path in self.alignments]


class An4Corpus(FolderCorpus):
    kind: Literal["an4"]
    download: bool = False  # into root, if it is missing
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the archive; empty: the one that birq/corpora/an4.py holds


class LibriSpeechCorpus(FolderCorpus):
    kind: Literal["librispeech"]
    download: bool = False  # parts that are missing, into root
    train_parts: list[str] = Field(default=["train-clean-100"])
    dev_parts: list[str] = Field(default=[])  # empty: speakers are taken from the train parts
    test_parts: list[str] = Field(default=[])


class LocalCorpus(FolderCorpus):
    kind: Literal["local"]
    unlabelled: bool = False  # true: transcripts, if any, are ignored


Corpus = Annotated[SynthCorpus | An4Corpus | LibriSpeechCorpus | LocalCorpus, Field(discriminator="kind")]
