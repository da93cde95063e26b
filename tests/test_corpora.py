"""Corpora that lie in folders: items, quarantine and its reasons, splits by speaker, downloads, code per reader."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birq.corpora import alignments, an4, check, librispeech, local, manifests, splits
from birq.corpora.items import Item, Limits
from birq.errors import BirqError
from birq.pipeline import code, dag, stage
from birq.settings import params
from birq.settings.corpora import An4Corpus, LibriSpeechCorpus, LocalCorpus
from birq.stages import corpus as stages_corpus
from birq.text.normal import Normaliser

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("BIRQ_CORPORA", ROOT.parent / "shared" / "corpora"))
RATE = 16000
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
READERS = {"an4": an4, "librispeech": librispeech, "local": local}


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"no recorded speech at {REAL / name}; set BIRQ_CORPORA to a folder that holds {name}")
    return REAL / name


def sound(path: Path, seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()))
    wave = (0.1 * rng.standard_normal((round(rate * seconds), channels))).astype(np.float32)
    soundfile.write(path, wave, rate)
    return path


def tree(root: Path, speakers: int = 10, utterances: int = 2, suffix: str = "flac", text: str | None = "GOOD MORNING") -> Path:
    """A small tree in LibriSpeech's layout."""
    for s in range(1, speakers + 1):
        folder = root / str(s) / "7"
        ids = [f"{s}-7-{u:04d}" for u in range(utterances)]
        for id in ids:
            sound(folder / f"{id}.{suffix}")
        if text is not None:
            (folder / f"{s}-7.trans.txt").write_text("".join(f"{id} {text}\n" for id in ids))
    return root


def limited_tree(root: Path) -> Path:
    """Libri-light's limited set as it lies in its archive: two recordings in each sixth of the hour, four in the nine hours."""
    for sixth in range(6):
        for speaker, kind in ((100 + sixth, "clean"), (200 + sixth, "other")):
            tree(root / "x", 1, 1)
            folder = root / "1h" / str(sixth) / kind / str(speaker) / "7"
            folder.mkdir(parents=True)
            (root / "x" / "1" / "7" / "1-7-0000.flac").rename(folder / f"{speaker}-7-0000.flac")
            (folder / f"{speaker}-7.trans.txt").write_text(f"{speaker}-7-0000 GOOD MORNING\n")
    for kind, first in (("clean", 300), ("other", 400)):
        for speaker in (first, first + 1):
            folder = root / "9h" / kind / str(speaker) / "8"
            sound(folder / f"{speaker}-8-0003.flac")
            (folder / f"{speaker}-8.trans.txt").write_text(f"{speaker}-8-0003 GOOD EVENING\n")
    (root / "phones").mkdir()
    (root / "phones" / "10h_phones.txt").write_text("100-7-0000 1 2 3\n")
    return root


def run(tmp_path: Path, corpus, share: float = 0.01, name: str = "mine") -> Path:
    out, scratch = tmp_path / "made" / "out", tmp_path / "made" / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    limits = Limits(sample_rate_hz=RATE, min_seconds=0.3, max_seconds=35.0, max_quarantined_share=share)
    READERS[corpus.kind].prepare(name, corpus, out, scratch, alphabet=ALPHABET, limits=limits)
    return out


