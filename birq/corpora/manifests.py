"""A corpus on disk: lhotse cuts per split, corpus.json, the quarantine table, phone alignments."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from birq.errors import BirqError

SPLITS = ("train", "dev", "test")
QUARANTINE_COLUMNS = ("id", "path", "reason", "detail")


def cut(
    id: str,
    path: str,
    sample_rate_hz: int,
    n_samples: int,
    speaker: str,
    text: str | None,
    sha256: str | None = None,
    channels: int = 1,
    gain: float = 1.0,
) -> dict[str, Any]:
    """One lhotse cut as a plain dict: a whole recording with one supervision.

    `path` is relative to the corpus' audio root; `sha256` is of the audio file; features are made of the samples times `gain`.
    """
    from lhotse import MonoCut, MultiCut, Recording, SupervisionSegment
    from lhotse.audio import AudioSource

    duration_s = n_samples / sample_rate_hz
    all_channels = list(range(channels))
    channel: Any = 0 if channels == 1 else all_channels
    recording = Recording(
        id=id,
        sources=[AudioSource(type="file", channels=all_channels, source=path)],
        sampling_rate=sample_rate_hz,
        num_samples=n_samples,
        duration=duration_s,
        channel_ids=all_channels,
    )
    supervision = SupervisionSegment(id=id, recording_id=id, start=0.0, duration=duration_s, channel=channel, text=text, speaker=speaker)
    kind = MonoCut if channels == 1 else MultiCut
    made = kind(id=id, start=0.0, duration=duration_s, channel=channel, recording=recording, supervisions=[supervision])
    if sha256 is not None:
        made.custom = {"sha256": sha256} | ({"gain": gain} if gain != 1 else {})
    return made.to_dict()


class CutFiles:
    """`<split>.jsonl` of every split that has cuts, written one by one, so that memory does not grow with the corpus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.splits: dict[str, _Split] = {}

    def __enter__(self) -> CutFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for split in self.splits.values():
            split.file.close()

    def write(self, split: str, cut: dict[str, Any]) -> None:
        """Add a cut. Those of a split come in the order of their ids."""
        if split not in self.splits:
            self.splits[split] = _Split(open(self.folder / f"{split}.jsonl", "w", encoding="utf-8"))  # noqa: SIM115
        self.splits[split].write(cut)

    def entries(self) -> dict[str, dict[str, Any]]:
        """What corpus.json says of the splits that have cuts."""
        return {name: self.splits[name].entry() for name in SPLITS if name in self.splits}


@dataclass
class _Split:
    """A split's file, and what is known of its cuts."""

    file: TextIO
    last: str = ""  # id
    cuts: int = 0
    seconds: float = 0.0
    labelled: int = 0
    labelled_seconds: float = 0.0
    speakers: set[str] = field(default_factory=set)

    def write(self, cut: dict[str, Any]) -> None:
        if cut["id"] < self.last:
            raise RuntimeError(f"cut {cut['id']!r} comes after {self.last!r}")
        self.last = cut["id"]
        self.file.write(json.dumps(cut, ensure_ascii=False, sort_keys=True) + "\n")
        said = cut["supervisions"][0]
        self.cuts, self.seconds = self.cuts + 1, self.seconds + cut["duration"]
        self.speakers.add(said["speaker"])
        if said.get("text") is not None:
            self.labelled, self.labelled_seconds = self.labelled + 1, self.labelled_seconds + cut["duration"]

    def entry(self) -> dict[str, Any]:
        hours, labelled_hours = round(self.seconds / 3600, 6), round(self.labelled_seconds / 3600, 6)
        counts = {"utterances": self.cuts, "speakers": len(self.speakers), "hours": hours}
        return counts | {"labelled_utterances": self.labelled, "labelled_hours": labelled_hours}


def write_cuts(folder: Path, cuts: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The manifests of all splits from cuts in any order; returns the splits' entries in corpus.json."""
    with CutFiles(folder) as opened:
        for split, some in cuts.items():
            for one in sorted(some, key=lambda c: c["id"]):
                opened.write(split, one)
    return opened.entries()


def write_corpus(
    folder: Path,
    *,
    name: str,
    kind: str,
    synthetic: bool,
    licence: str,
    source: str,
    audio_root: str,
    splits: dict[str, dict[str, Any]],
    quarantined: int,
    text_changes: dict[str, dict[str, Any]] | None = None,
) -> None:
    """corpus.json. `splits`: of `CutFiles`.

    `text_changes`: kind -> {"utterances": count, "examples": [[as written, as the label], ...]}; None where birq wrote the texts itself.
    """
    facts = {
        "name": name,
        "kind": kind,
        "synthetic": synthetic,
        "licence": licence,
        "source": source,
        "audio_root": audio_root,
        "splits": splits,
        "quarantined": quarantined,
    }
    if text_changes is not None:
        facts["text_changes"] = text_changes
    (folder / "corpus.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_quarantine(path: Path, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """The recordings that were set aside: id, path relative to the audio root, reason, detail."""
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, delimiter="\t", lineterminator="\n")
        writer.writerow(QUARANTINE_COLUMNS)
        writer.writerows(rows)


def write_alignments(path: Path, rows: Iterable[tuple[str, float, float, str, str | None]]) -> None:
    """alignments.parquet from rows (id, start_s, end_s, phone, word)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*rows, strict=True)) or [()] * 5
    types = (pa.string(), pa.float64(), pa.float64(), pa.string(), pa.string())
    names = ("id", "start_s", "end_s", "phone", "word")
    table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
    pq.write_table(table, path, compression="zstd")


# ---- reading


def read_quarantine(path: Path) -> list[tuple[str, ...]]:
    """The rows of a quarantine table."""
    with open(path, encoding="utf-8", newline="") as f:
        return [tuple(row) for row in csv.reader(f, delimiter="\t")][1:]


def info(folder: Path) -> dict[str, Any]:
    """corpus.json."""
    path = Path(folder) / "corpus.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as e:
        raise BirqError(f"{path}: not a prepared corpus ({e}); make it again with `python -m birq corpus {Path(folder).name}`") from e


def splits(folder: Path) -> list[str]:
    """The splits that the corpus has."""
    return list(info(folder)["splits"])


def audio_root(folder: Path) -> Path:
    """Folder that recording paths are relative to: the artifact itself where birq made the audio, else the user's folder."""
    facts = info(folder)
    return Path(folder) if facts["synthetic"] else Path(facts["audio_root"])


def iter_cuts(folder: Path, split: str) -> Iterator[Any]:
    """The lhotse cuts of a split one by one, recording paths ready to open; none where the split is absent."""
    from lhotse.serialization import deserialize_item

    path, root = Path(folder) / f"{split}.jsonl", audio_root(folder)
    if not path.exists():
        return
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                item = json.loads(line)
                for source in item["recording"]["sources"]:
                    source["source"] = str(root / source["source"])
                cut = deserialize_item(item)
            except (ValueError, KeyError, TypeError) as e:
                raise BirqError(f"{path}, line {number}: not a lhotse cut ({e}); make the corpus again") from e
            yield cut


def load_cuts(folder: Path, split: str) -> Any:
    """The cuts of a split as a lhotse CutSet, in memory."""
    from lhotse import CutSet

    return CutSet.from_cuts(iter_cuts(folder, split))


def alignments(folder: Path) -> Any:
    """The phone alignments as a pyarrow Table (id, start_s, end_s, phone, word), or None where the corpus has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / "alignments.parquet"
    if not path.exists():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as e:
        raise BirqError(f"{path}: cannot be read ({e}); make the corpus again") from e
