"""YODAS2: captions read from the right, shards drawn and listed, downloads by the hub's list, audio streamed by the features stage."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yodas_copy
from faulty_server import Reply, Server, packed, serving
from pydantic import ValidationError
from test_corpora import ALPHABET, cuts_of, quarantine
from tiny import TinyJob
from yodas_copy import HUB, TREE, captions, shard, shards

from birq.corpora import archived, manifests, yodas, yodas_shards
from birq.corpora import captions as read_captions
from birq.corpora.items import Limits
from birq.downloads import firstseen, verb
from birq.errors import BirqError
from birq.pipeline import code, dag
from birq.settings import params
from birq.settings.corpora import YodasCorpus
from birq.speech.shards import open_split
from birq.stages import features, streamed_features

ROOT = Path(__file__).resolve().parent.parent


def section(root: Path, **more) -> YodasCorpus:
    return YodasCorpus(**{"kind": "yodas", "root": str(root), "subsets": ["en000"]} | ({"subsets": []} if "shards" in more else {}) | more)


def made(tmp_path: Path, corpus: YodasCorpus, share: float = 0.9, name: str = "made") -> Path:
    out, scratch = tmp_path / name / "out", tmp_path / name / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    limits = Limits(min_seconds=0.3, max_seconds=35.0, max_quarantined_share=share)
    yodas.prepare("yodas", corpus, out, scratch, alphabet=ALPHABET, limits=limits)
    return out


def ids(out: Path) -> list[str]:
    return sorted(c.id for split in manifests.splits(out) for c in manifests.iter_cuts(out, split))


# ---- captions


@pytest.mark.parametrize("video", ["Y1-2-3-4", "Y a", "Y-00001-5", "--", "Y"])
def test_times_are_read_from_the_right(video: str):
    found = read_captions.segment(yodas_copy.segment_id(video, 7, 1.5, 12.34), video, "x")
    assert (found.start_s, found.end_s, found.problem) == (1.5, 12.34, "")


@pytest.mark.parametrize(
    ("id", "video", "text", "why"),
    [
        ("Ya-1-2", "Ya", "x", "does not end with -INDEX-START-END"),
        ("Ya-00001-12-x", "Ya", "x", "does not end with"),
        ("Yb-00001-1-2", "Ya", "x", "its name is of the video 'Yb', it stands under 'Ya'"),
        ("Ya-00001-1-2", "Ya", None, "its text is NoneType"),
        ("Ya\n-00001-1-2", "Ya\n", "x", "does not end with"),
    ],
)
def test_a_segment_that_tells_too_little_has_a_problem(id: str, video: str, text: object, why: str):
    assert why in read_captions.segment(id, video, text).problem


def test_lengths_of_videos_with_spaces_in_their_names(tmp_path: Path):
    path = tmp_path / "d.txt"
    path.write_text("Y a b 12.5\nY-1-2 3\nYnone\nYzero 0\nYnan nan\nY-1-2 9\n\n")
    assert read_captions.durations(path) == {"Y a b": 12.5, "Y-1-2": 3.0}


# ---- the corpus


def test_every_caption_is_an_utterance_and_the_list_is_published(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards())
    out = made(tmp_path, section(root))
    assert len(ids(out)) == 3 * 4 * 2 and ids(out)[0].startswith("en000-00000000-Y a ben0000-00000-00000050-")
    table = archived.read(out)
    assert [(s.shard, s.file, s.recordings, s.utterances, s.problem) for s in table] == [
        (f"en000/{i:08d}", f"en000/audio/{i:08d}.tar.gz", 4, 8, "") for i in range(3)
    ]
    assert table[1].hours == pytest.approx(8 * 1.5 / 3600, abs=1e-6) and table[1].recorded_hours == pytest.approx(4 * 4.25 / 3600, abs=1e-6)
    facts = manifests.info(out)
    assert facts["shards"] == {"used": 3, "bad": 0, "max_bad_share": 0.02} and set(facts["splits"]) == set(manifests.SPLITS)
    cuts = [c for of_split in cuts_of(out).values() for c in of_split]
    assert {c.supervisions[0].text for c in cuts} == {"good good", "yes it is"}


def test_without_labels_captions_give_the_times_alone(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", [shard("en000/00000000", {"Ya": 4.0}, said=["\u4f60\u597d", "1234567"])])
    out = made(tmp_path, section(root, unlabelled=True), share=0.0)
    assert manifests.splits(out) == ["train"] and [c.supervisions[0].text for c in manifests.iter_cuts(out, "train")] == [None, None]


def test_what_does_not_fit_is_set_aside_with_a_reason(tmp_path: Path):
    more = [
        {"audio_id": "Yno-length", "text": {yodas_copy.segment_id("Yno-length", 0, 0, 1): "x"}},
        captions("Ya", ["again"]),
        {"audio_id": "Y/../../x", "text": {"a": "b"}},
    ]
    one = shard("en000/00000000", {"Ya": 4.0, "Yshort": 2.0}, more=more)
    text = json.loads(one.text)
    text[0]["text"] |= {
        "Ya-00009-x-y": "odd",
        yodas_copy.segment_id("Ya", 8, 1.0, 1.1): "blip",
        yodas_copy.segment_id("Ya", 7, 3, 2): "back",
    }
    one = yodas_copy.Shard(one.name, one.audio, json.dumps(text).encode(), one.duration + b"Ysilent 3.0\n")
    two = shard("en000/00000001", {"Ya": 4.0, "Yc": 4.0})
    out = made(tmp_path, section(yodas_copy.put(tmp_path / "y", [one, two]), unlabelled=True))
    assert quarantine(out) == {
        "en000-00000000-Yno-length": "no duration",
        "en000-00000000-Ya": "duplicate id",
        "en000-00000000-'Y/../../x'": "damaged id",
        "en000-00000000-Ysilent": "no text",
        "en000-00000000-Ya-00009-x-y": "damaged id",
        "en000-00000000-Ya-00008-00000100-00000110": "too short",
        "en000-00000000-Ya-00007-00000300-00000200": "outside of its recording",
        "en000-00000000-Yshort-00001-00000200-00000350": "outside of its recording",
        "en000-00000001-Ya": "duplicate id",
    }
    assert "the video is in en000/00000000 too" in (out / "quarantine.tsv").read_text()
    assert len(ids(out)) == 2 + 1 + 2


def test_a_copy_without_the_folder_data_is_read_too(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards(n=1))
    assert ids(made(tmp_path, section(root), name="a")) == ids(made(tmp_path, section(root / "data"), name="b"))


# ---- which shards


def test_an_unknown_subset_or_shard_is_refused_with_the_legal_ones(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", [*shards(n=2), *shards("de100", n=1)])
    with pytest.raises(BirqError, match=r"corpora\.yodas\.subsets: .* no shard of 'xx000'; legal are de100, en000\."):
        made(tmp_path, section(root, subsets=["xx000"]), name="a")
    with pytest.raises(BirqError, match=r"corpora\.yodas\.shards: en000 has no shard 'en000/00000009'; it has 2, such as en000/00000000"):
        made(tmp_path, section(root, shards=["en000/00000009"]), name="b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"subsets": []},
        {"subsets": ["english"]},
        {"subsets": ["en000", "en000"]},
        {"shards": ["en000"]},
        {"shards": ["en000/00000000"], "hours": 1.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, wrong: dict):
    with pytest.raises(ValidationError):
        section(tmp_path, **wrong)


def test_hours_are_drawn_in_random_order_and_the_drawn_list_gives_the_same_again(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", [*shards(n=6), *shards("de100", n=2)])
    of_shard_h = 8 * 1.5 / 3600

    def drawn(**more) -> list[str]:
        return yodas_shards.draw(section(root, subsets=["en000", "de100"], **more)).shards

    assert len(drawn()) == 8 and len(drawn(hours=2.5 * of_shard_h)) == 3
    assert drawn(hours=2.5 * of_shard_h) == drawn(hours=5 * of_shard_h)[:3] == drawn()[:3], "more hours keep what was drawn"
    assert len({tuple(drawn(hours=2.5 * of_shard_h, shard_seed=seed)) for seed in range(5)}) > 1
    first = made(tmp_path, section(root, subsets=["en000", "de100"], hours=2.5 * of_shard_h), name="a")
    again = made(tmp_path, section(root, shards=[s.shard for s in archived.read(first)]), name="b")
    for name in ("train.jsonl", "dev.jsonl", "shards.tsv"):
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_bad_shards_are_listed_up_to_a_limit(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards(n=6))
    data = root / "data" / "en000"
    (data / "audio" / "00000001.tar.gz").unlink()
    (data / "text" / "00000002.json").write_text("[{]")
    (data / "text" / "00000003.json").write_text("[]")
    (data / "duration" / "00000004.txt").write_text("")
    with pytest.raises(BirqError, match=r"4 of 6 shards cannot be used(.|\n)*no audio(.|\n)*max_bad_shards_share to 0\.667 or more"):
        made(tmp_path, section(root), name="a")
    for hours in (0.0, 1.0):
        out = made(tmp_path, section(root, max_bad_shards_share=0.7, hours=hours), name=f"b{hours}")
        problems = {s.shard[-1]: s.problem for s in archived.read(out)}
        assert [n for n, problem in problems.items() if not problem] == ["0", "5"] and problems["1"].startswith("no audio (en000/audio/")
        assert manifests.info(out)["shards"] == {"used": 2, "bad": 4, "max_bad_share": 0.7} and len(ids(out)) == 2 * 8


# ---- features, streamed


def tables(tmp_path: Path, corpus: YodasCorpus, share: float = 0.9, **changes) -> params.Params:
    given = params.load(ROOT / "params.yaml")
    limits = {"min_seconds": 0.3, "max_quarantined_share": share} | changes
    run = given.run.model_copy(update={"pretrain_corpora": ["yodas"], "finetune_corpora": ["yodas"]})
    return given.model_copy(update={"corpora": {"yodas": corpus}, "features": given.features.model_copy(update=limits), "run": run})


def job(tmp_path: Path, corpus: YodasCorpus, made_corpus: Path, name: str = "features", **changes) -> TinyJob:
    out, scratch = tmp_path / name / "out", tmp_path / name / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    node = dag.Node(dag.STAGES["features"], {"corpus": "yodas"}, tables(tmp_path, corpus, **changes))
    return TinyJob(node, "0" * 32, out, scratch, given={"corpus": [made_corpus]})


def streamed(*args, **more) -> TinyJob:
    one = job(*args, **more)
    streamed_features.compute(one)
    return one


def test_streamed_features_are_those_of_the_unpacked_audio(tmp_path: Path):
    """The features stage of all other corpora, on the same cuts with the archives unpacked, is the oracle."""
    root = yodas_copy.put(tmp_path / "y", shards())
    corpus = section(root)
    cuts = made(tmp_path, corpus)
    got = streamed(tmp_path, corpus, cuts, shard_utterances=3)
    assert not list(got.scratch.rglob("*.wav")), "the audio is dropped"
    yodas_copy.unpack(root)
    want = job(tmp_path, corpus, cuts, name="oracle", shard_utterances=3)
    features.compute(want)
    for split in manifests.splits(cuts):
        one, other = open_split([got.out], split), open_split([want.out], split)
        assert sorted(one.ids) == sorted(other.ids) and len(one.ids)
        at = {id: i for i, id in enumerate(other.ids)}
        for i, id in enumerate(one.ids):
            np.testing.assert_array_equal(one.raw(i), other.raw(at[id]))
            assert (one.texts[i], one.speakers[i]) == (other.texts[at[id]], other.speakers[at[id]])
    mine, theirs = (json.loads((j.out / "splits.json").read_text()) for j in (got, want))
    assert {s: m["frames"] for s, m in mine.items()} == {s: m["frames"] for s, m in theirs.items()}
    again = streamed(tmp_path, corpus, cuts, name="unpacked", shard_utterances=3)
    assert _bytes(again.out) == _bytes(got.out), "unpacked beside the archive, it is read where it is"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_long_recordings_are_cut_out_first_without_a_change_of_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Videos last up to a day, and a recording is decoded from its beginning for every 64 utterances."""
    said = ["x"] * 9
    every = [shard("en000/00000000", {"Yshort": 9.0, "Ylong one": 15.0}, said, more=[]), shard("en000/00000001", {"Ylong": 14.1}, said)]
    corpus = section(yodas_copy.put(tmp_path / "y", every), unlabelled=True)
    cuts = made(tmp_path, corpus)
    want = streamed(tmp_path, corpus, cuts, name="whole", shard_utterances=4)
    read: list[str] = []
    real = features._make_shard

    def noting(task):
        read.extend({Path(u.path).name for u in task.utterances})
        return real(task)

    monkeypatch.setattr(features, "_make_shard", noting)
    monkeypatch.setattr(streamed_features, "STRETCH_S", 10.0)
    got = streamed(tmp_path, corpus, cuts, name="stretches", shard_utterances=4)
    assert _bytes(got.out) == _bytes(want.out) and {n for n in read if not n.startswith("stretch")} == {"Yshort.wav"}
    assert sum(n.startswith("stretch") for n in read) >= 6 and not list(tmp_path.joinpath("stretches").rglob("*.wav"))
    monkeypatch.setattr(streamed_features, "STRETCH_S", 1.0)
    sparse = streamed(tmp_path, corpus, cuts, name="sparse", shard_utterances=4)
    assert _bytes(sparse.out) == _bytes(want.out), "utterances that lie too far apart are read as ever"


