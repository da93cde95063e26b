"""Corpora that lhotse describes: parts and splits, utterances in long recordings, channels, phone times, recipes, refusals, keys."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_corpora import ALPHABET, RATE, cuts_of, quarantine, sound, tree

from birq.corpora import lhotse, lhotse_parts, librispeech, manifests
from birq.corpora.items import Limits
from birq.errors import BirqError
from birq.pipeline import dag, sources
from birq.settings import params
from birq.settings.corpora import LhotseCorpus, LibriSpeechCorpus
from birq.speech import audio, pieces
from birq.stages import corpus as corpus_stage
from birq.stages.features import _utterance

ROOT = Path(__file__).resolve().parent.parent


def put(path: Path, items: list[dict]) -> Path:
    """A manifest, as lhotse writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(i) + "\n" for i in items)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


def recording(id: str, path: Path | str, seconds: float, channels: int = 1, **more) -> dict:
    from lhotse import Recording
    from lhotse.audio import AudioSource

    have = list(range(channels))
    source = AudioSource(type="file", channels=have, source=str(path))
    return Recording(id, [source], RATE, round(seconds * RATE), seconds, channel_ids=have).to_dict() | more


def supervision(id: str, of: str, start: float, seconds: float, text: str | None = "GOOD MORNING", **more) -> dict:
    from lhotse import SupervisionSegment

    return SupervisionSegment(id, of, start, seconds, text=text, speaker=of).to_dict() | more


def meetings(root: Path, names: tuple[str, ...] = ("m1", "m2", "m3", "m4", "m5", "m6")) -> Path:
    """Two-channel recordings of 6 s, each with two speakers who have a channel each; the manifests in a folder of their own."""
    for part, some in (("train", names[:4]), ("dev", names[4:5]), ("test", names[5:])):
        recordings = [recording(n, sound(root / "audio" / f"{n}.wav", 6.0, channels=2), 6.0, 2) for n in some]
        spoken = [
            supervision(f"{n}-{c}-{u}", n, 0.5 + 2 * u, 1.25, channel=c, speaker=f"{n}{'ab'[c]}")
            for n in some
            for c in (0, 1)
            for u in (0, 1, 2)
        ]
        put(root / "manifests" / f"talk_recordings_{part}.jsonl.gz", recordings)
        put(root / "manifests" / f"talk_supervisions_{part}.jsonl.gz", spoken)
    return root / "manifests"


def run(tmp_path: Path, corpus: LhotseCorpus, share: float = 1.0) -> Path:
    out, scratch = tmp_path / "made" / "out", tmp_path / "made" / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    limits = Limits(min_seconds=0.3, max_seconds=35.0, max_quarantined_share=share)
    lhotse.prepare("mine", corpus, out, scratch, alphabet=ALPHABET, limits=limits)
    return out


def of(root: Path, **more) -> LhotseCorpus:
    return LhotseCorpus(kind="lhotse", root=str(root), **more)


# ---- utterances in long recordings


def test_utterances_are_cut_from_their_channel(tmp_path: Path):
    # lhotse's own reading of the cuts and the samples of the file are the oracles
    out = run(tmp_path, of(meetings(tmp_path)))
    cuts = cuts_of(out)
    assert {split: len(c) for split, c in cuts.items()} == {"train": 24, "dev": 6, "test": 6} and quarantine(out) == {}
    for cut in [*cuts["train"]][::5]:
        name, channel, u = cut.id.split("-")
        begin = round((0.5 + 2 * int(u)) * RATE)
        wave, _ = soundfile.read(tmp_path / "audio" / f"{name}.wav", dtype="float32")
        wanted = wave[begin : begin + round(1.25 * RATE), int(channel)]
        assert np.array_equal(cut.load_audio()[0], wanted)
        (made,) = pieces.read(cut.recording.sources[0].source, RATE, [_utterance(cut)])
        assert np.array_equal(made, wanted)


