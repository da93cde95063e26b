"""Any folder of audio: with `transcripts.tsv`, with LibriSpeech-style `*.trans.txt`, or with nothing (unlabelled)."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import re
import unicodedata
from dataclasses import replace
from pathlib import Path, PurePosixPath

from birq.corpora import chapters, folder, tree
from birq.corpora.items import Item, Limits, Scan, need_folder, read_lines
from birq.corpora.manifests import SPLITS
from birq.corpora.tree import SUFFIXES, UNREAD, Tree, of_problems
from birq.errors import BirqError
from birq.settings.corpora import LocalCorpus

TABLE = "transcripts.tsv"
COLUMNS = ("path", "text", "speaker", "split")


def _id(relative: Path) -> str:
    return "-".join(relative.with_suffix("").parts)


def _distinct(items: list[Item], *, named: re.Pattern[str] | None = None) -> list[Item]:
    """Items whose ids differ where the names of their files do: a-b/c.wav and a/b-c.wav are two recordings. Ids that `named` fits stay."""
    owner: dict[str, str] = {}
    made = []
    for item in items:
        name = item.path.rpartition(".")[0]
        if item.path and owner.setdefault(item.id, name) != name and not (named and named.match(item.id)):
            item = replace(item, id=f"{item.id}-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
        made.append(item)
    return made


def _cells(path: Path) -> list[list[str]]:
    """Cells of a table, line by line; quoted cells are understood where the first line has quotation marks."""
    lines = read_lines(path)
    if not (lines and lines[0].startswith('"')):
        return [line.split("\t") for line in lines]
    csv.field_size_limit(1 << 30)
    try:
        return list(csv.reader(lines, delimiter="\t"))
    except csv.Error as e:
        raise BirqError(f"{path}: {e}; write the table without quotation marks around its cells") from None


def _header(path: Path, rows: list[list[str]]) -> list[str]:
    header = [c.strip().lower() for c in rows[0]] if rows else []
    while header and not header[-1]:
        header.pop()
    if not {"path", "text"} <= set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        raise BirqError(
            f"{path}: the first line must name the columns path, text[, speaker, split] (tab between), it holds {', '.join(header)[:200]!r}"
        )
    return header


def _plain(name: str) -> str:
    """A name as it is compared: composed characters (NFC), slashes."""
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())


class _Names:
    """The files of a tree by the names that a table may give them."""

    def __init__(self, found: Tree):
        self.found, self._exact, self._plain = found, set(found.files), {_plain(f): f for f in reversed(found.files)}
        self._problems = {p.path: p for p in found.problems}

    def item(self, item: Item, written: str, where: str) -> Item:
        """The item with the path of its file, or set aside."""
        direct = PurePosixPath(written).as_posix()
        name = direct if direct in self._exact else self._plain.get(_plain(written))
        if name is None:
            problem = self._problems.get(direct)
            return item.bad(problem.reason, problem.detail) if problem else item.bad("no audio", f"{where}: no file {direct}")
        if not name.lower().endswith(SUFFIXES):
            return item.bad("no audio that birq reads", f"{name}; convert it, for instance with `ffmpeg -i {Path(name).name} OUT.wav`")
        return replace(item, path=name)


def _row(cell: dict[str, str], root: Path, where: str) -> tuple[str, Item]:
    """(path as it is written, item without a path) of a line of the table."""
    written, split = cell["path"], (cell.get("split") or "").lower() or None
    with contextlib.suppress(ValueError):
        written = PurePosixPath(written).relative_to(root.absolute()).as_posix() if written.startswith("/") else written
    relative = PurePosixPath(written.replace("\\", "/"))
    if not written or relative.is_absolute() or ".." in relative.parts:
        raise BirqError(f"{where}: path {written!r} must lie below {root}; write it relative to that folder")
    if split not in (None, *SPLITS):
        raise BirqError(f"{where}: split {split!r} is not legal; use {', '.join(SPLITS)} or leave it empty")
    return written, Item(_id(Path(relative)), "", cell.get("speaker") or "", cell.get("text") or None, split)


def _table(found: Tree, name: str) -> list[Item]:
    """Items of `transcripts.tsv`; a row with an empty text is unlabelled, audio that the table leaves out is quarantined."""
    path, names = found.root / name, _Names(found)
    rows = _cells(path)
    header = _header(path, rows)
    items: list[Item] = []
    seen, named = set(), set()
    for number, row in enumerate(rows[1:], 2):
        if not any(c.strip() for c in row):
            continue
        if any(c.strip() for c in row[len(header) :]):
            raise BirqError(f"{path}, line {number}: {len(row)} columns, the first line names {len(header)}; remove the extra tab")
        cell = dict.fromkeys(header, "") | dict(zip(header, (c.strip() for c in row), strict=False))
        written, item = _row(cell, found.root, f"{path}, line {number}")
        item = names.item(item, written, f"{name}, line {number}")
        named.add(written)
        if item in seen:  # the same line again
            continue
        seen.add(item)
        if item.path:
            relative = Path(item.path)
            item = replace(item, id=_id(relative), speaker=item.speaker or _folder_name(found.root, relative))
            if item.text is None and item.split in ("dev", "test"):
                item = item.bad("no transcript", f"a recording of the {item.split} split needs one")
        items.append(item)
    listed = {i.path for i in items}
    left = [f for f in found.ending(SUFFIXES) if f not in listed]
    items += [Item(_id(Path(f)), f, "").bad("no transcript", f"{name} does not list it") for f in left]
    return items + [i for i in of_problems(found) if i.id not in named]


def _folder_name(root: Path, relative: Path) -> str:
    return relative.parent.name or root.resolve().name


def _bare(found: Tree) -> list[Item]:
    """Items of a folder without any transcript."""
    items, stems = [], set()
    for name in found.ending(SUFFIXES):
        relative = Path(name)
        stems.add(relative.with_suffix(""))
        match = chapters.NAME.match(relative.stem)
        if match and relative.parts[-3:-1] == (match["speaker"], match["chapter"]):  # LibriSpeech's own tree
            items.append(Item(relative.stem, name, match["speaker"]))
        else:
            items.append(Item(_id(relative), name, _folder_name(found.root, relative)))
    return items + _unread(found, stems) + of_problems(found)


def _unread(found: Tree, stems: set[Path]) -> list[Item]:
    """Items, set aside, of audio in formats that are not read, unless a converted copy lies beside it."""
    left = [f for f in found.ending(UNREAD) if Path(f).with_suffix("") not in stems]
    remedy = "convert it, for instance with `ffmpeg -i {} OUT.wav`"
    return [Item(f, "", "").bad("no audio that birq reads", f"{f}; {remedy.format(Path(f).name)}") for f in left]


def scan(corpus: LocalCorpus, key: str) -> Scan:
    """Read the folder; with `unlabelled: true` transcripts are ignored."""
    root = corpus.folder()
    need_folder(root, f"{key}.root")
    found = tree.read(root)
    if next(found.ending(SUFFIXES), None) is None:
        there = next(found.ending(UNREAD), None) or next(iter(found.files), None)
        raise BirqError(
            f"{key}.root: {root} holds no audio file that birq reads ({', '.join(SUFFIXES)}); "
            + (f"it holds {there}; convert its audio, for instance to WAV" if there else "correct the path in params.yaml")
        )
    table = next((f for f in found.files if f.lower() == TABLE), None)
    in_chapters = False
    if corpus.unlabelled:
        items = _distinct(_bare(found))
    elif table:
        items = _distinct(_table(found, table))
    elif next(found.ending((chapters.LIST,)), None):
        in_chapters = True
        items = _distinct(chapters.read(found, None), named=chapters.NAME)
    else:
        items = _distinct(_bare(found))
    licence, source = "not stated; the owner of the recordings knows it", f"local folder {root.resolve().name}"
    return Scan(root, items, licence, source, quotation_marks=not in_chapters)


def prepare(name: str, corpus: LocalCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    folder.prepare(scan, name, corpus, out, scratch, alphabet=alphabet, limits=limits)
