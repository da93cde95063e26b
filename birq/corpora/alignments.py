"""Phone times from TSV files: `utt start_s end_s phone word`, plain or gzipped."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from birq.errors import BirqError

COLUMNS = ["utt", "start_s", "end_s", "phone", "word"]
SILENCES = {"sil", "<sil>", "sp", "spn", "", "<s>", "</s>"}
Row = tuple[str, float, float, str, str | None]


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as f:
            yield from f
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise BirqError(f"{path}: cannot be read ({e}); correct the list of alignments in params.yaml") from e


def read(path: Path, ids: set[str]) -> list[Row]:
    """Rows (id, start_s, end_s, phone, word) of the wanted utterances, sorted; pauses are phone SIL with word None."""
    rows: list[Row] = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1:
            if fields[:4] != COLUMNS[:4]:
                raise BirqError(f"{path}: the first line must name the columns {COLUMNS}, it holds {fields}")
            continue
        if fields[0] not in ids:
            continue
        try:
            start_s, end_s, phone = float(fields[1]), float(fields[2]), fields[3]
            if not 0 <= start_s <= end_s:
                raise ValueError(f"{start_s} to {end_s} s is no stretch of time")
        except (ValueError, IndexError) as e:
            raise BirqError(f"{path}, line {number}: not `{' '.join(COLUMNS)}` ({e}); correct or remove the line") from None
        silent = phone.lower() in SILENCES
        word = None if silent or len(fields) < 5 or fields[4] in ("", "<sil>") else fields[4]
        rows.append((fields[0], start_s, end_s, "SIL" if silent else phone, word))
    if not rows:
        raise BirqError(f"{path}: it holds none of the corpus' utterances; correct the list of alignments in params.yaml")
    return sorted(rows, key=lambda r: r[:3])
