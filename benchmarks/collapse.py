"""Which forms of BiRQ keep their enhanced labels alive?

    python -m benchmarks.collapse [--steps 120] [--seeds 0 1 2] [--width 96] [--forms printed ...] [--draw]

Pre-trains with the features, the model and the constants of params.yaml (`make demo` makes the features), once for every form below, seed
and width. A run that benchmarks/results/collapse.json has already is not made again, so the command can be stopped and called again.
Draws docs/figures/collapse.svg from all runs of that number of steps and prints them as a table: means over seeds, with their range.
`--draw` does only that. docs/method.md discusses the figures.

The forces are norms of gradients over the encoder's weights: of w1 F through the labels alone (its gradient minus that with detached
labels) and of w2 G, each a mean per masked frame; and the cosine between the same force on two batches, before the first step.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import altair
import torch
from torch import Tensor

from benchmarks.training import Params, Training, feed, load
from birq.speech.batches import Batch
from birq.train.schedule import warmup_cosine

OUT, FIGURE = Path("benchmarks/results/collapse.json"), Path("docs/figures/collapse.svg")
LINE_STEPS = 20
UNIT = {"birq.entropy_weight": 0.0, "birq.label_share": 1.0, "birq.label_gradient": 1.0}
PRINTED = UNIT | {"random_projection.distance": "raw", "birq.logit_scale": 1.0, "birq.noise": "reversed"}
PRINTED |= {"birq.label_norm": "layer_norm", "pretrain.reduction": "utterances"}
FORMS = {
    "printed": PRINTED,
    "birq's default": {},
    "printed, z standardised": PRINTED | {"birq.label_norm": "standardise"},
    "printed, labels detached": PRINTED | {"birq.label_gradient": 0.0},
    "unit, LayerNorm": UNIT | {"birq.label_norm": "layer_norm"},
    "unit, z standardised": UNIT,
    "printed, true Gumbel noise": PRINTED | {"birq.noise": "gumbel"},
    "printed, with the entropy term": PRINTED | {"birq.entropy_weight": 1.0},
    "printed, z without a norm of its own": PRINTED | {"birq.label_norm": "none"},
    "unit, z standardised, s = 1": UNIT | {"birq.logit_scale": 1.0},
}
Run = dict[str, Any]  # form, seed, width, steps, cpu_seconds, curve, forces


def gradients(training: Training, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Gradients over the encoder of w1 F through the labels alone, and of w2 G, on the first micro-batch of a step."""
    model, task = training.model, training.task
    weights, o = list(model.encoder.parameters()), model.objective
    (ready,) = task.ready(batches[:1], 0, 0)

    def of(objective: Any) -> Tensor:
        model.objective = objective
        total = task._forward(ready, ready.masked, 0, 0, None).total
        model.objective = o
        grads = torch.autograd.grad(total, weights, allow_unused=True)
        return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in zip(grads, weights, strict=True)])

    whole, detached = (of(replace(o, anchor_weight=0.0, label_gradient=share)) for share in (o.label_gradient, 0.0))
    return whole - detached, of(replace(o, enhanced_weight=0.0))


def forces(training: Training, steps: Iterable[list[Batch]]) -> dict[str, float]:
    """Norms of both gradients on the first of two steps' batches, and the cosines between the two steps."""
    first, second = (gradients(training, batches) for batches in steps)
    out = {}
    for name, a, b in zip(("labels", "anchors"), first, second, strict=True):
        out |= {name: float(a.norm()), f"{name}_cosine": float(torch.nn.functional.cosine_similarity(a, b, dim=0))}
    return out


