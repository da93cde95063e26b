"""SHA-256 of files, taken once: a file with the inode, size and time that it had when it was hashed is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from birq import files
from birq.progress import Progress

SETTLED_SECONDS = 2.0  # a file younger than this may change again without a new time
AT_ONCE = 4096  # files in the hands of the threads: each of them is an object of a kilobyte
SHOWN_BYTES = 4 << 30  # hashing more than this is announced


def mark(about: os.stat_result) -> str:
    """What a file's content is known by."""
    return f"{about.st_dev}:{about.st_ino}:{about.st_size}:{about.st_mtime_ns}"


def state(about: os.stat_result) -> str:
    """`mark`, and when the file's mode or owner was last changed: who may read it, too."""
    return f"{mark(about)}:{about.st_ctime_ns}"


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_files(paths: Sequence[str | Path], memo: Path | None = None) -> list[str]:
    """Hashes of files, in order; with a `memo`, those that have not changed since are taken from it.

    Errors: OSError for a file that cannot be read.
    """
    known = _read(memo)
    marks, todo, size, young, begun = [], [], 0, set(), time.time()
    for i, path in enumerate(paths):
        about = os.stat(path)
        marks.append(mark(about))
        if marks[i] not in known:
            todo.append(i)
            size += about.st_size
            if begun - about.st_mtime <= SETTLED_SECONDS:
                young.add(marks[i])
    progress = Progress("hashing", len(todo), "file") if size > SHOWN_BYTES else None
    fresh: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(todo), AT_ONCE):
            some = todo[begin : begin + AT_ONCE]
            for n, (i, digest) in enumerate(zip(some, pool.map(sha256_file, [paths[i] for i in some]), strict=True), begin + 1):
                fresh[marks[i]] = digest
                if progress:
                    progress.update(n)
    if memo and (settled := fresh.keys() - young):
        # only the entries of these files, or the memo would grow without bound
        here = set(marks)
        _write(memo, {m: d for m, d in (known | fresh).items() if m in settled or (m in known and m in here)})
    return [fresh.get(m) or known[m] for m in marks]


def _read(memo: Path | None) -> dict[str, str]:
    try:
        return json.loads(memo.read_text()) if memo else {}
    except (OSError, ValueError):  # none yet, or cut off: the files are read
        return {}


def _write(memo: Path, known: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a memo saves time, nothing more
        files.write_text(memo, json.dumps(known))
