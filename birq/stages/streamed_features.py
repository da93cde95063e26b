"""The features stage of a corpus whose audio lies in archives: one after the other is fetched, read and dropped, so the disk holds few.

The corpus artifact names the archives in `shards.tsv`, with checksums, and says in corpus.json how many may be bad. Its cuts point at
recordings in folders of the archives' names.
The corpus stage has heard nothing, so recordings are checked here, and what cannot be used is set aside in `quarantine.tsv`.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from birq import files
from birq.corpora import archived, check, excerpts, folder, manifests
from birq.corpora.archived import Shard
from birq.corpora.excerpts import Excerpt
from birq.corpora.items import Item, Scan
from birq.downloads import archives, unpack
from birq.downloads.archive import Archive, Wanted
from birq.downloads.pace import Pace
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.pipeline import pool
from birq.pipeline.stage import SPARED, Job, Part
from birq.progress import Progress
from birq.speech import shards
from birq.speech.frontend import KERNEL
from birq.stages import features
from birq.stages.features import KILLED, _Task, _Utterance

GB = 1e9
BYTES_PER_HOUR = 24000 * 2 * 3600  # of a video: 16 bits at 24 kHz
SPARE = 1.5  # an archive may hold videos whose lengths nobody wrote down; one that holds more is bad
STRETCH_S = 7200.0  # of a longer recording, what a shard wants is cut out first, not decoded from the beginning for every 64 utterances
LEAST_BYTES = 1 << 20  # headers of small archives: tar pads each of them


@dataclass(frozen=True)
class _Stream:
    """An archive and what is wanted of it."""

    shard: Shard
    key: str  # the corpus in params.yaml
    root: Path  # the corpus' own files
    rules: Rules
    corpus: Path
    utterances: tuple[tuple[str, _Utterance], ...]  # (split, utterance), by split
    work: Path
    settings: dict[str, Any]
    storage: str
    shard_utterances: int
    limits: tuple[float, float]  # seconds of an utterance
    spared: tuple[tuple[str, Path], ...] = ()  # (split, shard) of its utterances in an artifact that was damaged elsewhere
    aside: tuple[tuple[str, ...], ...] = ()  # rows of that artifact's quarantine

    @property
    def done(self) -> Path:
        return self.work / "done.json"


class _BadArchiveError(Exception):
    """An archive that cannot be unpacked."""


# ---- one archive, in a worker


def _unpacked(stream: _Stream) -> dict[str, Path]:
    """The archive's recordings by name, in the work folder, unless they lie unpacked in the corpus' root."""
    own = stream.root / stream.shard.folder
    if not own.is_dir():
        own = stream.work / "audio"
        shutil.rmtree(own, ignore_errors=True)
        archive = _fetched(stream)
        try:
            unpack.unpack(archive, own, Pace(0.0), unpack.Limits(ratio=0, floor_bytes=_audio_bytes(stream.shard)))
        except unpack.UnusableError as e:
            raise _BadArchiveError(str(e)) from None
        if not archive.is_relative_to(stream.root):
            archive.unlink()
    found: dict[str, Path] = {}
    for path in sorted(p for p in own.rglob("*") if p.is_file()):
        found.setdefault(path.name, path)  # the archive may hold a recording twice
    return found


def _fetched(stream: _Stream) -> Path:
    """The archive: the user's own, or downloaded into the work folder."""
    shard, work = stream.shard, stream.work / "download"
    own = stream.root / shard.file
    if own.is_file():
        return own
    archive = Archive((shard.url,), shard.sha256, n_bytes=shard.n_bytes or None, begins=b"\x1f\x8b")
    archives.fetch([Wanted(shard.file, archive, work / shard.file)], work, stream.key, stream.rules)
    return work / shard.file


def _judged(stream: _Stream, recordings: dict[str, Path]) -> tuple[list[tuple[str, _Utterance]], list[Excerpt]]:
    """The utterances whose recordings can be used, with what features need to know of them; and those that are set aside."""
    good, bad = [], []
    scan = Scan(stream.root, [], "", "")
    heard: dict[str, check.Sound] = {}
    for split, u in stream.utterances:
        name = Path(u.path).name
        path = Path(u.path).relative_to(stream.root).as_posix()
        item: Item = Excerpt(u.id, path, u.speaker, u.text, start_s=u.offset_s, duration_s=u.duration_s)
        if name not in recordings:
            item = item.bad("no audio", f"{stream.shard.file} does not hold it")
        else:
            if name not in heard:
                heard[name] = check.listen(recordings[name])
            sound = excerpts.sound_of(item, heard[name])  # type: ignore[arg-type]
            item = check._judge_sound(item, sound, scan, *stream.limits)
        if item.reason:
            bad.append(item)
        else:
            length_s = sound.n_samples / sound.sample_rate_hz
            good.append((split, replace(u, path=str(recordings[name]), duration_s=length_s, gain=sound.gain)))
    return good, bad  # type: ignore[return-value]


