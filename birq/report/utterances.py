"""Every utterance of the main split, for the page's error browser, and what its errors add up to: by speaker, by character, by word.

The browser shows the first seed of each name; a model's alignment goes into the page as one letter per column (`=SDI`), so the page's
script does not align anything, and its counts are those of the scores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from birq.report.aligned import Pair, align, align_characters
from birq.report.gather import Facts, Run

SPEAKERS = 200  # rows of the table; of more, those with the most words
CONFUSIONS = 20


def read(run: Run, split: str) -> pa.Table:
    """The scored utterances of a split, ordered by id."""
    return pq.read_table(run.score_folder / "utterances.parquet", filters=[("split", "==", split)]).sort_by("id")


@dataclass(frozen=True)
class Heard:
    """What one model made of the main split."""

    run: Run
    decoding: str  # greedy, or with LM
    table: pa.Table  # the scored utterances
    hypotheses: list[str]

    @cached_property
    def ids(self) -> list[str]:
        return self.table["id"].to_pylist()

    @cached_property
    def references(self) -> list[str]:
        return [t or "" for t in self.table["text"].to_pylist()]

    @cached_property
    def aligned(self) -> list[list[Pair]]:
        return align(self.references, self.hypotheses)


def heard(facts: Facts, names: list[str]) -> list[Heard]:
    """The first seed of each name in this order, greedy and with the language model, where there is one."""
    out = []
    for name in names:
        run = facts.runs_of(name)[0]
        table = read(run, facts.main_split)
        for decoding, column in (("greedy", "hypothesis"), ("with LM", "lm_hypothesis")):
            if column in table.column_names and not table[column].null_count:
                out.append(Heard(run, decoding, table, [t or "" for t in table[column].to_pylist()]))
    return out


def browsed(models: list[Heard]) -> dict[str, Any]:
    """What the error browser reads: columns of equal length, an entry per utterance; per model its words and how they align."""
    table = models[0].table
    position = {id: i for i, id in enumerate(models[0].ids)}
    speakers = sorted(set(table["speaker"].to_pylist()))
    number = {s: i for i, s in enumerate(speakers)}
    said = []
    for model in models:
        hypotheses: list[str | None] = [None] * len(position)  # of an utterance that this model was not given
        kinds = [""] * len(position)
        for id, text, pairs in zip(model.ids, model.hypotheses, model.aligned, strict=True):
            if id in position:
                hypotheses[position[id]], kinds[position[id]] = " ".join(text.split()), "".join(p.kind for p in pairs)
        said.append({"hypotheses": hypotheses, "kinds": kinds})
    return {
        "models": [
            {"id": f"{m.run.name}-{m.run.seed}" + ("-lm" if m.decoding != "greedy" else ""), "title": f"{m.run.title}, {m.decoding}"}
            for m in models
        ],
        "ids": models[0].ids,
        "speakers": speakers,
        "speaker": [number[s] for s in table["speaker"].to_pylist()],
        "seconds": [round(s, 2) for s in table["duration_s"].to_pylist()],
        "references": [" ".join(t.split()) for t in models[0].references],
        "said": said,
    }


def by_speaker(facts: Facts, names: list[str]) -> dict[str, Any]:
    """WER of each speaker of the main split by name, a mean over seeds; speakers that the first name finds hardest come first.

    rows: {speaker, utterances, words, rates: name -> fraction or None}; left_out: speakers with fewer words than those shown.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        runs = facts.runs_of(name)
        for run in runs:
            table = read(run, facts.main_split).group_by("speaker")
            for one in table.aggregate([("words", "sum"), ("errors", "sum"), ("words", "count")]).to_pylist():
                row = rows.setdefault(one["speaker"], {"speaker": one["speaker"], "rates": dict.fromkeys(names)})
                row |= {"utterances": one["words_count"], "words": one["words_sum"]}
                if one["words_sum"]:
                    row["rates"][name] = (row["rates"][name] or 0.0) + one["errors_sum"] / one["words_sum"] / len(runs)
    kept = sorted(rows.values(), key=lambda r: (-r["words"], r["speaker"]))[:SPEAKERS]
    kept.sort(key=lambda r: (-(r["rates"][names[0]] or 0.0), r["speaker"]))
    return {"rows": kept, "left_out": len(rows) - len(kept)}


def confusions(model: Heard) -> dict[str, list[tuple[str, str, int]]]:
    """The most frequent errors of a model as (reference, hypothesis, count): of words and of characters; an empty side is I or D."""

    def most(aligned: list[list[Pair]]) -> list[tuple[str, str, int]]:
        counted = Counter((p.reference, p.hypothesis) for pairs in aligned for p in pairs if p.kind != "=")
        return [(*pair, n) for pair, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]]

    return {"words": most(model.aligned), "characters": most(align_characters(model.references, model.hypotheses))}
