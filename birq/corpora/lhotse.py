"""Corpora that lhotse describes: recordings and supervisions, or cuts, from its manifests or from one of its recipes."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from birq.corpora import excerpts, lhotse_parts, tree
from birq.corpora.excerpts import Excerpt, Said
from birq.corpora.items import Limits, Scan
from birq.corpora.lhotse_parts import Line, Part
from birq.errors import BirqError
from birq.settings.corpora import LhotseCorpus
from birq.settings.paths import expanded

NOBODY = {"", "n/a", "na", "none", "unk", "unknown", "<unk>"}  # speakers that are none: each recording counts as a speaker then
WHOLE_S = 1e-3  # a supervision of a recording's length, up to this, is the whole file
INSIDE_S = 1e-3  # by which a supervision may reach out of its cut: times are rounded
SAVE = "write the audio to files once, in lhotse by `CutSet.save_audios(FOLDER)`, and name the manifests of those"
SOURCES = {  # types that are not files -> why they are refused
    "command": "is the output of a shell command, and birq runs no commands of a manifest",
    "url": "lies at an address, where it may change unseen",
    "memory": "lies in the manifest itself",
    "shar": "lies in a Shar archive",
}


@dataclass(frozen=True)
class Recording:
    """What a manifest says of a recording."""

    id: str
    sample_rate_hz: int
    duration_s: float
    sources: tuple[tuple[str, tuple[int, ...]], ...]  # file, its channels' names in their order

    def whole(self) -> list[int]:
        """The channels of the first file."""
        return list(self.sources[0][1])


def _rate_hz(item: dict[str, Any], where: str) -> int:
    """The file's rate. Errors: BirqError for a recording that is not the file's own sound."""
    rate_hz = int(item["sampling_rate"])
    for transform in reversed(item.get("transforms") or []):
        kind = transform.get("name") if isinstance(transform, dict) else type(transform).__name__
        if kind != "Resample":
            raise BirqError(
                f"{where}: recording {item['id']!r} is changed by {kind}; name manifests of the recordings themselves, or {SAVE}"
            )
        rate_hz = int(transform["kwargs"]["source_sampling_rate"])  # birq resamples itself
    return rate_hz


def _recording(item: dict[str, Any], where: str) -> Recording:
    sources = []
    for source in item["sources"]:
        if source["type"] != "file":
            why = SOURCES.get(source["type"], f"has the type {source['type']!r}")
            raise BirqError(f"{where}: the audio of recording {item['id']!r} {why}; {SAVE}")
        sources.append((str(source["source"]), tuple(source["channels"])))
    if not sources:
        raise ValueError("no sources")
    return Recording(str(item["id"]), _rate_hz(item, where), float(item["duration"]), tuple(sources))


def _read(line: Line, make: Any) -> Any:
    where, item = line
    try:
        return make(item, where)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise BirqError(f"{where}: not an item of lhotse's manifests ({type(e).__name__}: {e}); write it anew with lhotse") from None


# ---- utterances


class _Reader:
    """Makes utterances of manifests; knows where files lie."""

    def __init__(self, root: Path, audio: Path, split: str):
        self.root, self.audio, self.split = root.absolute(), audio.absolute(), split
        self._paths: dict[str, str] = {}

    def path(self, written: str) -> str:
        """A file as items name it: relative to the corpus' root where it is below it."""
        if written not in self._paths:
            self._paths[written] = self._path(written)
        return self._paths[written]

    def _path(self, written: str) -> str:
        full = os.path.normpath(self.audio / expanded(written) if written.startswith(("~", "$")) else self.audio / written)
        return os.path.relpath(full, self.root) if full.startswith(f"{self.root}{os.sep}") else full

    def bare(self, id: str, speaker: Any, text: Any, recording: str) -> Excerpt:
        known = str(speaker) if speaker is not None and str(speaker).strip().lower() not in NOBODY else recording
        said = None if text is None else str(text)
        return Excerpt(id, "", known, said, None if self.split == "train" else self.split, recording=recording)

    def placed(self, item: Excerpt, recording: Recording, channel: Any, start_s: float, duration_s: float) -> Excerpt:
        """The item with its file, its time and its channels."""
        wanted = [channel] if isinstance(channel, int) else list(channel)
        found = ((file, have, tuple(have.index(c) for c in wanted if c in have)) for file, have in recording.sources)
        file, have, positions = next((f for f in found if f[2]), (*recording.sources[0], ()))
        if not positions:
            item = item.bad("no such channel", f"{wanted} of {recording.whole()}")
        if not math.isfinite(start_s + duration_s):
            item = item.bad("no time", f"start {start_s}, duration {duration_s}")
        whole = start_s == 0 and abs(duration_s - recording.duration_s) <= WHOLE_S
        return replace(
            item,
            path=self.path(file),
            start_s=start_s,
            duration_s=None if whole else duration_s,
            channels=() if len(positions) == len(have) else positions,
            written_rate_hz=recording.sample_rate_hz,
            written_s=recording.duration_s,
            written_channels=len(have),
        )

    def said(self, supervision: dict[str, Any], recording: Recording | None, begin_s: float = 0.0) -> Excerpt:
        """The utterance of a supervision; `begin_s` is where its times begin in the recording."""
        id, of = str(supervision["id"]), str(supervision["recording_id"])
        item = self.bare(id, supervision.get("speaker"), supervision.get("text"), of)
        if recording is None:
            return item.bad("no audio", f"no recording {of} in the manifest")
        start_s, duration_s = round(begin_s + float(supervision["start"]), 8), float(supervision["duration"])
        item = self.placed(item, recording, supervision.get("channel", 0), start_s, duration_s)
        return replace(item, phones=_said(supervision, "phone"), words=_said(supervision, "word"))

    def silent(self, id: str, recording: Recording, channel: Any, start_s: float, duration_s: float) -> Excerpt:
        """A recording or a cut of which no supervision speaks."""
        return self.placed(self.bare(id, None, None, recording.id), recording, channel, start_s, duration_s)


