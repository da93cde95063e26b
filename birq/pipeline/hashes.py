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
SHOWN_BYTES = 4 << 30  # hashing more than this is announced


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_files(paths: Sequence[Path], memo: Path | None = None) -> list[str]:
    """Hashes of files, in order; with a `memo`, those that have not changed since are taken from it.

    Errors: OSError for a file that cannot be read.
    """
    known = _read(memo)
    stats = [p.stat() for p in paths]
    marks = [f"{s.st_dev}:{s.st_ino}:{s.st_size}:{s.st_mtime_ns}" for s in stats]
    todo = [i for i, mark in enumerate(marks) if mark not in known]
    size = sum(stats[i].st_size for i in todo)
    progress = Progress("hashing", len(todo), "file") if size > SHOWN_BYTES else None
    fresh: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for n, (i, digest) in enumerate(zip(todo, pool.map(sha256_file, [paths[i] for i in todo]), strict=True), 1):
            fresh[marks[i]] = digest
            if progress:
                progress.update(n)
    now = time.time()
    settled = {marks[i] for i in todo if now - stats[i].st_mtime > SETTLED_SECONDS}
    if memo and settled:
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
