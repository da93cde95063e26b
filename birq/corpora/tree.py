"""A corpus' folder, walked in one way by the reader, by the key and by the search for transcripts."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from birq.corpora.items import Item
from birq.pipeline import hashes
from birq.speech.streams import shown

SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".oga", ".aif", ".aiff", ".au", ".caf", ".w64", ".sph")
UNREAD = (".m4a", ".m4b", ".aac", ".mp4", ".mov", ".webm", ".mkv", ".mka", ".avi", ".wma", ".amr", ".3gp", ".ape", ".wv", ".spx", ".ra")
CONTROL = re.compile("[\x00-\x1f\x7f]")
LISTS = (".tsv", ".trans.txt", ".fileids", ".transcription")


@dataclass(frozen=True)
class Problem:
    """A name in the tree that leads to no file."""

    path: str  # as text
    reason: str
    detail: str = ""


@dataclass
class Tree:
    """Regular files below `root`: paths relative to it, sorted; links are followed, hidden names are left out."""

    root: Path
    files: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)  # of the files, as the walk found them
    newest_ns: int = 0  # the last change of a file's content or mode
    problems: list[Problem] = field(default_factory=list)

    def ending(self, suffixes: tuple[str, ...], below: str = "") -> Iterator[str]:
        """Files with one of these suffixes, in any case, in the folder `below` or under it."""
        return (f for f in self.files if f.lower().endswith(suffixes) and f.startswith(below))

    def content(self) -> Iterator[tuple[str, str]]:
        """(path, state) of the files whose content a reader may read."""
        return ((f"{self.root}/{f}", self.states[f]) for f in self.ending((*SUFFIXES, *LISTS)))

    def names(self) -> list[list[str]]:
        """Everything else that a reader may speak of: files of which only the name counts, and names that lead to none."""
        return [[f] for f in self.ending(UNREAD)] + [[p.path, p.reason, p.detail] for p in self.problems]


def read(root: Path) -> Tree:
    """Walk a folder. Every folder is entered once, by its own name rather than by a link, so that a link to a parent adds nothing."""
    tree = Tree(root)
    # a link to a folder above would bring in what lies beside the corpus
    seen = {_place(p.stat()) for p in root.resolve().parents}
    waiting = [""]
    while waiting:
        folder = waiting.pop(0)
        try:
            mark = _place(os.stat(root / folder))
        except OSError:  # gone meanwhile
            continue
        if mark not in seen:
            seen.add(mark)
            waiting += _enter(tree, folder, seen)
    tree.files.sort(key=os.fsencode)
    tree.problems.sort(key=lambda p: p.path)
    return tree


def _place(about: os.stat_result) -> tuple[int, int]:
    return about.st_dev, about.st_ino


def _enter(tree: Tree, folder: str, seen: set[tuple[int, int]]) -> list[str]:
    """Note what is in a folder and in those below it; returns the links to folders, which come last."""
    try:
        with os.scandir(tree.root / folder) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
    except OSError as e:
        tree.problems.append(Problem(shown(folder or "."), "folder cannot be entered", f"{e.strerror}"))
        return []
    links: list[str] = []
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            about = entry.stat()
        except OSError as e:
            why = f"a link to nothing, {shown(os.readlink(entry.path))}" if entry.is_symlink() else str(e.strerror)
            tree.problems.append(Problem(shown(name), "no audio", why))
            continue
        if stat.S_ISDIR(about.st_mode):
            if entry.is_symlink():
                links.append(name)
            elif _place(about) not in seen:
                seen.add(_place(about))
                links += _enter(tree, name, seen)
        elif problem := _problem(name, about.st_mode):
            if name.lower().endswith((*SUFFIXES, *UNREAD, *LISTS)):
                tree.problems.append(Problem(shown(name), problem))
        else:
            tree.files.append(name)
            tree.states[name] = hashes.state(about)
            tree.newest_ns = max(tree.newest_ns, about.st_mtime_ns, about.st_ctime_ns)
    return links


def _problem(name: str, mode: int) -> str:
    """Why a file cannot be taken, by its name and kind."""
    if not stat.S_ISREG(mode):
        return "not a regular file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    return "control character in the file name" if CONTROL.search(name) else ""


def of_problems(tree: Tree) -> list[Item]:
    """Items, set aside, for names in a folder that lead to no file."""
    return [Item(p.path, "", "").bad(p.reason, p.detail) for p in tree.problems]