def quarantine(out: Path) -> dict[str, str]:
    rows = [line.split("\t") for line in (out / "quarantine.tsv").read_text().splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def cuts_of(out: Path) -> dict[str, list]:
    return {split: list(manifests.load_cuts(out, split)) for split in manifests.splits(out)}


# ---- splits


def some(speakers: int, per_speaker: int = 2, text: str | None = "hello", split: str | None = None) -> list[Item]:
    return [Item(f"{s}-{u}", f"{s}-{u}.flac", f"s{s}", text, split) for s in range(speakers) for u in range(per_speaker)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("speakers", [3, 4, 10, 37])
def test_no_speaker_crosses_and_no_split_is_empty(speakers: int, seed: int):
    # a speaker in train and test would make the test measure memory
    done = splits.assign(some(speakers), 0.1, 0.2, seed, "corpora.x")
    places = defaultdict(set)
    for item in done:
        places[item.speaker].add(item.split)
    assert all(len(p) == 1 for p in places.values())
    counts = {s: sum(p == {s} for p in places.values()) for s in manifests.SPLITS}
    assert counts["dev"] == max(1, round(0.1 * speakers))
    assert counts["test"] == max(1, round(0.2 * speakers))
    assert counts["train"] >= 1
    assert splits.assign(list(reversed(some(speakers))), 0.1, 0.2, seed, "corpora.x") == list(reversed(done))


def test_fixed_splits_stay_and_missing_ones_are_drawn():
    # AN4 and LibriSpeech fix their test speakers; moving them would make results incomparable
    fixed = [Item(f"t{i}", f"t{i}.flac", f"t{i}", "hello", "test") for i in range(2)]
    done = splits.assign(some(8) + fixed, 0.25, 0.5, 0, "corpora.x")
    assert {i.speaker for i in done if i.split == "test"} == {"t0", "t1"}
    assert len({i.speaker for i in done if i.split == "dev"}) == 2


def test_shares_of_zero_make_no_split_and_unlabelled_speech_is_all_for_training():
    assert {i.split for i in splits.assign(some(4), 0, 0, 0, "corpora.x")} == {"train"}
    assert {i.split for i in splits.assign(some(4, text=None), 0.1, 0.1, 0, "corpora.x")} == {"train"}
    # speakers with unlabelled speech stay in training, or that speech would cross
    mixed = [*some(6), Item("u", "u.flac", "s0", None)]
    assert {i.split for i in splits.assign(mixed, 0.4, 0.4, 0, "corpora.x") if i.speaker == "s0"} == {"train"}


@pytest.mark.parametrize("speakers", [1, 2])
def test_too_few_speakers_is_an_error_that_says_what_to_change(speakers: int):
    with pytest.raises(BirqError, match=r"corpora\.x: .*dev_share .*test_share .* to 0"):
        splits.assign(some(speakers), 0.1, 0.1, 0, "corpora.x")


def test_a_speaker_in_two_fixed_splits_is_an_error():
    with pytest.raises(BirqError, match="speaker 's0' is in test and train"):
        splits.assign([*some(2, split="train"), Item("a", "a.flac", "s0", "x", "test")], 0, 0, 0, "corpora.x")


# ---- the check


def test_every_kind_of_damage_is_set_aside_with_its_reason(tmp_path: Path):
    root = tmp_path / "c"
    good = sound(root / "a" / "good.wav")
    sound(root / "a" / "stereo.flac", rate=44100, channels=2)
    sound(root / "a" / "short.wav", 0.1)
    sound(root / "a" / "long.flac", 36.0, rate=8000)
    sound(root / "a" / "low.wav", rate=4000)
    soundfile.write(root / "a" / "none.wav", np.zeros(0, np.float32), RATE)
    nan = np.zeros(RATE, np.float32)
    nan[500] = np.nan
    soundfile.write(root / "a" / "nan.wav", nan, RATE, subtype="FLOAT")
    (root / "a" / "zero.wav").write_bytes(b"")
    (root / "a" / "text.mp3").write_bytes(b"no audio at all")
    for suffix in ("wav", "flac", "mp3"):
        whole = sound(root / "a" / f"cut.{suffix}", 3.0)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
        whole.rename(root / "a" / f"cut{suffix}.{suffix}")
    # a header that promises a little less than what follows is ordinary RIFF (more chunks come), more is damage
    riff = bytearray(good.read_bytes())
    at = riff.index(b"data") + 4
    riff[at : at + 4] = struct.pack("<I", 4 * RATE)
    (root / "a" / "header.wav").write_bytes(riff)

    out = run(tmp_path, LocalCorpus(kind="local", root=str(root)), share=1.0)
    found = quarantine(out)
    assert found == {
        "a-short": "too short",
        "a-long": "too long",
        "a-low": "wrong rate",
        "a-none": "empty",
        "a-nan": "non-finite samples",
        "a-zero": "empty",
        "a-text": "no audio that birq reads",
        "a-cutwav": "truncated",
        "a-cutflac": found["a-cutflac"],
        "a-cutmp3": "truncated",
        "a-header": "truncated",
    }
    assert found["a-cutflac"] in ("unreadable", "truncated")  # decoders differ in what they call it
    assert sorted(c.id for c in cuts_of(out)["train"]) == ["a-good", "a-stereo"]
    assert manifests.info(out)["quarantined"] == 11


def test_wrong_and_missing_transcripts_are_set_aside(tmp_path: Path):
    root = tree(tmp_path / "c", 4)
    sound(root / "1" / "7" / "1-7-0009.flac")
    with open(root / "1" / "7" / "1-7.trans.txt", "a") as f:
        f.write("1-7-0077 NOBODY SAID THIS\n")
    (root / "2" / "7" / "2-7.trans.txt").write_text(f"2-7-0000 ROOM 101\n2-7-0001 {'VERY ' * 20}\n")
    (root / "3" / "7" / "3-7.trans.txt").write_text("3-7-0000 ...\n3-7-0001 FINE\n")
    sound(root / "4" / "8" / "4-7-0000.flac")
    (root / "4" / "8" / "4-8.trans.txt").write_text("4-7-0000 THE SAME ID ONCE MORE\n")
    out = run(tmp_path, LocalCorpus(kind="local", root=str(root), dev_share=0.0, test_share=0.0), share=1.0)
    assert quarantine(out) == {
        "1-7-0009": "no transcript",
        "1-7-0077": "no audio",
        "2-7-0000": "characters outside tokenizer.alphabet",
        "2-7-0001": "transcript too long for the recording",
        "3-7-0000": "empty transcript",
        "4-7-0000": "duplicate id",
    }
    assert {c.supervisions[0].text for c in cuts_of(out)["train"]} == {"good morning", "fine"}


def test_too_much_damage_stops_the_stage_with_the_table_shown(tmp_path: Path):
    root = tree(tmp_path / "c", 10)
    (root / "3" / "7" / "3-7-0001.flac").write_bytes(b"")
    corpus = LocalCorpus(kind="local", root=str(root))
    with pytest.raises(BirqError, match="1 of 20 recordings cannot be used") as caught:
        run(tmp_path, corpus, share=0.01)
    assert "3-7-0001\t3/7/3-7-0001.flac\tempty" in str(caught.value)
    table = tmp_path / "made" / "scratch" / "quarantine.tsv"
    assert str(table) in str(caught.value)
    assert "3-7-0001" in table.read_text()
    out = run(tmp_path / "again", corpus, share=0.05)
    assert sum(len(c) for c in cuts_of(out).values()) == 19


def test_a_killed_check_goes_on_where_it_was(tmp_path: Path):
    # decoding a thousand hours takes an hour: what was heard once is not heard again
    root = tree(tmp_path / "c", 2)
    scan = local.scan(LocalCorpus(kind="local", root=str(root)), "corpora.x")
    first = check.listen_all(scan, "x", tmp_path)
    for path in root.rglob("*.flac"):
        path.write_bytes(b"")
    assert check.listen_all(scan, "x", tmp_path) == first


# ---- what is written


def test_cuts_lead_to_the_audio_and_its_hash(tmp_path: Path):
    root = tree(tmp_path / "c", 5)
    out = run(tmp_path, LocalCorpus(kind="local", root=str(root)))
    facts = manifests.info(out)
    assert facts["synthetic"] is False
    assert set(facts["splits"]) == {"train", "dev", "test"}
    for split, cuts in cuts_of(out).items():
        assert facts["splits"][split]["utterances"] == facts["splits"][split]["labelled_utterances"] == len(cuts)
        for cut in cuts:
            path = Path(cut.recording.sources[0].source)
            assert cut.custom["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert cut.load_audio().shape == (1, RATE)
            assert cut.supervisions[0].speaker == cut.id.split("-")[0]
    assert len(manifests.load_cuts(out, "nothing")) == 0
    for name in ("train.jsonl", "corpus.json", "quarantine.tsv"):
        again = run(tmp_path / "again" / name, LocalCorpus(kind="local", root=str(root)))
        assert (out / name).read_bytes() == (again / name).read_bytes()


def test_a_spoiled_manifest_is_named(tmp_path: Path):
    out = run(tmp_path, LocalCorpus(kind="local", root=str(tree(tmp_path / "c", 5))))
    (out / "train.jsonl").write_text('{"id": "half')
    with pytest.raises(BirqError, match=r"train\.jsonl, line 1"):
        manifests.load_cuts(out, "train")
    (out / "corpus.json").unlink()
    with pytest.raises(BirqError, match=r"corpus\.json: not a prepared corpus"):
        manifests.splits(out)


def test_the_stage_itself_leaves_facts_for_the_provenance(tmp_path: Path):
    root = tree(tmp_path / "c", 5)
    tracked = params.load(ROOT / "params.yaml")
    mine = tracked.model_copy(update={"corpora": {"mine": LocalCorpus(kind="local", root=str(root))}})
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir()
    node = dag.Node(dag.STAGES["corpus"], {"corpus": "mine"}, mine)
    job = stage.Job(node, "key", tmp_path / "out", tmp_path / "scratch")
    stages_corpus.compute(job)
    assert job.notes["quarantined"] == 0
    assert set(job.notes["hours"]) == {"train", "dev", "test"}


# ---- local


def test_a_table_of_transcripts_gives_speakers_and_splits(tmp_path: Path):
    root = tmp_path / "c"
    for name in ("a/1.wav", "a/2.flac", "b/3.ogg", "c/4.mp3", "c/left.wav"):
        sound(root / name, rate=22050)
    rows = [
        "path\ttext\tspeaker\tsplit",
        "a/1.wav\tHello\tann\ttrain",
        "a/2.flac\t\tann\ttrain",
        'b/3.ogg\tSay "so"\t\tdev',
        "c/4.mp3\tbye\tcat\ttest",
    ]
    (root / "transcripts.tsv").write_text("\n".join([*rows, "c/gone.wav\tnobody\tcat\ttest"]) + "\n")
    out = run(tmp_path, LocalCorpus(kind="local", root=str(root)), share=0.5)
    assert quarantine(out) == {"c-left": "no transcript", "c-gone": "no audio"}
    found = {c.id: (split, c.supervisions[0].speaker, c.supervisions[0].text) for split, cuts in cuts_of(out).items() for c in cuts}
    assert found == {
        "a-1": ("train", "ann", "hello"),
        "a-2": ("train", "ann", None),
        "b-3": ("dev", "b", "say so"),
        "c-4": ("test", "cat", "bye"),
    }
    assert manifests.info(out)["splits"]["train"]["labelled_utterances"] == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file\ttext\nx.wav\thello\n", "first line must name the columns"),
        ("path\ttext\tsplit\nx.wav\thello\tvalidation\n", "split 'validation' is not legal"),
        ("path\ttext\n../x.wav\thello\n", "must lie below"),
        ("path\ttext\nx.wav\thello\tann\n", "3 columns"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_line(tmp_path: Path, table: str, message: str):
    sound(tmp_path / "x.wav")
    (tmp_path / "transcripts.tsv").write_text(table)
    with pytest.raises(BirqError, match=r"transcripts\.tsv.*" + message):
        local.scan(LocalCorpus(kind="local", root=str(tmp_path)), "corpora.x")


def test_a_bare_folder_is_training_speech_and_transcripts_can_be_ignored(tmp_path: Path):
    for name in ("ann/1.wav", "ann/2.wav", "bob/1.flac", ".hidden/3.wav", "bob/._1.flac"):
        sound(tmp_path / "c" / name)
    out = run(tmp_path, LocalCorpus(kind="local", root=str(tmp_path / "c")))
    assert [(c.id, c.supervisions[0].speaker) for c in cuts_of(out)["train"]] == [("ann-1", "ann"), ("ann-2", "ann"), ("bob-1", "bob")]
    assert manifests.splits(out) == ["train"]
    out = run(tmp_path / "again", LocalCorpus(kind="local", root=str(tree(tmp_path / "d", 3)), unlabelled=True))
    assert {(c.supervisions[0].speaker, c.supervisions[0].text) for c in cuts_of(out)["train"]} == {(s, None) for s in "123"}


@pytest.mark.parametrize("kind", ["local", "librispeech", "an4"])
def test_a_missing_or_empty_folder_is_named_by_its_key(tmp_path: Path, kind: str):
    make = {"local": LocalCorpus, "librispeech": LibriSpeechCorpus, "an4": An4Corpus}[kind]
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, why in (("gone", "no folder"), ("empty", "is empty"), ("file", "is a file")):
        with pytest.raises(BirqError, match=rf"corpora\.mine\.root: .*{why}"):
            READERS[kind].scan(make(kind=kind, root=str(tmp_path / name)), "corpora.mine")
    (tmp_path / "empty" / "notes.txt").write_text("no audio here")
    with pytest.raises(BirqError, match=r"corpora\.mine\."):
        READERS[kind].scan(make(kind=kind, root=str(tmp_path / "empty")), "corpora.mine")


# ---- LibriSpeech


def test_librispeech_parts_fix_the_splits(tmp_path: Path):
    tree(tmp_path / "LibriSpeech" / "train-clean-5", 3)
    for s in (4, 5):
        tree(tmp_path / "x" / str(s), 5, text="OTHER")
    (tmp_path / "LibriSpeech" / "dev-clean-2").mkdir()
    (tmp_path / "x" / "4" / "4").rename(tmp_path / "LibriSpeech" / "dev-clean-2" / "4")
    corpus = LibriSpeechCorpus(
        kind="librispeech", root=str(tmp_path), train_parts=["train-clean-5"], dev_parts=["dev-clean-2"], test_share=0.3
    )
    out = run(tmp_path, corpus)
    found = {split: {c.supervisions[0].speaker for c in cuts} for split, cuts in cuts_of(out).items()}
    assert found["dev"] == {"4"}
    assert found["train"] | found["test"] == {"1", "2", "3"}
    assert len(found["test"]) == 1


def test_librilights_limited_parts_are_nested(tmp_path: Path):
    # 10 minutes are the first sixth of the hour, the hour is part of the ten; what lies beside them is not read
    limited_tree(tmp_path / "LibriSpeech" / "librispeech_finetuning")
    tree(tmp_path / "LibriSpeech" / "dev-clean", 2)
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path), dev_parts=["dev-clean"], test_share=0.0)

    def ids(part: str) -> set[str]:
        items = librispeech.scan(corpus.model_copy(update={"train_parts": [part]}), "corpora.x").items
        assert all(i.text and not i.reason for i in items)
        return {i.id for i in items if i.split is None}

    minutes, hour, hours = (ids(f"libri-light-{size}") for size in ("10min", "1h", "10h"))
    assert minutes == {"100-7-0000", "200-7-0000"} and len(hour) == 12 and len(hours) == 16 and minutes < hour < hours
    out = run(tmp_path, corpus.model_copy(update={"train_parts": ["libri-light-10h"]}))
    assert len(cuts_of(out)["train"]) == 16 and quarantine(out) == {}
    with pytest.raises(BirqError, match="libri-light-1h, libri-light-10h hold the same recordings"):
        librispeech.scan(corpus.model_copy(update={"train_parts": ["libri-light-1h", "libri-light-10h"]}), "corpora.x")
    (tmp_path / "LibriSpeech" / "librispeech_finetuning" / "9h").rename(tmp_path / "9h")
    with pytest.raises(BirqError, match="no part 'librispeech_finetuning/9h'"):
        ids("libri-light-10h")


def test_a_chapter_without_transcripts_is_unlabelled_speech_but_not_in_a_test(tmp_path: Path):
    tree(tmp_path / "c" / "train-clean-100", 3)
    sound(tmp_path / "c" / "train-clean-100" / "9" / "1" / "9-1-0000.flac")
    sound(tmp_path / "c" / "test-clean" / "8" / "1" / "8-1-0000.flac")
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path / "c"), test_parts=["test-clean"], dev_share=0.3)
    out = run(tmp_path, corpus, share=0.2)
    assert quarantine(out) == {"8-1-0000": "no transcript"}
    assert [c.supervisions[0].text for c in cuts_of(out)["train"] if c.supervisions[0].speaker == "9"] == [None]


