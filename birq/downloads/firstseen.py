"""Files whose owner publishes no checksum: SHA-256 and length of the first download, kept beside the corpus' root.

Every later download must give the same. The lock file outlives the root. Given to somebody else, or put under version control, it pins
the corpus for them too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from birq import files
from birq.downloads.archive import Archive
from birq.errors import BirqError


def lock_file(root: Path) -> Path:
    return root.parent / f"{root.name}.lock.json"


def known(root: Path) -> dict[str, tuple[str, int]]:
    """File -> (SHA-256, bytes). Errors: BirqError where the lock file is damaged."""
    path = lock_file(root)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): (str(one["sha256"]), int(one["bytes"])) for name, one in read.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BirqError(
            f"{path}: not a lock file of checksums ({type(e).__name__}: {e}); restore it, or delete it together with {root}"
        ) from None


def note(root: Path, name: str, sha256: str, n_bytes: int) -> None:
    """Keep the checksum of a file that was seen for the first time."""
    note_all(root, {name: (sha256, n_bytes)})


def note_all(root: Path, seen: dict[str, tuple[str, int]]) -> None:
    """Keep checksums and lengths of many files; a checksum is empty where only the length is known yet."""
    all_of_them = {n: {"bytes": b, "sha256": s} for n, (s, b) in (known(root) | seen).items()}
    files.write_text(lock_file(root), json.dumps({"files": all_of_them}, indent=1, sort_keys=True) + "\n")


def pinned(archives: dict[str, Archive], root: Path) -> dict[str, Archive]:
    """The archives by name, with the checksums of the first download where there was one."""
    seen = known(root)
    return {
        name: replace(archive, sha256=seen[name][0], n_bytes=seen[name][1]) if name in seen else archive
        for name, archive in archives.items()
    }


def remedy(root: Path) -> str:
    """The way out where a server gives another file than the first time."""
    return f"If the owner has replaced the file and you trust the new one, take its entry out of {lock_file(root)}."
