"""The report stage: metrics, figures, comparisons and one page, from everything that the run made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from birq.evaluate.compare import compare_methods
from birq.pipeline.stage import Job
from birq.report import page, plots
from birq.report.gather import Facts, gather
from birq.report.verdict import health, mean
from birq.settings.params import Report, Run

COUNTS = ("words", "substitutions", "deletions", "insertions", "characters", "char_substitutions", "char_deletions", "char_insertions")


def records(facts: Facts) -> list[dict[str, Any]]:
    """metrics.json: one record per method, seed and split; rates are fractions, hours and seconds as their names say."""
    out = []
    for r in facts.runs:
        for split, s in r.scores.items():
            rates = {f"{k}{end}": s.get(f"{k}{end}") for k in ("wer", "cer") for end in ("", "_low", "_high")}
            out.append(
                {"method": r.method, "seed": r.seed, "split": split}
                | rates
                | {k: s.get(k) for k in ("wer_speaker_low", "wer_speaker_high", *COUNTS, "utterances", "speakers", "hours")}
                | {
                    "confidence": facts.score_params["confidence"],
                    "unlabelled_hours": r.unlabelled_hours,
                    "labelled_hours": r.labelled_hours,
                    "pretrain_seconds": r.seconds("pretrain"),
                    "finetune_seconds": r.seconds("finetune"),
                    "keys": {stage: record["key"] for stage, record in r.provenance.items()},
                }
            )
    return out


def by_method(facts: Facts) -> dict[str, dict[str, float | str | None]]:
    """wer.json, what DVC shows of an experiment: per method, means over seeds on the main split, in per cent.

    The interval is one text, `[36.2, 38.8]`: two columns more per method would push the parameters off the screen.
    """
    out: dict[str, dict[str, float | str | None]] = {}
    for name in facts.methods:
        scores = [r.scores[facts.main_split] for r in facts.of(name)]
        values = {k: [s[k] for s in scores] for k in ("wer", "wer_low", "wer_high", "cer")}
        means = {k: None if any(x is None for x in v) else 100 * mean(v) for k, v in values.items()}
        low, high = means["wer_low"], means["wer_high"]
        out[name] = {
            "wer": None if means["wer"] is None else round(means["wer"], 2),
            "interval": None if low is None or high is None else f"[{low:.1f}, {high:.1f}]",
            "cer": None if means["cer"] is None else round(means["cer"], 2),
        }
    return out


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
