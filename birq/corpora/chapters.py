"""LibriSpeech's folder layout, which other corpora share: speaker/chapter/speaker-chapter-number.flac beside speaker-chapter.trans.txt."""

from __future__ import annotations

import re
from pathlib import Path

from birq.corpora.items import Item, audio_files, read_lines

NAME = re.compile(r"^(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+$")


def transcripts(path: Path) -> dict[str, str]:
    """A `*.trans.txt`: utterance id -> text. An id that comes twice keeps its first text."""
    texts: dict[str, str] = {}
    for line in read_lines(path):
        id, _, text = line.strip().partition(" ")
        if id:
            texts.setdefault(id, text.strip())
    return texts


def _by_recipe(part: Path, id: str, text: str) -> tuple[str, str] | None:
    """lhotse's recipe for one line of a transcript file: (speaker, text), or None where it finds no readable audio."""
    from lhotse.recipes.librispeech import parse_utterance

    try:
        parsed = parse_utterance(part, f"{id} {text}", {})
    except Exception:  # damaged audio: the check reports the reason
        return None
    return None if parsed is None else (parsed[1].speaker, parsed[1].text)


def read(root: Path, part: Path, split: str | None) -> list[Item]:
    """Items of a tree in LibriSpeech's layout. A folder without any transcript file is unlabelled speech."""
    by_folder: dict[Path, list[Path]] = {}
    for path in audio_files(part):
        by_folder.setdefault(path.parent, []).append(path)
    for path in part.rglob("*.trans.txt"):
        by_folder.setdefault(path.parent, [])
    items = []
    for folder in sorted(by_folder):
        lists = sorted(folder.glob("*.trans.txt"))
        texts = {id: text for path in reversed(lists) for id, text in transcripts(path).items()}
        for path in by_folder[folder]:
            id, relative = path.stem, path.relative_to(root).as_posix()
            match = NAME.match(id)
            speaker, text = match["speaker"] if match else folder.name, texts.get(id)
            if text and path.suffix == ".flac":
                speaker, text = _by_recipe(part, id, text) or (speaker, text)
            item = Item(id, relative, speaker, text, split)
            if lists and text is None:
                item = item.bad("no transcript", f"{lists[0].name} has no line {id}")
            elif text is None and split in ("dev", "test"):
                item = item.bad("no transcript", f"a recording of the {split} split needs one")
            items.append(item)
        recorded = {path.stem for path in by_folder[folder]}
        items += [
            Item(id, "", "", text).bad("no audio", f"no recording beside {lists[0].name}")
            for id, text in texts.items()
            if id not in recorded
        ]
    return items