def test_archives_that_cannot_be_unpacked_are_left_out_up_to_a_limit(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards())
    path = root / "data/en000/audio/00000001.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    corpus = section(root, unlabelled=True)
    cuts = made(tmp_path, corpus)
    with pytest.raises(BirqError, match=r"1 of 3 shards cannot be used(.|\n)*en000/audio/00000001\.tar\.gz cannot be unpacked"):
        streamed(tmp_path, corpus, cuts, name="a")
    corpus = section(root, unlabelled=True, max_bad_shards_share=0.4)
    done = streamed(tmp_path, corpus, made(tmp_path, corpus, name="cuts"), name="b")
    assert len(open_split([done.out], "train").ids) == 2 * 8 and done.notes["bad_shards"] == 1
    assert quarantine(done.out) == {"en000/00000001": "bad shard"} and not list(done.scratch.rglob("*.wav"))


def test_recordings_are_checked_where_they_are_first_heard(tmp_path: Path):
    """The table of lengths and the captions may promise what the archive does not hold."""
    one = shard("en000/00000000", {"Ya": 4.0, "Ygone": 4.0, "Yless": 4.0, "Ycut": 4.0, "Yquiet": 4.0})
    wavs = {f"{v}.wav": yodas_copy.wav(v, s) for v, s in {"Ya": 4.0, "Yless": 3.0, "Ycut": 4.0}.items()}
    wavs["Ycut.wav"] = wavs["Ycut.wav"][:5000]
    wavs["Yquiet.wav"] = wavs["Ya.wav"][:44] + bytes(len(wavs["Ya.wav"]) - 44)
    one = yodas_copy.Shard(one.name, packed({**wavs, "x/Ya.wav": yodas_copy.wav("other", 4.0)}), one.text, one.duration)
    corpus = section(yodas_copy.put(tmp_path / "y", [one]), unlabelled=True)
    cuts = made(tmp_path, corpus)
    with pytest.raises(BirqError, match=r"7 of 10 recordings cannot be used"):
        streamed(tmp_path, corpus, cuts, name="a", share=0.5)
    done = streamed(tmp_path, corpus, cuts, name="b", share=0.7)
    found = {id.split("-")[2] + id[-9:]: reason for id, reason in quarantine(done.out).items()}
    assert {k[:-9]: v for k, v in found.items()} == {
        "Ygone": "no audio",
        "Yless": "outside of its recording",
        "Ycut": "truncated",
        "Yquiet": "silent",
    }
    assert sorted(open_split([done.out], "train").speakers) == ["Ya", "Ya", "Yless"]