def _near(utterances: tuple[_Utterance, ...], folder: Path) -> tuple[_Utterance, ...]:
    """The same utterances, those of very long recordings in copies of the stretches where they lie."""
    out: list[_Utterance] = []
    for number, (path, group) in enumerate(groupby(utterances, key=lambda u: u.path)):
        some = list(group)
        out += _cut_out(Path(path), some, folder / f"stretch{number}.wav") or some
    return tuple(out)


def _cut_out(path: Path, some: list[_Utterance], target: Path) -> list[_Utterance]:
    """Utterances of a recording in a copy of their stretch, sample by sample; none where that gains nothing or may lose something."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as f:
            rate_hz, begin_s = f.samplerate, math.floor(min(u.offset_s for u in some))
            end = max(round(u.offset_s * rate_hz) + round((u.duration_s or 0.0) * rate_hz) for u in some)
            n = end - begin_s * rate_hz
            if (f.format, f.subtype) != ("WAV", "PCM_16") or f.frames <= STRETCH_S * rate_hz or n > STRETCH_S * rate_hz:
                return []
            f.seek(begin_s * rate_hz)
            samples = f.read(n, dtype="int16", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):  # a header that birq's own reader sees through
        return []
    if len(samples) < n:
        return []
    soundfile.write(target, samples, rate_hz, subtype="PCM_16")
    return [replace(u, path=str(target), offset_s=u.offset_s - begin_s) for u in some]


def _make(stream: _Stream) -> dict[str, Any]:
    """Make the shards of an archive's utterances, unless an earlier run did; returns what is known of them. Its audio is dropped."""
    try:
        if not stream.done.exists():
            stream.work.mkdir(parents=True, exist_ok=True)
            files.write_text(stream.done, json.dumps(_taken(stream) or _made(stream)))
    finally:
        for name in ("audio", "stretches"):
            shutil.rmtree(stream.work / name, ignore_errors=True)
    shutil.rmtree(stream.work / "download", ignore_errors=True)  # until then the next run goes on with what was fetched
    return json.loads(stream.done.read_text(encoding="utf-8"))


def _taken(stream: _Stream) -> dict[str, Any]:
    """What is known of an archive whose shards all lie in an artifact that was damaged elsewhere; empty where one is lacking."""
    meta, made, held = shards.metadata(storage=stream.storage, **stream.settings), [], {row[0] for row in stream.aside}
    for number, (split, shard) in enumerate(stream.spared):
        held |= set(shards.read_ids(shard))
        made.append((split, f"{split}/{number:05d}.parquet", shard))
    if held != {u.id for _, u in stream.utterances}:
        return {}
    for _, file, shard in made:
        files.link(shard, stream.work / file)
    return {"shards": [[split, file, features.facts_of(shard, meta)] for split, file, shard in made], "quarantine": stream.aside, "bad": ""}


def _made(stream: _Stream) -> dict[str, Any]:
    made: dict[str, Any] = {"shards": [], "quarantine": [], "bad": ""}
    try:
        good, bad = _judged(stream, _unpacked(stream))
        made["quarantine"] = [(i.id, i.path, i.reason, i.detail) for i in bad]
        for split, group in groupby(good, key=lambda one: one[0]):
            utterances = (u for _, u in group)
            number = 0
            while some := tuple(islice(utterances, stream.shard_utterances)):
                stretches = stream.work / "stretches"
                shutil.rmtree(stretches, ignore_errors=True)
                stretches.mkdir()
                near = _near(some, stretches)
                task = _Task(stream.corpus, split, number, near, stream.work, stream.settings, stream.storage)
                made["shards"].append([split, str(task.shard.relative_to(stream.work)), features._make_shard(task)])
                number += 1
    except _BadArchiveError as e:
        made["bad"] = str(e)
    return made


# ---- the stage