def test_a_missing_part_is_named_with_those_there(tmp_path: Path):
    tree(tmp_path / "train-clean-100", 1)
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path), dev_parts=["dev-clean"])
    with pytest.raises(BirqError, match=r"corpora\.x\.dev_parts: .* no part 'dev-clean', it has train-clean-100"):
        librispeech.scan(corpus, "corpora.x")


def test_another_rate_than_librispeechs_is_set_aside(tmp_path: Path):
    # a header that says 8 kHz over 16 kHz samples would be heard as slow speech; a converted corpus is `kind: local`
    sound(tmp_path / "c" / "train-clean-100" / "1" / "2" / "1-2-0000.flac", rate=8000)
    tree(tmp_path / "c" / "train-clean-100", 3)
    out = run(tmp_path, LibriSpeechCorpus(kind="librispeech", root=str(tmp_path / "c"), dev_share=0.0, test_share=0.0), share=0.5)
    assert quarantine(out) == {"1-2-0000": "wrong rate"}


def test_the_real_librispeech_slice_is_read_as_lhotses_recipe_reads_it():
    # an independent reader of the same layout is the oracle
    from lhotse.recipes import prepare_librispeech

    root = real("LibriSpeech")
    wanted = prepare_librispeech(root, dataset_parts=["train-clean-100"])["train-clean-100"]
    found = librispeech.scan(LibriSpeechCorpus(kind="librispeech", root=str(root)), "corpora.x")
    assert {i.id: (i.speaker, i.text) for i in found.items} == {s.id: (s.speaker, s.text) for s in wanted["supervisions"]}
    paths = {r.id: Path(r.sources[0].source) for r in wanted["recordings"]}
    assert {i.id: found.root / i.path for i in found.items} == paths
    for item in found.items[::24]:
        sound = check.listen(found.root / item.path)
        assert sound.reason is None
        assert sound.n_samples == wanted["recordings"][item.id].num_samples


