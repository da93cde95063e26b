"""The sections of corpora: one class a kind; the stage imports the reader of that name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from birq.settings.paths import expanded
from birq.settings.section import Downloads, NonNegative, Positive, Section, Seed, Share, ordered


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


class DownloadedCorpus(FolderCorpus, Downloads):
    """Corpora whose archives birq knows."""

    unkeyed: ClassVar = Downloads.unkeyed | {"download", "archives_at_once"}

    download: bool = False  # what is missing, into root
    archives_at_once: Annotated[int, Field(ge=1, le=16)] = 3


class An4Corpus(DownloadedCorpus):
    kind: Literal["an4"]
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the archive; empty: the one that birq/corpora/an4.py holds


class LibriSpeechCorpus(DownloadedCorpus):
    kind: Literal["librispeech"]
    train_parts: list[str] = Field(default=["train-clean-100"])
    dev_parts: list[str] = Field(default=[])  # empty: speakers are taken from the train parts
    test_parts: list[str] = Field(default=[])


class AmiCorpus(DownloadedCorpus):
    """The AMI meetings, in the full-corpus-ASR partition. It fixes all splits, so dev_share and test_share only matter for `meetings`."""

    settles: ClassVar = True  # no checksums are published: those of the first download decide the key
    kind: Literal["ami"]
    # ihm: each speaker's headset; sdm: the first microphone of the first array; mdm: the array's eight, beamformed by the corpus' owners
    microphones: Annotated[list[Literal["ihm", "sdm", "mdm"]], Field(min_length=1)] = Field(default=["ihm"])
    segmentation: Literal["kaldi", "at_most_30_words", "whole"] = "kaldi"  # birq/corpora/turns.py states each rule
    meetings: list[str] = Field(default=[])  # such as ES2002a; empty: all of the partition
    absent: list[str] = Field(default=["IS1003b.Array1-01", "IS1007d.Array1-01"])  # recordings that the owners' server does not have

    @field_validator("microphones", "meetings")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        for one in value:
            if value.count(one) > 1:
                raise ValueError(f"{one!r} is named twice; name it once")
        return value


class YodasCorpus(DownloadedCorpus):
    """YODAS2: whole videos with captions, in shards of about 12 h."""

    unkeyed: ClassVar = DownloadedCorpus.unkeyed | {"max_disk_gb"}
    settles: ClassVar = True  # the owner's list of checksums, and the first download of what has none, decide the key
    streams: ClassVar = True  # its audio lies in archives that the features stage fetches, reads and drops one by one

    kind: Literal["yodas"]
    # a language and three digits: en000 to en007 have manual captions in English, en100 and above automatic ones
    subsets: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}[0-9]{3}$")]] = Field(default=[])
    shards: list[Annotated[str, Field(pattern=r"^[a-z]{2,3}[0-9]{3}/[0-9]{8}$")]] = Field(default=[])  # in place of subsets: exactly these
    hours: NonNegative = 0.0  # of utterances, from shards of the subsets in random order; 0: all of them
    shard_seed: Seed = 0  # of that order
    unlabelled: bool = False  # true: captions give the times alone; what they say is ignored
    max_bad_shards_share: Share = 0.02  # of the shards; where more lack a file or cannot be unpacked, the stage stops
    max_disk_gb: Positive = 20.0  # of archives and audio that lie on the disk together while features are made; about 5 for each worker

    @model_validator(mode="after")
    def _which(self) -> YodasCorpus:
        if bool(self.subsets) == bool(self.shards):
            raise ValueError("name either subsets, such as [en000], or shards, such as [en000/00000000]")
        if self.shards and self.hours:
            raise ValueError("hours is for subsets; shards names all that is wanted: set hours to 0")
        for given in (self.subsets, self.shards):
            if twice := sorted({one for one in given if given.count(one) > 1}):
                raise ValueError(f"{twice[0]!r} is named twice; name it once")
        return self


class LocalCorpus(FolderCorpus):
    kind: Literal["local"]
    unlabelled: bool = False  # true: transcripts, if any, are ignored


class LhotseCorpus(FolderCorpus):
    """What lhotse describes: a folder of its manifests, or a corpus that one of its recipes reads."""

    says_files: ClassVar = True  # the reader says which files it reads; a walk of root would miss audio elsewhere

    kind: Literal["lhotse"]
    recipe: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""  # of lhotse.recipes.prepare_<recipe>; empty: root holds manifests
    recipe_params: dict[str, Any] = Field(default={})  # keyword arguments of the recipe
    prefix: str = ""  # of the manifests' names, where root holds several sets
    audio: str = ""  # folder at which relative paths of recordings begin; empty: root
    train_parts: list[str] = Field(default=[])  # empty, all three: by their names (birq/corpora/lhotse_parts.py)
    dev_parts: list[str] = Field(default=[])
    test_parts: list[str] = Field(default=[])

    def audio_folder(self) -> Path:
        return expanded(self.audio) if self.audio else self.folder()


Corpus = Annotated[
    SynthCorpus | An4Corpus | LibriSpeechCorpus | AmiCorpus | YodasCorpus | LocalCorpus | LhotseCorpus, Field(discriminator="kind")
]
