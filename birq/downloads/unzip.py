"""Zip archives unpacked as safely as tar archives (unpack.py): the same limits, the same refusals."""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from birq.downloads import unpack
from birq.downloads.pace import Pace
from birq.downloads.unpack import BLOCK_BYTES, IMPLAUSIBLE, UnusableError, writable

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second: no member


def is_zip(path: Path) -> bool:
    with open(path, "rb") as f:
        return f.read(4) in MAGIC


def unzip(archive: Path, folder: Path, pace: Pace) -> None:
    """Unpack a zip archive into `folder`, which must not exist.

    Links, devices, encrypted members and paths that lead out are refused; modes are not taken over.
    Errors: UnusableError; OSError of the disk; StoppedError.
    """
    limits = unpack.LIMITS
    folder.mkdir(parents=True)
    left = most = limits.n_bytes(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > limits.n_files:
                raise UnusableError(f"it holds more than {limits.n_files} files")
            for member in members:
                left -= member.file_size  # zipfile reads no more than that of it
                if left < 0:
                    raise UnusableError(f"{member.filename!r} of {member.file_size} bytes makes it more than {most}: {IMPLAUSIBLE}")
                with writable(member.filename):
                    _write(opened, member, folder, pace)
    # RuntimeError: zipfile says so of a compression that it does not know
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as e:
        cut_off = "File is not a zip file" in str(e)  # what zipfile calls one whose list of members, at its end, is missing
        raise UnusableError("it ends before its list of members: it is cut off" if cut_off else str(e) or "it is damaged") from e
    if not members:
        raise UnusableError("it is empty")


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, pace: Pace) -> None:
    """One member. As no links are made, a path without `..` stays inside."""
    name, path = member.orig_filename, PurePosixPath(member.filename)
    if path.is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
        raise UnusableError(f"{name!r} lies outside of the archive's folder")
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0: made by a system without modes
    if kind == stat.S_IFLNK:
        raise UnusableError(f"{name!r} is a link; only files and folders are unpacked")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnusableError(f"{name!r} is neither a file nor a folder")
    if member.flag_bits & 1:
        raise UnusableError(f"{name!r} is encrypted")
    if member.is_dir():
        (folder / path).mkdir(parents=True, exist_ok=True)
        return
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, open(folder / path, "wb") as out:
        while block := source.read(BLOCK_BYTES):
            out.write(block)
            pace.wait(0)  # ends here where the run was interrupted