def test_the_disk_is_bounded_by_a_setting(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards())
    corpus = section(root, unlabelled=True, max_disk_gb=0.001)
    cuts = made(tmp_path, corpus)
    with pytest.raises(
        BirqError, match=r"en000/00000002 takes .* GB of disk .*corpora\.yodas\.max_disk_gb is 0\.001; set it to 0\.01 or more"
    ):
        streamed(tmp_path, corpus, cuts, name="a")


def test_an_archive_that_holds_far_more_than_its_lengths_say_is_bad(tmp_path: Path):
    root = yodas_copy.put(tmp_path / "y", shards())
    (root / "data/en000/audio/00000001.tar.gz").write_bytes(packed({"Y.wav": bytes(20_000_000)}))
    corpus = section(root, unlabelled=True, max_bad_shards_share=0.4)
    done = streamed(tmp_path, corpus, made(tmp_path, corpus))
    assert quarantine(done.out) == {"en000/00000001": "bad shard"} and "not plausible" in (done.out / "quarantine.tsv").read_text()


def test_a_disk_that_is_full_leaves_no_audio_and_costs_no_archive_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = yodas_copy.put(tmp_path / "y", shards())
    corpus = section(root, unlabelled=True)
    cuts = made(tmp_path, corpus)
    real, calls = features._make_shard, []

    def full(task):
        calls.append(task)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(task)

    monkeypatch.setattr(features, "_make_shard", full)
    with pytest.raises(OSError, match="No space left"):
        streamed(tmp_path, corpus, cuts, name="a")
    assert len(list((tmp_path / "a").rglob("done.json"))) == 1 and not list((tmp_path / "a").rglob("*.wav"))
    shutil.rmtree(tmp_path / "a" / "out")
    assert len(open_split([streamed(tmp_path, corpus, cuts, name="a").out], "train").ids) == 3 * 8 and len(calls) == 1 + 1 + 2


