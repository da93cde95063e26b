"""A folder is walked once and in one way: what the reader takes is what the key knows."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birq.corpora import librispeech, local, tree
from birq.corpora.items import Limits
from birq.corpora.manifests import info
from birq.errors import BirqError
from birq.pipeline import dag, sources
from birq.settings import params
from birq.settings.corpora import Corpus, LibriSpeechCorpus, LocalCorpus
from birq.stages.corpus import check_sources

ROOT = Path(__file__).resolve().parent.parent
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
RATE = 16000


def sound(path: Path, hz: float = 300.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(RATE) * 2 * np.pi * hz / RATE), RATE, format="WAV" if path.suffix == ".wav" else None)
    return path


def speakers(root: Path, n: int = 4) -> Path:
    for s in range(n):
        for u in range(2):
            sound(root / f"s{s}" / f"u{u}.wav", 300 + 40 * s + 10 * u)
    return root


def linked(root: Path, disk: Path) -> Path:
    """The speakers' folders lie on another disk."""
    disk.mkdir()
    for folder in sorted(root.iterdir()):
        folder.rename(disk / folder.name)
        folder.symlink_to(disk / folder.name)
    return root


def corpus(root: Path, **more: object) -> LocalCorpus:
    return LocalCorpus(kind="local", root=str(root), dev_share=0.0, test_share=0.0, **more)