def test_real_untranscribed_speech_is_all_for_training():
    found = librispeech.scan(LibriSpeechCorpus(kind="librispeech", root=str(real("librivox-untranscribed"))), "corpora.x")
    assert len({i.speaker for i in found.items}) == 248
    assert {i.split for i in splits.assign(found.items, 0.1, 0.1, 0, "corpora.x")} == {"train"}
    assert all(check.listen(found.root / i.path).reason is None for i in found.items[::60])


def test_real_mp3_in_librispeechs_layout_is_read_with_its_alignments(tmp_path: Path):
    root = real("librivox-mp3")
    (tmp_path / "c").mkdir()
    for speaker in sorted((root / "dev-clean").iterdir())[:1]:
        chapter = sorted(speaker.iterdir())[0]
        place = tmp_path / "c" / speaker.name / chapter.name
        place.mkdir(parents=True)
        for path in [*sorted(chapter.glob("*.mp3"))[:6], *chapter.glob("*.txt")]:
            (place / path.name).symlink_to(path)
    table = real("alignments") / "librispeech-devclean-mp3.phones.tsv.gz"
    corpus = LocalCorpus(kind="local", root=str(tmp_path / "c"), dev_share=0.0, test_share=0.0, alignments=[str(table)])
    out = run(tmp_path, corpus, share=1.0)
    cuts = cuts_of(out)["train"]
    assert len(cuts) == 6
    assert set(quarantine(out).values()) <= {"no audio"}
    rows = manifests.alignments(out).to_pylist()
    ends = {r["id"]: r["end_s"] for r in rows}
    assert set(ends) <= {c.id for c in cuts}
    assert all(abs(c.duration - ends[c.id]) < 0.3 for c in cuts if c.id in ends)
    assert {r["word"] for r in rows if r["phone"] == "SIL"} == {None}