def test_workers_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = yodas_copy.put(tmp_path / "y", shards(n=4, seconds=0.5 + 2 * 1.5))
    corpus = section(root)
    cuts = made(tmp_path, corpus)
    alone = streamed(tmp_path, corpus, cuts, name="alone")
    monkeypatch.setattr(features, "HOURS_PER_WORKER", 1e-6)
    monkeypatch.setattr(streamed_features.os, "sched_getaffinity", lambda _: {0, 1})
    several = streamed(tmp_path, corpus, cuts, name="several")
    assert _bytes(several.out) == _bytes(alone.out) and (alone.notes["workers"], several.notes["workers"]) == (1, 2)
    bounded = streamed(tmp_path, section(root, max_disk_gb=0.004), cuts, name="bounded")
    assert bounded.notes["workers"] == 1, "room for one archive at a time"


def test_a_run_goes_on_behind_the_archives_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = yodas_copy.put(tmp_path / "y", shards())
    corpus = section(root, unlabelled=True)
    cuts = made(tmp_path, corpus)
    want = streamed(tmp_path, corpus, cuts, name="whole")
    parted = job(tmp_path, corpus, cuts, name="parted")
    for i in (1, 2):
        streamed_features.compute_part(parted, (i, 2))
    opened: list[str] = []
    monkeypatch.setattr(streamed_features.unpack, "unpack", lambda *a: opened.append(str(a[0])))
    streamed_features.compute(parted)
    assert not opened and _bytes(parted.out) == _bytes(want.out)


