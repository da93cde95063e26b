"""Decode every recording once. A recording that cannot be used is set aside with a reason, before any number is computed from it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from birq import files
from birq.corpora.items import Item, Scan
from birq.progress import Progress
from birq.text.characters import named
from birq.text.normal import Normaliser

BLOCK_FRAMES = 1 << 18
CHUNK = 256  # recordings whose findings are kept together over a kill
LOWEST_RATE_HZ = 8000
MOST_CHARACTERS_PER_S = 40.0  # fast speech has 25; more means that the transcript, or the header's rate, is another recording's


@dataclass(frozen=True)
class Sound:
    """A decoded file's facts. `reason` is set where the file cannot be used."""

    sample_rate_hz: int = 0
    channels: int = 0
    n_samples: int = 0
    sha256: str = ""
    reason: str | None = None
    detail: str = ""


def _missing_wav_bytes(path: Path) -> int:
    """Bytes that a RIFF file's data chunk promises beyond the end of the file (decoders shorten such files silently)."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        if f.read(4) != b"RIFF" or not f.seek(8) or f.read(4) != b"WAVE":
            return 0
        while len(header := f.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                # a stream writer that could not go back leaves 0 or the largest number
                return 0 if length in (0, 0xFFFFFFFF) else max(0, f.tell() + length - size)
            f.seek(length + length % 2, 1)
    return 0


def listen(path: Path) -> Sound:
    """Decode a whole file in pieces; never raises."""
    import numpy as np
    import soundfile

    try:
        with open(path, "rb") as f:
            sha = hashlib.file_digest(f, "sha256").hexdigest()
        if not path.stat().st_size:
            return Sound(sha256=sha, reason="empty", detail="0 bytes")
        with soundfile.SoundFile(str(path)) as f:
            rate, channels, promised, got = f.samplerate, f.channels, f.frames, 0
            finite = True
            while len(block := f.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                got += len(block)
                finite = finite and bool(np.isfinite(block).all())
        missing = _missing_wav_bytes(path)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as e:
        return Sound(reason="unreadable", detail=" ".join(str(e).split()).replace(str(path), "the file"))
    sound = Sound(rate, channels, got, sha)
    if got < promised:
        return replace(sound, reason="truncated", detail=f"{got} samples, the header says {promised}")
    if missing:
        return replace(sound, reason="truncated", detail=f"{missing} bytes are missing at the end")
    if got > promised:
        return replace(sound, reason="wrong duration", detail=f"{got} samples, the header says {promised}")
    if not got:
        return replace(sound, reason="empty", detail="no samples")
    if not finite:
        return replace(sound, reason="non-finite samples")
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
    scan: Scan, sounds: dict[str, Sound], normaliser: Normaliser, min_seconds: float, max_seconds: float
) -> tuple[list[Item], list[Item]]:
    """Part the items into (good, bad), transcripts of the good ones in their normal form."""
    good, bad = [], []
    seen: Counter[str] = Counter()
    for item in scan.items:
        seen[item.id] += 1
        if seen[item.id] > 1:
            item = item.bad("duplicate id", f"occurrence {seen[item.id]} of {item.id!r}; the first one is kept")
        if not item.path:
            item = item.bad("no audio", "a transcript without its recording")
        item = _judge_text(item, normaliser)
        if item.path in sounds and not item.reason:
            item = _judge_sound(item, sounds[item.path], scan, min_seconds, max_seconds)
        (bad if item.reason else good).append(item)
    return good, bad