def digest(made: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str | None:
    """The part of the corpus' key that says what lies in its folder."""
    monkeypatch.chdir(tmp_path)
    tracked = params.load(ROOT / "params.yaml")
    return sources.digest(dag.Node(dag.STAGES["corpus"], {"corpus": "mine"}, tracked.model_copy(update={"corpora": {"mine": made}})))


def quarantine(tmp_path: Path, made: LocalCorpus, share: float = 1.0) -> dict[str, str]:
    """Names that are set aside, with the reason; the corpus is made."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    for folder in (out, scratch):
        folder.mkdir()
    local.prepare("mine", made, out, scratch, alphabet=ALPHABET, limits=Limits(0.3, 35.0, RATE, share))
    return {row.split("\t")[0]: row.split("\t")[2] for row in (out / "quarantine.tsv").read_text().splitlines()[1:]}


# ---- the walk


def test_a_folder_is_entered_once_and_by_its_own_name(tmp_path: Path):
    """Links to a parent, to a neighbour and to each other would repeat recordings for ever."""
    root = speakers(tmp_path / "c", 2)
    wanted = tree.read(root).files
    (root / "s0" / "again").symlink_to("..")
    (root / "above").symlink_to(tmp_path)
    (root / "a-first").symlink_to("s1")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "back").symlink_to(root)
    (root / "s1" / "x").symlink_to(tmp_path / "x")
    (root / "self").symlink_to("self")
    found = tree.read(root)
    assert found.files == wanted == ["s0/u0.wav", "s0/u1.wav", "s1/u0.wav", "s1/u1.wav"]
    assert [(p.path, p.reason) for p in found.problems] == [("self", "no audio")]


def test_order_is_that_of_names_whatever_the_disk_says(tmp_path: Path):
    """The order of items decides batches and labelled subsets."""
    for name in ("b/1.wav", "a/2.wav", "a.wav", "Z.wav", "é.wav"):
        sound(tmp_path / "c" / name)
    assert tree.read(tmp_path / "c").files == ["Z.wav", "a.wav", "a/2.wav", "b/1.wav", "é.wav"]


def test_hidden_names_are_left_out_and_folders_may_be_called_wav(tmp_path: Path):
    for name in ("s/._u.wav", "s/.ipynb_checkpoints/u.wav", "s/dir.wav/in.wav"):
        sound(tmp_path / "c" / name)
    assert tree.read(tmp_path / "c").files == ["s/dir.wav/in.wav"]


# ---- the key


@pytest.mark.parametrize("transcribed", [True, False])
def test_a_recording_behind_a_link_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transcribed: bool):
    """Another recording under the same name is another corpus, on whichever disk it lies."""
    root = linked(speakers(tmp_path / "c"), tmp_path / "disk")
    if transcribed:
        for s in range(4):
            (tmp_path / "disk" / f"s{s}" / "x.trans.txt").write_text("u0 HELLO\nu1 THERE\n")
    made = corpus(root)
    before = digest(made, monkeypatch, tmp_path)
    quarantine(tmp_path, made)
    facts = info(tmp_path / "out")["splits"]["train"]
    assert (facts["utterances"], facts["labelled_utterances"]) == (8, 8 if transcribed else 0)
    assert digest(made, monkeypatch, tmp_path) == before and check_sources(tmp_path / "out") == 8
    sound(tmp_path / "disk" / "s2" / "u1.wav", 777)
    assert digest(made, monkeypatch, tmp_path) != before
    with pytest.raises(BirqError, match=r"s2/u1\.wav has changed"):
        check_sources(tmp_path / "out")


def test_librispeech_with_linked_speakers_keeps_its_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    part = tmp_path / "c" / "train-clean-100"
    for s in (11, 12):
        sound(part / str(s) / "7" / f"{s}-7-0000.flac")
        (part / str(s) / "7" / f"{s}-7.trans.txt").write_text(f"{s}-7-0000 GOOD MORNING\n")
    made = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path / "c"))
    items = librispeech.scan(made, "corpora.x").items
    linked(part, tmp_path / "disk")
    before = digest(made, monkeypatch, tmp_path)
    assert librispeech.scan(made, "corpora.x").items == items and {i.text for i in items} == {"GOOD MORNING"}
    (tmp_path / "disk" / "11" / "7" / "11-7.trans.txt").write_text("11-7-0000 GOOD NIGHT\n")
    assert digest(made, monkeypatch, tmp_path) != before


def test_files_that_no_reader_reads_are_not_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A note in the corpus' folder must not decode a thousand hours again; a format that is only named counts by its name."""
    root = speakers(tmp_path / "c", 1)
    before = digest(corpus(root), monkeypatch, tmp_path)
    (root / "README.txt").write_text("notes")
    assert digest(corpus(root), monkeypatch, tmp_path) == before
    (root / "s0" / "u9.m4a").write_bytes(b"1")
    named = digest(corpus(root), monkeypatch, tmp_path)
    (root / "s0" / "u9.m4a").write_bytes(b"2")
    assert before != named == digest(corpus(root), monkeypatch, tmp_path)


# ---- what leads to no file


def test_names_that_lead_to_no_recording_are_set_aside(tmp_path: Path):
    """None of these may stop the stage, hang it, or be opened; every other recording is kept."""
    root = speakers(tmp_path / "c")
    (root / "s0" / "gone.wav").symlink_to("../.git/annex/objects/none")
    (root / "disk9").symlink_to(tmp_path / "not-mounted")
    os.mkfifo(root / "s0" / "pipe.wav")
    os.rename(sound(root / "tmp.wav"), os.fsencode(root) + b"/s0/caf\xe9.wav")
    os.rename(sound(root / "tmp.wav"), os.fsencode(root) + b"/s1/l\nf.wav")
    (root / "s2" / "phone.m4a").write_bytes(b"\0\0\0\x1cftypM4A ")
    (root / "s2" / "u0.mp4").write_bytes(b"a film beside its sound")
    assert quarantine(tmp_path, corpus(root)) == {
        "s0/gone.wav": "no audio",
        "disk9": "no audio",
        "s0/pipe.wav": "not a regular file",
        "s0/caf\\xe9.wav": "file name is not UTF-8",
        "s1/l\\x0af.wav": "control character in the file name",
        "s2/phone.m4a": "no audio that birq reads",
    }
    assert info(tmp_path / "out")["splits"]["train"]["utterances"] == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters every folder and reads every file")
def test_closed_folders_and_files_are_named(tmp_path: Path):
    root = speakers(tmp_path / "c")
    (root / "s1").chmod(0)
    (root / "s0" / "u0.wav").chmod(0)
    try:
        found = quarantine(tmp_path, corpus(root))
    finally:
        (root / "s1").chmod(0o755)
    assert found == {"s1": "folder cannot be entered", "s0-u0": "unreadable"}


def test_a_closed_folder_is_named_whoever_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As above, for root too: what the system refuses becomes a reason."""
    root = speakers(tmp_path / "c")
    real = os.scandir

    def refusing(path: Path):
        if Path(path).name == "s1":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(tree.os, "scandir", refusing)
    assert quarantine(tmp_path, corpus(root)) == {"s1": "folder cannot be entered"}
    assert info(tmp_path / "out")["splits"]["train"]["utterances"] == 6


def test_what_is_set_aside_below_the_limit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Otherwise nobody looks at the table."""
    root = speakers(tmp_path / "c")
    (root / "s0" / "u0.wav").write_bytes(b"")
    soundfile.write(root / "s1" / "u0.wav", 9000 * np.sin(np.arange(RATE) / 7), RATE, subtype="FLOAT")
    quarantine(tmp_path, corpus(root), 0.2)
    out = capsys.readouterr()
    assert "corpora.mine: 1 of 8 recordings set aside (1 × empty)" in out.out + out.err
    assert "1 recordings hold floats at the scale of 16-bit integers, such as s1/u0.wav" in out.out + out.err


# ---- tables


def table(root: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "text"), end: str = "\n") -> Path:
    (root / "transcripts.tsv").write_bytes((end.join("\t".join(r) for r in (header, *rows)) + end).encode())
    return root


