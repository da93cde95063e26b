"""Decode every recording once. A recording that cannot be used is set aside with a reason, before any number is computed from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from birq import files
from birq.corpora.items import Item, Scan
from birq.progress import Progress
from birq.speech import audio
from birq.text.characters import named
from birq.text.normal import Normaliser

CHUNK = 256  # recordings whose findings are kept together over a kill
LOWEST_RATE_HZ = 8000
SILENT = 3e-4  # half of the distance from the lowest to the highest sample: 10 steps of 16 bits
CANCELLED = 1e-3  # power of the channels' mean over theirs: independent channels have 1 / their number
LOUDEST = 4.0  # floats beyond 1 are legal, a mix may have them
LEAST_INT16 = 256.0  # floats of at least this peak, and at most 32768, are 16-bit integers; between the two nothing is sure
MOST_CHARACTERS_PER_S = 40.0  # fast speech has 25; more means that the transcript, or the header's rate, is another recording's


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded file's facts. `reason` is set where the file cannot be used."""

    sample_rate_hz: int = 0
    channels: int = 0
    n_samples: int = 0
    sha256: str = ""
    gain: float = 1.0  # features are made of the samples times this
    reason: str | None = None
    detail: str = ""


@dataclass
class _Level:
    """What the samples' values say, gathered over blocks."""

    finite: bool = True
    peak: float = 0.0  # of any channel
    low: float = np.inf  # of the mean of the channels, which is what features see
    high: float = -np.inf
    power: float = 0.0  # sum of squares of that mean
    channels_power: float = 0.0  # sum of squares, mean over the channels

    def add(self, block: np.ndarray) -> None:
        """A block [n, channels]."""
        if not np.isfinite(block).all():
            self.finite = False
            return
        wave = audio.mono(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self.low, self.high = min(self.low, float(wave.min())), max(self.high, float(wave.max()))
        self.power += float(np.square(wave, dtype=np.float64).sum())
        self.channels_power += float(np.square(block, dtype=np.float64).mean(axis=1).sum())


def listen(path: Path) -> Sound:
    """Decode a whole file in pieces, as features will; never raises."""
    level, rates, channels, got, is_float = _Level(), set(), 0, 0, False
    try:
        for about, block in audio.decode(path):
            rates.add(about.sample_rate_hz)
            channels, is_float = max(channels, about.channels), is_float or about.is_float
            if len(block):
                got += len(block)
                level.add(block)
        with open(path, "rb") as f:
            sha = hashlib.file_digest(f, "sha256").hexdigest()
    except audio.AudioError as e:
        return Sound(reason=e.reason, detail=e.detail.replace(str(path), "the file"))
    except OSError as e:
        return Sound(reason="unreadable", detail=e.strerror or str(e))
    if not got:
        return Sound(sha256=sha, reason="empty", detail="no samples")
    sound = Sound(max(rates), channels, got, sha)
    if len(rates) > 1:
        return replace(sound, reason="wrong rate", detail=f"the rate changes inside the file: {sorted(rates)} Hz")
    return _judge_level(sound, level, is_float)


def _judge_level(sound: Sound, level: _Level, is_float: bool) -> Sound:
    """Set a sound aside that holds no speech, whatever its length is; scale floats that are 16-bit integers."""
    if not level.finite:
        return replace(sound, reason="non-finite samples")
    if is_float and level.peak > LOUDEST:
        if not LEAST_INT16 <= level.peak <= 32768:
            return replace(sound, reason="wrong scale", detail=f"samples up to {level.peak:.6g}; floats lie between -1 and 1")
        sound = replace(sound, gain=1 / 32768)
    if level.channels_power and level.power < CANCELLED * level.channels_power:
        return replace(sound, reason="channels cancel each other", detail="their mean is nearly silent; keep one of them")
    if (swing := (level.high - level.low) / 2 * sound.gain) < SILENT:
        return replace(sound, reason="silent", detail=f"samples swing by {swing:.2g} around {(level.high + level.low) / 2:.3g}")
    return sound


def listen_all(scan: Scan, name: str, scratch: Path, workers: int | None = None) -> dict[str, Sound]:
    """Decode every file of the scan in parallel: path -> sound. Finished chunks are kept in `scratch`."""
    paths = list(dict.fromkeys(i.path for i in scan.items if i.path and not i.reason))
    kept = scratch / "checked"
    kept.mkdir(parents=True, exist_ok=True)
    progress = Progress(f"corpus {name}", len(paths), "recording")
    sounds_by_path: dict[str, Sound] = {}
    hours = 0.0
    # decoding and hashing leave Python's lock, so threads are enough
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for begin in range(0, len(paths), CHUNK):
            chunk = paths[begin : begin + CHUNK]
            record = kept / f"{begin // CHUNK:06d}.json"
            if record.exists():
                sounds = [Sound(**s) for s in json.loads(record.read_text(encoding="utf-8"))]
            else:
                sounds = list(pool.map(lambda p: listen(scan.root / p), chunk))
                files.write_text(record, json.dumps([asdict(s) for s in sounds]))
            sounds_by_path.update(zip(chunk, sounds, strict=True))
            hours += sum(s.n_samples / max(s.sample_rate_hz, 1) for s in sounds) / 3600
            progress.update(len(sounds_by_path), hours=hours)
    progress.close()
    return sounds_by_path


def _judge_text(item: Item, normaliser: Normaliser) -> Item:
    if item.text is None or item.reason:
        return item
    normal = normaliser(item.text)
    text = normal.text
    item = replace(item, text=text, written=item.text, changes=normal.changes)
    if normal.annotations and normaliser.annotations == "quarantine":
        return item.bad("annotation in the transcript", f"{' '.join(normal.annotations)} in {item.written!r}")
    if not text:
        return item.bad("empty transcript", f"nothing is left of {item.written!r}" if item.written else "")
    if strange := normaliser.outside(text):
        return item.bad("characters outside tokenizer.alphabet", f"{named(strange)} in {text!r}")
    return item


def _judge_sound(item: Item, sound: Sound, scan: Scan, min_seconds: float, max_seconds: float) -> Item:
    if sound.reason:
        return item.bad(sound.reason, sound.detail)
    rate = sound.sample_rate_hz
    if scan.sample_rate_hz and rate != scan.sample_rate_hz:
        return item.bad("wrong rate", f"{rate} Hz, this corpus has {scan.sample_rate_hz} Hz; `kind: local` takes any rate")
    if rate < LOWEST_RATE_HZ:
        return item.bad("wrong rate", f"{rate} Hz, speech needs at least {LOWEST_RATE_HZ} Hz")
    duration_s = sound.n_samples / rate
    if duration_s < min_seconds:
        return item.bad("too short", f"{duration_s:.3f} s, features.min_seconds is {min_seconds:g}")
    if duration_s > max_seconds:
        return item.bad("too long", f"{duration_s:.1f} s, features.max_seconds is {max_seconds:g}")
    if item.text and len(item.text) > MOST_CHARACTERS_PER_S * duration_s:
        return item.bad("transcript too long for the recording", f"{len(item.text)} characters in {duration_s:.2f} s")
    return item


def judge(
    scan: Scan, sound_of: Callable[[Any], Sound | None], normaliser: Normaliser, min_seconds: float, max_seconds: float
) -> tuple[list[Item], list[Item]]:
    """Part the items into (good, bad), transcripts of the good ones in their normal form. `sound_of`: an item's sound, where it has one."""
    good, bad = [], []
    seen: Counter[str] = Counter()
    for item in scan.items:
        if not item.reason:
            seen[item.id] += 1
        if seen[item.id] > 1:
            item = item.bad("duplicate id", f"occurrence {seen[item.id]} of {item.id!r}; the first one is kept")
        if not item.path:
            item = item.bad("no audio", "a transcript without its recording")
        item = _judge_text(item, normaliser)
        if not item.reason and (sound := sound_of(item)):
            item = _judge_sound(item, sound, scan, min_seconds, max_seconds)
        (bad if item.reason else good).append(item)
    return good, bad