@dataclass
class Wanted:
    offset_s: float
    duration_s: float | None
    channels: tuple[int, ...] | None = None


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_pieces_read_together_equal_pieces_read_alone(tmp_path: Path, suffix: str):
    # 40 s are several blocks of the decoder, so pieces lie in one, in two, and over each other
    path = sound(tmp_path / f"a.{suffix}", 40.0, channels=2)
    spans = [(0.0, 1.5), (15.9, 1.0), (16.0, 17.3), (39.5, 0.5), (20.0, None), (0.0, None)]
    for got, (offset_s, duration_s) in zip(pieces.read(path, 8000, [Wanted(*s) for s in spans]), spans, strict=True):
        assert np.array_equal(got, audio.read(path, 8000, offset_s, duration_s)) and len(got)
    left, right, both = pieces.read(path, RATE, [Wanted(17.0, 2.0, c) for c in ((0,), (1,), (0, 1))])
    assert not np.allclose(left, right) and np.allclose((left + right) / 2, both, atol=1e-6)
    with pytest.raises(BirqError, match=r"a\.\w+: .*replace the file"):
        pieces.read(path, RATE, [Wanted(0.0, 1.0, (2,))])


def test_what_cannot_be_used_is_set_aside_with_its_reason(tmp_path: Path):
    audio_of = {n: sound(tmp_path / "a" / f"{n}.wav", 6.0) for n in ("good", "short", "wide", "deaf")}
    sound(tmp_path / "a" / "wide.wav", 6.0, channels=2)
    recordings = [recording(n, p, 6.0) for n, p in audio_of.items()]
    recordings += [recording("gone", tmp_path / "a" / "gone.wav", 6.0), recording("quick", sound(tmp_path / "a" / "q.wav", 6.0), 3.0)]
    recordings += [recording("slow", sound(tmp_path / "a" / "s.wav", 6.0, rate=8000), 6.0)]
    recordings[1]["duration"], recordings[1]["num_samples"] = 6.3, round(6.3 * RATE)
    spoken = [
        supervision("a-good", "good", 0.0, 6.0),
        supervision("b-edge", "good", 5.0, 1.005),
        supervision("c-past", "good", 5.0, 1.5),
        supervision("d-before", "good", -0.5, 1.5),
        supervision("e-brief", "good", 1.0, 0.1),
        supervision("f-mute", "good", 1.0, 1.0, None),
        supervision("g-empty", "good", 1.0, 1.0, ""),
        supervision("h-digits", "good", 1.0, 1.0, "ROOM 101"),
        supervision("i-long", "good", 1.0, 1.0, "VERY " * 20),
        supervision("a-good", "good", 2.0, 1.0),
        supervision("j-none", "nowhere", 1.0, 1.0),
        supervision("k-gone", "gone", 1.0, 1.0),
        supervision("l-quick", "quick", 1.0, 1.0),
        supervision("m-slow", "slow", 1.0, 1.0),
        supervision("n-wide", "wide", 1.0, 1.0),
        supervision("o-channel", "good", 1.0, 1.0, channel=3),
        supervision("p-short", "short", 0.0, 6.3),
        supervision("q-never", "good", float("nan"), 1.0),
    ]
    put(tmp_path / "m" / "recordings.jsonl", recordings)
    put(tmp_path / "m" / "supervisions.jsonl", spoken)
    out = run(tmp_path, of(tmp_path / "m", dev_share=0.0, test_share=0.0))
    assert quarantine(out) == {
        "c-past": "outside of its recording",
        "d-before": "outside of its recording",
        "e-brief": "too short",
        "f-mute": "no transcript",
        "g-empty": "empty transcript",
        "h-digits": "characters outside tokenizer.alphabet",
        "i-long": "transcript too long for the recording",
        "a-good": "duplicate id",
        "j-none": "no audio",
        "k-gone": "no audio",
        "l-quick": "wrong duration",
        "m-slow": "wrong rate",
        "n-wide": "wrong channels",
        "o-channel": "no such channel",
        "q-never": "no time",
        "deaf": "no transcript",
    }
    lengths = {c.id: (c.start, c.duration) for c in cuts_of(out)["train"]}
    assert lengths == {"a-good": (0.0, 6.0), "b-edge": (5.0, 1.0), "p-short": (0.0, 6.0)}
    with pytest.raises(BirqError, match="16 of 19 recordings cannot be used"):
        run(tmp_path / "again", of(tmp_path / "m", dev_share=0.0, test_share=0.0), share=0.5)


