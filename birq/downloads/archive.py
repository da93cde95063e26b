"""What is downloaded: a file pinned by its checksum; and the mark that distinguishes a downloaded folder from the user's own files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from birq import files

MARK = ".birq-download.json"
OPENSLR = ("https://www.openslr.org/resources", "https://openslr.trmal.net/resources", "https://openslr.elda.org/resources")


@dataclass(frozen=True)
class Archive:
    """A tar or zip archive, or another file, pinned by its checksum."""

    urls: tuple[str, ...]  # mirrors, tried in this order
    sha256: str  # empty: the owner publishes none (firstseen.py)
    folder: str = ""  # the corpus' folder within the archive, "." for all of it; empty: a file that is kept as it is
    n_bytes: int | None = None  # None: not published
    begins: bytes = b""  # how a file without a checksum must begin, so that no error page is taken for it

    def checksum(self) -> str:
        """For messages."""
        return f"SHA-256 {self.sha256}" if self.sha256 else "no checksum is published"


@dataclass(frozen=True)
class Wanted:
    """An archive and the place of its folder, below the corpus' root."""

    name: str  # of the archive's file
    archive: Archive
    target: Path
    remedy: str = ""  # one more way out, for an archive with another checksum
    own: str = "unpack it yourself, then set {key}.root to that folder and {key}.download to false"  # the way out without birq's download


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


def mark(root: Path, name: str, sha256: str) -> None:
    """Note that an archive was downloaded into `root`."""
    files.write_text(root / MARK, json.dumps({"archives": marks(root) | {name: sha256}}, indent=1, sort_keys=True) + "\n")
