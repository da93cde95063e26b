"""Any folder of audio: with `transcripts.tsv`, with LibriSpeech-style `*.trans.txt`, or with nothing (unlabelled)."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from birq.corpora import chapters, folder
from birq.corpora.items import Item, Limits, Scan, audio_files, need_folder, read_lines
from birq.corpora.manifests import SPLITS
from birq.errors import BirqError
from birq.settings.params import LocalCorpus

TABLE = "transcripts.tsv"
COLUMNS = ("path", "text", "speaker", "split")


def _id(relative: Path) -> str:
    return "-".join(relative.with_suffix("").parts)


def _table(root: Path, key: str) -> list[Item]:
    """Items of `transcripts.tsv`; a row with an empty text is unlabelled, audio that the table leaves out is quarantined."""
    path = root / TABLE
    rows = list(csv.reader(read_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = [c.strip().lower() for c in rows[0]] if rows else []
    if header[:2] != ["path", "text"] or not set(header) <= set(COLUMNS):
        raise BirqError(f"{path}: the first line must name the columns path, text[, speaker, split] (tab between), it holds {header}")
    there = {p.relative_to(root).as_posix() for p in audio_files(root)}
    items, listed = [], set()
    for number, row in enumerate(rows[1:], 2):
        if not any(c.strip() for c in row):
            continue
        if len(row) > len(header):
            raise BirqError(f"{path}, line {number}: {len(row)} columns, the first line names {len(header)}; remove the extra tab")
        cell = dict(zip(header, (c.strip() for c in row), strict=False))
        relative, split = Path(cell["path"]), cell.get("split") or None
        if not cell["path"] or relative.is_absolute() or ".." in relative.parts:
            raise BirqError(f"{path}, line {number}: path {cell['path']!r} must lie below {root}; write it relative to that folder")
        if split not in (None, *SPLITS):
            raise BirqError(f"{path}, line {number}: split {split!r} is not legal; use {', '.join(SPLITS)} or leave it empty")
        item = Item(
            _id(relative), relative.as_posix(), cell.get("speaker") or _folder_name(root, relative), cell.get("text") or None, split
        )
        listed.add(item.path)
        if item.path not in there:
            item = replace(item, path="").bad("no audio", f"{TABLE}, line {number}: no file {item.path}")
        elif item.text is None and split in ("dev", "test"):
            item = item.bad("no transcript", f"a recording of the {split} split needs one")
        items.append(item)
    for left in sorted(there - listed):
        items.append(Item(_id(Path(left)), left, "").bad("no transcript", f"{TABLE} does not list it"))
    return items


def _folder_name(root: Path, relative: Path) -> str:
    return relative.parent.name or root.resolve().name


def _bare(root: Path) -> list[Item]:
    """Items of a folder without any transcript."""
    items = []
    for path in audio_files(root):
        relative = path.relative_to(root)
        match = chapters.NAME.match(path.stem)
        if match and relative.parts[-3:-1] == (match["speaker"], match["chapter"]):  # LibriSpeech's own tree
            items.append(Item(path.stem, relative.as_posix(), match["speaker"]))
        else:
            items.append(Item(_id(relative), relative.as_posix(), _folder_name(root, relative)))
    return items


def scan(corpus: LocalCorpus, key: str) -> Scan:
    """Read the folder; with `unlabelled: true` transcripts are ignored."""
    root = Path(corpus.root)
    need_folder(root, f"{key}.root")
    if next(audio_files(root), None) is None:
        raise BirqError(f"{key}.root: {root} holds no audio file (WAV, FLAC, MP3, OGG or Opus); correct the path in params.yaml")
    if corpus.unlabelled:
        items = _bare(root)
    elif (root / TABLE).is_file():
        items = _table(root, key)
    elif next(root.rglob("*.trans.txt"), None) is not None:
        items = chapters.read(root, root, None)
    else:
        items = _bare(root)
    return Scan(root, items, "not stated; the owner of the recordings knows it", f"local folder {root.resolve().name}")


def prepare(name: str, corpus: LocalCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    folder.prepare(scan, name, corpus, out, scratch, alphabet=alphabet, limits=limits)