def test_a_speaker_who_is_held_out_does_not_train(tmp_path: Path):
    # lhotse's splits are the corpus' own, and not all of them part the speakers
    root = meetings(tmp_path)
    spoken = [supervision(f"x{c}", "m1", 1.0 + c, 1.0, channel=c, speaker=s) for c, s in ((0, "m6a"), (1, "m5a"))]
    put(root / "talk_supervisions_train.jsonl.gz", [*spoken, *(supervision(f"n-{n}", n, 1.0, 1.0) for n in ("m2", "m3", "m4"))])
    out = run(tmp_path, of(root))
    assert quarantine(out) == {"x0": "speaker is held out", "x1": "speaker is held out"}
    assert {c.supervisions[0].speaker for c in cuts_of(out)["train"]} == {"m2", "m3", "m4"}


def test_recordings_alone_are_speech_without_text_and_nobody_is_no_speaker(tmp_path: Path):
    put(tmp_path / "m" / "recordings.jsonl.gz", [recording(n, sound(tmp_path / f"{n}.flac", 2.0), 2.0) for n in ("r1", "r2")])
    out = run(tmp_path, of(tmp_path / "m"))
    assert [(c.id, c.supervisions[0].text, c.supervisions[0].speaker) for c in cuts_of(out)["train"]] == [
        ("r1", None, "r1"),
        ("r2", None, "r2"),
    ]
    put(tmp_path / "m" / "supervisions.jsonl.gz", [supervision(f"u-{n}", n, 0, 2.0, speaker="N/A") for n in ("r1", "r2")])
    out = run(tmp_path / "again", of(tmp_path / "m", dev_share=0.0, test_share=0.5))
    assert {s: [c.supervisions[0].speaker for c in cuts] for s, cuts in cuts_of(out).items()}.keys() == {"train", "test"}


# ---- cuts


def test_cuts_are_read_as_their_supervisions(tmp_path: Path):
    # the supervisions of lhotse's own cuts, whole and trimmed, give the utterances that recordings and supervisions give
    from lhotse import CutSet, load_manifest

    root = meetings(tmp_path)
    for part in ("train", "dev", "test"):
        both = [load_manifest(root / f"talk_{which}_{part}.jsonl.gz") for which in ("recordings", "supervisions")]
        cuts = CutSet.from_manifests(recordings=both[0], supervisions=both[1])
        (tmp_path / "whole").mkdir(exist_ok=True)
        (tmp_path / "trimmed").mkdir(exist_ok=True)
        cuts.to_file(tmp_path / "whole" / f"cuts_{part}.jsonl.gz")
        cuts.trim_to_supervisions(keep_overlapping=False).to_eager().to_file(tmp_path / "trimmed" / f"{part}_cuts.jsonl.gz")
    want = run(tmp_path / "a", of(root))
    for name in ("whole", "trimmed"):
        got = run(tmp_path / name, of(tmp_path / name))
        assert all((got / f"{s}.jsonl").read_bytes() == (want / f"{s}.jsonl").read_bytes() for s in manifests.SPLITS)


def test_cuts_that_are_no_part_of_one_recording_are_set_aside(tmp_path: Path):
    from lhotse import CutSet, load_manifest

    root = meetings(tmp_path)
    both = [load_manifest(root / f"talk_{which}_train.jsonl.gz") for which in ("recordings", "supervisions")]
    cuts = CutSet.from_manifests(recordings=both[0], supervisions=both[1]).to_eager()
    first = cuts[0].truncate(duration=2.0, preserve_id=True)
    torn = first.to_dict() | {"start": 1.0, "id": "torn"}
    torn["supervisions"][0]["start"] = -0.5
    padded = cuts[1].pad(duration=9.0, preserve_id=True).to_dict()
    put(tmp_path / "c" / "cuts_train.jsonl", [torn, json.loads(json.dumps(padded)), cuts[2].to_dict()])
    out = run(tmp_path, of(tmp_path / "c", dev_share=0.0, test_share=0.0))
    assert set(quarantine(out).values()) == {"reaches out of its cut", "not a part of one recording"}
    assert len(cuts_of(out)["train"]) == 6 + len(torn["supervisions"]) - 1


