"""Downloads: pinned by checksum, resumed, whole or absent, whatever the server does. The server is on this machine."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import inputs_page
import pytest
import server_faults
from faulty_server import BODY, CONTENT, Reply, Server, noise, packed, packed_folder, pin, serving, visible, wait_until
from pydantic import ValidationError
from server_faults import NAME, QUICK
from test_corpora import an4_tree, limited_tree, tree

from birq.corpora import an4, librispeech
from birq.downloads import archives, verb
from birq.downloads.archive import MARK, Archive, Wanted, downloaded, marks
from birq.downloads.archives import LOCK, WORK
from birq.downloads.request import _retry_after
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.pipeline import code
from birq.settings.corpora import An4Corpus, LibriSpeechCorpus
from birq.settings.decoding import Lm
from birq.settings.params import section


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def fetch(archive: Archive, root: Path, remedy: str = "", rules: Rules = QUICK) -> None:
    archives.fetch([Wanted(NAME, archive, root / "toy" / "part", remedy)], root, "corpora.x", rules)


def whole(root: Path) -> bool:
    return visible(root) == CONTENT and not (root / WORK).exists()


# ---- the server's faults


@pytest.mark.parametrize("fault", server_faults.FAULTS, ids=lambda f: f.title)
def test_whatever_the_server_does_the_archive_is_whole_or_absent_and_the_error_says_why(fault: server_faults.Fault):
    seen = server_faults.observe(fault)
    assert seen.whole == fault.whole and bool(seen.error) != fault.whole, seen
    if not fault.whole:
        address = "http://nobody/toy.tar: " if fault.title == "does not listen" else "http://server/toy.tar: "
        assert seen.error.startswith(f"corpora.x: {NAME} could not be downloaded.\n  {address}")
        assert "into DIR" in seen.error and "corpora.x.mirrors" in seen.error and "corpora.x.root to that folder" in seen.error
        assert (f"{seen.kept} bytes are kept: run again" in seen.error) == bool(seen.kept)


@pytest.mark.parametrize("name", ["faults", "archives", "sizes", "rules", "ngrams"])
def test_the_page_shows_what_happens(name: str):
    page = inputs_page.TABLES[name][0]
    assert inputs_page.on_page(name) == inputs_page.made(name), f"python tests/inputs_page.py {name} brings docs/{page} up to date"


# ---- one archive


@pytest.mark.parametrize("sized", [True, False])
def test_the_right_archive_is_unpacked_and_marked(tmp_path: Path, server: Server, sized: bool, capfd: pytest.CaptureFixture[str]):
    server.files[NAME] = BODY
    archive = pin(BODY, server.url(), sized=sized)
    fetch(archive, tmp_path / "root")
    assert whole(tmp_path / "root")
    assert json.loads((tmp_path / "root" / MARK).read_text()) == {"archives": {NAME: archive.sha256}}
    assert downloaded(tmp_path / "root", [NAME]) == {NAME: archive.sha256}
    assert downloaded(tmp_path / "root", [NAME, "other.tar.gz"]) is None
    assert f"download {NAME}" in capfd.readouterr().err
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
    assert text.startswith("corpora.x: toy.tar could not be downloaded")
    assert hashlib.sha256(other).hexdigest() in text and archive.sha256 in text
    assert "corpora.x.download to false" in text and "Set corpora.x.sha256." in text
    assert not visible(tmp_path) and not (tmp_path / WORK).exists() and downloaded(tmp_path, [NAME]) is None
    server.files[NAME] = BODY
    fetch(archive, tmp_path)
    assert whole(tmp_path)


def test_a_download_goes_on_where_the_connection_ended(tmp_path: Path, server: Server):
    # 30 GB take hours: no byte is asked for twice
    server.files[NAME], server.replies[NAME] = BODY, [Reply(cut=70_000), Reply(cut=50_000)]
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path)
    assert server.asked == [(NAME, None), (NAME, "bytes=70000-"), (NAME, "bytes=120000-")]


def test_what_was_kept_is_not_asked_for_again(tmp_path: Path, server: Server):
    server.files[NAME], server.replies[NAME] = BODY, [Reply(cut=70_000), Reply(403)]
    with pytest.raises(BirqError, match=r"HTTP 403 Forbidden\n70000 bytes are kept: run again"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert not visible(tmp_path)
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path) and server.asked[-1] == (NAME, "bytes=70000-")


@pytest.mark.parametrize(("validators", "if_range"), [(True, True), (True, False), (False, True)])
def test_a_file_that_changed_meanwhile_is_never_stitched_together(tmp_path: Path, server: Server, validators: bool, if_range: bool):
    """Half of one version and half of another is a file that nobody published. No byte of the old one may stay."""
    old = server_faults.OTHER
    server.files[NAME], server.validators = BODY, validators
    server.replies[NAME] = [Reply(body=old, headers={"ETag": '"old"'} if validators else {}, cut=100_000), Reply(if_range=if_range)]
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path)
    # the whole new file was asked for in one request: the answer to If-Range, or one without Range
    asked = [(NAME, None), (NAME, "bytes=100000-")]
    assert server.asked == (asked if validators and if_range else [*asked, (NAME, None)])


def test_bytes_of_another_run_are_held_against_the_version_that_they_are_of(tmp_path: Path, server: Server):
    # the state beside the part outlives the process
    server.files[NAME], server.replies[NAME] = server_faults.OTHER, [Reply(cut=100_000), Reply(403)]
    with pytest.raises(BirqError, match="100000 bytes are kept"):
        fetch(pin(BODY, server.url()), tmp_path)
    server.files[NAME] = BODY
    fetch(pin(BODY, server.url()), tmp_path)
    assert whole(tmp_path) and len(server.asked) == 3


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("left", [BODY, BODY + b"x", b"\0" * len(BODY), b"\0" * 1000])
def test_whatever_an_earlier_run_left_ends_as_the_archive(tmp_path: Path, server: Server, left: bytes, sized: bool):
    # complete, too long, complete and wrong, half and wrong
    server.files[NAME] = BODY
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / f"{NAME}.part").write_bytes(left)
    fetch(pin(BODY, server.url(), sized=sized), tmp_path)
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
    assert [p.name for p in (tmp_path / "new").iterdir()] == [LOCK]


@pytest.mark.parametrize(("title", "body"), server_faults.ARCHIVES, ids=[title for title, _ in server_faults.ARCHIVES])
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path, title: str, body: bytes):
    # the checksum says that it is the wanted file; that its members stay below the folder is checked all the same
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    text = server_faults.unpacked(body, root)
    assert text.startswith(f"corpora.x: {NAME} cannot be unpacked (") and "corpora.x.download to false" in text
    assert f"(http://server/toy.tar, SHA-256 {hashlib.sha256(body).hexdigest()})" in text
    assert sorted(p.name for p in root.iterdir()) == [LOCK, NAME]
    assert not list(tmp_path.rglob("evil.txt"))


def test_owners_and_modes_of_an_archive_are_not_taken_over(tmp_path: Path):
    # an archive of root's must not make files that nobody can delete, or that run as somebody
    info = tarfile.TarInfo("toy/part/a.sh")
    info.mode, info.uid = 0o6777, 12345
    (tmp_path / NAME).write_bytes(packed({"toy/part/a.sh": info}))
    fetch(pin((tmp_path / NAME).read_bytes()), tmp_path)
    made = (tmp_path / "toy" / "part" / "a.sh").stat()
    assert made.st_mode & 0o7111 == 0 and made.st_uid == os.getuid()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_content_decides_how_an_archive_is_packed(tmp_path: Path, mode: str):
    (tmp_path / NAME).write_bytes(packed(CONTENT, mode))
    fetch(pin((tmp_path / NAME).read_bytes()), tmp_path)
    assert visible(tmp_path / "toy") == {name.removeprefix("toy/"): content for name, content in CONTENT.items()}


# ---- several archives, limits, mirrors


def several(server: Server, root: Path, names: str) -> list[Wanted]:
    out = []
    for name in names:
        server.files[name] = body = packed({f"all/{name}/a.bin": noise(100_000, name)}, "w")  # gzip would write the time
        out.append(Wanted(name, pin(body, server.url(name), folder=f"all/{name}"), root / "all" / name))
    return out


@pytest.mark.parametrize("at_once", [1, 3])
def test_archives_come_side_by_side(tmp_path: Path, server: Server, at_once: int):
    wanted = several(server, tmp_path, "abcd")
    if at_once > 1:
        server.replies = {name: [Reply(stall=50_000)] for name in "abc"}
        threading.Thread(target=lambda: (wait_until(lambda: server.at_once == at_once), server.release.set()), daemon=True).start()
    archives.fetch(wanted, tmp_path, "corpora.x", Rules(at_once=at_once, stall_seconds=20, first_wait_seconds=0.02))
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == list("abcd")
    assert server.most_at_once == at_once and marks(tmp_path) == {w.name: w.archive.sha256 for w in wanted}


def test_an_archive_that_fails_does_not_stop_the_others(tmp_path: Path, server: Server):
    wanted = several(server, tmp_path, "abc")
    del server.files["b"]
    with pytest.raises(BirqError, match=r"\Acorpora\.x: b could not be downloaded\.\n .*HTTP 404") as caught:
        archives.fetch(wanted, tmp_path, "corpora.x", QUICK)
    assert "corpora.x: a" not in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["a", "c"]
    several(server, tmp_path, "b")
    server.asked.clear()
    archives.fetch(wanted, tmp_path, "corpora.x", QUICK)
    assert [name for name, _ in server.asked] == ["b"]


def test_a_limit_of_bandwidth_holds_for_all_together_and_the_time_left_is_said(
    tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
):
    wanted = several(server, tmp_path, "ab")
    total = sum(map(len, server.files.values()))
    before = time.monotonic()
    archives.fetch(wanted, tmp_path, "corpora.x", Rules(at_once=2, bytes_per_second=400_000))
    assert time.monotonic() - before > 0.9 * total / 400_000
    assert re.search(rf"download 2 archives  \d+/{total // 1000} kB  speed .* MB/s  left 0:\d\d\n", capfd.readouterr().err)


def test_mirrors_of_the_user_come_first_and_may_be_folders(tmp_path: Path, server: Server):
    server.files |= {f"mine/{NAME}": BODY, NAME: BODY}
    fetch(pin(BODY, server.url()), tmp_path / "1", rules=Rules(mirrors=(server.url("mine/"),)))
    assert whole(tmp_path / "1") and server.asked == [(f"mine/{NAME}", None)]
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / NAME).write_bytes(BODY)
    fetch(pin(BODY, server.url()), tmp_path / "2", rules=Rules(mirrors=(server.url("mine"), str(tmp_path / "disk"))))
    assert whole(tmp_path / "2") and len(server.asked) == 1
    assert (tmp_path / "disk" / NAME).read_bytes() == BODY  # it is the user's


def test_a_damaged_copy_is_named_left_and_the_network_asked(tmp_path: Path, server: Server):
    server.files["b"] = BODY
    (tmp_path / NAME).write_bytes(BODY[:-1])
    with pytest.raises(BirqError, match=rf"{NAME}: {len(BODY) - 1} bytes, expected {len(BODY)}\n.*HTTP 404"):
        fetch(pin(BODY, server.url()), tmp_path)
    assert (tmp_path / NAME).read_bytes() == BODY[:-1]
    fetch(pin(BODY, server.url("b")), tmp_path)
    assert (tmp_path / "toy" / "part").is_dir()


def test_offline_asks_nobody_and_says_what_to_bring(tmp_path: Path, server: Server):
    # a compute node without a network must not wait for one
    server.files[NAME] = BODY
    archive, rules = pin(BODY, server.url()), Rules(offline=True, mirrors=(server.url("mine"),))
    with pytest.raises(BirqError) as caught:
        fetch(archive, tmp_path, rules=rules)
    text = str(caught.value)
    assert text.startswith(f"corpora.x: {NAME} is not in {tmp_path}, and corpora.x.offline is true.\nFetch {server.url()} elsewhere")
    assert archive.sha256 in text and str(len(BODY)) in text
    (tmp_path / NAME).write_bytes(BODY)
    fetch(archive, tmp_path, rules=rules)
    assert (tmp_path / "toy" / "part").is_dir() and marks(tmp_path) == {NAME: archive.sha256} and server.asked == []


def test_offline_takes_what_a_run_with_a_network_has_left(tmp_path: Path):
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / f"{NAME}.part").write_bytes(BODY[:-1])
    with pytest.raises(BirqError, match=rf"part: {len(BODY) - 1} bytes, expected {len(BODY)}\n.*Fetch http://elsewhere/ elsewhere"):
        fetch(pin(BODY, "http://elsewhere/"), tmp_path, rules=Rules(offline=True))
    (tmp_path / WORK / f"{NAME}.part").write_bytes(BODY)
    fetch(pin(BODY, "http://elsewhere/"), tmp_path, rules=Rules(offline=True))
    assert whole(tmp_path)


def test_a_file_that_is_no_archive_is_kept_as_it_is(tmp_path: Path, server: Server):
    # a language model
    server.files["lm.gz"] = BODY
    wanted = Wanted("lm.gz", pin(BODY, server.url("lm.gz"), folder=""), tmp_path / "lm" / "lm.gz")
    for _ in range(2):  # what is there and right is not fetched again
        archives.fetch([wanted], tmp_path, "corpora.x", QUICK)
        assert visible(tmp_path) == {"lm/lm.gz": BODY} and len(server.asked) == 1
    wanted.target.write_bytes(BODY[1:])
    with pytest.raises(BirqError, match=r"lm\.gz is not lm\.gz: .* expected .*; move it away"):
        archives.fetch([wanted], tmp_path, "corpora.x", QUICK)


def test_retry_after_is_seconds_or_a_date():
    assert _retry_after("7") == 7 and _retry_after(None) is None and _retry_after("soon") is None
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 50 < _retry_after(email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60))) < 61


# ---- the disk


def test_what_does_not_fit_is_refused_before_a_byte_is_asked_for(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    # hours of download would be lost
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(BODY) - 1))
    server.files[NAME] = BODY
    with pytest.raises(
        BirqError, match=rf"corpora\.x: {NAME} need 409600 bytes in {tmp_path} while .* 409599 bytes are free; .*corpora\.x\.root"
    ):
        fetch(pin(BODY, server.url()), tmp_path)
    assert server.asked == []


FULL = """
import resource, sys
from pathlib import Path
from birq.downloads import archives
from birq.downloads.archive import Archive, Wanted
from birq.downloads.rules import Rules
from birq.errors import BirqError
url, sha256, n, root, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
wanted = Wanted("toy.tar", Archive((url,), sha256, "toy/part", int(n) or None), Path(root, "toy", "part"))
try:
    archives.fetch([wanted], Path(root), "corpora.x", Rules())
