"""Utterances cut from recordings: a start, a length and channels of a file. Judged as utterances of their own, written as lhotse cuts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from birq.corpora import alignments, check, folder, manifests, splits
from birq.corpora.check import Sound
from birq.corpora.items import Item, Limits, Scan
from birq.progress import say
from birq.settings.corpora import FolderCorpus
from birq.text.normal import Normaliser

DRIFT_S = 0.5  # between the length that is written and the file's: decoders disagree about the edges of MP3, not about more
PAST_END_S = 0.01  # a frame: times are rounded when they are written
SILENCES = alignments.SILENCES | {"h#", "#h", "pau", "epi"}  # TIMIT's as well
HELD_OUT = ("test", "dev")  # the first one keeps a speaker that both have


@dataclass(frozen=True, slots=True)
class Said:
    """A phone or a word, with its time in the recording."""

    symbol: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Excerpt(Item):
    """An item that is a part of a recording."""

    recording: str = ""  # its id
    start_s: float = 0.0
    duration_s: float | None = None  # None: the whole file
    channels: tuple[int, ...] = ()  # positions in the file, averaged; empty: all
    written_rate_hz: int = 0  # of the file, by the manifest; 0: not known
    written_s: float = 0.0  # its length
    written_channels: int = 0
    phones: tuple[Said, ...] = ()
    words: tuple[Said, ...] = ()
    part: str = ""  # a condition whose error rate is of interest by itself, such as a microphone


def sound_of(excerpt: Excerpt, sound: Sound) -> Sound:
    """The facts of an excerpt, from those of its file."""
    if sound.reason:
        return sound
    rate_hz, length_s = sound.sample_rate_hz, sound.n_samples / sound.sample_rate_hz
    if excerpt.written_rate_hz not in (0, rate_hz):
        return replace(sound, reason="wrong rate", detail=f"{rate_hz} Hz, the manifest says {excerpt.written_rate_hz} Hz")
    if excerpt.written_s and abs(excerpt.written_s - length_s) > DRIFT_S:
        return replace(sound, reason="wrong duration", detail=f"{length_s:.3f} s, the manifest says {excerpt.written_s:.3f} s")
    if excerpt.written_channels not in (0, sound.channels):
        return replace(sound, reason="wrong channels", detail=f"{sound.channels}, the manifest says {excerpt.written_channels}")
    if excerpt.channels and max(excerpt.channels) >= sound.channels:
        return replace(sound, reason="no such channel", detail=f"number {max(excerpt.channels)} of {sound.channels}, counted from 0")
    if excerpt.duration_s is None:
        return sound
    begin, end = (round(t * rate_hz) for t in (excerpt.start_s, excerpt.start_s + excerpt.duration_s))
    if begin < 0 or end <= begin or begin >= sound.n_samples or end - sound.n_samples > PAST_END_S * rate_hz:
        times = f"{excerpt.start_s:.3f} to {excerpt.start_s + excerpt.duration_s:.3f} s of a file of {length_s:.3f} s"
        return replace(sound, reason="outside of its recording", detail=times)
    return replace(sound, n_samples=min(end, sound.n_samples) - begin)


def judge(scan: Scan, heard: dict[str, Sound], form: Normaliser, limits: Limits) -> tuple[list[Excerpt], list[Item], dict[str, Sound]]:
    """(good, bad, sound by id of the good). An excerpt is judged as a file of its length would be."""

    def sound(item: Any) -> Sound | None:
        return sound_of(item, heard[item.path]) if item.path in heard else None

    good, bad = check.judge(scan, sound, form, limits.min_seconds, limits.max_seconds)
    return good, bad, {i.id: sound_of(i, heard[i.path]) for i in good}  # type: ignore[arg-type, return-value]


def without_crossing(items: Iterable[Excerpt]) -> list[Excerpt]:
    """Set aside what a speaker says in training and is also held out, or in dev and is also in test."""
    items = list(items)
    of = {split: {i.speaker for i in items if i.split == split and not i.reason} for split in HELD_OUT}
    out = []
    for item in items:
        for split in HELD_OUT[: HELD_OUT.index(item.split)] if item.split in HELD_OUT else HELD_OUT:
            if item.speaker in of[split]:
                item = item.bad("speaker is held out", f"{item.speaker} is in {split} as well")
        out.append(item)
    return out


def recording_of(excerpt: Excerpt, file: Sound) -> dict[str, Any]:
    """An excerpt's lhotse recording as a plain dict."""
    of = excerpt.recording or excerpt.id
    whole = manifests.cut(of, excerpt.path, file.sample_rate_hz, file.n_samples, "", None, channels=file.channels)
    return whole["recording"]


