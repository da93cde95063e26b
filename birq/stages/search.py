"""The search stage: log probabilities and a language model in, n-best hypotheses out; its weights are chosen on dev."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from birq.evaluate.rates import count_errors, read_hypotheses
from birq.files import read_json
from birq.pipeline.stage import Job
from birq.progress import Progress, say
from birq.recognise.beam import Beam, Found
from birq.recognise.lm import ARPA, FACTS, WORDS
from birq.saved.kept import LOGP, SCHEMA, Kept
from birq.settings.params import Search
from birq.speech.shards import open_split
from birq.text import tokenizer as tokens

TUNED_ON = "dev"
DIGITS = 4  # of scores and confidences
FOUND = pa.schema(
    [
        *SCHEMA,
        ("confidence", pa.float64()),
        ("word_confidences", pa.list_(pa.float64())),
        ("nbest", pa.list_(pa.string())),
        ("nbest_scores", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class _Split:
    """A decoded split: its greedy hypotheses, and a function for the log probabilities [T, V] of every row of that table, in any order."""

    name: str
    table: pa.Table
    outputs: Callable[[], Iterable[tuple[int, np.ndarray]]]


def compute(job: Job) -> None:
    """Write search.json and a table of hypotheses for each split that was decoded; without a language model, search.json alone."""
    section: Search = job.read("search")
    lm = read_json(job.input("lm") / FACTS)
    facts: dict[str, Any] = {"lm": lm}
    if lm["source"] != "none":
        splits = {path.stem: _split(job, path) for path in sorted(job.input("decode").glob("*.parquet"))}
        weight, bonus, grid = _tuned(job, section, splits)
        facts |= {"weight": weight, "bonus": bonus, "beam": section.beam, "tuned_on": TUNED_ON if grid else None, "grid": grid}
        search = _beam(job, section, weight, bonus)
        for split in splits.values():
            _write(job.out / f"{split.name}.parquet", split, search, f"{job.name}  {split.name}")
    (job.out / "search.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    job.notes.update({k: v for k, v in facts.items() if k != "grid"})


def _beam(job: Job, section: Search, weight: float, bonus: float) -> Beam:
    lm = job.input("lm")
    words = (lm / WORDS).read_text(encoding="utf-8").split("\n")[:-1]
    vocab = tokens.load(job.input("finetune")).vocab
    return Beam(vocab, lm / ARPA, words, section, weight, bonus)


# ---- log probabilities


def _split(job: Job, path: Path) -> _Split:
    table, kept = read_hypotheses(path), path.with_suffix(LOGP)
    if kept.exists():
        logp = Kept.load(kept, table["frames"].to_numpy())
        return _Split(path.stem, table, lambda: ((row, logp[row]) for row in range(len(table))))
    return _Split(path.stem, table, lambda: _again(job, path.stem, table))


def _again(job: Job, name: str, table: pa.Table) -> Iterator[tuple[int, np.ndarray]]:
    """By the network, where decode.keep_mb was too small to keep them."""
    # torch, which the search itself does not need, takes seconds
    from birq.saved.outputs import batches, each
    from birq.saved.recogniser import Recogniser
    from birq.train.runtime.devices import for_inference

    split, row_of = open_split(job.inputs["features"], name), {id: row for row, id in enumerate(table["id"].to_pylist())}
    index = np.array([i for i, id in enumerate(split.ids) if id in row_of], dtype=np.int64)
    recogniser, device = Recogniser.load(job.input("finetune")), for_inference(job.notes)
    for found in batches(recogniser, split, index, job.read("decode.batch_seconds"), device, f"{job.name}  {name}, network"):
        yield from ((row_of[split.ids[i]], logp_TV) for i, logp_TV in each(found))


# ---- weights


def _tuned(job: Job, section: Search, splits: dict[str, _Split]) -> tuple[float, float, list[dict[str, float]]]:
    """The weight and bonus with the fewest word errors on dev, of equals the first ones, and the whole grid; no choice, no grid."""
    pairs = list(product(section.weights, section.bonuses))
    if len(pairs) == 1:
        return *pairs[0], []
    dev = splits[TUNED_ON]
    held, references = list(dev.outputs()), dev.table["text"].to_pylist()
    grid = []
    progress = Progress(f"{job.name}  weights", len(pairs), "pair")
    for weight, bonus in pairs:
        search = _beam(job, section, weight, bonus)
        hypotheses = [""] * len(references)
        for row, logp_TV in held:
            hypotheses[row] = search(logp_TV).texts[0]
        words_N4, _ = count_errors(references, hypotheses)
        grid.append({"weight": weight, "bonus": bonus, "wer": round(float(words_N4[:, 1:].sum() / max(1, words_N4[:, 0].sum())), 6)})
        progress.update(len(grid))
    progress.close()
    best = min(grid, key=lambda g: g["wer"])
    say(f"{job.name}  weight {best['weight']:g}, bonus {best['bonus']:g}: WER {100 * best['wer']:.2f} % on {TUNED_ON}")
    for key, values in (("weight", section.weights), ("bonus", section.bonuses)):
        if len(values) > 2 and best[key] == max(values):
            say(f"{job.name}  the best {key} is the highest of the grid: larger values may be better still")
    return best["weight"], best["bonus"], grid


# ---- hypotheses


def _write(path: Path, split: _Split, search: Beam, name: str) -> None:
    found: list[Found | None] = [None] * len(split.table)
    progress = Progress(name, len(found), "utterance")
    for n, (row, logp_TV) in enumerate(split.outputs(), 1):
        found[row] = search(logp_TV)
        progress.update(n)
    progress.close()
    rows = [f for f in found if f]
    columns = {f.name: split.table[f.name] for f in SCHEMA} | {
        "hypothesis": [f.texts[0] for f in rows],
        "confidence": [round(f.confidence, DIGITS) for f in rows],
        "word_confidences": [[round(c, DIGITS) for c in f.word_confidences] for f in rows],
        "nbest": [f.texts for f in rows],
        "nbest_scores": [[round(s, DIGITS) for s in f.scores] for f in rows],
    }
    pq.write_table(pa.table(columns).cast(FOUND), path)
