"""AMI: its partition, its annotations' three segmentations, text, traps of its files, and its download without published checksums."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ami_copy
import numpy as np
import pytest
import soundfile
from ami_copy import SPEAKERS, timed
from faulty_server import Reply, Server, serving
from pydantic import ValidationError
from test_corpora import ALPHABET, cuts_of, quarantine

from birq.corpora import ami, manifests, nite, turns
from birq.corpora.items import Limits
from birq.downloads import archives, firstseen
from birq.errors import BirqError
from birq.pipeline import code, sources
from birq.settings.corpora import AmiCorpus
from birq.speech import audio
from birq.stages import corpus as stages_corpus

A = "ami_public_manual_1.6.2"


def section(root: Path, **more) -> AmiCorpus:
    given = {"kind": "ami", "root": str(root), "meetings": list(SPEAKERS)} | more
    return AmiCorpus(**given)


def made(tmp_path: Path, corpus: AmiCorpus, share: float = 0.9, alphabet: str = ALPHABET + "-", name: str = "made") -> Path:
    out, scratch = tmp_path / name / "out", tmp_path / name / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    limits = Limits(min_seconds=0.1, max_seconds=35.0, max_quarantined_share=share)
    ami.prepare("ami", corpus, out, scratch, alphabet=alphabet, limits=limits)
    return out


def turn(text: str, begin: float = 0.5, **more) -> nite.Turn:
    tokens = [nite.Token("" if t.startswith("<") else t, start, end, t in ami_copy.SIGNS) for t, start, end in timed(text, begin)]
    return nite.Turn(tuple(tokens), 0.0, 99.0, **more)


def cut_up(text: str, rule: str, begin: float = 0.5) -> list[tuple[float, float, str]]:
    return [(p.start_s, p.end_s, p.text) for p in turns.pieces(turn(text, begin), rule)]


# ---- the partition


def test_the_partition_has_every_meeting_but_one_in_one_split():
    counts = Counter(ami.MEETINGS.values())
    assert counts == {"train": 136, "dev": 18, "test": 16} and len(ami.MEETINGS) == 170
    assert "IB4005" not in ami.MEETINGS and all(re.fullmatch(r"(EN|ES|IS|TS)\d{4}[a-e]|(IB|IN|EN)\d{4}", m) for m in ami.MEETINGS)
    assert {ami.MEETINGS[m] for m in ("ES2014a", "TS3007d", "ES2003b", "TS3006c")} == {"train"}
    assert {m[:6] for m, split in ami.MEETINGS.items() if split == "test"} == {"ES2004", "IS1009", "TS3003", "EN2002"}


def test_the_recordings_are_those_that_the_owners_have(tmp_path: Path):
    every = section(tmp_path, meetings=[], microphones=["ihm", "sdm", "mdm"])
    needed = ami._needed(every, "x")
    kinds = Counter("ihm" if "Headset" in n else "sdm" if "Array" in n else "mdm" for n in needed)
    # of 171 meetings 687 headset files and 169 distant ones are known; IB4005 is left out here
    assert kinds == {"ihm": 687 - 4, "sdm": 169 - 1, "mdm": 170}
    assert needed["EN2001e.Headset-4"] == "EN2001e/audio/EN2001e.Headset-4.wav"
    assert needed["ES2002a_MDM8"] == "beamformed/ES2002a/ES2002a_MDM8.wav"


@pytest.mark.parametrize(("name", "why"), [("IB4005", "FIE038 and MIO036 are in dev too"), ("ES2002", "legal are names such as ES2002a")])
def test_a_meeting_of_no_split_is_refused_with_the_reason(tmp_path: Path, name: str, why: str):
    ami_copy.copy(tmp_path / "ami")
    with pytest.raises(BirqError, match=rf"corpora\.ami\.meetings: '{name}': .*{why}"):
        made(tmp_path, section(tmp_path / "ami", meetings=[name]))


@pytest.mark.parametrize("wrong", [{"microphones": []}, {"microphones": ["ihm"] * 2}, {"microphones": ["lapel"]}, {"segmentation": "no"}])
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, wrong: dict):
    with pytest.raises(ValidationError):
        section(tmp_path, **wrong)


# ---- text


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Mm-hmm", "MM-HMM"),
        ("mm hmm uh-huh", "MM-HMM UH-HUH"),
        ("Uh-huh uh-huh", "UH-HUH UH-HUH"),
        ("remote-control", "REMOTE CONTROL"),
        ("T_V_", "T V"),
        ("O_K", "OK"),
        ("O.K.", "OK"),
        ("okay", "OKAY"),
        ("I'm 'cause dogs'", "I'M 'CAUSE DOGS'"),
        ("' ''", ""),
        ("um,I", "UM I"),  # Kaldi's script deletes both words
        ("D\u00e9sir\u00e9e", "DESIREE"),
        ("R&D", "R D"),
        ("@ - .", ""),
        ("four 4", "FOUR 4"),
        ("drummm hmm", "DRUMMM HMM"),  # Kaldi joins the end of one word with the next
    ],
)
def test_the_text_has_kaldis_words(written: str, words: str):
    assert turns.spoken(written) == words
    assert turns.spoken(words) == words


# ---- segmentation

SENTENCES = "Hi , I'm D\u00e9sir\u00e9e . <laugh> Mm-hmm . Okay ?"


def test_whole_turns_last_from_the_first_word_to_the_last():
    assert cut_up("<laugh> " + SENTENCES, "whole") == [(0.75, 2.25, "HI I'M DESIREE MM-HMM OKAY")]


def test_lhotses_rule_splits_at_full_stops_alone_and_takes_pauses_out():
    assert cut_up(SENTENCES, "at_most_30_words") == [(0.5, 1.25, "HI I'M DESIREE"), (1.5, 1.75, "MM-HMM"), (1.75, 2.0, "OKAY")]
    assert [t for *_, t in cut_up("Yes ? No ! Well .", "at_most_30_words")] == ["YES NO WELL"]


def test_kaldis_rule_splits_at_stops_and_questions_and_leaves_no_time_out():
    assert cut_up("<laugh> " + SENTENCES, "kaldi") == [(0.5, 1.5, "HI I'M DESIREE"), (1.5, 2.0, "MM-HMM"), (2.0, 2.25, "OKAY")]
    assert [t for *_, t in cut_up("Yes ? No ! Well .", "kaldi")] == ["YES", "NO WELL"]


def test_kaldis_times_are_cut_off_to_hundredths():
    # sprintf("%07d", 100 * time): 0.29 * 100 is 28.999999999999996
    (piece,) = turns.pieces(nite.Turn((nite.Token("yes", 0.29, 1.239),), 0.0, 2.0), "kaldi")
    assert (piece.start_s, piece.end_s) == (0.28, 1.23)


def long(*stretches: int, sign: str = ",") -> str:
    return f" {sign} ".join(" ".join(["word"] * n) for n in stretches)


def test_kaldi_cuts_long_sentences_at_the_comma_nearest_to_the_middle_again_and_again():
    assert [t.count("WORD") for *_, t in cut_up(long(10, 12, 8), "kaldi")] == [10, 20]  # 30 words and 2 signs are more than 30
    assert [t.count("WORD") for *_, t in cut_up(long(10, 12, 6), "kaldi")] == [28]
    pieces = cut_up(long(20, 20, 20), "kaldi")
    assert [t.count("WORD") for *_, t in pieces] == [20, 20, 20]
    assert [(b, e) for b, e, _ in pieces] == [(0.5, 5.5), (5.5, 10.5), (10.5, 15.5)]


def test_kaldi_leaves_what_has_no_comma_near_its_middle_whole():
    assert len(cut_up(long(20, 20, sign="!"), "kaldi")) == 1
    assert len(cut_up(long(40), "kaldi")) == 1


def test_lhotse_fills_pieces_up_to_thirty():
    assert [t.count("WORD") for *_, t in cut_up(long(10, 12, 8, 25, 40), "at_most_30_words")] == [30, 25, 40]
    assert [t.count("WORD") for *_, t in cut_up(long(10, 12, 8), "at_most_30_words")] == [30]


@pytest.mark.parametrize("rule", turns.RULES)
def test_no_rule_loses_a_word(rule: str):
    text = f"{long(9, 25, 31, 2)} ? {SENTENCES} <other> {long(33, 4, sign='!')} ; {long(17, 18)} ."
    assert " ".join(t for *_, t in cut_up(text, rule)) == turns.spoken(" ".join(w for w in text.split() if w[0] not in "<.,?!:;"))


@pytest.mark.parametrize("rule", turns.RULES)
def test_sounds_and_signs_alone_are_no_utterance(rule: str):
    assert cut_up("<laugh> . <cough> ?", rule) == []


@pytest.mark.parametrize("rule", turns.RULES)
def test_words_without_times_go_with_their_neighbours(rule: str):
    tokens = (nite.Token("one", 1.0, 1.25), nite.Token("two"), nite.Token("three", 1.5, 2.0))
    (piece,) = turns.pieces(nite.Turn(tokens, 0.9, 2.1), rule)
    assert (piece.start_s, piece.end_s, piece.text) == (1.0, 2.0, "ONE TWO THREE")
    (piece,) = turns.pieces(nite.Turn((nite.Token("two"),), 0.75, 2.25), rule)
    assert (piece.start_s, piece.end_s) == (0.75, 2.25)


# ---- a whole copy


def test_every_speaker_is_cut_out_of_the_own_headset_and_of_the_distant_microphones(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    root = ami_copy.copy(tmp_path / "ami")
    out = made(tmp_path, section(root, microphones=["ihm", "sdm", "mdm"]))
    cuts = cuts_of(out)
    by_id = {c.id: c for split in cuts.values() for c in split}
    assert {split: sorted({c.id.partition("-")[0] for c in some}) for split, some in cuts.items()} == {
        "train": ["EN2001a", "ES2002a", "ES2010d", "IS1003b"], "dev": ["ES2011a"], "test": ["ES2004a"],
    }  # fmt: skip
    assert {c.supervisions[0].speaker for c in by_id.values()} == {s for names in SPEAKERS.values() for s in names}
    one = by_id["ES2002a-H01-MEE006-0000050-0000125"]
    assert one.recording_id == "ES2002a.Headset-1" and (one.start, one.duration) == (0.5, 0.75)
    assert one.supervisions[0].text == "hi i'm desiree" and one.custom["part"] == "ihm"
    # three utterances of seven speakers, by three kinds of microphones, one of which has no file of IS1003b
    assert Counter(c.custom["part"] for c in by_id.values()) == {"ihm": 21, "sdm": 18, "mdm": 21}
    assert not any("IS1003b" in id and "SDM" in id for id in by_id)
    assert stages_corpus.check_sources(out) == 7 + 5 + 6
    said = capfd.readouterr().err
    assert "several channels in 1 of the recordings, such as amicorpus/ES2010d/audio/ES2010d.Array1-01.wav; their mean is used" in said
    assert "corpora.ami: sdm, utterances of train / dev / test: 12 / 3 / 3" in said and "others count" not in said


def test_a_cut_has_the_samples_of_its_time(tmp_path: Path):
    out = made(tmp_path, section(ami_copy.copy(tmp_path / "ami"), microphones=["sdm"]))
    for cut in manifests.load_cuts(out, "train"):
        whole, _ = soundfile.read(cut.recording.sources[0].source, dtype="float32", always_2d=True)
        want = whole.mean(axis=1)[round(cut.start * 16000) : round(cut.end * 16000)]
        got = audio.read(cut.recording.sources[0].source, 16000, cut.start, cut.duration)
        assert len(got) == round(cut.duration * 16000) and np.array_equal(got, want)


def test_headsets_that_nobody_is_transcribed_from_are_listed(tmp_path: Path):
    out = made(tmp_path, section(ami_copy.copy(tmp_path / "ami")))
    reasons = quarantine(out)
    assert reasons.pop("EN2001a.Headset-4") == "no annotation" and set(reasons.values()) == {"no annotation"}
    assert len(reasons) == 2 + 3 + 3 + 3 + 3 + 3


def test_segmentation_is_chosen_by_its_param(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    by_rule = {rule: cuts_of(made(tmp_path, section(root, segmentation=rule), name=rule)) for rule in turns.RULES}
    assert {rule: len(cuts["dev"]) for rule, cuts in by_rule.items()} == {"kaldi": 3, "at_most_30_words": 3, "whole": 1}


def test_without_a_hyphen_in_the_alphabet_its_words_are_two(tmp_path: Path):
    out = made(tmp_path, section(ami_copy.copy(tmp_path / "ami")), alphabet=ALPHABET)
    assert [c.supervisions[0].text for c in manifests.load_cuts(out, "dev")][1] == "mm hmm"


def test_other_layouts_of_a_copy_are_found(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    (root / "amicorpus").rename(root / "wav_db")
    (root / "ami_public_manual_1.6.2").rename(root / "annotations")
    assert sum(map(len, cuts_of(made(tmp_path, section(root))).values())) == 21


# ---- bad input


def test_a_segment_outside_of_its_recording_is_set_aside(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    (root / "amicorpus/ES2002a/audio/ES2002a.Headset-0.wav").write_bytes(ami_copy.wav("short", 2.0))
    rows = quarantine(made(tmp_path, section(root)))
    outside = [id for id, reason in rows.items() if reason == "outside of its recording"]
    assert len(outside) == 1 and outside[0].startswith("ES2002a-H00-FEE005-0000175-")


def test_two_recordings_with_one_name_are_told_apart(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    other = root / "more" / "ES2004a.Headset-0.wav"
    other.parent.mkdir()
    other.write_bytes(ami_copy.wav("other"))
    out = made(tmp_path, section(root))
    assert "duplicate id\ta recording ES2004a.Headset-0 is at amicorpus/ES2004a/audio/" in (out / "quarantine.tsv").read_text()
    used = {c.recording.sources[0].source for c in manifests.load_cuts(out, "test")}
    assert used == {f"{root}/amicorpus/ES2004a/audio/ES2004a.Headset-0.wav"}


def test_doubled_segments_are_kept_once(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    tokens = timed("Yes .")
    folder = root / "ami_public_manual_1.6.2"
    ami_copy.put(folder / "words/ES2004a.A.words.xml", ami_copy.words_xml("ES2004a", "A", tokens))
    ami_copy.put(folder / "segments/ES2004a.A.segments.xml", ami_copy.segments_xml("ES2004a", "A", [(0, 1, 0.5, 0.7)] * 2))
    out = made(tmp_path, section(root))
    assert [c.id for c in manifests.load_cuts(out, "test")] == ["ES2004a-H00-MEO015-0000050-0000075"]
    assert quarantine(out)["ES2004a-H00-MEO015-0000050-0000075"] == "duplicate id"


def test_a_speaker_without_a_word_has_no_annotation(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    ami_copy.put(root / A / "words/ES2002a.A.words.xml", ami_copy.words_xml("ES2002a", "A", timed(" ".join(["<laugh>"] * 16))))
    out = made(tmp_path, section(root))
    assert quarantine(out)["ES2002a.Headset-0"] == "no annotation"


def test_speakers_of_two_splits_stop_the_stage(tmp_path: Path):
    root = ami_copy.copy(tmp_path / "ami")
    path = root / A / "corpusResources/meetings.xml"
    ami_copy.put(path, path.read_text(encoding="iso-8859-1").replace("FEE041", "FEE005"))
    with pytest.raises(BirqError, match=r"speaker 'FEE005' is in dev and train"):
        made(tmp_path, section(root))


def test_too_many_that_cannot_be_used_stop_the_stage(tmp_path: Path):
    with pytest.raises(BirqError, match=r"18 × no annotation.*max_quarantined_share"):
        made(tmp_path, section(ami_copy.copy(tmp_path / "ami")), share=0.1)


@pytest.mark.parametrize(
    ("file", "old", "new", "error"),
    [
        (f"{A}/words", None, None, r"corpora\.ami\.root: .*/ami has no folder ami_public_manual_1\.6\.2 .*download to true"),
        (f"{A}/corpusResources/meetings.xml", None, None, r"meetings\.xml: no such file; complete"),
        (f"{A}/corpusResources/meetings.xml", "ES2011a", "ES2011b", r"it lacks the meeting ES2011a"),
        (f"{A}/words/ES2011a.A.words.xml", None, None, r"no words and segments of ES2011a"),
        (f"{A}/words/ES2011a.A.words.xml", "</nite:root>", "", r"ES2011a\.A\.words\.xml: not well-formed XML"),
        (f"{A}/words/ES2011a.A.words.xml", 'starttime="0.50"', 'starttime="soon"', r"starttime='soon' of ES2011a\.A\.words0 is no time"),
        ("amicorpus/ES2011a/audio/ES2011a.Headset-1.wav", None, None, r"lacks ES2011a\.Headset-1\.wav; complete it.*corpora\.ami\.absent"),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_an_error_that_names_it(tmp_path: Path, file: str, old: str | None, new: str, error: str):
    root = ami_copy.copy(tmp_path / "ami")
    path = root / file
    if old is None:
        path.rename(tmp_path / "gone")
    else:
        text = path.read_text(encoding="iso-8859-1")
        assert old in text
        ami_copy.put(path, text.replace(old, new))
    with pytest.raises(BirqError, match=error):
        made(tmp_path, section(root))


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("segments/ES2002a.A.segments.xml", "words0)", "words99)", "damaged annotation"),
        ("segments/ES2002a.A.segments.xml", "#id(", "#it(", "damaged annotation"),
        ("corpusResources/meetings.xml", 'global_name="FEE005"', "", "unknown speaker"),
        ("corpusResources/meetings.xml", '"0" nxt_agent="A" global_name="FEE005"', '"" nxt_agent="A" global_name="FEE005"', "no audio"),
    ],
)
def test_annotations_that_say_too_little_set_their_utterances_aside(tmp_path: Path, file: str, old: str, new: str, reason: str):
    root = ami_copy.copy(tmp_path / "ami")
    path = root / A / file
    text = path.read_text(encoding="iso-8859-1")
    assert old in text
    ami_copy.put(path, text.replace(old, new))
    out = made(tmp_path, section(root))
    assert reason in quarantine(out).values()
    of_meeting = {c.supervisions[0].speaker for c in manifests.load_cuts(out, "train") if c.id.startswith("ES2002a")}
    assert of_meeting == {"MEE006"}


# ---- download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The owners' site on this machine, with the annotations and all recordings."""
    with serving() as site:
        monkeypatch.setattr(ami, "SITE", site.url("ami"))
        site.files = {f"ami/AMICorpusMirror/amicorpus/{name}": content for name, content in ami_copy.recordings().items()}
        site.files["ami/AMICorpusAnnotations/ami_public_manual_1.6.2.zip"] = ami_copy.zipped(ami_copy.annotations(tmp_path / "packed"))
        yield site


