"""Shared by corpus readers and the check: items, limits, files of a folder, lines of a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from birq.errors import BirqError

MOST_DETAIL = 300  # characters of a reason's detail


@dataclass(frozen=True)
class Limits:
    """The values of params' sections `features` and `tokenizer` that a corpus depends on, besides the alphabet; the names are the same."""

    min_seconds: float
    max_seconds: float
    sample_rate_hz: int = 0  # of synthesised speech
    max_quarantined_share: float = 0.0  # of recordings in a folder
    language: str = "en"  # BCP 47, of the transcripts: it decides about capitals


@dataclass(frozen=True, slots=True)
class Item:
    """A recording and its known facts. `path` is relative to the corpus' audio root, "" where there is no audio.

    `split` is set where the corpus fixes it. `reason` and `detail` are set once the item is to be quarantined. The check brings `text` to
    its normal form, keeps what was there before in `written`, and notes the kinds of change.
    """

    id: str
    path: str
    speaker: str
    text: str | None = None
    split: str | None = None
    reason: str | None = None
    detail: str = ""
    written: str | None = None
    changes: frozenset[str] = frozenset()

    def bad(self, reason: str, detail: str = "") -> Item:
        """The item, set aside; the first reason stays. A long detail is cut."""
        detail = detail if len(detail) <= MOST_DETAIL else detail[:MOST_DETAIL] + " …"
        return self if self.reason else replace(self, reason=reason, detail=detail)


@dataclass(frozen=True)
class Scan:
    """A corpus as it lies on disk. Nothing is decoded yet."""

    root: Path  # audio root
    items: list[Item]
    licence: str
    source: str
    sample_rate_hz: int | None = None  # where every file must have it
    quotation_marks: bool = True  # False where the transcripts have none: there every apostrophe belongs to its word


def need_folder(root: Path, key: str) -> None:
    """BirqError where a corpus' folder is missing, is a file, or is empty. Hidden files do not count."""
    if not root.exists():
        raise BirqError(f"{key}: no folder {root}; correct the path in params.yaml")
    if not root.is_dir():
        raise BirqError(f"{key}: {root} is a file, a folder is wanted; correct the path in params.yaml")
    try:
        empty = all(p.name.startswith(".") for p in root.iterdir())
    except OSError as e:
        raise BirqError(f"{key}: the folder {root} cannot be entered ({e.strerror}); change its mode or correct the path") from None
    if empty:
        raise BirqError(f"{key}: the folder {root} is empty; put the corpus there or correct the path in params.yaml")


def split_lines(text: str) -> list[str]:
    """Lines that end with LF or CRLF, or with CR where the text has no LF; other characters that Unicode calls line breaks are text."""
    lines = [line.rstrip("\r") for line in text.split("\n")] if "\n" in text else text.split("\r")
    return lines if lines[-1] else lines[:-1]


def read_lines(path: Path) -> list[str]:
    """Lines of a text file; BirqError where it cannot be read as UTF-8."""
    try:
        return split_lines(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise BirqError(f"{path}: no such file; complete the corpus folder") from None
    except UnicodeDecodeError as e:
        raise BirqError(f"{path}: not UTF-8 ({e.reason} at byte {e.start}); convert it, for instance with iconv") from None
