"""The embedded corpus: speech synthesised offline by espeak-ng. It is synthetic: results on it do not carry over to recorded speech."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birq import files
from birq.corpora import espeak, grammar, manifests
from birq.corpora.items import Limits
from birq.errors import BirqError
from birq.pipeline import pool
from birq.progress import Progress
from birq.settings.corpora import SynthCorpus
from birq.speech.resampling import resample

ACCENTS = {
    "us": "gmw/en-US",
    "gb": "gmw/en",
    "scotland": "gmw/en-GB-scotland",
    "rp": "gmw/en-GB-x-rp",
    "caribbean": "gmw/en-029",
    "lancaster": "gmw/en-GB-x-gbclan",
    "midlands": "gmw/en-GB-x-gbcwmd",
    "nyc": "gmw/en-US-nyc",
}
# espeak-ng's voice variants that sound like a person; whispers, croaks, robots and strong echoes are left out.
# Variants on one line sound alike: they always share a split, or a "held-out" voice would be known from training.
FAMILIES = tuple(
    tuple(line.split(","))
    for line in """f1
f2,f5
f3
f4,aunty
belinda,linda
steph,steph2,steph3
Alicia
Andrea
Annie
anika
shelby
grandma
zac
m1
m2
m3,Mike
m4
m5
m6
m7,m8,Nguyen
Alex
Andy,AnxiousAndy
Denis
Diogo,michel,miguel
Henrique,Hugo
Gene,Gene2
Jacky
Marco
Mario,Michael
gustave
marcelo
Mr serious,john
Storm,victor
adam,Reed,benjamin,klatt6
david
edward,edward2
klatt,klatt2,klatt3
klatt4
klatt5
mike2
antonio
pedro
pablo
boris
ed
grandpa
ian
iven,iven2,iven3,iven4
max
norbert
paul
quincy,robert
rob
sandro
travis""".splitlines()
)
HELD_OUT_SHARE = 1 / 5  # of the voices, for dev and test together
DEV_SHARE = 1 / 3  # of the held-out voices
EDGE_S = (0.1, 0.2)  # silence left before and after the words
PAUSE_SHARE = 0.3  # of the phrase boundaries
NOISE_TILT = (0.0, 2.0)  # power falls with frequency to this power: 0 white, 1 pink, 2 brown
LEVEL_DB = (-32.0, -18.0)  # RMS of the speech below full scale
PEAK = 0.97
SPLIT_NUMBER = {"train": 0, "dev": 1, "test": 2}
KILLED = "corpus synth: a worker process was killed (out of memory?); finished voices are kept, run again"
LICENCE = "made by this pipeline; espeak-ng, which speaks, is GPL-3.0-or-later"


@dataclass(frozen=True)
class Voice:
    """A synthetic speaker: an accent spoken by a voice variant."""

    accent: str
    variant: str

    @property
    def id(self) -> str:
        return f"{self.accent}-{self.variant.replace(' ', '').lower()}"

    @property
    def espeak(self) -> str:
        return f"{ACCENTS[self.accent]}+{self.variant}"


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def cast(n_voices: int, seed: int) -> dict[str, list[Voice]]:
    """The speakers of each split; a variant, and the variants that sound like it, are in one split only."""
    n_held = max(2, round(n_voices * HELD_OUT_SHARE))
    n_dev = max(1, round(n_held * DEV_SHARE))
    wanted = {"dev": n_dev, "test": n_held - n_dev, "train": n_voices - n_held}
    rng = _rng(seed, 100)
    families = [FAMILIES[i] for i in rng.permutation(len(FAMILIES))]
    n_variants = sum(len(f) for f in FAMILIES)
    voices: dict[str, list[Voice]] = {}
    for split, n in wanted.items():
        variants: list[str] = []
        share = n_variants if split == "train" else max(1, round(n_variants * n / n_voices))
        while families and len(variants) < share:
            variants += families.pop()
        # every variant once, in a drawn accent, before any variant comes again
        rounds = [rng.permutation(list(ACCENTS)) for _ in variants]
        pairs = itertools.islice((Voice(str(rounds[j][i]), v) for i in range(len(ACCENTS)) for j, v in enumerate(variants)), n)
        voices[split] = sorted(pairs, key=lambda v: v.id)
    return voices


def _noise(rng: np.random.Generator, n: int, tilt: float) -> np.ndarray:
    """Noise [n] of unit power whose spectrum falls as frequency to the power of `tilt`."""
    size = -(-n // 2048) * 2048
    parts = rng.standard_normal((2, size // 2 + 1), dtype=np.float32)
    frequency = np.arange(size // 2 + 1, dtype=np.float32)
    frequency[0] = np.inf  # no constant offset
    shaped = np.fft.irfft((parts[0] + 1j * parts[1]) * frequency ** np.float32(-tilt / 2), size)[:n]
    return shaped / np.sqrt(np.mean(shaped**2))


def spoken(sentence: grammar.Sentence, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """The text for espeak-ng, and for each of its characters the index of the transcript's word."""
    text, owner = "", []
    for i, word in enumerate(sentence.words):
        # espeak-ng reads a lone "a" as the article
        word_text = "eigh" if word == "a" else word
        if i in sentence.pauses and rng.random() < PAUSE_SHARE:
            word_text += ","
        word_text += " "
        text += word_text
        owner += [i] * len(word_text)
    return text.strip(), np.array(owner)