def found(root: Path) -> dict[str, str | None]:
    """Path -> text of what is not set aside."""
    return {i.path: i.text for i in local.scan(corpus(root), "corpora.x").items if not i.reason}


GOOD = {f"s{s}/u{u}.wav": "abc" for s in range(2) for u in range(2)}


@pytest.mark.parametrize(
    "written",
    [
        lambda n: n,
        lambda n: "./" + n,
        lambda n: n.replace("/", "//"),
        lambda n: n.replace("/", "\\"),
        lambda n: ".\\" + n.replace("/", "\\"),
    ],
)
def test_a_path_may_be_written_in_several_ways(tmp_path: Path, written):
    """Tables come from other systems; each row must find its file, and no file may be counted a second time as not listed."""
    root = table(speakers(tmp_path / "c", 2), [(written(n), t) for n, t in GOOD.items()])
    assert found(root) == GOOD
    assert len(local.scan(corpus(root), "corpora.x").items) == 4


def test_paths_below_the_root_may_be_absolute(tmp_path: Path):
    root = speakers(tmp_path / "c", 2)
    assert found(table(root, [(str(root / n), t) for n, t in GOOD.items()])) == GOOD


def test_composed_and_decomposed_names_are_the_same(tmp_path: Path):
    """A Mac writes é as two characters into the name of a file, an editor writes one into the table."""
    root = tmp_path / "c"
    name = unicodedata.normalize("NFD", "café/über.wav")
    sound(root / name)
    assert found(table(root, [("café/über.wav", "abc")])) == {name: "abc"}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (("Path", "TEXT", " Speaker "), lambda n, t: (n, t, "s")),
        (("text", "path"), lambda n, t: (t, n)),
        (("path", "text", ""), lambda n, t: (n, t, "")),
        (("path", "text"), lambda n, t: (n, t, "")),
        (('"path"', '"text"'), lambda n, t: (f'"{n}"', f'"{t}"')),
        (("path", "text", "split"), lambda n, t: (n, t, "Train")),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, header, row):
    for end in ("\n", "\r\n"):
        root = tmp_path / repr(end)
        assert found(table(speakers(root, 2), [row(n, t) for n, t in GOOD.items()], header, end)) == GOOD


