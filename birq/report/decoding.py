"""The language model of a run in figures and words, for the table, the page and the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from birq.report.words import listed

RATES = ("wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high")
SOURCES = {"transcripts": "the transcripts of fine-tuning", "file": "a text file", "arpa": "an ARPA file"}  # else its name
GREEDY = "greedy decoding, no language model"


def fields(score: dict[str, Any]) -> dict[str, Any]:
    """Of a split's figures, those with the language model, under `lm_`; null without one."""
    lm = score.get("lm") or {}
    search = lm.get("search", {})
    about = {k: search.get(k) for k in ("weight", "bonus", "beam", "tuned_on")}
    about |= {k: search.get("lm", {}).get(k) for k in ("source", "order", "words")}
    return {f"lm_{k}": v for k, v in ({k: lm.get(k) for k in RATES} | about).items()}


def described(record: dict[str, Any]) -> str:
    """`beam search (32 hypotheses) with a 3-gram of 357 words from the transcripts of fine-tuning`."""
    source = SOURCES.get(record["lm_source"], record["lm_source"])
    return f"beam search ({record['lm_beam']} hypotheses) with a {record['lm_order']}-gram of {record['lm_words']:,} words from {source}"


def weights(records: Sequence[dict[str, Any]]) -> str:
    """`weight and bonus, chosen on dev: 0.5 and 1 of birq-0`; each record has method and seed besides its fields."""
    of = [f"{r['lm_weight']:g} and {r['lm_bonus']:g} of {r['method']}-{r['seed']}" for r in records if r.get("lm_wer") is not None]
    how = {r["lm_tuned_on"] for r in records if r.get("lm_wer") is not None}
    return f"weight and bonus{f', chosen on {listed(sorted(how))}' if None not in how else ''}: {listed(of)}"


def greedy_and_lm(scores: Sequence[dict[str, Any]]) -> str:
    """For a description of the models: how they were decoded."""
    found = [f for f in map(fields, scores) if f["lm_wer"] is not None]
    return f"greedy decoding, and {described(found[0])}" if found else GREEDY
