"""Archives of public corpora: downloaded, compared with a pinned SHA-256, then unpacked.

A downloaded folder carries a mark that distinguishes it from the user's own files.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import http.client
import json
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birq import files
from birq.errors import BirqError
from birq.progress import Progress, say

MARK = ".birq-download.json"
WORK = ".birq-download"  # beside the mark while a download is under way; a killed one goes on there
LOCK = ".birq-download.lock"
TIMEOUT_S = 60.0  # without a byte
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A tar archive, pinned by its checksum."""

    urls: tuple[str, ...]  # mirrors, tried in this order
    sha256: str
    folder: str  # the corpus' folder within the archive
    n_bytes: int | None = None  # None: not published


class _Failed(Exception):
    """This mirror does not give the archive."""


class _Dropped(_Failed):
    """The connection ended early; another request may go on from there."""


class _OtherChecksum(_Failed):
    """The mirror gives another file."""


# ---- the mark


def marks(root: Path) -> dict[str, str]:
    """Archive -> SHA-256, of all archives that were downloaded into `root`."""
    try:
        read = json.loads((root / MARK).read_text(encoding="utf-8"))["archives"]
        return {str(name): str(sha256) for name, sha256 in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: then the files are the user's own
        return {}


def downloaded(root: Path, wanted: Iterable[str]) -> dict[str, str] | None:
    """Archive -> SHA-256 of the wanted archives, or None where one of them was not downloaded into `root`."""
    known = marks(root)
    names = list(wanted)
    return {n: known[n] for n in names} if all(n in known for n in names) else None


def _mark(root: Path, name: str, sha256: str) -> None:
    files.write_text(root / MARK, json.dumps({"archives": marks(root) | {name: sha256}}, indent=1, sort_keys=True) + "\n")


# ---- the download


def fetch(name: str, archive: Archive, root: Path, target: Path, key: str, remedy: str = "") -> None:
    """Download an archive into `root` and put its folder at `target`, below `root`, unless that is there.

    `target` appears whole or not at all. A killed download goes on with the next call. Two processes take turns.
    `key`: the corpus in params.yaml. `remedy`: one more way out, for an archive with another checksum.
    Errors: BirqError that names each mirror's failure; OSError where the disk is full or cannot be written.
    """
    work = root / WORK
    root.mkdir(parents=True, exist_ok=True)
    with _turn(root):
        if target.is_dir():
            return
        work.mkdir(exist_ok=True)
        try:
            part = work / f"{name}.part"
            _download(name, archive, part, key, remedy)
            _unpack(name, archive, part, root, target, key)
        finally:
            with contextlib.suppress(OSError):  # it still holds the part that the next call resumes
                work.rmdir()


@contextlib.contextmanager
def _turn(root: Path) -> Iterator[None]:
    with open(root / LOCK, "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another run downloads into {root}")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _download(name: str, archive: Archive, part: Path, key: str, remedy: str) -> None:
    """The archive, complete and checked, in the file `part`."""
    failures: list[str] = []
    other_checksum = False
    for url in archive.urls:
        try:
            _transfer(url, archive, part, name)
            _check(archive, part, name)
            return
        except _Failed as e:
            failures.append(f"  {url}: {e}")
            other_checksum = other_checksum or isinstance(e, _OtherChecksum)
    kept = f"{_size(part)} bytes are kept: run again to go on. " if _size(part) else ""
    raise BirqError(
        f"{key}: {name} could not be downloaded.\n" + "\n".join(failures) + f"\n{kept}Or fetch and unpack it by other means, "
        f"then set {key}.root to that folder and {key}.download to false." + (f" {remedy}" if remedy and other_checksum else "")
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(url: str, archive: Archive, part: Path, name: str) -> None:
    """Bring `part` to its full length. A dropped connection is taken up again as long as bytes come."""
    farthest = _size(part)
    while True:
        try:
            _receive(url, archive, part, name)
            return
        except _Dropped:
            if _size(part) <= farthest:
                raise
            farthest = _size(part)


def _receive(url: str, archive: Archive, part: Path, name: str) -> None:
    """One request, for all that `part` lacks."""
    have = _size(part)
    if archive.n_bytes is not None and have > archive.n_bytes:
        part.unlink()
        have = 0
    if have and have == archive.n_bytes:
        return
    with _ask(url, have) as answer:
        begin = have if answer.status == 206 else 0
        if begin and not (answer.headers["Content-Range"] or "").startswith(f"bytes {begin}-"):
            raise _Failed(f"it answers {answer.headers['Content-Range']!r} to a request for bytes {begin}-")
        length = answer.headers["Content-Length"]
        total = begin + int(length) if length else archive.n_bytes
        if archive.n_bytes is not None and total != archive.n_bytes:
            raise _Failed(f"{total} bytes, expected {archive.n_bytes}")
        if begin == 0 < have:
            say(f"download {name}: the server cannot go on in the middle, so it starts anew")
        progress = Progress(f"download {name}", _megabytes(total), "MB", start=_megabytes(begin)) if total else None
        with open(part, "ab" if begin else "wb") as f:
            while block := _read(answer):
                f.write(block)
                if progress:
                    progress.update(_megabytes(f.tell()))
        if progress:
            progress.close()
    if total is not None and _size(part) < total:
        raise _Dropped(f"the connection ended after {_size(part)} of {total} bytes")


def _ask(url: str, have: int) -> Any:
    """The server's answer to a request for the bytes from `have` on."""
    request = urllib.request.Request(url, headers={"User-Agent": "birq"} | ({"Range": f"bytes={have}-"} if have else {}))
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as e:
        e.close()
        if e.code == 416 and have:  # nothing lies beyond: perhaps the file is complete, and its checksum says so
            return _Nothing(have)
        raise _Failed(f"HTTP {e.code} {e.reason}") from None
    except (OSError, http.client.HTTPException) as e:
        raise _Dropped(str(getattr(e, "reason", e)) or type(e).__name__) from e


class _Nothing:
    """The answer of a server that has no more bytes."""

    status = 206

    def __init__(self, have: int) -> None:
        self.headers = {"Content-Range": f"bytes {have}-", "Content-Length": "0"}

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _: int) -> bytes:
        return b""


def _read(answer: Any) -> bytes:
    # errors of the network are caught here alone: one of the disk is the stage's to explain
    try:
        return answer.read(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as e:
        raise _Dropped(f"the connection broke ({e or type(e).__name__})") from e


def _megabytes(n_bytes: int) -> int:
    return round(n_bytes / 1e6)


def _check(archive: Archive, part: Path, name: str) -> None:
    """Compare the file on disk with the pinned checksum; another file is deleted."""
    say(f"download {name}: comparing the SHA-256")
    with open(part, "rb") as f:
        sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    if sha256 != archive.sha256:
        n_bytes = _size(part)
        part.unlink()
        raise _OtherChecksum(f"SHA-256 {sha256} ({n_bytes} bytes), expected {archive.sha256}; the file was deleted")


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack; a member that would lie elsewhere is refused. Python before 3.11.4 has no filter for that.

    Errors: tarfile.TarError.
    """
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
        return
    inside = folder.resolve()
    for member in tar:
        if not (inside / member.name).resolve().is_relative_to(inside):
            raise tarfile.TarError(f"{member.name!r} would be extracted outside the destination")
        if member.isfile() or member.isdir():  # a corpus needs no links and no devices
            tar.extract(member, folder)


def _unpack(name: str, archive: Archive, part: Path, root: Path, target: Path, key: str) -> None:
    """Unpack out of sight, then mark and rename: after a kill at any time the folder is there whole, with its mark, or not at all."""
    unpacked = part.parent / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        say(f"download {name}: unpacking")
        with tarfile.open(part) as tar:
            _extract(tar, unpacked)
        wanted = unpacked / archive.folder
        if not wanted.is_dir():
            raise tarfile.TarError(f"it holds no folder {archive.folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        for beside in wanted.parent.iterdir():  # lists of speakers, the licence
            if beside != wanted and not (target.parent / beside.name).exists():
                beside.rename(target.parent / beside.name)
        _mark(root, name, archive.sha256)
        wanted.rename(target)
        part.unlink()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as e:
        part.unlink(missing_ok=True)
        raise BirqError(
            f"{key}: {name} cannot be unpacked ({e}); fetch it by other means, unpack it, "
            f"then set {key}.root to that folder and {key}.download to false"
        ) from e
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