def test_rows_are_judged_one_by_one(tmp_path: Path):
    """A row that cannot be used is set aside with its line; one that stands twice counts once."""
    root = speakers(tmp_path / "c", 2)
    (root / "s0" / "u9.m4a").write_bytes(b"1")
    os.mkfifo(root / "s0" / "pipe.wav")
    rows = [*GOOD.items(), ("s0/u0.wav", "abc"), ("s0/u1.wav", "other"), ("s0/u7.wav", "abc"), ("s0/u9.m4a", "abc"), ("s0/pipe.wav", "abc")]
    table(root, [*rows, ("s1/u0.wav", "abc " * 40000)])
    assert quarantine(tmp_path, corpus(root)) == {
        "s0-u1": "duplicate id",
        "s0-u7": "no audio",
        "s0-u9": "no audio that birq reads",
        "s0-pipe": "not a regular file",
        "s1-u0": "duplicate id",
    }
    assert max(map(len, (tmp_path / "out" / "quarantine.tsv").read_text().splitlines())) < 1000


def test_a_table_with_another_case_is_the_table(tmp_path: Path):
    """Otherwise the corpus would be unlabelled without a word."""
    root = table(speakers(tmp_path / "c", 2), list(GOOD.items()))
    (root / "transcripts.tsv").rename(root / "Transcripts.TSV")
    assert found(root) == GOOD


def test_names_that_give_one_id_are_two_recordings(tmp_path: Path):
    root = tmp_path / "c"
    for name in ("s0-x/y.wav", "s0/x-y.wav", "s0/x-y.flac"):
        sound(root / name)
    assert list(quarantine(tmp_path, corpus(root)).values()) == ["duplicate id"]  # the same recording in two formats
    assert info(tmp_path / "out")["splits"]["train"]["utterances"] == 2


# ---- the path in params.yaml


def test_home_and_variables_stand_in_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    speakers(tmp_path / "c", 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPEECH", str(tmp_path / "c"))
    for written in ("~/c", "$SPEECH", "${SPEECH}", "$HOME/c"):
        assert len(local.scan(LocalCorpus(kind="local", root=written), "corpora.x").items) == 2
    with pytest.raises(BirqError, match=r"'\$NOWHERE/c' names \$NOWHERE, which is not set"):
        local.scan(LocalCorpus(kind="local", root="$NOWHERE/c"), "corpora.x")


def test_a_folder_with_audio_of_other_formats_only_says_so(tmp_path: Path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.m4a").write_bytes(b"1")
    with pytest.raises(BirqError, match=r"holds no audio file that birq reads .*it holds a\.m4a; convert"):
        local.scan(corpus(tmp_path / "c"), "corpora.x")


# ---- what an idle run asks of a folder


def test_a_folder_as_it_was_seen_needs_no_hash(tmp_path, monkeypatch):
    """Every change that the walk can see brings the digest that reading all of it gives."""
    root = speakers(tmp_path / "c")
    monkeypatch.setattr(sources, "SETTLED_SECONDS", -1.0)
    hashed, real = [], sources.sha256_files
    monkeypatch.setattr(sources, "sha256_files", lambda paths, memo: hashed.append(len(paths)) or real(paths, memo))

    def now() -> tuple[str | None, int]:
        """The digest, and how many files it asked the hash of."""
        hashed.clear()
        return digest(corpus(root), monkeypatch, tmp_path), sum(hashed)

    first, n = now()
    assert n == 8 and now() == (first, 0)
    one, kept = root / "s0" / "u0.wav", (root / "s0" / "u0.wav").read_bytes()
    changes = (
        lambda: sound(one, 900.0),  # of the same size
        lambda: one.rename(root / "s0" / "u9.wav"),
        (root / "s0" / "u9.wav").unlink,
        lambda: (root / "s1" / "list.tsv").write_text("path\ttext\n"),
        lambda: (root / "s1" / "u0.m4a").write_bytes(b"of which only the name counts"),
    )
    seen = {first}
    for change in changes:
        change()
        found, n = now()
        assert n and found not in seen and now() == (found, 0)
        seen.add(found)
    for path in (root / "s1" / "list.tsv", root / "s1" / "u0.m4a"):
        path.unlink()
    one.write_bytes(kept)
    assert now() == (first, 8)  # the same content under a new time


def test_a_young_file_is_not_yet_believed(tmp_path, monkeypatch):
    """It may change again without a new time, so the next run reads it again."""
    root = speakers(tmp_path / "c")
    digest(corpus(root), monkeypatch, tmp_path)
    assert not list((tmp_path / "data").rglob("*walk*"))