def _by_archive(corpus: Path) -> Iterator[tuple[str, tuple[tuple[str, _Utterance], ...]]]:
    """(folder of the archive's audio, its utterances by split): the cuts of every split are in the order of the archives."""

    def of(split: str) -> Iterator[tuple[str, str, _Utterance]]:
        for cut in manifests.iter_cuts(corpus, split):
            u = features._utterance(cut)
            yield str(Path(u.path).parent), split, replace(u, duration_s=float(cut.duration))

    merged = heapq.merge(*map(of, manifests.splits(corpus)), key=lambda one: one[0])
    for place, group in groupby(merged, key=lambda one: one[0]):
        # a video's utterances stay together, so that it is read once for many of them
        yield place, tuple(sorted(((split, u) for _, split, u in group), key=lambda one: (one[0], one[1].path, one[1].id)))


def _audio_bytes(shard: Shard) -> int:
    """To which an archive may unpack."""
    return math.ceil(SPARE * shard.recorded_hours * BYTES_PER_HOUR) + LEAST_BYTES


def _stretch_bytes(shard: Shard) -> int:
    """Of disk, for what is cut out of very long recordings at a time."""
    return round(BYTES_PER_HOUR * STRETCH_S / 3600) if shard.recorded_hours > STRETCH_S / 3600 else 0


def _need_bytes(shard: Shard, root: Path) -> int:
    """Of disk, for the archive and its audio."""
    stretches = _stretch_bytes(shard)
    if (root / shard.folder).is_dir():
        return stretches
    fetched = 0 if (root / shard.file).is_file() else shard.n_bytes
    return fetched + _audio_bytes(shard) + stretches