def downloading(root: Path, **more) -> AmiCorpus:
    return section(root, download=True, **{"stall_seconds": 20.0, "tries": 1} | more)


ONE = "ami/AMICorpusMirror/amicorpus/ES2004a/audio/ES2004a.Array1-01.wav"
SDM = {"microphones": ["sdm"], "meetings": ["ES2002a", "IS1003b", "ES2011a", "ES2004a"]}


def test_a_download_gives_what_a_copy_gives(tmp_path: Path, server: Server):
    both = {"microphones": ["ihm", "sdm"]}
    got = made(tmp_path, downloading(tmp_path / "got", **both), name="a")
    own = made(tmp_path, section(ami_copy.copy(tmp_path / "own"), **both), name="b")
    for split in manifests.SPLITS:
        assert (got / f"{split}.jsonl").read_text() == (own / f"{split}.jsonl").read_text()
    assert not any("IS1003b.Array" in name or "MDM8" in name for name, _ in server.asked), "what does not exist is not asked for"
    asked = len(server.asked)
    made(tmp_path, downloading(tmp_path / "got", **both), name="c")
    assert len(server.asked) == asked == 1 + 25 + 5
    assert not (tmp_path / "got" / archives.WORK).exists()


def test_the_checksums_of_the_first_download_are_the_key_for_ever(tmp_path: Path, server: Server):
    """They are kept beside the root, so they outlive it; before, there is no key to tell."""
    corpus = downloading(tmp_path / "ami", **SDM)
    before, own = ami.sources(corpus)
    assert set(before.values()) == {""} and len(before) == 1 + 3 and not own
    ami.settle(corpus, "corpora.ami")
    after, own = ami.sources(corpus)
    assert all(after.values()) and set(after) == set(before) and not own
    lock = json.loads((tmp_path / "ami.lock.json").read_text())["files"]
    assert {name: about["sha256"] for name, about in lock.items()} == after
    assert lock["ES2004a.Array1-01.wav"]["bytes"] == len(server.files[ONE])
    asked = len(server.asked)
    ami.settle(corpus, "corpora.ami")
    (tmp_path / "ami").rename(tmp_path / "elsewhere")
    assert ami.sources(corpus) == (after, []) and len(server.asked) == asked, "a key that the lock tells needs no download"
    ami.settle(corpus, "corpora.ami")
    assert len(server.asked) == asked
    made(tmp_path, corpus)
    assert ami.sources(corpus) == (after, [])