except BirqError as e:
    sys.exit(str(e))
"""


@pytest.mark.parametrize("limit", [100_000, 204_800])
def test_a_full_disk_keeps_what_is_there(tmp_path: Path, server: Server, environment: dict[str, str], limit: int):
    # while bytes come, or while they are unpacked: the system refuses to write beyond the limit
    big = packed({"toy/part/zeros.bin": bytes(300_000)} | CONTENT) if limit > 200_000 else BODY
    server.files[NAME] = big
    archive = pin(big, server.url())
    command = [sys.executable, "-c", FULL, server.url(), archive.sha256, str(len(big)), str(tmp_path), str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    kept = min(limit, len(big))
    assert f"corpora.x: no space left in {tmp_path} for {NAME} ({server.url()}); {kept} bytes of it are kept" in done.stderr
    assert "corpora.x.root" in done.stderr and not visible(tmp_path)
    fetch(archive, tmp_path)
    asked = [(NAME, None), (NAME, f"bytes={limit}-")] if kept < len(big) else [(NAME, None)]
    assert (tmp_path / "toy" / "part").is_dir() and server.asked == asked


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare for a small disk")
def test_a_disk_that_fills_up_says_so(tmp_path: Path, server: Server, environment: dict[str, str]):
    # where no length is published, nobody knows beforehand
    server.files[NAME], archive = BODY, pin(BODY, server.url())
    mount = f"mount -t tmpfs -o size=100k tmpfs {tmp_path}"
    probe = subprocess.run(["unshare", "-rm", "bash", "-c", mount], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no tmpfs in a namespace of one's own here: {probe.stderr.strip()}")
    command = [sys.executable, "-c", FULL, server.url(), archive.sha256, "0", str(tmp_path), str(10**9)]
    script = f"{mount} && {shlex.join(command)}; find {tmp_path} -name '*.part' -size +1k"
    done = subprocess.run(["unshare", "-rm", "bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert f"corpora.x: no space left in {tmp_path} for {NAME} ({server.url()}); " in done.stderr, done.stderr
    assert done.stdout.strip().endswith(f"{NAME}.part")


# ---- kills, and several runs


KILLED = """
import sys
from pathlib import Path
from birq.downloads import archives
from birq.downloads.archive import Archive, Wanted
from birq.downloads.rules import Rules
url, sha256, n, root = sys.argv[1:]
wanted = Wanted("toy.tar", Archive((url,), sha256, "toy/part", int(n)), Path(root, "toy", "part"))
archives.fetch([wanted], Path(root), "corpora.x", Rules())
"""


def test_a_killed_download_goes_on(tmp_path: Path, server: Server, environment: dict[str, str]):
    # 30 GB take hours
    server.files[NAME], server.replies[NAME] = BODY, [Reply(stall=150_000)]
    archive = pin(BODY, server.url())
    command = [sys.executable, "-c", KILLED, server.url(), archive.sha256, str(len(BODY)), str(tmp_path)]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    part = tmp_path / WORK / f"{NAME}.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size > 50_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    assert not visible(tmp_path) and 50_000 < have < len(BODY)
    fetch(archive, tmp_path)
    assert whole(tmp_path) and server.asked[-1] == (NAME, f"bytes={have}-")


INTERRUPTED = """
import signal, sys
from pathlib import Path
from birq.downloads import archives
from birq.downloads.archive import Archive, Wanted
from birq.downloads.rules import Rules
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
root = Path(sys.argv[1])
wanted = [Wanted(url[-1], Archive((url,), "0" * 64, "all"), root / "all" / url[-1]) for url in sys.argv[2:]]
archives.fetch(wanted, root, "corpora.x", Rules())
"""


def test_an_interrupt_does_not_wait_for_a_server_that_stalls(tmp_path: Path, server: Server, environment: dict[str, str]):
    server.files |= {"a": BODY, "b": BODY}
    server.always |= {"a": Reply(stall=70_000), "b": Reply(stall=70_000)}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), server.url("a"), server.url("b")]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: all((tmp_path / WORK / f"{name}.part").exists() for name in "ab"))
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) != 0


def test_a_kill_between_mark_and_folder_is_made_good(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    # the folder comes last: where it is, its mark is too, and the key of a finished download never is that of the user's own files
    server.files[NAME] = BODY

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(archives, "mark", fail)
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
    assert downloaded(tmp_path, ["a"]) is None and marks(tmp_path) == {}


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
    assert downloaded(root, librispeech.pinned(both)) == librispeech.pinned(both)
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


def test_the_verb_lists_and_fetches_what_is_missing(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    serve_parts(server, tmp_path, monkeypatch, ["train-clean-5", "dev-clean-2"])
    root = tmp_path / "root"
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(root), download=True, train_parts=["train-clean-5"], dev_parts=["dev-clean-2"])
    params = SimpleNamespace(corpora={"speech": corpus, "other": corpus.model_copy(update={"download": False})}, lm=Lm())
    listed = verb.look(params).splitlines()
    assert [x.split()[1] for x in listed[::2]] == ["train-clean-5.tar.gz", "dev-clean-2.tar.gz"] and not server.asked
    assert (
        all(librispeech.ARCHIVES[x.split()[1]].sha256 in x for x in listed[::2]) and listed[1] == f"  {server.url('train-clean-5.tar.gz')}"
    )
    assert verb.fetch(params, "speech") == f"speech: all of it is in {root}" == verb.look(params)
    assert len(server.asked) == 2 and len(librispeech.scan(corpus, "corpora.x").items) == 12
    with pytest.raises(BirqError, match="--corpus other: not among the corpora with download: true, which are speech"):
        verb.fetch(params, "other")


# ---- keys


def test_no_way_of_downloading_is_in_a_key():
    """The pinned checksum decides the bytes: neither the downloader's code nor its params may make a corpus again."""
    for kind in ("an4", "librispeech"):
        assert not [m for m in code.modules(f"birq.corpora.{kind}") if m.startswith("birq.downloads")]
    plain = LibriSpeechCorpus(kind="librispeech", root="x")
    ways = {"download": True, "offline": True, "mirrors": ["/disk"], "archives_at_once": 1, "megabytes_per_second": 3.0, "tries": 9}
    other = plain.model_copy(update=ways | {"stall_seconds": 1.0})
    params = SimpleNamespace(corpora={"a": plain, "b": other})
    assert section(params, "corpora.a") == section(params, "corpora.b")


def test_a_mirror_is_a_folder_or_speaks_http():
    with pytest.raises(ValidationError, match="'ftp://x' is neither a folder nor an address"):
        An4Corpus(kind="an4", root="x", mirrors=["ftp://x"])
