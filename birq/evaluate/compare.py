"""Comparison of word error rates, or of the linear probe's accuracies, on the same speech, between models or between methods.

Two models differ by their training method and by chance. A bootstrap over utterances or speakers covers the choice of the test set and
nothing else, so it supports statements about those models. A statement about methods also has to cover the training seed: from
`MIN_SEEDS` seeds on, every resample draws a seed effect as well.

The seed effect is drawn from Student's t, not by resampling the seeds. A percentile bootstrap of three values ends at the smallest and
the largest, which is too narrow: with a seed noise of 3 points of WER it called equal methods different in 17 % of simulated runs, where
5 % is nominal. The t distribution with n − 1 degrees of freedom is exact for normal seed effects and came to 5 %.

Models of one seed share data order, initial weights and codebooks. Where both methods have the same seeds, the spread is therefore that
of the differences by seed; else each method has its own.

Shape suffixes: N utterances, M models, S speakers, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.bootstrap import interval, ratio, resampled_sums, sums_by, two_sided_p

MIN_SEEDS = 3  # of each method; with fewer a comparison is one of models
SEED_DRAWS = 16  # seed effects per resample of the test set: the tails of Student's t at 2 degrees of freedom need many


class Rate(NamedTuple):
    """A rate by columns of a table of utterances: the sum of `count` over that of `total`."""

    count: str
    total: str
    same: tuple[str, ...]  # columns that all models to compare must share
    nothing: str  # to count


WER = Rate("errors", "words", ("id", "speaker", "text"), "no reference of this split holds a word")
ACCURACY = Rate("correct", "frames", ("id", "speaker", "frames"), "no frame of this split has a phone")


class _Counts(NamedTuple):
    count_NM: np.ndarray
    total_N: np.ndarray
    speakers: list[str]
    rate: Rate


def _read(tables: Sequence[pa.Table], rate: Rate) -> _Counts:
    """Counts of models on the same utterances. Errors: BirqError if utterances differ or there is nothing to count."""
    tables = [t.sort_by("id") for t in tables]
    first = tables[0]
    if len(first) == 0:
        raise BirqError("nothing to compare: no utterances in this split")
    for t in tables[1:]:
        for key in rate.same:
            if t[key].to_pylist() != first[key].to_pylist():
                raise BirqError(f"runs to compare differ in the {key} column of their utterances; score all methods on the same speech")
    total_N = first[rate.total].to_numpy().astype(np.int64)
    if not total_N.sum():
        raise BirqError(f"nothing to compare: {rate.nothing}")
    count_NM = np.stack([t[rate.count].to_numpy().astype(np.int64) for t in tables], axis=1)
    return _Counts(count_NM, total_N, first["speaker"].to_pylist(), rate)


def _difference(drawn_R3: np.ndarray, n_a: int, n_b: int) -> np.ndarray:
    return ratio(drawn_R3[:, 0] / n_a - drawn_R3[:, 1] / n_b, drawn_R3[:, 2])


def _resampled(c: _Counts, n_a: int, samples: int, seed: int) -> tuple[float, dict[str, np.ndarray]]:
    """Difference of the mean rates, and its resamples [R], drawn by utterance ("") and, from two speakers on, by speaker ("speaker_")."""
    n_b = c.count_NM.shape[1] - n_a
    counts_N3 = np.stack([c.count_NM[:, :n_a].sum(1), c.count_NM[:, n_a:].sum(1), c.total_N], axis=1)
    counts_S3 = sums_by(c.speakers, counts_N3)
    drawn = {"": _difference(resampled_sums(counts_N3, samples, seed), n_a, n_b)}
    if len(counts_S3) > 1:
        drawn["speaker_"] = _difference(resampled_sums(counts_S3, samples, seed), n_a, n_b)
    return float(_difference(counts_N3.sum(0)[None, :].astype(np.float64), n_a, n_b)[0]), drawn


def _seed_effects(rates_a: np.ndarray, rates_b: np.ndarray, same_seeds: bool, samples: int, seed: int) -> np.ndarray:
    """Draws [R] of how far the mean difference is off because of the seeds: its standard error times Student's t."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))  # a stream of its own
    parts = [rates_a - rates_b] if same_seeds else [rates_a, rates_b]
    return np.sum([x.std(ddof=1) / np.sqrt(len(x)) * rng.standard_t(len(x) - 1, samples) for x in parts], axis=0)


def _intervals(drawn: dict[str, np.ndarray], confidence: float) -> dict[str, float | None]:
    out: dict[str, float | None] = {}
    for unit in ("", "speaker_"):
        low, high = interval(drawn[unit], confidence) if unit in drawn else (None, None)
        out |= {f"{unit}low": low, f"{unit}high": high, f"{unit}p": two_sided_p(drawn[unit]) if unit in drawn else None}
    return out


