"""The curves of docs/healthy.md, as data and as figures, from the runs of the preset study-healthy.

    birq preset study-healthy && snakemake --cores all study && python -m benchmarks.healthy

Writes benchmarks/results/healthy.json and docs/figures/healthy-*.svg. `--draw` draws the record that is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt

from birq import files
from birq.report import charts

OUT, FIGURES = Path("benchmarks/results/healthy.json"), Path("docs/figures")
EVERY = 2  # lines of a curve
RUNS = {
    "pretrain": {
        "best_rq": "BEST-RQ, healthy",
        "birq": "BiRQ, healthy",
        "birq_printed": "BiRQ as printed, collapsed",
        "birq_fast": "BiRQ, ten times the rate",
    },
    "finetune": {"scratch": "healthy", "scratch_short": "150 steps: too few", "scratch_fast": "thirty times the rate: stuck"},
}
PANELS = {
    "pretrain": {
        "anchor_loss": "loss of the anchoring labels, nats",
        "masked_accuracy": "masked accuracy, share of labels",
        "enhanced_perplexity": "perplexity of the enhanced codes",
        "gradient_norm": "norm of the gradient",
    },
    "finetune": {"loss": "loss, nats per character", "dev_wer": "WER on dev, share of words"},
}


def collected() -> dict[str, Any]:
    """The curves of the runs in data/, every second line, with what each is."""
    out: dict[str, Any] = {}
    for stage, runs in RUNS.items():
        for name, what in runs.items():
            folder = Path("data") / stage / f"{name}-0"
            lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
            kept = [{"step": line["step"]} | {k: line.get(k) for k in PANELS[stage]} for line in lines]
            kept = [line for i, line in enumerate(kept) if i % EVERY == 0 or line.get("dev_wer") is not None]
            record = files.read_json(folder / "provenance.json")
            about = {"what": what, "key": record["key"], "processor": record["environment"].get("processor")}
            out.setdefault(stage, {})[name] = about | {"curve": kept}
    return out


def _figure(stage: str, runs: dict[str, Any]) -> dict[str, Any]:
    colours = alt.Scale(range=["#d9660a", "#3b82d6", "#d6457f", "#9b5de0"])
    colour = alt.Color("run:N", scale=colours, title=None, sort=None, legend=charts.legend())
    panels = []
    for key, title in PANELS[stage].items():
        lines = [(r["what"], line) for r in runs.values() for line in r["curve"] if line[key] is not None]
        rows = [{"run": what, "step": line["step"], "value": line[key]} for what, line in lines]
        scale = alt.Scale(type="log") if key == "gradient_norm" else alt.Scale(zero=key != "anchor_loss")
        y = alt.Y("value:Q", title=None, scale=scale)
        panel = alt.Chart(charts.data(rows)).mark_line(strokeWidth=2).encode(x=alt.X("step:Q"), y=y, color=colour)
        panels.append(panel.properties(width=230, height=150, title=alt.TitleParams(title, anchor="start", fontSize=12)))
    title = {"pretrain": "Pre-training", "finetune": "Fine-tuning"}[stage]
    subtitle = "synthetic speech, 0.6 M parameters, one seed"
    return charts.finish(alt.concat(*panels, columns=2, spacing=24), title, subtitle, None)


def draw(record: dict[str, Any]) -> None:
    import vl_convert

    for stage, runs in record.items():
        files.write_text(FIGURES / f"healthy-{stage}.svg", vl_convert.vegalite_to_svg(_figure(stage, runs)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draw", action="store_true", help="draw the record that is kept, without collecting")
    if not parser.parse_args().draw:
        files.write_text(OUT, json.dumps(collected(), indent=None, separators=(",", ":")) + "\n")
    draw(files.read_json(OUT))


if __name__ == "__main__":
    main()