def cut(excerpt: Excerpt, sound: Sound, recording: dict[str, Any]) -> dict[str, Any]:
    """One lhotse cut as a plain dict. `sound` is the excerpt's; `recording` may be shared."""
    rate_hz = sound.sample_rate_hz
    channels = list(excerpt.channels) or list(recording["channel_ids"])
    channel: Any = channels[0] if len(channels) == 1 else channels
    start_s = 0.0 if excerpt.duration_s is None else round(excerpt.start_s * rate_hz) / rate_hz
    duration_s = sound.n_samples / rate_hz
    said = {"id": excerpt.id, "recording_id": recording["id"], "start": 0.0, "duration": duration_s, "channel": channel}
    said |= {key: value for key, value in (("text", excerpt.text), ("speaker", excerpt.speaker)) if value is not None}
    made = {"id": excerpt.id, "start": start_s, "duration": duration_s, "channel": channel, "supervisions": [said], "recording": recording}
    custom = {"sha256": sound.sha256} | ({"gain": sound.gain} if sound.gain != 1 else {}) | ({"part": excerpt.part} if excerpt.part else {})
    return made | {"custom": custom, "type": "MonoCut" if len(channels) == 1 else "MultiCut"}


def phone_rows(excerpt: Excerpt, duration_s: float) -> list[alignments.Row]:
    """Rows (id, start_s, end_s, phone, word) in the utterance's time; what lies outside is left out. A phone's word covers its middle."""
    rows = []
    for phone in excerpt.phones:
        start_s, end_s = (round(min(max(t - excerpt.start_s, 0.0), duration_s), 6) for t in (phone.start_s, phone.end_s))
        if not end_s > start_s:  # nor what is no number
            continue
        middle_s = (phone.start_s + phone.end_s) / 2
        silent = phone.symbol.lower() in SILENCES
        word = next((w.symbol for w in excerpt.words if w.start_s <= middle_s < w.end_s), None)
        rows.append((excerpt.id, start_s, end_s, "SIL" if silent else phone.symbol, None if silent else word))
    return rows


def _rows_of(good: list[Excerpt], sound_by_id: dict[str, Sound], corpus: FolderCorpus) -> list[alignments.Row]:
    """Phone times from the tables that params.yaml names, or else from the excerpts themselves."""
    if corpus.alignments:
        return folder.written_times(corpus, good)
    sounds = ((i, sound_by_id[i.id]) for i in good if i.phones)
    return sorted((r for i, s in sounds for r in phone_rows(i, s.n_samples / s.sample_rate_hz)), key=lambda r: r[:3])


def prepare(scanned: Scan, name: str, corpus: FolderCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Decode, judge, split, write: `folder.prepare` for items that are Excerpts.

    Errors: BirqError where more utterances are set aside than `limits` allow, or none is left.
    """
    key = f"corpora.{name}"
    heard = check.listen_all(scanned, name, scratch)
    form = Normaliser(alphabet, limits.language, corpus.annotations, scanned.quotation_marks)
    good, bad, sound_by_id = judge(scanned, heard, form, limits)
    rows = folder.left(len(scanned.items), good, bad, lambda i: sound_by_id[i.id].gain, scratch, key, limits)
    if several := sorted({i.path for i in good if heard[i.path].channels > 1 and not (i.channels or i.written_channels)}):
        say(f"{key}: several channels in {len(several)} of the recordings, such as {several[0]}; their mean is used")
    before: tuple[str, str] | None = None
    with manifests.CutFiles(out) as cuts:
        for item in splits.assign(sorted(good, key=lambda i: i.id), corpus.dev_share, corpus.test_share, corpus.split_seed, key):
            assert isinstance(item, Excerpt)
            if before != (item.path, item.recording):  # an hour has hundreds of cuts, which come one after the other
                before, recording = (item.path, item.recording), recording_of(item, heard[item.path])
            cuts.write(str(item.split), cut(item, sound_by_id[item.id], recording))
    folder.write(out, name, corpus, scanned, good, cuts.entries(), rows)
    if times := _rows_of(good, sound_by_id, corpus):
        manifests.write_alignments(out / "alignments.parquet", times)