def _said(supervision: dict[str, Any], kind: str) -> tuple[Said, ...]:
    """Phones or words of a supervision; lhotse gives their times in the recording, also where a cut begins later."""
    items = next((v for k, v in (supervision.get("alignment") or {}).items() if k.lower().startswith(kind)), None) or ()
    values = (list(i.values()) if isinstance(i, dict) else list(i) for i in items)
    return tuple(Said(str(v[0]), float(v[1]), float(v[1]) + float(v[2])) for v in values)


def _of_recordings(part: Part, reader: _Reader) -> Iterator[Excerpt]:
    recordings: dict[str, Recording] = {}
    for line in part.lines("recordings"):
        recording = _read(line, _recording)
        if recording.id in recordings and recordings[recording.id] != recording:
            raise BirqError(f"{line[0]}: a second recording {recording.id!r}; an id names one recording, so give one of them another id")
        recordings[recording.id] = recording
    spoken = set()
    for line in part.lines("supervisions"):
        of = str(line[1].get("recording_id"))
        spoken.add(of)
        yield _read(line, lambda item, _, of=of: reader.said(item, recordings.get(of)))
    for recording in recordings.values():
        if recording.id not in spoken:
            yield reader.silent(recording.id, recording, recording.whole(), 0.0, recording.duration_s)


