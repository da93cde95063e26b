"""The features stage: a corpus' cuts to Parquet shards of log-mel, with parallel workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from birq import files
from birq.corpora import manifests
from birq.errors import BirqError
from birq.pipeline import pool
from birq.pipeline.stage import SPARED, Job, Part
from birq.progress import Progress
from birq.speech import audio, pieces, shards
from birq.speech.fbank import fbank
from birq.speech.frontend import KERNEL

PIECES_AT_ONCE = 64  # of one recording, decoded in one pass; they lie in memory together
HOURS_PER_WORKER = 0.5  # of audio: below it, starting a process takes longer than the work
KILLED = "features: a worker process was killed (out of memory?); finished shards are kept, run again"


# ---- one shard, in a worker


@dataclass(frozen=True)
class _Utterance:
    id: str
    speaker: str
    text: str | None
    path: str
    offset_s: float
    duration_s: float | None  # None: to the end
    gain: float
    channels: tuple[int, ...] | None = None  # positions in the file; None: all


@dataclass(frozen=True)
class _Task:
    corpus: Path
    split: str
    number: int
    utterances: tuple[_Utterance, ...]
    folder: Path
    settings: dict[str, Any]
    storage: str

    @property
    def shard(self) -> Path:
        return self.folder / self.split / f"{self.number:05d}.parquet"

    @property
    def facts(self) -> Path:
        return self.shard.with_suffix(".json")

    @property
    def spared(self) -> Path:
        """The same shard of an artifact that was damaged elsewhere."""
        return self.folder / SPARED / self.split / self.shard.name


class Facts:
    """What `splits.json` and `stats.json` need to know of a shard, gathered while its rows pass."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.step_nat = meta["step_nat"]
        self.total_F, self.square_F = np.zeros(meta["n_mels"]), np.zeros(meta["n_mels"])
        self.counts: dict[str, Any] = {"utterances": 0, "frames": 0, "seconds": 0.0, "labelled_utterances": 0, "labelled_seconds": 0.0}
        self.speakers: set[str] = set()

    def passing(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same rows."""
        for row in rows:
            exact_TF = row["fbank"].astype(np.float64)
            np.add(self.total_F, exact_TF.sum(axis=0), out=self.total_F)
            np.add(self.square_F, np.einsum("tf,tf->f", exact_TF, exact_TF), out=self.square_F)
            labelled = row["text"] is not None
            self.counts["utterances"] += 1
            self.counts["frames"] += len(row["fbank"])
            self.counts["seconds"] += row["duration_s"]
            self.counts["labelled_utterances"] += labelled
            self.counts["labelled_seconds"] += row["duration_s"] if labelled else 0.0
            self.speakers.add(row["speaker"])
            yield row

    def all(self) -> dict[str, Any]:
        total_F, square_F = self.total_F * self.step_nat, self.square_F * self.step_nat**2
        return self.counts | {"speakers": sorted(self.speakers), "total": total_F.tolist(), "square": square_F.tolist()}


def _waves(task: _Task) -> Iterator[tuple[_Utterance, np.ndarray]]:
    """The utterances and their samples [n]; a recording that several of them in a row are cut from is decoded once for all of them."""
    rate_hz = task.settings["sample_rate_hz"]
    for path, group in groupby(task.utterances, key=lambda u: u.path):
        while some := list(islice(group, PIECES_AT_ONCE)):
            if len(some) == 1 and some[0].channels is None:
                yield some[0], audio.read(path, rate_hz, some[0].offset_s, some[0].duration_s)
            else:
                yield from zip(some, pieces.read(path, rate_hz, some), strict=True)


def facts_of(shard: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """The facts of a shard that is there."""
    facts = Facts(meta)
    for _ in facts.passing(shards.read_rows(shard)):
        pass
    return facts.all()


def _make_shard(task: _Task) -> dict[str, Any]:
    """Write a shard, unless an earlier run did, and return the facts about its content."""
    if task.facts.exists() and task.shard.exists():
        return json.loads(task.facts.read_text(encoding="utf-8"))
    meta = shards.metadata(storage=task.storage, **task.settings)
    if task.spared.exists():
        files.link(task.spared, task.shard)
        facts = facts_of(task.shard, meta)
    else:
        passing = Facts(meta)
        shards.write_shard(task.shard, passing.passing(_rows(task, meta)), meta)
        facts = passing.all()
    files.write_text(task.facts, json.dumps(facts))
    return facts


def _rows(task: _Task, meta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for u, samples in _waves(task):
        wave = samples * np.float32(u.gain)
        logmel_TF = fbank(wave, task.settings).numpy()
        if not len(logmel_TF) or not np.isfinite(logmel_TF).all():
            why = f"{len(wave)} samples are less than one frame" if not len(logmel_TF) else "samples that are not finite numbers"
            raise BirqError(f"{u.path} ({u.id}): {why}; it changed after the corpus was checked; delete {task.corpus} and run again")
        duration_s = len(wave) / task.settings["sample_rate_hz"]
        yield {"id": u.id, "speaker": u.speaker, "text": u.text, "duration_s": duration_s, "fbank": shards.encode(logmel_TF, meta)}


# ---- the stage


def _tasks(corpus: Path, splits: list[str], folder: Path, settings: Any) -> Iterator[_Task]:
    seen: set[str] = set()
    common = {"folder": folder, "settings": {key: getattr(settings, key) for key in KERNEL}, "storage": settings.storage}
    for split in splits:
        number, held = 0, []
        for cut in manifests.iter_cuts(corpus, split):
            if cut.id in seen:
                raise BirqError(f"{corpus / split}.jsonl: utterance id {cut.id!r} occurs twice; ids must be unique within a corpus")
            seen.add(cut.id)
            held.append(_utterance(cut))
            if len(held) == settings.shard_utterances:
                yield _Task(corpus, split, number, tuple(held), **common)
                number, held = number + 1, []
        if held:
            yield _Task(corpus, split, number, tuple(held), **common)


def _utterance(cut: Any) -> _Utterance:
    supervision = cut.supervisions[0] if cut.supervisions else None
    whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-6
    source = cut.recording.sources[0]
    wanted = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    return _Utterance(
        id=cut.id,
        speaker=(supervision.speaker if supervision else None) or "unknown",
        text=supervision.text if supervision else None,
        path=str(source.source),
        offset_s=float(cut.start),
        duration_s=None if whole else float(cut.duration),
        gain=(cut.custom or {}).get("gain", 1.0),
        channels=None if wanted == list(source.channels) else tuple(source.channels.index(c) for c in wanted),
    )


def summarise(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """One split's line of splits.json, from its shards' facts in order."""
    return {
        "utterances": sum(f["utterances"] for f in facts),
        "speakers": len({s for f in facts for s in f["speakers"]}),
        "hours": sum(f["seconds"] for f in facts) / 3600,
        "labelled_utterances": sum(f["labelled_utterances"] for f in facts),
        "labelled_hours": sum(f["labelled_seconds"] for f in facts) / 3600,
        "frames": sum(f["frames"] for f in facts),
        "shards": len(facts),
    }


def statistics(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames, mean and variance per bin, from the shards' sums; padding is in none of them."""
    n_frames = sum(f["frames"] for f in facts)
    if not n_frames:
        return {"n_frames": 0}
    mean_F = np.sum([f["total"] for f in facts], axis=0) / n_frames
    var_F = np.sum([f["square"] for f in facts], axis=0) / n_frames - mean_F**2
    return {"n_frames": n_frames, "mean": mean_F.tolist(), "var": np.maximum(var_F, 0).tolist()}


def _shards(job: Job, part: Part | None) -> tuple[int, Iterator[tuple[_Task, dict[str, Any]]]]:
    """Number of workers, and the shards as they are done, with progress shown: all of them, or every N-th for part (I, N)."""
    settings, corpus, name = job.read("features"), job.input("corpus"), job.wildcards["corpus"]
    first, step = (0, 1) if part is None else (part[0] - 1, part[1])
    splits, counts = manifests.splits(corpus), manifests.info(corpus)["splits"]
    total = sum(counts[s]["utterances"] for s in splits) // step
    n_shards = sum(-(-counts[s]["utterances"] // settings.shard_utterances) for s in splits)
    hours = sum(counts[s]["hours"] for s in splits) / step
    workers = max(1, min(len(os.sched_getaffinity(0)), -(-n_shards // step), 1 + int(hours / HOURS_PER_WORKER)))

    def made() -> Iterator[tuple[_Task, dict[str, Any]]]:
        title = f"features {name}" + (f" part {part[0]}/{part[1]}" if part else "")
        progress, done, seconds, before = Progress(title, total, "utterance"), 0, 0.0, time.monotonic()
        tasks = islice(_tasks(corpus, splits, job.scratch, settings), first, None, step)
        for task, facts in pool.results(_make_shard, tasks, workers, KILLED):
            done, seconds = done + facts["utterances"], seconds + facts["seconds"]
            progress.update(done, hours=seconds / 3600, speed_h_per_h=seconds / max(time.monotonic() - before, 1e-3))
            yield task, facts
        progress.close()

    return workers, made()


def compute_part(job: Job, part: Part) -> None:
    """Part (I, N) of the stage's shards, left in the scratch folder, where `compute` finds them. Other machines make the other parts."""
    for _ in _shards(job, part)[1]:
        pass


def compute(job: Job) -> None:
    """The stage: a corpus' cuts to shards per split, `stats.json` of the train split, `splits.json`.

    A killed run finds its finished shards in the scratch folder. Errors: BirqError for an id that occurs twice, audio that has become
    unreadable, a worker that was killed.
    """
    workers, made = _shards(job, None)
    finished: dict[str, dict[int, tuple[_Task, dict[str, Any]]]] = {s: {} for s in manifests.splits(job.input("corpus"))}
    for task, facts in made:
        finished[task.split][task.number] = (replace(task, utterances=()), facts)  # without its utterances, which are not needed any more
    ordered = {split: [by_number[n] for n in sorted(by_number)] for split, by_number in finished.items()}
    for tasks in ordered.values():
        for task, _ in tasks:
            files.link(task.shard, job.out / task.split / task.shard.name)  # scratch keeps its own, should publishing be interrupted
    facts_by_split = {split: [f for _, f in tasks] for split, tasks in ordered.items()}
    summary = {split: summarise(facts) for split, facts in facts_by_split.items() if facts}
    _write_json(job.out / "splits.json", summary)
    _write_json(job.out / "stats.json", statistics(facts_by_split.get("train", [])))
    job.notes.update(device="cpu", workers=workers, hours=sum(s["hours"] for s in summary.values()))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