# ---- AN4


def an4_tree(root: Path, speakers: int = 5, test: bool = False) -> Path:
    (root / "etc").mkdir(parents=True)
    ids, lines = [], []
    for s in range(speakers):
        id = f"an{s}-sp{s}-b"
        sound(root / "wav" / "an4_clstk" / f"sp{s}" / f"{id}.wav")
        ids.append(f"an4_clstk/sp{s}/{id}")
        lines.append(f"<s> RUBOUT ++noise++ G M E </s> ({id})")
    (root / "etc" / "an4_train.fileids").write_text("\n".join(ids) + "\n")
    (root / "etc" / "an4_train.transcription").write_text("\n".join(lines) + "\n")
    if test:
        sound(root / "wav" / "an4test_clstk" / "tt" / "an1-tt-b.flac")
        (root / "etc" / "an4_test.fileids").write_text("an4test_clstk/tt/an1-tt-b\n")
        (root / "etc" / "an4_test.transcription").write_text("YES (an1-tt-b)\n")
    return root


def test_an4_keeps_its_test_list_and_draws_one_where_it_is_missing(tmp_path: Path):
    out = run(tmp_path, An4Corpus(kind="an4", root=str(an4_tree(tmp_path / "a", test=True))))
    found = {split: {c.supervisions[0].speaker for c in cuts} for split, cuts in cuts_of(out).items()}
    assert found["test"] == {"tt"}
    assert {c.supervisions[0].text for c in cuts_of(out)["train"]} == {"rubout g m e"}
    out = run(tmp_path / "again", An4Corpus(kind="an4", root=str(an4_tree(tmp_path / "b"))))
    assert manifests.splits(out) == ["train", "dev", "test"]


