"""Feature shards: one utterance per Parquet row, laid out so that a memory map reads any of them in place.

`fbank` is plain, uncompressed binary, one page per column chunk, so the bytes of utterance i are found by arithmetic on `n_frames`.
Any Parquet reader opens the same files; the schema metadata gives the meaning of the numbers.
"""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from birq import __version__
from birq.errors import BirqError
from birq.files import read_json
from birq.speech.frontend import KALDI, STEP_NAT, FrontEnd

ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 256 << 20  # a row group closes earlier where utterances are very long
OPEN_MAPS = 256  # a memory map holds a file descriptor
_META = "birq."
_AGREE = ("sample_rate_hz", "n_mels", "frame_shift_ms", "dtype", "step_nat")  # must be one for all shards read together

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("fbank", pa.binary(), nullable=False),
    ]
)


def metadata(*, storage: str = "int16", **kernel: Any) -> dict[str, Any]:
    """Schema metadata that gives the meaning of a shard's numbers; `storage` is `int16` (step 1/1024 nat) or `float32`.

    kernel: settings of the filterbank that are not Kaldi's defaults.
    """
    about = {"dtype": storage, "step_nat": STEP_NAT if storage == "int16" else 1.0}
    return KALDI | kernel | about | {"log_base": "e", "byte_order": "little", "layout": "frames by bins, row-major"}


