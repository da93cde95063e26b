"""LibriSpeech through lhotse's recipe: any of its parts, whole or partial, with or without transcripts."""

from __future__ import annotations

import re
from pathlib import Path

from birq.corpora.items import Item, Scan, audio_files, need_folder, transcripts
from birq.errors import BirqError
from birq.settings.params import LibriSpeechCorpus

SAMPLE_RATE_HZ = 16000
NAME = re.compile(r"^(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+$")


def _place(root: Path) -> Path:
    inner = root / "LibriSpeech"
    return inner if inner.is_dir() else root


def _download(root: Path, missing: list[str], key: str) -> None:
    from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, download_librispeech

    for part in missing:
        if part not in LIBRISPEECH + MINI_LIBRISPEECH:
            raise BirqError(f"{key}: {part!r} is no part of LibriSpeech; legal: {', '.join(LIBRISPEECH + MINI_LIBRISPEECH)}")
    try:
        download_librispeech(root, dataset_parts=missing)
    except Exception as e:  # whatever the network or the archive did, the way out is the same
        raise BirqError(
            f"{key}: download of {', '.join(missing)} failed ({e}); fetch and unpack by other means, "
            f"then set {key}.root to that folder and {key}.download to false"
        ) from e


def _by_recipe(part: Path, id: str, text: str) -> tuple[str, str] | None:
    """lhotse's recipe for one line of a transcript file: (speaker, text), or None where it finds no readable audio."""
    from lhotse.recipes.librispeech import parse_utterance

    try:
        found = parse_utterance(part, f"{id} {text}", {})
    except Exception:  # damaged audio: the check says what is wrong with it
        return None
    return None if found is None else (found[1].speaker, found[1].text)


def chapters(root: Path, part: Path, split: str | None) -> list[Item]:
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
        heard = {path.stem for path in by_folder[folder]}
        items += [
            Item(id, "", "", text).bad("no audio", f"no recording beside {lists[0].name}") for id, text in texts.items() if id not in heard
        ]
    return items


def scan(corpus: LibriSpeechCorpus, key: str) -> Scan:
    """Read the parts; those of dev and test fix their splits, the others' speakers may be drawn for a missing one."""
    given = Path(corpus.root)
    parts = {"train": corpus.train_parts, "dev": corpus.dev_parts, "test": corpus.test_parts}
    named = [p for ps in parts.values() for p in ps]
    for part in named:
        if named.count(part) > 1:
            raise BirqError(f"{key}: {part!r} is named twice among train_parts, dev_parts and test_parts; name it once")
    if not corpus.train_parts:
        raise BirqError(f"{key}.train_parts: empty; name at least one part, such as train-clean-100")
    missing = [p for p in named if not (_place(given) / p).is_dir()]
    if missing and corpus.download:
        _download(given, missing, key)
    need_folder(given, f"{key}.root")
    root = _place(given)
    items = []
    for split, names in parts.items():
        for part in names:
            folder = root / part
            if not folder.is_dir():
                there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folder"
                raise BirqError(
                    f"{key}.{split}_parts: {root} has no part {part!r}, it has {there}; name one of these or set {key}.download to true"
                )
            found = chapters(root, folder, None if split == "train" else split)
            if not found:
                raise BirqError(f"{key}.{split}_parts: {folder} holds no recording; complete the part or leave it out")
            items += found
    return Scan(root, items, "CC BY 4.0", "LibriSpeech (Panayotov et al., 2015), from LibriVox recordings", SAMPLE_RATE_HZ)