def phones_of(
    events: list[espeak.PhoneEvent], n_samples: int, sample_rate_hz: int, owner: np.ndarray, words: tuple[str, ...]
) -> list[tuple[float, float, str, str | None]]:
    """Phones (start_s, end_s, phone, word) in order, without gaps; stress marks dropped, pauses as SIL."""
    out: list[tuple[float, float, str, str | None]] = []
    ends = [e.sample for e in events[1:]] + [n_samples]
    for event, end in zip(events, ends, strict=True):
        name = event.name.lstrip("',%=")
        start_s, end_s = event.sample / sample_rate_hz, min(end, n_samples) / sample_rate_hz
        if end_s <= start_s:
            continue
        silent = name.startswith("_") or not name
        if (name in (";", "-", "|", "?") or (silent and out and out[-1][2] == "SIL")) and out:
            # a glide or a hyphen without a sound of its own, or one more pause: part of the phone before
            out[-1] = (out[-1][0], end_s, *out[-1][2:])
        elif silent:
            out.append((start_s, end_s, "SIL", None))
        else:
            out.append((start_s, end_s, name, words[owner[min(event.character, len(owner) - 1)]]))
    return out


@dataclass(frozen=True)
class Utterance:
    """One synthetic recording: int16 samples [n], its transcript, its phones (start_s, end_s, phone, word)."""

    wave: np.ndarray
    text: str
    phones: list[tuple[float, float, str, str | None]]


def utter(
    speaker: espeak.Espeak, voice: Voice, split: str, corpus: SynthCorpus, rng: np.random.Generator, sample_rate_hz: int
) -> Utterance:
    """Draw a sentence of the split, speak it, put noise behind it."""
    sentence = grammar.sentence(rng, split)
    text, owner = spoken(sentence, rng)
    speed, pitch, snr_db = (rng.uniform(*getattr(corpus, key)) for key in ("speed_wpm", "pitch", "snr_db"))
    raw, events = speaker.speak(text, voice.espeak, round(speed), round(pitch))
    phones = phones_of(events, len(raw), speaker.sample_rate_hz, owner, sentence.words)
    while phones and phones[-1][2] == "SIL":
        phones.pop()
    while phones and phones[0][2] == "SIL":
        phones.pop(0)
    first_s, last_s = phones[0][0], phones[-1][1]
    lead_s, tail_s = rng.uniform(*EDGE_S, size=2)
    wave = resample(raw.astype(np.float32) / 32768, speaker.sample_rate_hz, sample_rate_hz)
    begin, end = round(first_s * sample_rate_hz), round(last_s * sample_rate_hz)
    lead, tail = round(lead_s * sample_rate_hz), round(tail_s * sample_rate_hz)
    speech = wave[begin : end + tail]
    clean = np.zeros(lead + end - begin + tail, np.float32)
    clean[lead : lead + len(speech)] = speech
    power = np.mean(clean[lead : len(clean) - tail] ** 2)
    noise = _noise(rng, len(clean), rng.uniform(*NOISE_TILT)) * np.sqrt(power / 10 ** (snr_db / 10))
    mixed = clean + noise
    gain = 10 ** (rng.uniform(*LEVEL_DB) / 20) / np.sqrt(power)
    mixed *= min(gain, PEAK / np.max(np.abs(mixed)))
    shift_s = lead / sample_rate_hz - first_s
    shifted = [(s + shift_s, e + shift_s, p, w) for s, e, p, w in phones]
    total_s = len(mixed) / sample_rate_hz
    edges = [(0.0, shifted[0][0], "SIL", None), *shifted, (shifted[-1][1], total_s, "SIL", None)]
    rounded = [(round(s, 6), round(e, 6), p, w) for s, e, p, w in edges]
    return Utterance(np.round(mixed * 32767).astype(np.int16), sentence.text, rounded)


# ---- one speaker, one unit of parallel work


