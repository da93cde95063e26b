"""Corpora of long recordings, of which only annotated stretches of time are utterances: a cut is a segment of its recording.

Recordings are decoded once, for all their segments; no audio is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birq.corpora import alignments, check, folder, manifests, splits
from birq.corpora.check import Sound
from birq.corpora.items import Item, Limits, Scan
from birq.errors import BirqError
from birq.progress import say
from birq.settings.corpora import FolderCorpus
from birq.text.normal import Normaliser

NONE_LEFT = "no segment is left of"


@dataclass(frozen=True)
class Segment(Item):
    """An utterance in the recording `path`, from `start_s` to `end_s`. `part`: a condition whose error rate is of interest by itself."""

    start_s: float = 0.0
    end_s: float = 0.0
    part: str = ""


def _fits(item: Segment, sound: Sound, scan: Scan, limits: Limits) -> Segment:
    """The segment, or set aside where its recording has no such samples."""
    if sound.reason:
        return item.bad(sound.reason, sound.detail)  # type: ignore[return-value]
    rate, bad = sound.sample_rate_hz, ("", "")
    length_s, duration_s = sound.n_samples / rate, item.end_s - item.start_s
    if scan.sample_rate_hz and rate != scan.sample_rate_hz:
        bad = ("wrong rate", f"{rate} Hz, this corpus has {scan.sample_rate_hz} Hz")
    elif duration_s <= 0:
        bad = ("no duration", f"{item.start_s:.2f} to {item.end_s:.2f} s")
    elif item.start_s < 0 or item.end_s > length_s:
        bad = ("segment outside of its recording", f"{item.start_s:.2f} to {item.end_s:.2f} s, the recording has {length_s:.2f} s")
    elif duration_s < limits.min_seconds:
        bad = ("too short", f"{duration_s:.3f} s, features.min_seconds is {limits.min_seconds:g}")
    elif duration_s > limits.max_seconds:
        bad = ("too long", f"{duration_s:.1f} s, features.max_seconds is {limits.max_seconds:g}")
    return item.bad(*bad) if bad[0] else item  # type: ignore[return-value]


def cut(item: Segment, sound: Sound) -> dict[str, Any]:
    """The lhotse cut of a segment, with its part in `custom`."""
    recording = Path(item.path).stem
    about = (sound.sample_rate_hz, sound.n_samples, item.speaker, item.text, sound.sha256, sound.channels, sound.gain)
    made = manifests.cut(recording, item.path, *about)
    duration_s = round(item.end_s - item.start_s, 4)
    made |= {"id": item.id, "start": round(item.start_s, 4), "duration": duration_s}
    made["supervisions"][0] |= {"id": item.id, "duration": duration_s}
    made["custom"] |= {"part": item.part} if item.part else {}
    return made


def judge(scan: Scan, sounds: dict[str, Sound], normaliser: Normaliser, limits: Limits) -> tuple[list[Segment], list[Item]]:
    """Part the segments into (good, bad), transcripts of the good ones in their normal form."""
    read, bad = check.judge(scan, {}, normaliser, limits.min_seconds, limits.max_seconds)  # ids and texts
    good: list[Segment] = []
    for item in read:
        assert isinstance(item, Segment)
        item = _fits(item, sounds[item.path], scan, limits)
        (bad if item.reason else good).append(item)
    return good, bad


def prepare(
    scan: Callable[[Any, str], Scan], name: str, corpus: FolderCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits
) -> None:
    """Scan, decode, judge, split, write, as `folder.prepare` does for whole recordings. `scan` returns segments; their splits are fixed.

    Errors: BirqError where more segments are set aside than `limits` allow, or none is left.
    """
    key, table = f"corpora.{name}", scratch / "quarantine.tsv"
    scanned = scan(corpus, key)
    sounds = check.listen_all(scanned, name, scratch)
    normaliser = Normaliser(alphabet, limits.language, corpus.annotations, scanned.quotation_marks)
    good, bad = judge(scanned, sounds, normaliser, limits)
    rows = [(i.id, i.path, i.reason or "", i.detail) for i in bad]
    manifests.write_quarantine(table, rows)
    folder._refuse(bad, len(scanned.items), limits.max_quarantined_share, table, key)
    if not good:
        raise BirqError(f"{key}: {NONE_LEFT} {len(scanned.items)}; see {table}")
    if several := sorted({i.path for i in good if sounds[i.path].channels > 1}):
        say(f"{key}: several channels in {len(several)} of the recordings, such as {several[0]}; their mean is used")
    changes = folder.text_changes(good)  # type: ignore[arg-type]
    cuts: dict[str, list[dict]] = {s: [] for s in manifests.SPLITS}
    for item in splits.assign(good, corpus.dev_share, corpus.test_share, corpus.split_seed, key):  # type: ignore[arg-type]
        assert isinstance(item, Segment)
        cuts[str(item.split)].append(cut(item, sounds[item.path]))
    manifests.write_quarantine(out / "quarantine.tsv", rows)
    manifests.write_corpus(
        out,
        name=name,
        kind=corpus.kind,  # type: ignore[attr-defined]
        synthetic=False,
        licence=scanned.licence,
        source=scanned.source,
        audio_root=scanned.root.as_posix(),
        cuts=cuts,
        quarantined=len(bad),
        text_changes=changes,
    )
    folder._tell_changes(name, changes)
    if corpus.alignments:
        ids = {i.id for i in good}
        times = [row for path in corpus.alignment_files() for row in alignments.read(path, ids)]
        manifests.write_alignments(out / "alignments.parquet", sorted(times, key=lambda r: r[:3]))
