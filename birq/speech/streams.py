"""Streams: what a decoder reads whole. A file may hold several, one after the other."""

from __future__ import annotations

import io
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

Bytes = bytes | mmap.mmap | memoryview


class AudioError(Exception):
    """A file that cannot be used: a short reason, and what was found."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


def shown(path: str | Path) -> str:
    """A path as text: bytes of its name that are no UTF-8, and control characters, are written as \\xNN."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or ord(c) > 159 else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Stream:
    """A stream that one decoder reads whole. `data` None: the file itself."""

    decoder: str  # "libsndfile" or "miniaudio"
    data: bytes | Pieces | None = None
    frames: int | None = None  # samples per channel that must come out, where a header is to be believed

    def open(self) -> io.RawIOBase | io.BytesIO | None:
        """A file to read, where it is not the file itself."""
        return self.data.open() if isinstance(self.data, Pieces) else None if self.data is None else io.BytesIO(self.data)


@dataclass(frozen=True)
class Pieces:
    """Pieces of bytes, read as one file without being copied together."""

    parts: tuple[Bytes, ...]

    def open(self) -> io.RawIOBase:
        return _Joined(self.parts)


class _Joined(io.RawIOBase):
    def __init__(self, parts: tuple[Bytes, ...]):
        self._parts, self._at, self._size = parts, 0, sum(map(len, parts))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        done, start = 0, 0
        for part in self._parts:
            if start <= self._at < start + len(part) and done < len(buffer):
                piece = part[self._at - start : self._at - start + len(buffer) - done]
                buffer[done : done + len(piece)] = piece
                done, self._at = done + len(piece), self._at + len(piece)
            start += len(part)
        return done


def find(data: Bytes, what: bytes, at: int) -> int:
    """The place of bytes from `at` on, or -1."""
    return data.find(what, at) if not isinstance(data, memoryview) else bytes(data).find(what, at)


def after_id3(data: Bytes, at: int) -> int:
    """The place after ID3v2 tags."""
    while bytes(data[at : at + 3]) == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)
    return at