def run(params: Params, form: dict[str, Any], steps: int, seed: int, width: int) -> Run:
    """The curve of one form, a line every LINE_STEPS steps. The rate rises over a third of the steps, then falls as params.yaml has it."""
    change = {**form, "pretrain.steps": steps, "pretrain.warmup_steps": steps // 3, "model.d_model": width}
    change |= {"birq.min_perplexity": 1.0, "birq.gradient_cosine_every_steps": 0}
    training, utterances = Training(params, "birq", change, seed), feed(params, seed)
    section = training.section
    schedule = warmup_cosine(steps, section.warmup_steps, section.final_rate_share)
    pair = [batches for _, batches in zip(range(2), utterances.epoch(0), strict=False)]
    begin = forces(training, pair)
    lines, step, epoch = [], 0, 0
    while step < steps:
        for batches in utterances.epoch(epoch):
            training.step(batches, step, epoch, section.learning_rate * schedule(step))
            step += 1
            if step == 1 or step % LINE_STEPS == 0 or step == steps:
                lines.append({"step": step} | {k: v and float(f"{v:.5g}") for k, v in training.task.figures(step).items()})
            if step == steps:
                break
        epoch += 1
    both = {"first": begin, "last": forces(training, pair)}
    return {"curve": lines, "forces": {when: {k: float(f"{v:.4g}") for k, v in f.items()} for when, f in both.items()}}


def draw(runs: list[Run], path: Path) -> None:
    """Perplexity over steps: a line a run, a panel a width, the anchoring codes dashed."""
    keys = ("step", "enhanced_perplexity", "anchor_perplexity")
    rows = [
        {"form": r["form"], "seed": r["seed"], "width": f"width {r['width']}"} | {k: x[k] for k in keys} for r in runs for x in r["curve"]
    ]
    base = altair.Chart().mark_line(strokeWidth=1.6).encode(x=altair.X("step:Q", title="step of pre-training"))
    order = [form for form in FORMS if any(r["form"] == form for r in runs)]
    enhanced = base.encode(
        y=altair.Y(
            "enhanced_perplexity:Q", scale=altair.Scale(type="log", domain=[1, 150], nice=False), title="perplexity of the enhanced codes"
        ),
        color=altair.Color(
            "form:N",
            title=None,
            sort=order,
            scale=altair.Scale(scheme="tableau10"),
            legend=altair.Legend(labelLimit=300, symbolStrokeWidth=3),
        ),
        detail="seed:N",
    )
    anchor = base.mark_line(color="black", strokeDash=[4, 3]).encode(y="mean(anchor_perplexity):Q")
    widths = [f"width {w}" for w in sorted({r["width"] for r in runs})]
    panels = altair.layer(enhanced, anchor, data=altair.Data(values=rows)).properties(width=380, height=280)
    panels.facet(column=altair.Column("width:N", title=None, sort=widths)).configure_view(stroke="#ccc").save(str(path))


def shown(values: list[float], digits: int) -> str:
    """Mean and, of several seeds, the range."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(runs: list[Run]) -> str:
    """A Markdown table of one width, forms in the order above."""
    middle = runs[0]["steps"] // 2
    head = f"| form | seeds | perplexity, step {middle} | last step | label fidelity | agreement with anchors | G, last lines, nats | "
    lines = [head + "force of labels / anchors, first step |", "|---|---|---|---|---|---|---|---|"]
    for form in FORMS:
        here = [r for r in runs if r["form"] == form]
        if not here:
            continue
        at = [min(r["curve"], key=lambda line: abs(line["step"] - middle)) for r in here]
        last, first = [r["curve"][-1] for r in here], [r["forces"]["first"] for r in here]
        cells = [form, str(len(here)), shown([x["enhanced_perplexity"] for x in at], 1)]
        cells += [shown([x[key] for x in last], digits) for key, digits in (("enhanced_perplexity", 1), ("label_fidelity", 2))]
        cells += [shown([x[key] for x in last], digits) for key, digits in (("agreement", 2), ("anchor_loss", 3))]
        cells += [" / ".join(shown([f[key] for f in first], 3) for key in ("labels", "anchors"))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept() -> list[Run]:
    return json.loads(OUT.read_text())["runs"] if OUT.exists() else []


def keep(runs: list[Run]) -> None:
    """Written after every run, a line a run."""
    about = {"date": date.today().isoformat(), "machine": platform.machine(), "torch": torch.__version__}
    text = ",\n".join(json.dumps(r) for r in runs)
    OUT.write_text(f'{json.dumps(about)[:-1]}, "runs": [\n{text}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--draw", action="store_true", help="draw and print what is there, run nothing")
    options = parser.parse_args()
    runs = kept()
    for seed in options.seeds if not options.draw else []:
        for form in options.forms:
            about = {"form": form, "seed": seed, "width": options.width, "steps": options.steps}
            if any(about.items() <= r.items() for r in runs):
                continue
            begun = time.process_time()
            runs.append(about | run(load(), FORMS[form], options.steps, seed, options.width))
            runs[-1]["cpu_seconds"] = round(time.process_time() - begun)
            keep(runs)
            last = runs[-1]["curve"][-1]
            print(f"{form}, seed {seed}: perplexity {last['enhanced_perplexity']:.1f}, {runs[-1]['cpu_seconds']} s", flush=True)
    runs = [r for r in runs if r["steps"] == options.steps]
    draw(runs, FIGURE)
    for width in sorted({r["width"] for r in runs}):
        print(f"\nwidth {width}\n\n{table([r for r in runs if r['width'] == width])}")


if __name__ == "__main__":
    main()
