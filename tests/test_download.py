"""Downloads: pinned by checksum, resumed, whole or absent, whatever the server does. The server is on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_corpora import an4_tree, limited_tree, tree

from birq.corpora import an4, download, librispeech
from birq.corpora.download import MARK, WORK, Archive
from birq.errors import BirqError
from birq.settings.corpora import An4Corpus, LibriSpeechCorpus

NAME = "toy.tar.gz"


class Server(ThreadingHTTPServer):
    """Serves `files`; the flags are the ways in which servers misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True  # False: a request for a range is answered with 200 and the whole
        self.cut_after: list[int] = []  # bytes after which each next answer breaks off
        self.slow = threading.Event()  # set: stop before the last byte
        self.asked: list[tuple[str, str | None]] = []

    def url(self, name: str = NAME) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path[1:], wanted))
        body = server.files.get(self.path[1:])
        if body is None:
            self.send_error(404)
            return
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if begin >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        sent = body[begin:]
        if server.cut_after:
            sent = sent[: server.cut_after.pop(0)]
        if server.slow.is_set():
            self.wfile.write(sent[:-1])
            self.wfile.flush()
            time.sleep(60)
        self.wfile.write(sent)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def packed(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed_folder(folder: Path, name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, name)
    return out.getvalue()


def noise(n: int) -> bytes:
    return b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(n // 32))


CONTENT = {"toy/part/a.txt": b"a", "toy/part/b.bin": noise(200_000), "toy/SPEAKERS.TXT": b"speakers"}
BODY = packed(CONTENT)


def pin(body: bytes, *urls: str, folder: str = "toy/part", sized: bool = True) -> Archive:
    return Archive(urls, hashlib.sha256(body).hexdigest(), folder, len(body) if sized else None)


def fetch(archive: Archive, root: Path, remedy: str = "") -> None:
    download.fetch(NAME, archive, root, root / "toy" / "part", "corpora.x", remedy)


def visible(root: Path) -> dict[str, bytes]:
    """Files below a folder, those of the download itself left out."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and ".birq-" not in str(p)}


def whole(root: Path) -> bool:
    return visible(root) == CONTENT and not (root / WORK).exists()


# ---- one archive


@pytest.mark.parametrize("sized", [True, False])
def test_the_right_archive_is_unpacked_and_marked(tmp_path: Path, server: Server, sized: bool, capfd: pytest.CaptureFixture[str]):
    server.files[NAME] = BODY
    archive = pin(BODY, server.url(), sized=sized)
    fetch(archive, tmp_path / "root")
    assert whole(tmp_path / "root")
    assert json.loads((tmp_path / "root" / MARK).read_text()) == {"archives": {NAME: archive.sha256}}
    assert download.downloaded(tmp_path / "root", [NAME]) == {NAME: archive.sha256}
    assert download.downloaded(tmp_path / "root", [NAME, "other.tar.gz"]) is None
    assert "download toy.tar.gz" in capfd.readouterr().err
    fetch(archive, tmp_path / "root")  # it is there
    assert server.asked == [(NAME, None)]


def test_another_archive_is_refused_with_both_checksums(tmp_path: Path, server: Server):
    # a mirror that gives an error page, or a new release under the old name, must not become a corpus
    other = bytes([BODY[0]]) + BODY[1:-1] + bytes([BODY[-1] ^ 1])
    server.files[NAME] = other
    archive = pin(BODY, server.url())
    with pytest.raises(BirqError) as caught:
        fetch(archive, tmp_path, "Set corpora.x.sha256.")
    text = str(caught.value)
    assert text.startswith("corpora.x: toy.tar.gz could not be downloaded")
    assert hashlib.sha256(other).hexdigest() in text and archive.sha256 in text
    assert "corpora.x.download to false" in text and "Set corpora.x.sha256." in text
    assert not visible(tmp_path) and not (tmp_path / WORK).exists() and download.downloaded(tmp_path, [NAME]) is None
    server.files[NAME] = BODY
    fetch(archive, tmp_path)
    assert whole(tmp_path)


def test_another_length_is_refused_before_a_byte_is_written(tmp_path: Path, server: Server):
    server.files[NAME] = BODY + b"more"
    with pytest.raises(BirqError, match=rf"{len(BODY) + 4} bytes, expected {len(BODY)}"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert not (tmp_path / WORK).exists()


def test_a_short_body_is_taken_up_where_it_ended(tmp_path: Path, server: Server):
    # urllib hands out a body that ends early without an error
    server.files[NAME] = BODY
    server.cut_after = [70_000, 50_000]
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [(NAME, None), (NAME, "bytes=70000-"), (NAME, "bytes=120000-")]


def test_a_connection_that_gives_nothing_more_ends_with_the_bytes_kept(tmp_path: Path, server: Server):
    server.files[NAME] = BODY
    server.cut_after = [70_000, 0]
    with pytest.raises(BirqError, match=rf"ended after 70000 of {len(BODY)} bytes\n70000 bytes are kept: run again"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert not visible(tmp_path)
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path) and server.asked[-1] == (NAME, "bytes=70000-")


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: Server):
    # appending the answer 200 to what is there would spoil the archive
    server.files[NAME], server.ranges, server.cut_after = BODY, False, [70_000]
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [(NAME, None), (NAME, "bytes=70000-")]


def test_a_server_that_always_breaks_off_does_not_hold_the_run_for_ever(tmp_path: Path, server: Server):
    server.files[NAME], server.ranges, server.cut_after = BODY, False, [70_000] * 10
    with pytest.raises(BirqError, match="ended after 70000"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("left", [BODY, BODY + b"x", b"\0" * len(BODY), b"\0" * 1000])
def test_whatever_an_earlier_run_left_ends_as_the_archive_or_is_deleted(tmp_path: Path, server: Server, left: bytes, sized: bool):
    # complete, too long, complete and wrong, half and wrong
    server.files[NAME] = BODY
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / f"{NAME}.part").write_bytes(left)
    archive = pin(BODY, server.url(), sized=sized)
    try:
        fetch(archive, tmp_path)
    except BirqError as e:
        assert "the file was deleted" in str(e) and left != BODY
        fetch(archive, tmp_path)
    assert whole(tmp_path)


def test_the_next_mirror_is_asked(tmp_path: Path, server: Server):
    server.files |= {"b": BODY[:-1] + b"x", "c": BODY}
    fetch(pin(BODY, *map(server.url, "abc")), tmp_path)
    assert whole(tmp_path) and [a for a, _ in server.asked] == ["a", "b", "c"]


def test_missing_files_and_servers_are_named_and_leave_nothing(tmp_path: Path, server: Server):
    nobody = "http://127.0.0.1:9/gone.tar.gz"
    with pytest.raises(BirqError) as caught:
        fetch(pin(BODY, server.url(), nobody), tmp_path / "new", "Not of use here.")
    assert f"{server.url()}: HTTP 404" in str(caught.value) and f"{nobody}: " in str(caught.value)
    assert "Not of use" not in str(caught.value) and "kept" not in str(caught.value)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [download.LOCK]


def test_a_server_that_says_nothing_is_left(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.3)
    server.files[NAME] = BODY
    server.slow.set()
    before = time.monotonic()
    with pytest.raises(BirqError, match="timed out"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert time.monotonic() - before < 20


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (packed({"toy/part/a.txt": b"a", "../evil.txt": b"evil"}), "outside the destination"),
        (packed({"toy/part/a.txt": b"a", "toy/../../../evil.txt": b"evil"}), "outside the destination"),
        (packed({"toy/other/a.txt": b"a"}), "no folder toy/part"),
        (BODY[: len(BODY) // 2], "ended before"),
        (b"not an archive", "could not be opened"),
    ],
)
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path, server: Server, body: bytes, why: str):
    # the checksum says that it is the wanted file; that its members stay below the folder is checked all the same
    server.files[NAME] = body
    root = tmp_path / "deep" / "root"
    with pytest.raises(BirqError, match=rf"(?s)corpora\.x: .*cannot be unpacked .*{why}.*download to false"):
        fetch(pin(body, server.url()), root)
    assert [p.name for p in root.iterdir()] == [download.LOCK]
    assert not list(tmp_path.rglob("evil.txt"))


KILLED = """
import sys
from pathlib import Path
from birq.corpora import download
url, sha256, n, root = sys.argv[1:]
download.BLOCK_BYTES = 1000
download.fetch("toy.tar.gz", download.Archive((url,), sha256, "toy/part", int(n)), Path(root), Path(root) / "toy" / "part", "corpora.x")
"""


def test_a_killed_download_goes_on(tmp_path: Path, server: Server, environment: dict[str, str]):
    # 30 GB take hours
    server.files[NAME] = BODY
    server.slow.set()
    archive = pin(BODY, server.url())
    command = [sys.executable, "-c", KILLED, server.url(), archive.sha256, str(len(BODY)), str(tmp_path)]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    part = tmp_path / WORK / f"{NAME}.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size > 50_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    server.slow.clear()
    assert not visible(tmp_path) and 50_000 < have < len(BODY)
    fetch(archive, tmp_path)
    assert whole(tmp_path) and server.asked[-1] == (NAME, f"bytes={have}-")


def test_a_kill_between_mark_and_folder_is_made_good(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    # the folder comes last: where it is, its mark is too, and the key of a finished download never is that of the user's own files
    server.files[NAME] = BODY

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "_mark", fail)
        fetch(pin(BODY, server.url()), tmp_path)
    assert not (tmp_path / "toy" / "part").exists()
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path) and len(server.asked) == 1


def test_two_runs_that_want_one_archive_download_it_once(tmp_path: Path, server: Server):
    # two corpora of one params.yaml may share a root and run side by side
    server.files[NAME] = BODY
    threads = [threading.Thread(target=fetch, args=(pin(BODY, server.url()), tmp_path)) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert whole(tmp_path) and len(server.asked) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"archives": 3}', '{"archives": ["a"]}', "\xff"])
def test_a_spoiled_mark_is_no_mark(tmp_path: Path, text: str):
    (tmp_path / MARK).write_bytes(text.encode("latin-1"))
    assert download.downloaded(tmp_path, ["a"]) is None and download.marks(tmp_path) == {}


# ---- the readers


def test_the_tables_are_well_formed():
    archives = an4.ARCHIVES | librispeech.ARCHIVES
    assert len(archives) == 11 and len({a.sha256 for a in archives.values()}) == 11
    assert all(len(a.sha256) == 64 and int(a.sha256, 16) for a in archives.values())
    assert all(url.endswith("/" + name) for name, a in archives.items() for url in a.urls)


def serve_parts(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]) -> None:
    archives = {}
    for number, part in enumerate(parts):
        folder = tmp_path / "made" / part
        for speaker in tree(tmp_path / "all" / part, 3).iterdir():
            target = folder / f"{speaker.name}{number}"
            target.parent.mkdir(parents=True, exist_ok=True)
            speaker.rename(target)
        server.files[f"{part}.tar.gz"] = body = packed_folder(folder, f"LibriSpeech/{part}")
        archives[f"{part}.tar.gz"] = pin(body, server.url(f"{part}.tar.gz"), folder=f"LibriSpeech/{part}")
    monkeypatch.setattr(librispeech, "ARCHIVES", archives)


def test_librispeech_downloads_the_parts_that_are_missing(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    serve_parts(server, tmp_path, monkeypatch, ["train-clean-5", "dev-clean-2"])
    root = tmp_path / "root"
    first = LibriSpeechCorpus(kind="librispeech", root=str(root), download=True, train_parts=["train-clean-5"])
    both = first.model_copy(update={"dev_parts": ["dev-clean-2"]})
    before = librispeech.sources(both)
    assert before == (librispeech.pinned(both), []) and list(before[0]) == ["train-clean-5.tar.gz", "dev-clean-2.tar.gz"]
    assert len(librispeech.scan(first, "corpora.x").items) == 6
    assert len(librispeech.scan(both, "corpora.x").items) == 12
    assert [a for a, _ in server.asked] == ["train-clean-5.tar.gz", "dev-clean-2.tar.gz"]
    # the download itself must not change a key
    assert librispeech.sources(both) == before
    assert download.downloaded(root, librispeech.pinned(both)) == librispeech.pinned(both)
    server.shutdown()
    assert len(librispeech.scan(both, "corpora.x").items) == 12  # no network is needed any more


def test_librilights_limited_parts_come_in_one_archive(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    # its layout, with phones beside the recordings, on a server: one download serves all three parts, and changes no key
    made = limited_tree(tmp_path / "made")
    server.files["librispeech_finetuning.tgz"] = body = packed_folder(made, "librispeech_finetuning")
    pinned = pin(body, server.url("librispeech_finetuning.tgz"), folder="librispeech_finetuning", sized=False)
    monkeypatch.setattr(librispeech, "ARCHIVES", {"librispeech_finetuning.tgz": pinned})
    root = tmp_path / "root"
    tree(root / "LibriSpeech" / "dev-clean", 2)  # the user's own
    corpus = LibriSpeechCorpus(
        kind="librispeech", root=str(root), download=True, train_parts=["libri-light-10min"], dev_parts=["dev-clean"]
    )
    before = librispeech.sources(corpus)
    assert before == ({"librispeech_finetuning.tgz": pinned.sha256}, [root / "LibriSpeech" / "dev-clean"])
    assert len(librispeech.scan(corpus, "corpora.x").items) == 2 + 4
    assert librispeech.sources(corpus) == before and (root / "LibriSpeech" / "librispeech_finetuning" / "9h").is_dir()
    server.shutdown()
    ten = corpus.model_copy(update={"train_parts": ["libri-light-10h"]})
    assert len(librispeech.scan(ten, "corpora.x").items) == 2 * 6 + 4 + 4 and len(server.asked) == 1


@pytest.mark.parametrize("inner", [True, False])
def test_parts_of_the_users_own_stay_and_are_named_as_such(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, inner: bool):
    # a copy that a person made may differ from the archive: its files decide, not the archive's checksum
    serve_parts(server, tmp_path, monkeypatch, ["train-clean-5", "dev-clean-2"])
    root = tmp_path / "root"
    home = root / "LibriSpeech" if inner else root
    tree(home / "train-clean-5", 2)
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(root), download=True, train_parts=["train-clean-5"], dev_parts=["dev-clean-2"])
    before = librispeech.sources(corpus)
    assert before == ({"dev-clean-2.tar.gz": librispeech.ARCHIVES["dev-clean-2.tar.gz"].sha256}, [home / "train-clean-5"])
    assert len(librispeech.scan(corpus, "corpora.x").items) == 4 + 6
    assert librispeech.sources(corpus) == before
    assert sorted(p.name for p in home.iterdir() if p.is_dir()) == ["dev-clean-2", "train-clean-5"]
    mine = corpus.model_copy(update={"download": False})
    assert librispeech.pinned(mine) == {} and librispeech.sources(mine)[0] == {}


def test_a_part_that_is_none_of_librispeechs_is_named(tmp_path: Path):
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path), download=True, train_parts=["train-clean-99"])
    with pytest.raises(BirqError, match=r"'train-clean-99' .*no part of LibriSpeech; legal: dev-clean, .*train-clean-5"):
        librispeech.scan(corpus, "corpora.x")
    tree(tmp_path / "train-clean-99", 2)
    assert len(librispeech.scan(corpus, "corpora.x").items) == 4
    assert librispeech.sources(corpus) == ({}, [tmp_path / "train-clean-99"])


def test_an4_is_downloaded_and_its_checksum_can_be_set(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    body = packed_folder(an4_tree(tmp_path / "an4"), "an4")
    server.files["an4_sphere.tar.gz"] = body
    monkeypatch.setattr(an4, "ARCHIVES", {"an4_sphere.tar.gz": Archive((server.url("an4_sphere.tar.gz"),), "0" * 64, "an4")})
    root, right = tmp_path / "root", hashlib.sha256(body).hexdigest()
    corpus = An4Corpus(kind="an4", root=str(root), download=True)
    with pytest.raises(BirqError, match=rf"SHA-256 {right} .*\n.*corpora\.x\.sha256 to that checksum"):
        an4.scan(corpus, "corpora.x")
    corpus = corpus.model_copy(update={"sha256": right})
    before = an4.sources(corpus)
    assert before == ({"an4_sphere.tar.gz": right}, []) == (an4.pinned(corpus), [])
    assert len(an4.scan(corpus, "corpora.x").items) == 5
    assert an4.sources(corpus) == before
    assert an4.sources(corpus.model_copy(update={"sha256": "1" * 64})) == ({}, [root])
    assert an4.sources(corpus.model_copy(update={"download": False})) == ({}, [root])
    own = An4Corpus(kind="an4", root=str(an4_tree(tmp_path / "own")), download=True)
    assert an4.sources(own) == ({}, [tmp_path / "own"])


def test_a_full_disk_is_the_stages_to_explain(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    # a download that fails for want of space is not the server's fault, and the stage says how to go on
    server.files[NAME] = BODY
    (tmp_path / WORK).mkdir()
    os.symlink("/dev/full", tmp_path / WORK / f"{NAME}.part")
    with pytest.raises(OSError, match="No space left"):
        fetch(pin(BODY, server.url()), tmp_path)