def test_phones_are_carried_over_in_the_time_of_the_utterance(tmp_path: Path):
    phones = [["h#", 1.0, 0.1, None], ["G", 1.1, 0.4, 0.9], ["UH", 1.5, 0.3, None], ["Z", 1.8, 0.4, None], ["Q", 5.0, 0.1, None]]
    words = [["good", 1.1, 0.7, None]]
    spoken = [supervision("u", "r", 1.0, 1.0, alignment={"phone": phones, "word": words}), supervision("v", "r", 3.0, 1.0)]
    put(tmp_path / "m" / "supervisions.jsonl.gz", spoken)
    put(tmp_path / "m" / "recordings.jsonl.gz", [recording("r", sound(tmp_path / "r.wav", 6.0), 6.0)])
    out = run(tmp_path, of(tmp_path / "m", dev_share=0.0, test_share=0.0))
    rows = [tuple(r.values()) for r in manifests.alignments(out).to_pylist()]
    assert rows == [("u", 0.0, 0.1, "SIL", None), ("u", 0.1, 0.5, "G", "good"), ("u", 0.5, 0.8, "UH", "good"), ("u", 0.8, 1.0, "Z", None)]


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": [{"type": "command", "channels": [0], "source": "touch {}"}]}, "shell command.*save_audios"),
        ({"sources": [{"type": "url", "channels": [0], "source": "https://x/a.wav"}]}, "at an address.*save_audios"),
        ({"sources": [{"type": "memory", "channels": [0], "source": "UklGRg=="}]}, "in the manifest itself.*save_audios"),
        ({"sources": [{"type": "shar", "channels": [0], "source": ""}]}, "Shar archive.*save_audios"),
        ({"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}, "changed by Speed"),
        ({"sources": None}, "not an item of lhotse's manifests"),
        ({"sources": []}, "no sources"),
    ],
)
def test_sources_that_are_no_files_are_refused_and_nothing_is_run(tmp_path: Path, change: dict, message: str):
    made = tmp_path / "made-by-the-command"
    if change.get("sources"):
        change["sources"][0]["source"] = change["sources"][0]["source"].format(made)
    root = put(tmp_path / "m" / "x_recordings_train.jsonl", [recording("r", sound(tmp_path / "r.wav", 6.0), 6.0) | change]).parent
    with pytest.raises(BirqError, match=r"x_recordings_train\.jsonl, line 1: .*" + message):
        run(tmp_path, of(root))
    assert not made.exists()


def test_a_resampled_recording_is_read_at_the_rate_of_its_file(tmp_path: Path):
    changed = {
        "sampling_rate": 8000,
        "num_samples": 48000,
        "transforms": [{"name": "Resample", "kwargs": {"source_sampling_rate": RATE, "target_sampling_rate": 8000}}],
    }
    put(tmp_path / "m" / "recordings.jsonl", [recording("r", sound(tmp_path / "r.wav", 6.0), 6.0) | changed])
    assert quarantine(run(tmp_path, of(tmp_path / "m"))) == {}


def test_a_spoiled_manifest_is_named_with_its_line(tmp_path: Path):
    root = meetings(tmp_path)
    path = root / "talk_recordings_train.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(BirqError, match=r"talk_recordings_train\.jsonl\.gz, after line \d+: cannot be read .*anew with lhotse"):
        run(tmp_path, of(root))
    path.write_bytes(gzip.compress(b'["no", "item"]\n'))
    with pytest.raises(BirqError, match="no item of a manifest"):
        run(tmp_path / "b", of(root))
    put(path, [recording("m1", "a.wav", 6.0), recording("m1", "b.wav", 6.0)])
    with pytest.raises(BirqError, match="line 2: a second recording 'm1'"):
        run(tmp_path / "c", of(root))


