"""Is one method better than another on the same speech? Paired bootstrap over utterances and over speakers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.bootstrap import interval, ratio, resampled_sums, sums_by, two_sided_p


def _difference(drawn_R3: np.ndarray, n_a: int, n_b: int) -> np.ndarray:
    return ratio(drawn_R3[:, 0] / n_a - drawn_R3[:, 1] / n_b, drawn_R3[:, 2])


def paired(
    a_utterances: pa.Table | Sequence[pa.Table], b_utterances: pa.Table | Sequence[pa.Table], samples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Difference of two word error rates, a − b as a fraction (negative: a is better), on the same utterances.

    Inputs: rows of utterances.parquet for one split; a sequence of tables holds several seeds of one method, whose errors are
    averaged per utterance. Every resample takes both sides' errors of the same utterances (or speakers), so how hard an utterance is
    cancels out. Intervals are percentiles, p is two-sided: twice the smaller share of resamples on the other side of 0. The speaker
    interval and p are null below two speakers. What another seed would do is covered only by pooling seeds.
    Errors: BirqError if the tables hold different utterances or references.
    """
    a = [a_utterances] if isinstance(a_utterances, pa.Table) else list(a_utterances)
    b = [b_utterances] if isinstance(b_utterances, pa.Table) else list(b_utterances)
    tables = [t.sort_by("id") for t in (*a, *b)]
    first = tables[0]
    if len(first) == 0:
        raise BirqError("nothing to compare: no utterances in this split")
    for t in tables[1:]:
        for key in ("id", "speaker", "text"):
            if t[key].to_pylist() != first[key].to_pylist():
                raise BirqError(f"runs to compare differ in the {key} column of their utterances; score all methods on the same speech")
    errors = [t["errors"].to_numpy().astype(np.int64) for t in tables]
    words = first["words"].to_numpy().astype(np.int64)
    counts_N3 = np.stack([sum(errors[: len(a)]), sum(errors[len(a) :]), words], axis=1)
    if not words.sum():
        raise BirqError("nothing to compare: no reference of this split holds a word")
    by_utterance = _difference(resampled_sums(counts_N3, samples, seed), len(a), len(b))
    by_speaker_S3 = sums_by(first["speaker"].to_pylist(), counts_N3)
    low, high = interval(by_utterance, confidence)
    out: dict[str, Any] = {
        "difference": float(_difference(counts_N3.sum(0)[None, :].astype(np.float64), len(a), len(b))[0]),
        "low": low,
        "high": high,
        "p": two_sided_p(by_utterance),
        "speaker_low": None,
        "speaker_high": None,
        "speaker_p": None,
        "words": int(words.sum()),
        "utterances": len(first),
        "speakers": len(by_speaker_S3),
    }
    if len(by_speaker_S3) > 1:
        by_speaker = _difference(resampled_sums(by_speaker_S3, samples, seed), len(a), len(b))
        out["speaker_low"], out["speaker_high"] = interval(by_speaker, confidence)
        out["speaker_p"] = two_sided_p(by_speaker)
    return out


def read_utterances(folder: Path, split: str) -> pa.Table:
    """Rows of a score artifact's table that belong to a split. Errors: BirqError if there are none."""
    path = Path(folder) / "utterances.parquet"
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as e:
        raise BirqError(f"{path}: not readable ({e}); delete the folder {folder} and run again, it is made anew") from None
    rows = table.filter(pc.equal(table["split"], split))
    if len(rows) == 0:
        raise BirqError(f"{path}: has no utterances of {split!r}; add it to decode.splits")
    return rows


def compare_methods(
    score_folders: dict[tuple[str, int | str], Path], split: str, confidence: float, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Every pair of methods, in the order of `score_folders` {(method, seed): folder}: `paired` plus the names `a` and `b`."""
    by_method: dict[str, list[pa.Table]] = {}
    for (method, _), folder in score_folders.items():
        by_method.setdefault(method, []).append(read_utterances(folder, split))
    return [{"a": a, "b": b} | paired(by_method[a], by_method[b], samples, confidence, seed) for a, b in combinations(by_method, 2)]
