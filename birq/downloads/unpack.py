"""Archives unpacked safely: files and folders inside the folder asked for, no more than the archive may hold."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from birq.downloads.pace import Pace

OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
BLOCK_BYTES = 1 << 16  # tarfile copies its buffer for every header
NAMES = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # one is in another's way, or too long
IMPLAUSIBLE = "not plausible for an archive of its size"


class UnusableError(Exception):
    """The archive is damaged, or holds what is not unpacked. The message is a clause."""


@dataclass(frozen=True)
class Limits:
    """What an archive may become. Audio gets smaller by a factor of 3 at most; train-other-500 has about 155,000 files."""

    n_files: int = 500_000  # files and folders of one archive
    ratio: int = 20  # unpacked bytes over the archive's
    floor_bytes: int = 64 << 20  # for small archives

    def n_bytes(self, archive: Path) -> int:
        return max(self.floor_bytes, self.ratio * archive.stat().st_size)


LIMITS = Limits()


class _Counted:
    """A stream that refuses to give more than `left` bytes: long headers count as well as files."""

    def __init__(self, stream: IO[bytes], n_bytes: int) -> None:
        self.stream, self.n_bytes, self.left = stream, n_bytes, n_bytes

    def read(self, n: int) -> bytes:
        if n > self.left:
            n = self.left + 1
        block = self.stream.read(n)
        self.left -= len(block)
        if self.left < 0:
            raise UnusableError(f"it unpacks to more than {self.n_bytes} bytes: {IMPLAUSIBLE}")
        return block


def unpack(archive: Path, folder: Path, pace: Pace, limits: Limits | None = None) -> None:
    """Unpack a tar archive, plain or compressed, into `folder`, which must not exist.

    Links, devices, and paths that lead out are refused; owners and modes are not taken over.
    Errors: UnusableError; OSError of the disk; StoppedError.
    """
    limits = limits or LIMITS
    folder.mkdir(parents=True)
    try:
        with _stream(archive, limits) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK_BYTES) as tar:
            n = 0
            while (member := tar.next()) is not None:
                n += 1
                if n > limits.n_files:
                    raise UnusableError(f"it holds more than {limits.n_files} files")
                if member.size > stream.left:
                    raise UnusableError(f"{member.name!r} of {member.size} bytes makes it more than {stream.n_bytes}: {IMPLAUSIBLE}")
                with writable(member.name):
                    _write(tar, member, folder, pace)
                tar.members = []  # type: ignore[misc]  # else a record of every member stays in memory
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as e:
        raise UnusableError(str(e) or "it is damaged") from e
    if not n:
        raise UnusableError("it is empty")


@contextlib.contextmanager
def writable(name: str) -> Iterator[None]:
    """Around the writing of a member. Errors: UnusableError for a name that no file here can have."""
    try:
        yield
    except OSError as e:
        if e.errno in NAMES:
            raise UnusableError(f"{name!r} cannot be written: {e.strerror}") from e
        raise


@contextlib.contextmanager
def _stream(archive: Path, limits: Limits) -> Iterator[Any]:
    """The uncompressed bytes. The content decides, not the name."""
    with open(archive, "rb") as f:
        begin = f.read(6)
    opener = next((o for magic, o in OPENERS if begin.startswith(magic)), open)
    with opener(archive, "rb") as f:  # type: ignore[operator]
        try:
            yield _Counted(f, limits.n_bytes(archive))
        except OSError as e:
            if opener is bz2.open and e.errno is None:  # bz2 has no exception of its own
                raise UnusableError(str(e)) from e
            raise


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, pace: Pace) -> None:
    """One member. As no links are made, a path without `..` stays inside."""
    name, path = member.name, PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UnusableError(f"{name!r} lies outside of the archive's folder")
    if member.issym() or member.islnk():
        raise UnusableError(f"{name!r} is a link to {member.linkname!r}; only files and folders are unpacked")
    if member.isdir():
        (folder / path).mkdir(parents=True, exist_ok=True)
        return
    if not member.isfile() or member.issparse():
        raise UnusableError(f"{name!r} is neither a file nor a folder")
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with open(folder / path, "wb") as out:
        source = tar.extractfile(member)
        while source and left and (block := source.read(min(left, BLOCK_BYTES))):
            out.write(block)
            left -= len(block)
            pace.wait(0)  # ends here where the run was interrupted
    if left:
        raise UnusableError(f"{name!r} ends {left} bytes early")