def _workers(table: list[Shard], root: Path, section: Any, key: str, n: int) -> int:
    """As many as have room on the disk. Errors: BirqError where one archive alone has none."""
    need, largest = max((_need_bytes(shard, root), shard.shard) for shard in table)
    most = int(section.max_disk_gb * GB)
    if need > most:
        raise BirqError(
            f"{key}: {largest} takes {need / GB:.3g} GB of disk while it is read, {key}.max_disk_gb is {section.max_disk_gb:g}; "
            f"set it to {math.ceil(need / GB * 100) / 100:g} or more, or take other shards"
        )
    enough = 1 + int(sum(shard.hours for shard in table) / features.HOURS_PER_WORKER)
    return max(1, min(len(os.sched_getaffinity(0)), n, most // max(need, 1), enough))


class _Spared:
    """What is sound of an artifact that was damaged."""

    def __init__(self, folder: Path) -> None:
        found = sorted(folder.glob("*/*.parquet"))
        self.by_first = {next(iter(shards.read_ids(path)), ""): (path.parent.name, path) for path in found}
        table = folder / "quarantine.tsv"
        self.rows = {row[0]: row for row in manifests.read_quarantine(table)} if table.exists() else {}

    def shards(self, ids: set[str]) -> tuple[tuple[str, Path], ...]:
        """Those of an archive's utterances, in order: a shard holds utterances of one archive."""
        return tuple(sorted(about for first, about in self.by_first.items() if first in ids))

    def aside(self, ids: set[str]) -> tuple[tuple[str, ...], ...]:
        return tuple(row for id, row in self.rows.items() if id in ids)


def _streams(job: Job, part: Part | None) -> tuple[int, Iterator[tuple[_Stream, dict[str, Any]]]]:
    """Number of workers, and the archives as they are done, with progress shown: all of them, or every N-th for part (I, N)."""
    settings, corpus, name = job.read("features"), job.input("corpus"), job.wildcards["corpus"]
    section, root, key = job.node.params.corpora[name], manifests.audio_root(corpus), f"corpora.{name}"  # where and how fast: in no key
    first, step = (0, 1) if part is None else (part[0] - 1, part[1])
    table = [one for one in archived.read(corpus) if one.utterances and not one.problem]
    n = len(table[first::step])
    workers = _workers(table, root, section, key, max(n, 1))
    rules = Rules.of(section)
    rules = replace(rules, offline=rules.offline or not section.download, bytes_per_second=rules.bytes_per_second / workers, at_once=1)
    common = {"key": key, "root": root, "rules": rules, "corpus": corpus, "storage": settings.storage}
    common |= {"settings": {k: getattr(settings, k) for k in KERNEL}, "shard_utterances": settings.shard_utterances}
    common |= {"limits": (settings.min_seconds, settings.max_seconds)}
    shard_by_folder = {str(root / one.folder): one for one in table}
    spared = _Spared(job.scratch / SPARED)

    def streams() -> Iterator[_Stream]:
        for place, utterances in _by_archive(corpus):
            shard, ids = shard_by_folder[place], {u.id for _, u in utterances}
            work = job.scratch / "streams" / shard.shard.replace("/", "-")
            yield _Stream(shard, utterances=utterances, work=work, spared=spared.shards(ids), aside=spared.aside(ids), **common)

    def made() -> Iterator[tuple[_Stream, dict[str, Any]]]:
        title = f"features {name}" + (f" part {part[0]}/{part[1]}" if part else "")
        progress, seconds, before = Progress(title, n, "archive"), 0.0, time.monotonic()
        for done, (stream, facts) in enumerate(pool.results(_make, islice(streams(), first, None, step), workers, KILLED), 1):
            seconds += sum(f["seconds"] for _, _, f in facts["shards"])
            progress.update(done, hours=seconds / 3600, speed_h_per_h=seconds / max(time.monotonic() - before, 1e-3))
            yield stream, facts
        progress.close()

    return workers, made()


def compute_part(job: Job, part: Part) -> None:
    """Part (I, N) of the archives, left in the scratch folder, where `compute` finds what was made. Other machines make the other parts."""
    for _ in _streams(job, part)[1]:
        pass


def compute(job: Job) -> None:
    """The stage: archives to shards of log-mel per split, `stats.json`, `splits.json`, and `quarantine.tsv` of what could not be used.

    A killed run finds the archives that were done in the scratch folder. Errors: BirqError where too many archives or utterances cannot be
    used, one takes more disk than max_disk_gb, one cannot be had, or a worker was killed.
    """
    name, corpus = job.wildcards["corpus"], job.input("corpus")
    most_share, key = manifests.info(corpus)["shards"]["max_bad_share"], f"corpora.{name}"
    workers, made = _streams(job, None)
    known = archived.read(corpus)
    bad = {one.shard: one.problem for one in known if one.problem}
    done: dict[str, tuple[Path, dict[str, Any]]] = {}
    n_utterances = 0
    for stream, facts in made:
        if facts["bad"]:
            bad[stream.shard.shard] = f"{stream.shard.file} cannot be unpacked ({facts['bad']})"
            if len(bad) > most_share * len(known):  # told at once, not after days of downloads
                archived.refuse(bad, len(known), most_share, key)
        else:
            n_utterances += len(stream.utterances)
        done[stream.shard.shard] = (stream.work, facts)
    archived.refuse(bad, len(known), most_share, key)
    ordered = [done[shard] for shard in sorted(done)]
    _set_aside(job, ordered, bad, n_utterances, key)
    facts_by_split: dict[str, list[dict[str, Any]]] = {}
    for work, facts in ordered:
        for split, file, about in facts["shards"]:
            target = job.out / split / f"{len(facts_by_split.setdefault(split, [])):05d}.parquet"
            facts_by_split[split].append(about)
            files.link(work / file, target)  # scratch keeps its own, should publishing be interrupted
    summary = {split: features.summarise(facts_by_split[split]) for split in manifests.splits(corpus) if split in facts_by_split}
    if not summary:
        raise BirqError(f"{key}: no utterance of {n_utterances} can be used; see {job.scratch / 'quarantine.tsv'}")
    features._write_json(job.out / "splits.json", summary)
    features._write_json(job.out / "stats.json", features.statistics(facts_by_split.get("train", [])))
    hours = sum(s["hours"] for s in summary.values())
    job.notes.update(device="cpu", workers=workers, hours=hours, archives=len(done), bad_shards=len(bad))


def _set_aside(job: Job, ordered: list[tuple[Path, dict[str, Any]]], bad: dict[str, str], n_utterances: int, key: str) -> None:
    """Write what was set aside. Errors: BirqError where it is too much; bad archives have a limit of their own."""
    rows = [tuple(row) for _, facts in ordered for row in facts["quarantine"]]
    table = [(shard, "", "bad shard", problem) for shard, problem in sorted(bad.items())] + rows
    for place in (job.scratch, job.out):
        manifests.write_quarantine(place / "quarantine.tsv", table)
    items = [Item(id, path, "").bad(reason, detail) for id, path, reason, detail in rows]
    folder.refuse(items, n_utterances, job.read("features").max_quarantined_share, job.scratch / "quarantine.tsv", key)
