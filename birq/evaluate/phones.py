"""Phone labels of encoder frames from time alignments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Segments = tuple[np.ndarray, np.ndarray, np.ndarray]  # start_s, end_s, phone number; sorted by start

NO_PHONE = NO_SEGMENT = -1
PAUSE = "SIL"


def segments_by_id(tables: list[pa.Table], ids: set[str]) -> tuple[dict[str, Segments], list[str]]:
    """Alignment tables -> segments of the utterances in `ids`, and the names of the phones that occur in them, sorted."""
    columns = ["id", "start_s", "end_s", "phone"]
    wanted = pa.array(sorted(ids), pa.string())
    rows = []
    for table in tables:
        table = table.select(columns)
        rows.append(table.filter(pc.is_in(table["id"].cast(pa.string()), wanted)))
    if not sum(map(len, rows)):
        return {}, []
    table = pa.concat_tables(rows, promote_options="permissive").sort_by([("id", "ascending"), ("start_s", "ascending")])
    names, number = np.unique(np.array(table["phone"].to_pylist(), dtype=str), return_inverse=True)
    start, end = (table[c].to_numpy().astype(np.float64) for c in ("start_s", "end_s"))
    owner, first = np.unique(np.array(table["id"].to_pylist(), dtype=str), return_index=True)
    bounds = [*first.tolist(), len(table)]
    out = {str(u): (start[a:b], end[a:b], number[a:b]) for u, a, b in zip(owner, bounds[:-1], bounds[1:], strict=True)}
    return out, names.tolist()


def renamed(table: pa.Table, corpus: str, ids: set[str]) -> pa.Table:
    """An alignment table whose ids are those of `shards.open_split`, which puts the corpus in front where two corpora share an id."""
    if not any(id.startswith(f"{corpus}/") for id in ids):
        return table
    names = [f"{corpus}/{id}" if f"{corpus}/{id}" in ids else id for id in table["id"].to_pylist()]
    return table.set_column(table.schema.get_field_index("id"), "id", pa.array(names, pa.string()))


def frame_centres_s(n_frames: int, n_stack: int, frame_shift_ms: float, frame_length_ms: float) -> np.ndarray:
    """Time in seconds of the middle of each stacked frame.

    Log-mel frame i covers [i·shift, i·shift + length), so a stack of n spans (n − 1)·shift + length.
    """
    span_ms = (n_stack - 1) * frame_shift_ms + frame_length_ms
    return (np.arange(n_frames) * n_stack * frame_shift_ms + span_ms / 2) / 1000


def segments_at(segments: Segments, times_s: np.ndarray) -> np.ndarray:
    """Number of the segment at each time, `NO_SEGMENT` outside all of them. A time on a boundary belongs to the later segment."""
    start, end, _ = segments
    position = np.searchsorted(start, times_s + 1e-9, side="right") - 1
    inside = (position >= 0) & (times_s + 1e-9 < end[position])
    return np.where(inside, position, NO_SEGMENT)


def phones_at(segments: Segments, times_s: np.ndarray) -> np.ndarray:
    """Phone number at each time, `NO_PHONE` outside all segments."""
    here = segments_at(segments, times_s)
    return np.where(here == NO_SEGMENT, NO_PHONE, segments[2][here])