def test_of_a_damaged_artifact_only_the_archive_of_what_was_lost_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Shards, and rows of what was set aside, that are sound are taken as they are; an archive is a day of downloads away."""
    every = shards(n=4)
    wavs = {"Yab.wav": yodas_copy.wav("Yab", 4.0)}
    holed = shard("en000/00000009", {"Yab": 4.0, "Ygone": 4.0})
    every.append(yodas_copy.Shard(holed.name, packed(wavs), holed.text, holed.duration))
    corpus = section(yodas_copy.put(tmp_path / "y", every), unlabelled=True)
    cuts = made(tmp_path, corpus)
    want = streamed(tmp_path, corpus, cuts, name="whole", shard_utterances=3)
    assert len(quarantine(want.out)) == 2, "of the video that the archive lacks"
    opened, real = [], streamed_features.unpack.unpack
    monkeypatch.setattr(streamed_features.unpack, "unpack", lambda *a, **k: opened.append(Path(a[0]).name) or real(*a, **k))

    def again(name: str, lost: str) -> list[str]:
        """The archives that are opened where the artifact has lost a file."""
        opened.clear()
        one = job(tmp_path, corpus, cuts, name=name, shard_utterances=3)
        shutil.copytree(want.out, one.scratch / "spared")
        (one.scratch / "spared" / lost).unlink()
        streamed_features.compute(one)
        assert _bytes(one.out) == _bytes(want.out)
        return sorted(opened)

    assert again("first", "train/00000.parquet") == ["00000000.tar.gz"]
    assert again("counts", "splits.json") == []
    assert again("aside", "quarantine.tsv") == ["00000009.tar.gz"]


# ---- download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The hub on this machine."""
    with serving() as hub:
        monkeypatch.setattr(yodas_shards, "SITE", hub.url(HUB))
        yodas_copy.serve(hub, [*shards(n=5), *shards("de100", n=1)])
        yield hub


