"""Corpora whose audio stays in archives (`shards`) until features are made: their table `shards.tsv`, and how many of them may be bad."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from birq.errors import BirqError
from birq.progress import say

TABLE = "shards.tsv"
SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Shard:
    """An archive of recordings, and what is wanted of it. Unpacked, it is the folder of its own name without `.tar.gz`."""

    shard: str
    file: str  # below the corpus' audio root
    url: str  # public address
    sha256: str  # empty where the archive is the user's own: there the corpus' key holds its content
    n_bytes: int  # 0: not known
    recordings: int
    utterances: int
    hours: float  # of the utterances
    recorded_hours: float  # of all recordings, which is what an archive unpacks to
    problem: str = ""  # why it is not used

    @property
    def folder(self) -> str:
        return self.file.removesuffix(".tar.gz")


def write(folder: Path, shards: Iterable[Shard]) -> None:
    """The table, sorted by name."""
    with open(folder / TABLE, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, delimiter="\t", lineterminator="\n")
        writer.writerow([column.name for column in fields(Shard)])
        writer.writerows(list(asdict(one).values()) for one in sorted(shards, key=lambda s: s.shard))


def read(folder: Path) -> list[Shard]:
    """The table of a corpus. Errors: BirqError where it is missing or damaged."""
    kinds = {"n_bytes": int, "recordings": int, "utterances": int, "hours": float, "recorded_hours": float}
    try:
        with open(folder / TABLE, encoding="utf-8", newline="") as f:
            return [Shard(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv.DictReader(f, delimiter="\t")]
    except (OSError, ValueError, TypeError) as e:
        raise BirqError(f"{folder / TABLE}: not a table of shards ({e}); make the corpus again") from e


def refuse(problem_by_shard: dict[str, str], n_shards: int, most_share: float, key: str) -> None:
    """Errors: BirqError where too many shards are bad; fewer are told. `key`: the corpus in params.yaml."""
    bad = sorted(problem_by_shard.items())
    if not bad:
        return
    if len(bad) <= most_share * n_shards:
        say(f"{key}: {len(bad)} of {n_shards} shards are left out, such as {bad[0][0]}: {bad[0][1]}; {TABLE} lists them")
        return
    shown = [f"  {shard}: {problem}" for shard, problem in bad[:SHOWN]] + [f"  … and {len(bad) - SHOWN} more"] * (len(bad) > SHOWN)
    raise BirqError(
        f"{key}: {len(bad)} of {n_shards} shards cannot be used; {key}.max_bad_shards_share allows {most_share:g}.\n"
        + "\n".join(shown)
        + f"\nMend or complete them, or raise {key}.max_bad_shards_share to {len(bad) / n_shards:.3g} or more."
    )