@dataclass(frozen=True)
class _Task:
    split: str
    voice: Voice
    number: int  # of the voice among all voices
    seconds: float
    corpus: SynthCorpus
    limits: Limits
    folder: Path  # the scratch folder
    data: str  # espeak-ng's


def _speak_all(task: _Task) -> Path:
    """All utterances of one speaker; the record beside them is written last, so a killed speaker starts again."""
    import soundfile

    record = task.folder / "speakers" / f"{task.voice.id}.json"
    if record.exists():
        return record
    limits, speaker = task.limits, espeak.Espeak(task.data)
    folder = task.folder / "audio" / task.voice.id
    folder.mkdir(parents=True, exist_ok=True)
    made, seconds, index = [], 0.0, 0
    while seconds < task.seconds:
        rng = _rng(task.corpus.seed, SPLIT_NUMBER[task.split], task.number, index)
        u = utter(speaker, task.voice, task.split, task.corpus, rng, limits.sample_rate_hz)
        index += 1
        duration_s = len(u.wave) / limits.sample_rate_hz
        if not limits.min_seconds <= duration_s <= limits.max_seconds:
            if index > 1000 and not made:
                raise BirqError(
                    f"synth: no sentence lasts {limits.min_seconds} to {limits.max_seconds} s; "
                    "widen features.min_seconds, features.max_seconds"
                )
            continue
        id = f"{task.voice.id}-{len(made):04d}"
        path = folder / f"{id}.flac"
        soundfile.write(path, u.wave, limits.sample_rate_hz, subtype="PCM_16", format="FLAC", compression_level=0.0)
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        made.append({"id": id, "n_samples": len(u.wave), "text": u.text, "sha256": sha, "phones": u.phones})
        seconds += duration_s
    facts = {"split": task.split, "speaker": task.voice.id, "seconds": seconds, "utterances": made}
    return files.write_text(record, json.dumps(facts))


def _speak(tasks: list[_Task], workers: int) -> list[Path]:
    """The records of all voices."""
    hours = sum(t.seconds for t in tasks) / 3600
    progress = Progress("corpus synth", len(tasks), "voice")
    records: list[Path] = []
    for _, record in pool.results(_speak_all, tasks, workers, KILLED):
        records.append(record)
        progress.update(len(records), hours=hours * len(records) / len(tasks))
    progress.close()
    return records


def prepare(
    name: str,
    corpus: SynthCorpus,
    out: Path,
    scratch: Path,
    *,
    alphabet: str,
    limits: Limits,
    workers: int | None = None,
) -> None:
    """Make the corpus in `out`; speakers finished before a kill are kept in `scratch`."""
    _check_alphabet(alphabet)
    voices = cast(corpus.n_voices, corpus.seed)
    workers = workers or len(os.sched_getaffinity(0))
    hours = {"train": corpus.train_hours, "dev": corpus.dev_hours, "test": corpus.test_hours}
    with espeak.data_folder() as data:
        tasks = []
        for split in manifests.SPLITS:
            each_s = hours[split] * 3600 / len(voices[split])
            for voice in voices[split]:
                tasks.append(_Task(split, voice, len(tasks), each_s, corpus, limits, scratch, data))
        records = _speak(tasks, min(workers, len(tasks)))
    cuts: dict[str, list[dict[str, Any]]] = {s: [] for s in manifests.SPLITS}
    phones = []
    for path in sorted(records):
        record = json.loads(path.read_text(encoding="utf-8"))
        speaker = record["speaker"]
        for u in record["utterances"]:
            relative = f"audio/{speaker}/{u['id']}.flac"
            files.link(scratch / relative, out / relative)
            cut = manifests.cut(u["id"], relative, limits.sample_rate_hz, u["n_samples"], speaker, u["text"], u["sha256"])
            cuts[record["split"]].append(cut)
            phones += [(u["id"], *p) for p in u["phones"]]
    manifests.write_corpus(
        out,
        name=name,
        kind="synth",
        synthetic=True,
        licence=LICENCE,
        source="synthesised offline by espeak-ng from sentences of a small grammar; not recorded speech",
        audio_root=".",
        splits=manifests.write_cuts(out, cuts),
        quarantined=0,
    )
    manifests.write_quarantine(out / "quarantine.tsv", [])
    manifests.write_alignments(out / "alignments.parquet", sorted(phones, key=lambda p: (p[0], p[1])))


def _check_alphabet(alphabet: str) -> None:
    missing = sorted(set("abcdefghijklmnopqrstuvwxyz' ") - set(alphabet))
    if missing:
        raise BirqError(f"tokenizer.alphabet: {alphabet!r} lacks {''.join(missing)!r}, which the synthetic sentences hold; add them")