def downloading(root: Path, **more) -> YodasCorpus:
    return section(root, download=True, **{"stall_seconds": 20.0, "tries": 1, "unlabelled": True} | more)


def asked(server: Server, what: str) -> list[str]:
    return [name.rpartition("/")[2] for name, _ in server.asked if name.startswith(HUB) and f"/{what}/" in name]


def test_a_download_gives_what_a_copy_gives_and_leaves_no_audio(tmp_path: Path, server: Server):
    corpus = downloading(tmp_path / "got")
    got = made(tmp_path, corpus, name="a")
    own = made(tmp_path, section(yodas_copy.put(tmp_path / "own", shards(n=5)), unlabelled=True), name="b")
    assert (got / "train.jsonl").read_bytes() == (own / "train.jsonl").read_bytes()
    assert not asked(server, "audio") and len(asked(server, "text")) == len(asked(server, "duration")) == 5
    one, other = streamed(tmp_path, corpus, got, name="c"), streamed(tmp_path, section(tmp_path / "own", unlabelled=True), own, name="d")
    assert _bytes(one.out) == _bytes(other.out)
    assert sorted(asked(server, "audio")) == [f"{i:08d}.tar.gz" for i in range(5)]
    assert not [p for p in tmp_path.rglob("*.tar.gz*") if "own" not in p.parts], "every archive is dropped once it is read"


def test_the_hubs_checksums_are_the_key_before_any_audio_is_fetched(tmp_path: Path, server: Server):
    corpus = downloading(tmp_path / "y")
    before, own = yodas.sources(corpus)
    assert before == {"list of en000": ""} and not own
    yodas.settle(corpus, "corpora.yodas")
    after, own = yodas.sources(corpus)
    assert len(after) == 3 * 5 and all(after.values()) and not own and not asked(server, "audio")
    name = "en000/audio/00000003.tar.gz"
    assert after[name] == hashlib.sha256(server.files[f"{HUB}/{name}"]).hexdigest()
    (tmp_path / "y").rename(tmp_path / "elsewhere")
    n = len(server.asked)
    yodas.settle(corpus, "corpora.yodas")
    assert yodas.sources(corpus) == (after, []) and len(server.asked) == n, "a key that the lock tells needs no download"


def test_only_the_drawn_hours_are_asked_for(tmp_path: Path, server: Server):
    corpus = downloading(tmp_path / "y", hours=1.5 * 8 * 1.5 / 3600, subsets=["en000", "de100"])
    out = made(tmp_path, corpus)
    assert len(archived.read(out)) == 2 == len(asked(server, "text"))
    (tmp_path / "y").rename(tmp_path / "elsewhere")
    pinned, _ = yodas.sources(corpus)
    assert len(pinned) == 2 * 3 and all(pinned.values()), "hours are remembered beside the root"


def test_another_archive_than_the_listed_one_is_refused(tmp_path: Path, server: Server):
    corpus = downloading(tmp_path / "y")
    cuts = made(tmp_path, corpus)
    name = f"{HUB}/en000/audio/00000003.tar.gz"
    server.files[name] = server.files[name][:-1] + b"!"
    with pytest.raises(BirqError, match=r"en000/audio/00000003\.tar\.gz could not(.|\n)*expected [0-9a-f]{64}"):
        streamed(tmp_path, corpus, cuts)
    done = {p.parent.name for p in tmp_path.rglob("done.json")}
    assert "en000-00000000" in done and "en000-00000003" not in done, "what is done stays"


def test_a_shard_that_the_hub_lacks_is_bad_not_asked_for(tmp_path: Path, server: Server):
    for begin in ("", "?cursor=2", "?cursor=4"):
        name = f"{TREE}/en000/audio{begin}"
        server.files[name] = json.dumps([e for e in json.loads(server.files[name]) if "00000002" not in e["path"]]).encode()
    out = made(tmp_path, downloading(tmp_path / "y", max_bad_shards_share=0.2))
    assert {s.shard: s.problem for s in archived.read(out) if s.problem} == {
        "en000/00000002": "no audio (en000/audio/00000002.tar.gz does not exist)"
    }