def test_an4_without_a_file_or_a_line_is_set_aside(tmp_path: Path):
    root = an4_tree(tmp_path / "a")
    (root / "wav" / "an4_clstk" / "sp1" / "an1-sp1-b.wav").unlink()
    lines = (root / "etc" / "an4_train.transcription").read_text().splitlines()
    (root / "etc" / "an4_train.transcription").write_text("\n".join(lines[:-1]) + "\n<s> GO </s> (an99-nobody-b)\n")
    out = run(tmp_path, An4Corpus(kind="an4", root=str(root)), share=1.0)
    assert quarantine(out) == {"an1-sp1-b": "no audio", "an4-sp4-b": "no transcript", "an99-nobody-b": "no audio"}
    (root / "etc" / "an4_train.transcription").write_text("a line without its id\n")
    with pytest.raises(BirqError, match=r"an4_train\.transcription, line 1"):
        an4.scan(An4Corpus(kind="an4", root=str(root)), "corpora.x")


def test_the_real_an4_is_found_whole():
    # 948 utterances of 74 speakers is what its own README counts
    found = an4.scan(An4Corpus(kind="an4", root=str(real("an4"))), "corpora.x")
    assert len(found.items) == 948
    assert not [i for i in found.items if i.reason]
    assert len({i.speaker for i in found.items}) == 74
    form = Normaliser(ALPHABET, quotation_marks=found.quotation_marks)
    assert not any(form.outside(form(i.text or "").text) for i in found.items)
    assert all(check.listen(found.root / i.path).reason is None for i in found.items[::200])