# ---- parts


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "dev", "test"], ["train", "dev", "test"]),
        (["TRAIN", "DEV", "TEST"], ["train", "dev", "test"]),
        (["train-clean-100", "train-other-500", "dev-clean", "test-other"], ["train", "train", "dev", "test"]),
        (["en/train", "en/validation", "en/validated", "en/eval"], ["train", "dev", None, "test"]),
        (["train_dev", "train_nodup"], [None, "train"]),
        (["all"], ["train"]),
        (["eval2000"], ["train"]),
    ],
)
def test_parts_have_the_split_of_their_name(names: list[str], splits: list[str | None]):
    got = lhotse_parts.splits_of(of(Path("x")), names, "corpora.x")
    assert got == {n: s for n, s in zip(names, splits, strict=True) if s}


def test_params_name_the_parts_and_wrong_ones_are_refused():
    names = ["L", "XL", "DEV"]
    assert lhotse_parts.splits_of(of(Path("x"), train_parts=["XL"], test_parts=["DEV"]), names, "corpora.x") == {
        "XL": "train",
        "DEV": "test",
    }
    for more, message in (
        ({}, "no part is for training by its name, there are L, XL, DEV; name them in corpora.x.train_parts"),
        ({"train_parts": ["M"]}, r"corpora\.x\.train_parts: no part 'M', there are L, XL, DEV"),
        ({"train_parts": ["L"], "dev_parts": ["L"]}, "'L' is named twice"),
        ({"dev_parts": ["DEV"]}, r"corpora\.x\.train_parts: empty"),
    ):
        with pytest.raises(BirqError, match=message):
            lhotse_parts.splits_of(of(Path("x"), **more), names, "corpora.x")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("librispeech_recordings_train-clean-100.jsonl.gz", ("librispeech", "recordings", "train-clean-100")),
        ("ami-ihm_supervisions_train.jsonl.gz", ("ami-ihm", "supervisions", "train")),
        ("cuts_dev.jsonl.gz", (None, "cuts", "dev")),
        ("train_cuts.jsonl", ("train", "cuts", None)),
        ("recordings.jsonl.gz", (None, "recordings", None)),
        ("cv-en_recordings_train.jsonl.gz", ("cv-en", "recordings", "train")),
    ],
)
def test_names_of_manifests_are_those_that_recipes_write(name: str, found: tuple):
    match = lhotse_parts.NAME.match(name)
    assert match and (match["prefix"], match["set"], match["part"]) == found
    assert not lhotse_parts.NAME.match("train.jsonl") and not lhotse_parts.NAME.match("recordings_train.json")


def test_two_sets_in_one_folder_are_told_apart_by_their_prefix(tmp_path: Path):
    root = meetings(tmp_path)
    for which in ("recordings", "supervisions"):
        (root / f"ami-sdm_{which}_train.jsonl.gz").write_bytes((root / f"talk_{which}_train.jsonl.gz").read_bytes())
    with pytest.raises(BirqError, match=r"ami-sdm_recordings_train.*talk_recordings_train.*corpora\.mine\.prefix"):
        run(tmp_path, of(root))
    assert len(cuts_of(run(tmp_path / "again", of(root, prefix="talk")))["train"]) == 24
    with pytest.raises(BirqError, match="no manifests of lhotse with prefix tolk"):
        run(tmp_path / "none", of(root, prefix="tolk"))
    (root / "talk_recordings_train.jsonl.gz").unlink()
    with pytest.raises(BirqError, match="the part 'train' has supervisions and no recordings"):
        run(tmp_path / "less", of(root, prefix="talk"))


def test_relative_paths_begin_at_the_folder_that_params_name(tmp_path: Path):
    sound(tmp_path / "speech" / "a" / "r.wav", 2.0)
    root = put(tmp_path / "m" / "recordings.jsonl", [recording("r", "a/r.wav", 2.0)]).parent
    assert quarantine(run(tmp_path, of(root, audio=str(tmp_path / "speech")))) == {}
    with pytest.raises(BirqError, match="no such file"):
        run(tmp_path / "again", of(root), share=0.0)


# ---- recipes


