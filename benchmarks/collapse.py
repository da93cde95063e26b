"""Which forms of BiRQ keep their enhanced labels alive?

    python -m benchmarks.collapse [--steps 400] [--seeds 0 1]

Pre-trains with the features, the model and the constants of params.yaml (`make demo` makes the features), once for every form below, and
writes benchmarks/results/collapse.json and docs/figures/collapse.svg. docs/method.md discusses the figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from datetime import date
from pathlib import Path

import altair
import torch

from benchmarks.training import Params, Training, feed, load
from birq.train.schedule import warmup_cosine

OUT = Path("benchmarks/results/collapse.json")
LITERAL = {"birq.entropy_weight": 0.0, "birq.label_share": 1.0, "birq.label_gradient": 1.0}
FORMS = {
    "literal, LayerNorm": LITERAL | {"birq.label_norm": "layer_norm"},
    "literal, standardised": LITERAL | {"birq.label_norm": "standardise"},
    "literal, s = 1": LITERAL | {"birq.logit_scale": 1.0},
    "literal, noise-free": LITERAL | {"birq.noise": "none"},
    "literal, label gradient 0.05": LITERAL | {"birq.label_gradient": 0.05},
    "detached labels": LITERAL | {"birq.label_gradient": 0.0},
    "birq's default": {},
}


def run(params: Params, form: dict, steps: int, seed: int) -> list[dict]:
    """The curve of one form, a line every 25 steps."""
    change = {**form, "pretrain.steps": steps, "birq.min_perplexity": 1.0, "birq.gradient_cosine_every_steps": 50}
    training, utterances = Training(params, "birq", change, seed), feed(params, seed)
    section = training.section
    schedule = warmup_cosine(steps, section.warmup_steps, section.final_rate_share)
    lines, step, epoch = [], 0, 0
    while step < steps:
        for batches in utterances.epoch(epoch):
            training.step(batches, step, epoch, section.learning_rate * schedule(step))
            step += 1
            if step == 1 or step % 25 == 0 or step == steps:
                lines.append({"step": step, **training.task.figures(step)})
            if step == steps:
                break
        epoch += 1
    return lines


def draw(records: list[dict], path: Path) -> None:
    rows = [{"form": r["form"], **line} for r in records if r["seed"] == records[0]["seed"] for line in r["curve"]]
    base = altair.Chart(altair.Data(values=rows)).mark_line().encode(x=altair.X("step:Q", title="step of pre-training"))
    enhanced = base.encode(
        y=altair.Y("enhanced_perplexity:Q", scale=altair.Scale(type="log"), title="perplexity of the enhanced codes"),
        color=altair.Color("form:N", title=None, sort=list(FORMS), legend=altair.Legend(labelLimit=300)),
    )
    anchor = base.mark_line(color="black", strokeDash=[4, 3]).encode(y="mean(anchor_perplexity):Q")
    (enhanced + anchor).properties(width=520, height=280).save(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    options = parser.parse_args()
    params = load()
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    asked = {(form, seed) for form in options.forms for seed in options.seeds}
    records = [r for r in kept.get("runs", []) if kept["steps"] == options.steps and (r["form"], r["seed"]) not in asked]
    for seed in options.seeds:
        for form in options.forms:
            begun = time.monotonic()
            curve = run(params, FORMS[form], options.steps, seed)
            records.append({"form": form, "seed": seed, "seconds": round(time.monotonic() - begun, 1), "curve": curve})
            last, low = curve[-1], min(line["enhanced_perplexity"] for line in curve)
            print(
                f"{form:30s} seed {seed}  perplexity {last['enhanced_perplexity']:6.1f} (lowest {low:6.1f})  "
                f"anchors {last['anchor_perplexity']:6.1f}  fidelity {last['label_fidelity']:.2f}  G {last['anchor_loss']:.3f}",
                flush=True,
            )
    about = {"date": date.today().isoformat(), "machine": platform.machine(), "torch": torch.__version__, "steps": options.steps}
    about |= {"command": shlex.join(["python", "-m", "benchmarks.collapse", *sys.argv[1:]])}
    OUT.write_text(json.dumps({**about, "runs": records}) + "\n")
    draw(records, Path("docs/figures/collapse.svg"))


if __name__ == "__main__":
    main()