# ---- alignments


@pytest.mark.parametrize("packed", [False, True])
def test_alignments_are_read_plain_or_packed(tmp_path: Path, packed: bool):
    lines = "utt\tstart_s\tend_s\tphone\tword\nb\t0.5\t0.6\tAH\ta\na\t0.0\t0.5\tSIL\t<sil>\na\t0.5\t0.7\tB\tbee\nc\t0\t1\tB\tbee\n"
    path = tmp_path / ("a.tsv.gz" if packed else "a.tsv")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    rows = alignments.read(path, {"a", "b"})
    assert rows == [("a", 0.0, 0.5, "SIL", None), ("a", 0.5, 0.7, "B", "bee"), ("b", 0.5, 0.6, "AH", "a")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("utt\tstart_s\tend_s\tphone\tword\na\t0.5\t0.1\tB\tbee\n", "line 2: .*no stretch of time"),
        ("utt\tstart_s\tend_s\tphone\tword\na\tx\t0.1\tB\tbee\n", "line 2"),
        ("a b c\n", "first line"),
        ("utt\tstart_s\tend_s\tphone\tword\nz\t0\t0.1\tB\tbee\n", "none of the corpus' utterances"),
    ],
)
def test_wrong_alignments_are_an_error_that_names_the_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(BirqError, match=message):
        alignments.read(tmp_path / "a.tsv", {"a"})


# ---- code


@pytest.mark.parametrize("kind", ["ami", "an4", "lhotse", "librispeech", "local", "synth", "yodas"])
def test_a_readers_code_holds_no_other_reader(kind: str):
    # a corpus' key holds the hashes of its reader's imports: a new reader must not decode every other corpus again
    others = {"ami", "an4", "lhotse", "librispeech", "local", "synth", "yodas"} - {kind}
    if kind != "synth":
        others |= {"espeak", "grammar"}
    names = set(code.modules(f"birq.corpora.{kind}"))
    assert f"birq.corpora.{kind}" in names and "birq.corpora.manifests" in names
    assert not names & {f"birq.corpora.{o}" for o in others} and "birq.stages.corpus" not in names


def test_readers_are_imported_without_torch_lhotse_and_pyarrow(environment: dict[str, str]):
    # the stage contract asks them for their checksums at every start of the pipeline
    readers = "birq.corpora.an4, birq.corpora.lhotse, birq.corpora.librispeech"
    text = f"import sys, {readers}; print(*{{'torch', 'lhotse', 'pyarrow', 'soundfile'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