def test_lhotses_recipe_gives_what_the_reader_of_the_corpus_gives(tmp_path: Path):
    home = tmp_path / "LibriSpeech"
    tree(home / "train-clean-100", 6)
    for part, speaker in (("dev-clean", "7"), ("test-clean", "8")):
        tree(tmp_path / "x" / part, int(speaker))
        home.joinpath(part).mkdir()
        (tmp_path / "x" / part / speaker).rename(home / part / speaker)
    mine = run(tmp_path / "a", of(home, recipe="librispeech"))
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(home), dev_parts=["dev-clean"], test_parts=["test-clean"])
    out = tmp_path / "b"
    out.mkdir()
    (tmp_path / "scratch").mkdir()
    limits = Limits(min_seconds=0.3, max_seconds=35.0, max_quarantined_share=1.0)
    librispeech.prepare("mine", corpus, out, tmp_path / "scratch", alphabet=ALPHABET, limits=limits)
    for split in manifests.SPLITS:
        assert (mine / f"{split}.jsonl").read_bytes() == (out / f"{split}.jsonl").read_bytes()
    assert manifests.info(mine)["source"].startswith("LibriSpeech, by lhotse ")


def timit(root: Path) -> Path:
    """TIMIT's tree as the LDC has it: a train speaker, a dev speaker and one of the core test, with words and phones."""
    for place, speaker in (("TRAIN/DR1", "FCJF0"), ("TEST/DR1", "FAKS0"), ("TEST/DR1", "MDAB0")):
        stem = root / "data" / place / speaker / "SX37"
        sound(stem.with_suffix(".WAV"), 2.0)
        stem.with_suffix(".TXT").write_text("0 32000 She had greasy suits.\n")
        stem.with_suffix(".WRD").write_text("3200 9600 she\n9600 16000 had\n16000 24000 greasy\n24000 28800 suits\n")
        stem.with_suffix(".PHN").write_text("0 3200 h#\n3200 6400 sh\n6400 9600 iy\n9600 28800 s\n28800 32000 h#\n")
    return root


def test_timits_recipe_brings_its_phones(tmp_path: Path):
    out = run(tmp_path, of(timit(tmp_path / "TIMIT"), recipe="timit", recipe_params={"num_phones": 60}))
    assert {split: [c.id for c in cuts] for split, cuts in cuts_of(out).items()} == {
        "train": ["FCJF0-SX37"],
        "dev": ["FAKS0-SX37"],
        "test": ["MDAB0-SX37"],
    }
    rows = [tuple(r.values())[1:] for r in manifests.alignments(out).to_pylist() if r["id"] == "FCJF0-SX37"]
    want = [(0.0, 0.2, "SIL", None), (0.2, 0.4, "sh", "she"), (0.4, 0.6, "iy", "she"), (0.6, 1.8, "s", "greasy"), (1.8, 2.0, "SIL", None)]
    assert rows == want


