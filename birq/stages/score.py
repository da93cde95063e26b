"""The score stage: error rates of every decoded split, greedy and with the language model, and the table of utterances."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.rates import SPLITS, beside, read_hypotheses, score_split
from birq.evaluate.stuck import stuck
from birq.files import read_json
from birq.pipeline.stage import Job
from birq.progress import say
from birq.settings.params import Score


def compute(job: Job) -> None:
    """Score the hypotheses of decode: scores.json (figures per split) and utterances.parquet, most errors first, ties by id.

    Under `lm` of a split: the same figures with the language model, and what was searched with; null without one.
    """
    section: Score = job.read("score")
    folder = job.input("decode")
    splits = [s for s in SPLITS if (folder / f"{s}.parquet").exists()]
    if not splits:
        raise BirqError(f"{folder}: holds no decoded split; delete it and run again")
    scores, tables, trouble = {}, [], {}
    search = read_json(job.input("search") / "search.json")
    for split in splits:
        scores[split], table = score_split(split, read_hypotheses(folder / f"{split}.parquet"), section)
        scores[split]["lm"], more = None, None
        trouble[split] = stuck(table["text"].to_pylist(), table["hypothesis"].to_pylist())
        if search["lm"]["source"] != "none":
            figures, more = score_split(split, read_hypotheses(job.input("search") / f"{split}.parquet"), section)
            scores[split]["lm"] = figures | {"search": {k: v for k, v in search.items() if k != "grid"}}
        tables.append(beside(table, more))
    order = [("errors", "descending"), ("id", "ascending"), ("split", "ascending")]
    pq.write_table(pa.concat_tables(tables).sort_by(order).combine_chunks(), job.out / "utterances.parquet")
    (job.out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    for split, s in scores.items():
        job.notes[f"{split}_wer"] = round(s["wer"], 6)
        with_lm = f"  with the language model {100 * s['lm']['wer']:.2f} %" if s["lm"] else ""
        if trouble[split]:
            say(f"{job.name}  {split}  the model {trouble[split]}")
        say(f"{job.name}  {split}  WER {100 * s['wer']:.2f} %{with_lm}  CER {100 * s['cer']:.2f} %")