def paired(
    a_utterances: pa.Table | Sequence[pa.Table],
    b_utterances: pa.Table | Sequence[pa.Table],
    samples: int,
    confidence: float,
    seed: int,
    rate: Rate = WER,
) -> dict[str, Any]:
    """Difference of the rates of two models, a − b as a fraction (of WER, negative: a makes fewer errors), on the same utterances.

    Inputs: rows of utterances.parquet for one split; a sequence of tables holds several models, whose counts are averaged per utterance.
    Every resample takes both sides' counts of the same utterances (or speakers), so how hard an utterance is cancels out. Intervals are
    percentiles, p is two-sided: twice the smaller share of resamples on the other side of 0. The speaker interval and p are null below
    two speakers. Training seeds are not covered: see `compare`.
    Errors: BirqError if the tables hold different utterances or references, or nothing to count.
    """
    a = [a_utterances] if isinstance(a_utterances, pa.Table) else list(a_utterances)
    b = [b_utterances] if isinstance(b_utterances, pa.Table) else list(b_utterances)
    counts = _read([*a, *b], rate)
    difference, drawn = _resampled(counts, len(a), samples, seed)
    return {"difference": difference} | _intervals(drawn, confidence) | _size(counts)


def _size(c: _Counts) -> dict[str, int]:
    return {c.rate.total: int(c.total_N.sum()), "utterances": len(c.total_N), "speakers": len(set(c.speakers))}


def compare(
    a: Mapping[int, pa.Table], b: Mapping[int, pa.Table], samples: int, confidence: float, seed: int, rate: Rate = WER
) -> dict[str, Any]:
    """`paired` of two methods given as {training seed: table}, with the kind of statement that the seeds allow.

    kind: "methods" from MIN_SEEDS seeds of each on, when the intervals and p cover seeds as well as the test set; else "models".
    test_low, test_high, test_speaker_low, test_speaker_high: the intervals of these models, over the test set alone.
    seed_differences: a − b by seed where both have the same seeds, else null.
    """
    a, b = dict(sorted(a.items())), dict(sorted(b.items()))
    counts = _read([*a.values(), *b.values()], rate)
    difference, drawn = _resampled(counts, len(a), samples, seed)
    test = _intervals(drawn, confidence)
    rates_M = counts.count_NM.sum(0) / counts.total_N.sum()
    rates_a, rates_b = rates_M[: len(a)], rates_M[len(a) :]
    same_seeds = list(a) == list(b)
    kind = "methods" if min(len(a), len(b)) >= MIN_SEEDS else "models"
    if kind == "methods":
        effects = _seed_effects(rates_a, rates_b, same_seeds, SEED_DRAWS * samples, seed)
        drawn = {unit: np.repeat(draws, SEED_DRAWS) + effects for unit, draws in drawn.items()}
    return (
        {"kind": kind, "seeds_a": list(a), "seeds_b": list(b), "difference": difference}
        | _intervals(drawn, confidence)
        | {f"test_{k}": test[k] for k in ("low", "high", "speaker_low", "speaker_high")}
        | {"seed_differences": (rates_a - rates_b).tolist() if same_seeds else None}
        | _size(counts)
    )


def _rows(folder: Path, column: str, value: str | int) -> pa.Table:
    """Rows of an artifact's table of utterances."""
    path = Path(folder) / "utterances.parquet"
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as e:
        raise BirqError(f"{path}: not readable ({e}); delete the folder {folder} and run again, it is made anew") from None
    return table.filter(pc.equal(table[column], value))


def read_utterances(folder: Path, split: str) -> pa.Table:
    """Rows of a score artifact's table that belong to a split. Errors: BirqError if there are none."""
    rows = _rows(folder, "split", split)
    if len(rows) == 0:
        raise BirqError(f"{Path(folder) / 'utterances.parquet'}: has no utterances of {split!r}; add it to decode.splits")
    return rows


def _by_method(tables: Mapping[tuple[str, int], pa.Table]) -> dict[str, dict[int, pa.Table]]:
    out: dict[str, dict[int, pa.Table]] = {}
    for (method, trained), table in tables.items():
        out.setdefault(method, {})[trained] = table
    return out


def compare_methods(
    score_folders: Mapping[tuple[str, int], Path], split: str, confidence: float, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Every pair of methods, in the order of `score_folders` {(method, seed): folder}: `compare` plus the names `a` and `b`."""
    methods = _by_method({who: read_utterances(folder, split) for who, folder in score_folders.items()})
    return [{"a": a, "b": b} | compare(methods[a], methods[b], samples, confidence, seed) for a, b in combinations(methods, 2)]


def compare_probes(
    probe_folders: Mapping[tuple[str, int], Path], layer: int, confidence: float, samples: int, seed: int
) -> list[dict[str, Any]]:
    """`compare_methods` by the linear probe's accuracy at a layer.

    Left out are methods of which a seed has no such figure (no training alignments, fewer layers), and pairs that were probed on other
    frames (encoders of another frame rate).
    """
    tables = {who: _rows(folder, "layer", layer) for who, folder in probe_folders.items()}
    methods = {name: seeds for name, seeds in _by_method(tables).items() if all(map(len, seeds.values()))}

    def frames(name: str) -> list[list[Any]]:
        return [[t.sort_by("id")[key].to_pylist() for key in ACCURACY.same] for t in methods[name].values()]

    alike = [(a, b) for a, b in combinations(methods, 2) if all(x == frames(a)[0] for x in [*frames(a), *frames(b)])]
    return [{"a": a, "b": b} | compare(methods[a], methods[b], samples, confidence, seed, ACCURACY) for a, b in alike]
