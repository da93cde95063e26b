"""LibriSpeech's folder layout, which other corpora share: speaker/chapter/speaker-chapter-number.flac beside speaker-chapter.trans.txt."""

from __future__ import annotations

import re
from pathlib import Path

from birq.corpora.items import Item, read_lines
from birq.corpora.tree import SUFFIXES, Tree, of_problems

LIST = ".trans.txt"
NAME = re.compile(r"^(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+$")


def transcripts(path: Path) -> dict[str, str]:
    """A `*.trans.txt`: utterance id -> text. An id that comes twice keeps its first text."""
    texts: dict[str, str] = {}
    for line in read_lines(path):
        id, *text = line.split(maxsplit=1) or [""]  # a blank or a tab after the id
        if id:
            texts.setdefault(id, text[0].strip() if text else "")
    return texts


def read(tree: Tree, split: str | None, prefix: str = "") -> list[Item]:
    """Items of a tree in LibriSpeech's layout. A folder without any transcript file is unlabelled speech.

    `prefix` leads from the corpus' audio root to the tree.
    """
    by_folder: dict[str, list[str]] = {}
    for name in tree.ending(SUFFIXES):
        by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    lists_of: dict[str, list[str]] = {}
    for name in tree.ending((LIST,)):
        lists_of.setdefault(name.rpartition("/")[0], []).append(name)
    items = of_problems(tree)
    for folder in sorted({*by_folder, *lists_of}):
        items += _folder(tree.root, prefix, by_folder.get(folder, []), lists_of.get(folder, []), split)
    return items


def _folder(root: Path, prefix: str, names: list[str], lists: list[str], split: str | None) -> list[Item]:
    """Items of one folder: its recordings, and lines of its transcript files without one."""
    texts = {id: text for name in reversed(lists) for id, text in transcripts(root / name).items()}
    shown = lists[0].rpartition("/")[2] if lists else ""
    items, recorded = [], set()
    for name in names:
        path = Path(name)
        id, match = path.stem, NAME.match(path.stem)
        recorded.add(id)
        speaker = match["speaker"] if match else path.parent.name or root.resolve().name
        item = Item(id, prefix + name, speaker, texts.get(id), split)
        if lists and item.text is None:
            item = item.bad("no transcript", f"{shown} has no line {id}")
        elif item.text is None and split in ("dev", "test"):
            item = item.bad("no transcript", f"a recording of the {split} split needs one")
        items.append(item)
    alone = [id for id in texts if id not in recorded]
    return items + [Item(id, "", "", texts[id]).bad("no audio", f"no recording beside {shown}") for id in alone]