def test_a_subset_that_the_hub_lacks_is_refused_with_the_legal_ones(tmp_path: Path, server: Server):
    with pytest.raises(BirqError, match=r"corpora\.yodas\.subsets: no 'en009' in the corpus; legal are de100, en000"):
        made(tmp_path, downloading(tmp_path / "y", subsets=["en009"]))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b"<html>sorry</html>"), "not a list of files"),
        (Reply(body=b'[{"type": "file"}]'), "not a list of files"),
        (Reply(403), "HTTP 403"),
        (Reply(503), r"HTTP 503.* \(1 times\)"),
        (
            Reply(body=b'[{"type": "file", "size": 3, "path": "data/en000/audio/00000000.tar.gz"}]'),
            "has no SHA-256 of en000/audio/00000000",
        ),
    ],
)
def test_a_list_that_cannot_be_had_is_named(tmp_path: Path, server: Server, reply: Reply, error: str):
    server.always[f"{TREE}/en000/audio"] = reply
    with pytest.raises(BirqError, match=error):
        made(tmp_path, downloading(tmp_path / "y"))
    assert not firstseen.known(tmp_path / "y"), "half a list is none"


def test_a_busy_hub_is_asked_again(tmp_path: Path, server: Server):
    server.replies[f"{TREE}/en000/text"] = [Reply(429, headers={"Retry-After": "0"}), Reply(cut=20)]
    assert len(ids(made(tmp_path, downloading(tmp_path / "y", tries=3)))) == 5 * 8


def test_offline_everything_comes_from_folders(tmp_path: Path, server: Server):
    yodas.settle(downloading(tmp_path / "y"), "corpora.yodas")
    mirror = yodas_copy.put(tmp_path / "mine", shards(n=5)) / "data"
    n = len(server.asked)
    corpus = downloading(tmp_path / "y", offline=True, mirrors=[str(mirror)])
    done = streamed(tmp_path, corpus, made(tmp_path, corpus))
    assert len(open_split([done.out], "train").ids) == 5 * 8 and len(server.asked) == n
    assert all((mirror / "en000/audio" / f"{i:08d}.tar.gz").is_file() for i in range(5)), "the mirror's archives stay"


def test_the_verb_fetches_all_but_the_audio(tmp_path: Path, server: Server):
    given = tables(tmp_path, downloading(tmp_path / "y"))
    assert f"{HUB}/en000/text" in verb.look(given)
    assert "; the features stage fetches the audio" in verb.fetch(given) == verb.look(given)
    assert len(asked(server, "text")) == 5 and not asked(server, "audio")


# ---- keys


def test_features_of_other_corpora_keep_their_code_and_params(tmp_path: Path):
    given = params.load(ROOT / "params.yaml")
    for name in given.corpora:
        node = dag.Node(dag.STAGES["features"], {"corpus": name}, given)
        assert node.module == "birq.stages.features" and node.sections == dag.FEATURES
        assert not {m for m in node.code if "yodas" in m or "archived" in m or "captions" in m or "streamed" in m}
    node = dag.Node(dag.STAGES["features"], {"corpus": "yodas"}, tables(tmp_path, section(tmp_path)))
    assert {"birq.stages.streamed_features", "birq.stages.features", "birq.corpora.archived"} <= set(node.code)
    assert "birq.corpora.yodas" not in node.code and set(node.sections) == {
        *dag.FEATURES,
        *(r for r in YodasCorpus.reads if "features" in r),
    }
    assert not {"max_disk_gb", "mirrors", "download"} & set(params.section(node.params, "corpora.yodas"))
    own = {"birq.corpora.yodas", "birq.corpora.yodas_shards", "birq.corpora.captions", "birq.corpora.archived"}
    assert own <= set(code.modules("birq.stages.corpus", "birq.corpora.yodas"))
    for kind in ("ami", "an4", "librispeech", "local", "synth", "lhotse"):
        assert not own & set(code.modules("birq.stages.corpus", f"birq.corpora.{kind}"))