def encode(logmel_TF: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """Log-mel in nat, float32 [T, F], to stored values; int16 rounds to the step and saturates."""
    if meta["dtype"] == "float32":
        return np.ascontiguousarray(logmel_TF, dtype="<f4")
    scaled = logmel_TF * np.float32(1 / meta["step_nat"])
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype("<i2")


# ---- writing


def write_shard(path: str | Path, rows: Iterable[dict[str, Any]], metadata: dict[str, Any]) -> int:
    """Write one shard beside its place, then rename it there; return the number of rows.

    `rows`: dicts with `id`, `speaker`, `text` (or None), `duration_s` and `fbank` [T, n_mels], log-mel in nat or as
    `encode` leaves it. They are taken and written in row groups of 64, so an endless corpus needs little memory.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    about = {_META + "version": __version__} | {_META + k: json.dumps(v) for k, v in metadata.items()}
    done = 0
    try:
        with pq.ParquetWriter(
            part,
            SCHEMA.with_metadata(about),
            compression="NONE",
            use_dictionary=False,
            column_encoding={f.name: "PLAIN" for f in SCHEMA},
            write_statistics=False,
            data_page_version="1.0",
            data_page_size=1 << 30,
        ) as writer:
            for group in _row_groups(rows, metadata):
                writer.write_table(pa.Table.from_pydict(group, schema=SCHEMA.with_metadata(about)), row_group_size=ROW_GROUP_ROWS)
                done += len(group["id"])
        os.rename(part, path)
    finally:
        part.unlink(missing_ok=True)
    return done


def _row_groups(rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
    group: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    size = 0
    for row in rows:
        stored_TF = row["fbank"] if row["fbank"].dtype == meta["dtype"] else encode(row["fbank"], meta)
        if stored_TF.ndim != 2 or stored_TF.shape[1] != meta["n_mels"]:
            raise ValueError(f"{row['id']}: fbank has shape {stored_TF.shape}, not [T, {meta['n_mels']}]")
        for name in ("id", "speaker", "text", "duration_s"):
            group[name].append(row[name])
        group["n_frames"].append(len(stored_TF))
        group["fbank"].append(stored_TF.tobytes())
        size += stored_TF.nbytes
        if len(group["id"]) == ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield group
            group, size = {name: [] for name in SCHEMA.names}, 0
    if group["id"]:
        yield group


# ---- the page header, in Thrift's compact protocol (parquet.thrift, PageHeader)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """Fields by number; only the types that a page header has. Errors: IndexError or ValueError on other bytes."""
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            number += delta
        else:
            zigzag, at = _varint(data, at)
            number = (zigzag >> 1) ^ -(zigzag & 1)
        if kind in (1, 2):  # true, false
            fields[number] = kind == 1
        elif kind in (4, 5, 6):  # i16, i32, i64
            zigzag, at = _varint(data, at)
            fields[number] = (zigzag >> 1) ^ -(zigzag & 1)
        elif kind == 8:  # binary
            length, at = _varint(data, at)
            fields[number] = data[at : at + length]
            at += length
        elif kind == 12:
            fields[number], at = _struct(data, at)
        else:
            raise ValueError(f"type {kind} in a page header")
    return fields, at + 1


# ---- reading


class _Shard(NamedTuple):
    path: Path
    about: dict[str, Any]
    table: pa.Table  # all columns but fbank
    offsets: np.ndarray  # int64 [rows], first byte of each utterance's values


def _broken(path: Path, why: object) -> BirqError:
    folder = path.parent.parent
    return BirqError(f"{path}: corrupt or truncated feature shard ({why}); delete the folder {folder} and run again, it is made anew")


def _open_shard(path: Path) -> _Shard:
    """Index one shard. Errors: BirqError if size, header or length prefix differ from those that `write_shard` writes."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            meta, schema = file.metadata, file.schema_arrow
            raw = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
            about = {k.removeprefix(_META): json.loads(v) for k, v in raw.items() if k.startswith(_META) and k != _META + "version"}
            table = file.read(columns=SCHEMA.names[:-1])
            column = schema.names.index("fbank")
            groups = [(meta.row_group(g).num_rows, meta.row_group(g).column(column)) for g in range(meta.num_row_groups)]
            places = [(rows, chunk.data_page_offset, chunk.compression) for rows, chunk in groups]
        n_frames = table["n_frames"].to_numpy()
        offsets = _offsets(path, places, 4 + n_frames.astype(np.int64) * about["n_mels"] * np.dtype(about["dtype"]).itemsize)
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as e:
        if isinstance(e, FileNotFoundError):
            raise BirqError(f"{path}: no such feature shard; delete the folder {path.parent.parent} and run again") from None
        raise _broken(path, str(e).splitlines()[0] if str(e) else type(e).__name__) from None
    return _Shard(path, about, table, offsets)


def _offsets(path: Path, places: list[tuple[int, int, str]], sizes: np.ndarray) -> np.ndarray:
    """Byte offsets of all values from the page header of each row group. `sizes`: bytes per value, its 4-byte length included."""
    offsets, row = np.zeros(len(sizes), np.int64), 0
    with open(path, "rb") as f:
        end = os.fstat(f.fileno()).st_size
        for rows, page, compression in places:
            f.seek(page)
            header, length = _struct(f.read(512), 0)
            want = sizes[row : row + rows]
            first = page + length
            data = header[5]  # DataPageHeader: 1 = values, 2 = encoding (0 = PLAIN)
            if compression != "UNCOMPRESSED" or header[1] != 0 or data[2] != 0:
                raise ValueError("fbank is not plain, uncompressed binary: not written by birq")
            if data[1] != rows or len(want) != rows or header[2] != want.sum() or first + header[2] > end:
                raise ValueError(f"row group at byte {page} does not hold its {rows} utterances")
            offsets[row : row + rows] = first + np.cumsum(want) - want + 4
            for i in (row, row + rows - 1):
                f.seek(offsets[i] - 4)
                if int.from_bytes(f.read(4), "little") != sizes[i] - 4:
                    raise ValueError(f"utterance {i} has another length than its n_frames says")
            row += rows
    if row != len(sizes):
        raise ValueError(f"{row} utterances in row groups, {len(sizes)} in the table")
    return offsets


class Split:
    """The utterances of one split, from one or several features artifacts; their frames stay on disk until asked for.

    `ids`, `speakers`, `texts` (None = no transcript): lists; `n_frames` int64 and `duration_s` float64 arrays; `about`: the meaning of the
    numbers; `step`: nat per stored unit.
    """

    def __init__(self, shards: list[_Shard]):
        def column(name: str) -> list[Any]:
            return [v for s in shards for v in s.table[name].to_pylist()]

        def numbers(name: str, dtype: type) -> np.ndarray:
            return np.concatenate([np.empty(0, dtype), *(s.table[name].to_numpy().astype(dtype) for s in shards)])

        self.paths = [s.path for s in shards]
        self.ids: list[str] = column("id")
        self.speakers: list[str] = column("speaker")
        self.texts: list[str | None] = column("text")
        self.n_frames = numbers("n_frames", np.int64)
        self.duration_s = numbers("duration_s", np.float64)
        self._file = np.repeat(np.arange(len(shards)), [len(s.offsets) for s in shards]) if shards else np.empty(0, np.int64)
        self._offset = np.concatenate([np.empty(0, np.int64), *(s.offsets for s in shards)])
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self.about: dict[str, Any] = shards[0].about if shards else metadata()
        self.n_mels: int = self.about["n_mels"]
        self.step: float = self.about["step_nat"]
        self.dtype = np.dtype(self.about["dtype"]).newbyteorder("<")

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": OrderedDict()}  # a worker opens its own maps

    def _map(self, file: int) -> mmap.mmap:
        opened = self._maps.get(file)
        if opened is None:
            with open(self.paths[file], "rb") as f:
                opened = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[file] = opened
            if len(self._maps) > OPEN_MAPS:
                self._maps.popitem(last=False)  # views that are still in use keep their map alive
        return opened

    def raw(self, i: int) -> np.ndarray:
        """Stored values [T, n_mels] of utterance i, a read-only view of the memory map. Errors: BirqError if the bytes are not its own."""
        file, offset, n_frames = int(self._file[i]), int(self._offset[i]), int(self.n_frames[i])
        data, count = self._map(file), n_frames * self.n_mels
        if int.from_bytes(data[offset - 4 : offset], "little") != count * self.dtype.itemsize:
            raise _broken(self.paths[file], f"utterance {self.ids[i]} is not where it was written")
        return np.frombuffer(data, self.dtype, count, offset).reshape(n_frames, self.n_mels)

    def logmel(self, i: int) -> np.ndarray:
        """Log-mel in nat, float32 [T, n_mels], of utterance i."""
        return self.raw(i).astype(np.float32) * np.float32(self.step)


def open_split(folders: list[Path], split: str) -> Split:
    """Open `train`, `dev` or `test` of several features artifacts; an artifact without that split adds nothing.

    Ids that two corpora have are told apart by the corpus' name. Errors: BirqError for a missing or corrupt shard, an id that occurs twice
    in one corpus, shards whose numbers mean different things.
    """
    shards: list[_Shard] = []
    for folder in map(Path, folders):
        paths = sorted((folder / split).glob("*.parquet"))
        counts = folder / "splits.json"
        if counts.exists():
            want = read_json(counts).get(split, {}).get("shards", 0)
            if len(paths) != want:
                raise BirqError(f"{folder / split}: {len(paths)} shards, not {want}; delete {folder} and run again, it is made anew")
        elif not folder.is_dir():
            raise BirqError(f"{folder}: no such features; `python -m birq features --corpus {folder.name}` makes them")
        shards += map(_open_shard, paths)
    for s in shards:
        for key in _AGREE:
            here, first_says = s.about.get(key), shards[0].about.get(key)
            if here != first_says:
                raise BirqError(
                    f"{s.path}: {key} is {here}, but {first_says} in {shards[0].path}; delete both features folders and run again"
                )
    out = Split(shards)
    out.ids = _distinct(out.ids, [out.paths[f].parent.parent for f in out._file])
    return out


def read_ids(path: Path) -> list[str]:
    """The ids of a shard's utterances."""
    return _open_shard(path).table["id"].to_pylist()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard as `write_shard` takes them, `fbank` as it is stored. Errors: BirqError for a corrupt shard."""
    opened = Split([_open_shard(path)])
    for i, (id, speaker, text, duration_s) in enumerate(zip(opened.ids, opened.speakers, opened.texts, opened.duration_s, strict=True)):
        yield {"id": id, "speaker": speaker, "text": text, "duration_s": float(duration_s), "fbank": opened.raw(i)}


def _distinct(ids: list[str], folders: list[Path]) -> list[str]:
    """Ids of which corpora have like ones get the corpus' name in front: 001 of two corpora are two recordings.

    Errors: BirqError for an id that occurs twice in one corpus.
    """
    owners: dict[str, set[str]] = {}
    for id, folder in zip(ids, folders, strict=True):
        owners.setdefault(id, set()).add(folder.name)
    made = [f"{folder.name}/{id}" if len(owners[id]) > 1 else id for id, folder in zip(ids, folders, strict=True)]
    for id, n in Counter(made).items():
        if n > 1:
            raise BirqError(f"{folders[made.index(id)]}: utterance id {id!r} occurs {n} times; delete that folder and run again")
    return made


def read_stats(folders: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per bin, float32 [F], over the train frames of all artifacts. Errors: BirqError if there are none."""
    count, total_F, square_F = 0, np.float64(0), np.float64(0)
    for folder in map(Path, folders):
        stats = read_json(folder / "stats.json")
        if stats["n_frames"]:
            mean_F, var_F = np.array(stats["mean"]), np.array(stats["var"])
            count += stats["n_frames"]
            total_F = total_F + stats["n_frames"] * mean_F
            square_F = square_F + stats["n_frames"] * (var_F + mean_F**2)
    if not count:
        raise BirqError(f"{', '.join(map(str, folders))}: no train split to take feature statistics from; add a corpus that has one")
    mean_F = total_F / count
    std_F = np.sqrt(np.maximum(square_F / count - mean_F**2, 1e-8))
    return mean_F.astype(np.float32), std_F.astype(np.float32)


def read_front_end(folders: list[Path], split: Split, n_stack: int, input_mean: str = "corpus") -> FrontEnd:
    """The front end of a model that is trained on a split of these features artifacts. Errors: BirqError as for `read_stats`."""
    return FrontEnd(split.about, *read_stats(folders), n_stack, input_mean)
