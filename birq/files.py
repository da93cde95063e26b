"""Small files: written whole or not at all, and read with an error that names them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from birq.errors import BirqError


def write_bytes(path: Path, data: bytes, ready: Callable[[Path], None] | None = None) -> Path:
    """Write beside the file's name, then rename: a reader sees the old file or the new one, a kill leaves no half.

    `ready` is called with the whole file before it gets its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # process numbers of two machines can be equal
    try:
        fresh.write_bytes(data)
        if ready:
            ready(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    return write_bytes(path, text.encode())


def write_if_changed(path: Path, text: str) -> Path:
    """An unchanged file keeps its time."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return path
    except (OSError, UnicodeDecodeError):
        pass
    return write_text(path, text)


def link(made: Path, target: Path) -> None:
    """A second name for a file; a copy on a file system without hard links, and on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a copy into it would change the file of its other names
    try:
        os.link(made, target)
    except OSError:
        shutil.copyfile(made, target)


def read_json(path: Path) -> Any:
    """A JSON file of an artifact. Errors: BirqError naming it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise BirqError(f"{path}: not readable ({e}); delete the folder {path.parent} and run again, it is made anew") from None