@pytest.mark.slow
def test_common_voices_recipe_is_found_by_language_and_split(tmp_path: Path):
    lines = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"
    for n, part in enumerate(("train", "dev", "test")):
        sound(tmp_path / "cv" / "en" / "clips" / f"c{n}.mp3", 2.0)
        (tmp_path / "cv" / "en" / f"{part}.tsv").write_text(f"{lines}\nspeaker{n}\tc{n}.mp3\tGood “morning”, all.\t2\t0\t\t\t\t\ten\t\n")
    out = run(tmp_path, of(tmp_path / "cv", recipe="commonvoice", recipe_params={"languages": ["en"]}))
    assert [(s, [c.supervisions[0].text for c in cuts]) for s, cuts in cuts_of(out).items()] == [
        (s, ["good morning all"]) for s in manifests.SPLITS
    ]
    assert not [p for p in (tmp_path / "cv").rglob("*") if p.suffix == ".gz"]  # manifests that a recipe must write lie elsewhere


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"recipe": "librispech"}, r"corpora\.mine\.recipe: lhotse .* has no prepare_librispech; it has librispeech"),
        (
            {"recipe": "timit", "recipe_params": {"phones": 39}},
            "recipe_params: prepare_timit takes no phones here; it takes num_phones, num_jobs",
        ),
        ({"recipe": "timit", "recipe_params": {"num_phones": 7}}, "prepare_timit cannot read .*num_phones"),
        ({"recipe": "yesno"}, "prepare_yesno cannot read .*AssertionError"),
        ({"recipe_params": {"num_phones": 7}}, "of no use without"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_way_out(tmp_path: Path, more: dict, message: str):
    with pytest.raises(BirqError, match=message):
        run(tmp_path, of(timit(tmp_path / "TIMIT"), **more))


def test_one_line_in_params_makes_a_corpus_whose_audio_can_be_verified(birq, root: Path, tmp_path: Path):
    shutil.copy(root / "params.yaml", tmp_path)
    timit(tmp_path / "TIMIT")
    line = "corpora={timit: {kind: lhotse, root: TIMIT, recipe: timit, recipe_params: {num_phones: 39}}}"
    run_of = "run={pretrain_corpora: [timit], finetune_corpora: [timit], methods: [scratch], seeds: [0]}"
    assert birq("preset", "--set", line, "--set", run_of).returncode == 0
    done = birq("corpus", "--corpus", "timit")
    assert done.returncode == 0, done.stderr
    made = tmp_path / "data" / "corpus" / "timit"
    assert manifests.info(made)["splits"].keys() == {"train", "dev", "test"}
    assert corpus_stage.check_sources(made) == 3
    assert "up to date" in birq("corpus", "--corpus", "timit").stderr
    sound(tmp_path / "TIMIT" / "data" / "TRAIN" / "DR1" / "FCJF0" / "SX37.WAV", 1.9)
    with pytest.raises(BirqError, match=r"SX37\.WAV has changed"):
        corpus_stage.check_sources(made)


# ---- keys


def test_the_key_holds_manifests_and_the_audio_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    root = meetings(tmp_path / "c")
    tracked = params.load(ROOT / "params.yaml")

    def digest(corpus: LhotseCorpus) -> str | None:
        node = dag.Node(dag.STAGES["corpus"], {"corpus": "mine"}, tracked.model_copy(update={"corpora": {"mine": corpus}}))
        return sources.digest(node)

    before = digest(of(root))
    (root / "notes.txt").write_text("no manifest")
    sound(tmp_path / "c" / "audio" / "nobody.wav")
    assert digest(of(root)) == before
    sound(tmp_path / "c" / "audio" / "m1.wav", 7.0)
    heard = digest(of(root))
    put(root / "talk_supervisions_dev.jsonl.gz", [supervision("m5", "m5", 0.0, 1.0)])
    assert len({before, heard, digest(of(root))}) == 3
    home = timit(tmp_path / "TIMIT")
    before = digest(of(home, recipe="timit"))
    (home / "data" / "TRAIN" / "DR1" / "FCJF0" / "SX37.PHN").write_text("0 32000 h#\n")
    assert digest(of(home, recipe="timit")) != before


# ---- features


def test_features_decode_a_recording_once_for_its_utterances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # ninety utterances of an hour-long meeting must not mean ninety decoded hours
    from tiny import TinyJob

    from birq.speech import fbank, shards
    from birq.stages import features

    path = sound(tmp_path / "long.flac", 100.0, channels=2)
    put(tmp_path / "m" / "recordings.jsonl", [recording("long", path, 100.0, 2)])
    put(tmp_path / "m" / "supervisions.jsonl", [supervision(f"u{u:02d}", "long", 1.0 + u, 1.0, channel=u % 2) for u in range(90)])
    corpus = run(tmp_path, of(tmp_path / "m", dev_share=0.0, test_share=0.0))
    tracked = params.load(ROOT / "params.yaml")
    out, scratch = tmp_path / "features" / "out", tmp_path / "features" / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    decoded = []
    monkeypatch.setattr(audio, "decode", lambda p, real=audio.decode: decoded.append(p) or real(p))
    job = TinyJob(dag.Node(dag.STAGES["features"], {"corpus": "mine"}, tracked), "key", out, scratch, given={"corpus": [corpus]})
    features.compute(job)
    assert len(decoded) == 2  # 64 and 26
    made, (wave, _) = shards.open_split([out], "train"), soundfile.read(path, dtype="float32")
    settings = {k: getattr(job.read("features"), k) for k in features.KERNEL}
    for u in (0, 1, 63, 64, 89):
        wanted_TF = fbank.fbank(wave[(1 + u) * RATE : (2 + u) * RATE, u % 2], settings).numpy()
        assert made.ids[u] == f"u{u:02d}" and np.abs(made.logmel(u) - wanted_TF).max() < 1e-3