def _of_cut(reader: _Reader, cut: dict[str, Any], where: str) -> list[Excerpt]:
    """The utterances of a cut: its supervisions, or all of it where it has none."""
    if cut["type"] not in ("MonoCut", "MultiCut"):
        item = reader.bare(str(cut["id"]), None, None, str(cut["id"]))
        return [item.bad("not a part of one recording", f"a {cut['type']}; name cuts without mixing and padding")]
    if "recording" not in cut:
        raise BirqError(f"{where}: cut {cut['id']!r} names no recording; name cuts with recordings, not with features alone")
    recording, begin_s, duration_s = _recording(cut["recording"], where), float(cut["start"]), float(cut["duration"])
    spoken = cut.get("supervisions") or []
    if not spoken:
        return [reader.silent(str(cut["id"]), recording, cut["channel"], begin_s, duration_s)]
    out = []
    for supervision in spoken:
        item = reader.said(supervision, recording, begin_s)
        start_s, end_s = float(supervision["start"]), float(supervision["start"]) + float(supervision["duration"])
        if start_s < -INSIDE_S or end_s > duration_s + INSIDE_S:
            item = item.bad("reaches out of its cut", f"{start_s:.3f} to {end_s:.3f} s of a cut of {duration_s:.3f} s")
        out.append(item)
    return out


def _utterances(part: Part, reader: _Reader) -> list[Excerpt]:
    """The utterances of a part, sorted by id. Where a part has both, recordings and supervisions are read and cuts are not."""
    if "recordings" in part.sets:
        items = list(_of_recordings(part, reader))
    else:
        items = [i for line in part.lines("cuts") for i in _read(line, lambda cut, where: _of_cut(reader, cut, where))]
    if reader.split in ("dev", "test") or any(i.text is not None for i in items):
        why = f"an utterance of the {reader.split} split needs one" if reader.split != "train" else "others of its part have one"
        items = [i.bad("no transcript", why) if i.text is None else i for i in items]
    return sorted(items, key=lambda i: (i.id, i.path, i.start_s))


def scan(corpus: LhotseCorpus, key: str, scratch: Path) -> Scan:
    """Read the manifests. Recipes that must write manifests write them into `scratch`."""
    parts = lhotse_parts.read(corpus, key, scratch)
    root, audio = corpus.folder(), corpus.audio_folder()
    items: list[Excerpt] = []
    for name, split in lhotse_parts.splits_of(corpus, list(parts), key).items():
        if not {"recordings", "cuts"} & set(parts[name].sets):
            raise BirqError(f"{key}.root: the part {name!r} has supervisions and no recordings; put its recordings manifest beside them")
        items += _utterances(parts[name], _Reader(root, audio, split))
    if not items:
        raise BirqError(f"{key}.root: the manifests of {root} hold nothing; write them anew with lhotse")
    read_by = f"lhotse {importlib.metadata.version('lhotse')}, recipe {corpus.recipe}" if corpus.recipe else "lhotse's manifests"
    licence = "not stated; the owner of the recordings knows it"
    return Scan(root.absolute(), excerpts.without_crossing(items), licence, f"{root.resolve().name}, by {read_by}")  # type: ignore[arg-type]


def files(corpus: LhotseCorpus) -> list[Path]:
    """The files that the key depends on: manifests and the audio that they name; with a recipe, all below root and folders in params."""
    root = corpus.folder()
    if corpus.recipe:
        given = [Path(v) for v in corpus.recipe_params.values() if isinstance(v, str) and os.path.exists(v)]
        below = [f / name for f in [root, *given] if f.is_dir() for name in tree.read(f).files]
        return [*below, *(f for f in given if f.is_file())]
    reader, named = _Reader(root, corpus.audio_folder(), "train"), lhotse_parts.manifest_files(corpus)
    audio: set[Path] = set()
    for path in named:
        if "supervisions" not in path.name:
            audio.update(root.absolute() / reader.path(name) for line in lhotse_parts.lines_of(path) for name in _read(line, _files_of))
    return [*named, *(p for p in sorted(audio) if p.is_file())]


def _files_of(item: dict[str, Any], _: str) -> list[str]:
    """The files of a line of recordings or cuts."""
    recording = item if "sources" in item else item.get("recording") or {}
    return [str(s["source"]) for s in recording.get("sources", []) if s["type"] == "file"]


def prepare(name: str, corpus: LhotseCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    excerpts.prepare(scan(corpus, f"corpora.{name}", scratch), name, corpus, out, scratch, alphabet=alphabet, limits=limits)