def test_another_file_than_the_first_time_is_refused(tmp_path: Path, server: Server):
    corpus = downloading(tmp_path / "ami", **SDM)
    ami.settle(corpus, "corpora.ami")
    (tmp_path / "ami/amicorpus/ES2004a/audio/ES2004a.Array1-01.wav").unlink()
    server.files[ONE] = server.files[ONE][:-1] + b"!"
    error = r"ES2004a\.Array1-01\.wav could not(.|\n)*expected [0-9a-f]{64}(.|\n)*take its entry out of .*ami\.lock\.json"
    with pytest.raises(BirqError, match=error):
        made(tmp_path, corpus)


def test_files_that_were_not_downloaded_are_read_for_the_key(tmp_path: Path, server: Server):
    root = ami_copy.copy(tmp_path / "ami")
    for corpus in (section(root, **SDM), downloading(root, **SDM)):
        pinned, own = ami.sources(corpus)
        names = [p.relative_to(root).as_posix() for p in own]
        assert not pinned and sum(n.endswith(".wav") for n in names) == 3 and sum(n.endswith(".xml") for n in names) == 1 + 2 * 5
        assert not any("Headset" in n or "MDM" in n or "EN2001a" in n for n in names), "only what is read"
    assert not server.asked


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ([Reply(404)], "HTTP 404 Not Found"),
        ([Reply(body=b"<html>We are sorry</html>")], r"it begins with b'<html>We are"),
        ([Reply(length=-1)], "the server declares no length, and no checksum is published"),
        ([Reply(cut=50_000), Reply(403)], r"HTTP 403 Forbidden\n50000 bytes are kept"),
    ],
)
def test_without_a_checksum_only_a_whole_file_of_the_right_kind_is_taken(tmp_path: Path, server: Server, replies: list[Reply], error: str):
    server.replies[ONE] = list(replies)
    with pytest.raises(BirqError, match=error):
        made(tmp_path, downloading(tmp_path / "ami", **SDM))
    assert not list(tmp_path.glob("ami/**/ES2004a.Array1-01.wav")) and "ES2004a.Array1-01.wav" not in firstseen.known(tmp_path / "ami")
    assert len(firstseen.known(tmp_path / "ami")) == 3, "the others are there"
    with pytest.raises(BirqError, match=r"ES2004a\.Array1-01\.wav is not in"):  # what came of it is not taken for the file
        made(tmp_path, downloading(tmp_path / "ami", offline=True, **SDM), name="offline")
    made(tmp_path, downloading(tmp_path / "ami", **SDM), name="again")


