"""The numbers behind the figures, as rows; also the CSV files that `dvc plots` reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birq.report.gather import Facts

MAX_POINTS = 300  # of a line; more cannot be seen at the figures' size

Row = dict[str, Any]

CURVE_FIELDS = (
    *("step", "epoch", "loss", "enhanced_loss", "anchor_loss", "masked_accuracy", "label_fidelity", "agreement"),
    *("enhanced_perplexity", "anchor_perplexity", "enhanced_used_share", "anchor_used_share"),
    *("gradient_norm", "gradient_cosine", "learning_rate", "hours_seen"),
)


def curve_rows(facts: Facts) -> list[Row]:
    """Pre-training curves of all runs, one row per logged step."""
    return [{"method": r.name, "seed": r.seed} | {k: p.get(k) for k in CURVE_FIELDS} for r in facts.runs for p in r.pretrain_curve]


def finetune_rows(facts: Facts) -> list[Row]:
    """Fine-tuning curves; dev_wer in per cent and dev_loss in nats per character, where they were taken."""
    out = []
    for r in facts.runs:
        for p in r.finetune_curve:
            wer = p.get("dev_wer")
            fields = {k: p.get(k) for k in ("step", "loss", "gradient_norm", "learning_rate")}
            out.append(
                {"method": r.name, "seed": r.seed} | fields | {"dev_wer": None if wer is None else 100 * wer, "dev_loss": p.get("dev_loss")}
            )
    return out


def wer_rows(facts: Facts) -> list[Row]:
    """WER and CER of every run and split, in per cent."""
    keys = ("wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high")
    return [
        {"run": f"{r.name}-{r.seed}", "method": r.name, "seed": r.seed, "split": split}
        | {k: None if s[k] is None else 100 * s[k] for k in keys}
        for r in facts.runs
        for split, s in r.scores.items()
    ]


def layer_rows(facts: Facts) -> list[Row]:
    """What the probe found by layer, the linear probe's accuracy and ABX in per cent; the anchoring labels have no layer but the input."""
    rows = [{"method": r.name, "seed": r.seed} | row for r in facts.runs if r.probe["available"] for row in r.probe["rows"]]
    rates = [k for k in rows[0] if k.startswith(("linear", "abx_"))] if rows else []
    return [row | {k: None if row[k] is None else 100 * row[k] for k in rates} for row in rows]


def usage_rows(facts: Facts) -> list[Row]:
    """Share of frames of each code, most used first, codebook 0; of large codebooks, evenly chosen ranks."""
    out = []
    for r in facts.runs:
        for labels, shares in (r.probe.get("usage") or {}).items():
            kept = _spread(len(shares))
            out += [{"method": r.name, "seed": r.seed, "labels": labels, "rank": i, "share": shares[i - 1]} for i in kept]
    return out


def _spread(n: int) -> list[int]:
    """Ranks 1 to n, evenly thinned to MAX_POINTS, both ends kept."""
    if n <= MAX_POINTS:
        return list(range(1, n + 1))
    return sorted({round(1 + (n - 1) * i / (MAX_POINTS - 1)) for i in range(MAX_POINTS)})


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str] = ()) -> None:
    """Rows under a head line; None is an empty cell. `columns` stand where there are no rows."""
    names = list(rows[0]) if rows else list(columns)
    with open(path, "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def write_all(facts: Facts, folder: Path) -> None:
    """curves.csv, finetune.csv, wer.csv (main split), layers.csv, usage.csv."""
    write_csv(folder / "curves.csv", curve_rows(facts), ("method", "seed", *CURVE_FIELDS))
    tuning = ("step", "loss", "gradient_norm", "learning_rate", "dev_wer", "dev_loss")
    write_csv(folder / "finetune.csv", finetune_rows(facts), ("method", "seed", *tuning))
    write_csv(folder / "wer.csv", [r for r in wer_rows(facts) if r["split"] == facts.main_split])
    write_csv(folder / "layers.csv", layer_rows(facts), ("method", "seed", "labels", "layer", "linear", "pnmi"))
    write_csv(folder / "usage.csv", usage_rows(facts), ("method", "seed", "labels", "rank", "share"))
