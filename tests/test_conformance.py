"""What every corpus keeps, whatever its kind: one small tree in each corpus' own layout, a recording of it spoiled, and the same checks.

A new kind is one line of LAYOUTS in layouts.py.
"""

from __future__ import annotations

import importlib
import typing
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import yodas_copy
from layouts import LAYOUTS
from test_corpora import ALPHABET, RATE

from birq.corpora import manifests
from birq.corpora.items import Limits
from birq.settings import corpora
from birq.settings.section import Section

WITH_PHONES = ("lhotse", "synth")  # layouts that have phone times; docs/corpora.md has the rules and kinds
UNPACK = {"yodas": yodas_copy.unpack}  # kinds whose recordings stay in archives until features are made
LIMITS = Limits(min_seconds=0.3, max_seconds=35.0, sample_rate_hz=RATE, max_quarantined_share=0.9)


@dataclass
class Made:
    """A corpus of a kind, made once."""

    kind: str
    out: Path
    again: Path  # the same, made once more
    audio: list[Path]  # the user's files, of which the first was cut in half beforehand; none where birq makes the audio itself

    def cuts(self) -> list:
        return [c for split in manifests.splits(self.out) for c in manifests.iter_cuts(self.out, split)]

    def set_aside(self) -> list[list[str]]:
        return [line.split("\t") for line in (self.out / "quarantine.tsv").read_text(encoding="utf-8").splitlines()]


def _prepare(corpus: Section, kind: str, folder: Path) -> Path:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    importlib.import_module(f"birq.corpora.{kind}").prepare("mine", corpus, out, scratch, alphabet=ALPHABET, limits=LIMITS)
    return out


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    corpus = LAYOUTS[kind](folder / "c")
    audio = sorted(p.resolve() for p in (folder / "c").rglob("*") if p.suffix in (".wav", ".flac"))
    if audio:
        audio[0].write_bytes(audio[0].read_bytes()[: audio[0].stat().st_size // 2])
    made = Made(kind, _prepare(corpus, kind, folder / "one"), _prepare(corpus, kind, folder / "two"), audio)
    UNPACK.get(kind, lambda _: None)(folder / "c")
    return made


def test_every_kind_of_corpus_is_here():
    (union, *_) = typing.get_args(corpora.Corpus)
    assert set(LAYOUTS) == {typing.get_args(c.model_fields["kind"].annotation)[0] for c in typing.get_args(union)}


def test_ids_name_one_utterance(made: Made):
    # features, hypotheses and phone times are joined by id
    counts = Counter(c.id for c in made.cuts())
    assert counts and set(counts.values()) == {1}
    assert all(id == id.strip() and id.isprintable() for id in counts)


def test_times_lie_inside_the_recordings(made: Made):
    # a reader that trusted a manifest would make features of silence, or of the next utterance
    for cut in made.cuts():
        real = soundfile.info(cut.recording.sources[0].source)
        assert (cut.recording.num_samples, cut.recording.sampling_rate) == (real.frames, real.samplerate)
        assert cut.start >= 0 and cut.duration >= LIMITS.min_seconds and cut.end <= real.duration + 1e-6
        (spoken,) = cut.supervisions
        assert (spoken.start, spoken.duration) == (0, cut.duration) and spoken.id == cut.id
        wanted = [cut.channel] if isinstance(cut.channel, int) else cut.channel
        assert set(wanted) <= set(cut.recording.channel_ids) and len(cut.recording.channel_ids) == real.channels
        assert cut.load_audio().shape == (len(wanted), round(cut.duration * real.samplerate))


def test_phone_times_lie_inside_their_utterances(made: Made):
    table = manifests.alignments(made.out)
    if table is None:
        assert made.kind not in WITH_PHONES
        return
    rows, length_s = table.to_pylist(), {c.id: c.duration for c in made.cuts()}
    assert rows and rows == sorted(rows, key=lambda r: (r["id"], r["start_s"], r["end_s"]))
    assert all(0 <= r["start_s"] <= r["end_s"] <= length_s[r["id"]] + 1e-6 and r["phone"] for r in rows)


def test_no_speaker_is_in_two_splits(made: Made):
    # a test of a voice that was trained on measures memory
    splits: dict[str, set[str]] = {}
    for split in manifests.splits(made.out):
        for cut in manifests.iter_cuts(made.out, split):
            assert cut.supervisions[0].speaker
            splits.setdefault(cut.supervisions[0].speaker, set()).add(split)
    assert {len(s) for s in splits.values()} == {1} and set.union(*splits.values()) == set(manifests.SPLITS)


def test_texts_are_in_normal_form_and_held_out_speech_has_one(made: Made):
    # the tokenizer knows the alphabet alone; an error rate needs a reference
    for split in manifests.splits(made.out):
        for cut in manifests.iter_cuts(made.out, split):
            text = cut.supervisions[0].text
            if text is None:
                assert split == "train"
            else:
                assert text and set(text) <= set(ALPHABET) and text == " ".join(text.split())


def test_utterances_are_in_the_order_of_their_ids_and_counted(made: Made):
    facts = manifests.info(made.out)
    assert facts["kind"] == made.kind and facts["licence"] and facts["source"]
    for split, counted in facts["splits"].items():
        cuts = [*manifests.iter_cuts(made.out, split)]
        assert [c.id for c in cuts] == sorted(c.id for c in cuts)
        assert counted["utterances"] == len(cuts) and counted["hours"] == pytest.approx(sum(c.duration for c in cuts) / 3600, abs=1e-6)


def test_what_is_set_aside_has_a_reason_and_nothing_is_lost(made: Made):
    header, *rows = made.set_aside()
    assert tuple(header) == manifests.QUARANTINE_COLUMNS and manifests.info(made.out)["quarantined"] == len(rows)
    assert all(len(row) == 4 and row[0] and row[2] for row in rows)
    if made.audio:  # of the user's; the file that was spoiled is found, and every other one is spoken of too
        root = manifests.audio_root(made.out)
        bad = {(root / row[1]).resolve() for row in rows if row[1]}
        good = {Path(c.recording.sources[0].source).resolve() for c in made.cuts()}
        assert made.audio[0] in bad and made.audio[0] not in good and bad | good == set(made.audio)


def test_a_second_run_gives_the_same_bytes(made: Made):
    # a key promises bytes; the order of a folder's entries, of threads and of sets must not show
    names = sorted(p.relative_to(made.out) for p in made.out.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(made.again) for p in made.again.rglob("*") if p.is_file())
    for name in names:
        assert (made.out / name).read_bytes() == (made.again / name).read_bytes(), name