@pytest.mark.parametrize("validators", [True, False])
def test_it_goes_on_only_where_the_server_tells_versions_apart(tmp_path: Path, server: Server, validators: bool):
    server.validators, server.replies[ONE] = validators, [Reply(cut=50_000)]
    made(tmp_path, downloading(tmp_path / "ami", tries=3, **SDM))
    ranges = [r for name, r in server.asked if name == ONE]
    assert ranges == [None, "bytes=50000-" if validators else None]


def test_a_file_that_changes_in_between_is_fetched_anew(tmp_path: Path, server: Server):
    new = ami_copy.wav("new", 7.0)
    server.replies[ONE] = [Reply(cut=50_000, body=new[:44] + bytes(len(new) - 44), headers={"ETag": '"old"'}), Reply()]
    server.files[ONE] = new
    made(tmp_path, downloading(tmp_path / "ami", tries=3, **SDM))
    assert (tmp_path / "ami/amicorpus/ES2004a/audio/ES2004a.Array1-01.wav").read_bytes() == new


def test_offline_names_the_file_and_takes_it_from_a_folder(tmp_path: Path, server: Server):
    (tmp_path / "mine").mkdir()
    corpus = downloading(tmp_path / "ami", offline=True, mirrors=[str(tmp_path / "mine")], **SDM)
    with pytest.raises(BirqError, match=r"ES2004a\.Array1-01\.wav is not in(.|\n)*no checksum is published"):
        made(tmp_path, corpus)
    for name, content in server.files.items():
        (tmp_path / "mine" / Path(name).name).write_bytes(content)
    made(tmp_path, corpus, name="again")
    assert not server.asked


def test_a_damaged_lock_is_not_taken_for_none(tmp_path: Path):
    (tmp_path / "ami.lock.json").write_text("{")
    with pytest.raises(BirqError, match=r"ami\.lock\.json: not a lock file"):
        ami.sources(downloading(tmp_path / "ami", **SDM))


# ---- keys


def test_no_other_corpus_has_the_code_of_this_one():
    own = {"birq.corpora.ami", "birq.corpora.excerpts", "birq.corpora.nite", "birq.corpora.turns"}
    assert own <= set(code.modules("birq.stages.corpus", "birq.corpora.ami"))
    for kind in ("an4", "librispeech", "local", "synth"):
        assert not own & set(code.modules("birq.stages.corpus", f"birq.corpora.{kind}"))
    assert sources.settle.__module__ == "birq.pipeline.sources" and not code.keyed("birq.pipeline.sources")
