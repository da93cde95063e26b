"""What the file system under the tests can do, and where it puts files."""

from __future__ import annotations

import contextlib
import fcntl
import struct
import subprocess
import tempfile
from pathlib import Path


def reflinks() -> bool:
    """Whether files can share blocks where the tests' folders lie."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a").write_text("a")
        return subprocess.run(["cp", "--reflink=always", "a", "b"], cwd=folder, capture_output=True, check=False).returncode == 0


def place(path: Path) -> tuple[str, int]:
    """Where a file's first byte lies: its block, which different files may share (reflinks), or its inode if the disk does not tell."""
    asked = bytearray(struct.pack("=QQIIII", 0, 1, 1, 0, 1, 0) + bytes(56))  # linux/fiemap.h: one extent, written out before
    with open(path, "rb") as f, contextlib.suppress(OSError):
        fcntl.ioctl(f, 0xC020660B, asked)
        _, block = struct.unpack_from("=QQ", asked, 32)
        if block:
            return "block", block
    return "inode", path.stat().st_ino
