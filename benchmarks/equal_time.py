"""Word error rates at equal time of pre-training: does BiRQ's label path pay for itself?

    python -m benchmarks.equal_time [--steps 1800] [--seeds 0 1 2 3] [--forms ...] [--best-rq-steps 1449 997] [--cores all]

First the cost of a step of every form beside BEST-RQ's, in turn, one thread. Then Snakemake runs the recipe of params.yaml for every form
and seed, with as many steps as fit into the time of `--steps` steps of BEST-RQ. `--best-rq-steps`: also BEST-RQ with as many steps as other
forms had, which separates the effect of the labels from the cost of their time. Stored artifacts are not computed again, so a stopped run
goes on. Writes benchmarks/results/equal_time.json, prints the tables of docs/results.md. Needs the features (`make demo`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import machine
from benchmarks.training import ON_ONE_THREAD, Params, Training, by_section, feed, load

BASE = "BEST-RQ"
FORMS = {
    BASE: ("best_rq", {}),
    "BiRQ, labels of a quarter of the batch": ("birq", {"birq.label_share": 0.25}),
    "BiRQ, labels of half the batch": ("birq", {"birq.label_share": 0.5}),
    "BiRQ, labels of the whole batch": ("birq", {"birq.label_share": 1.0}),
}
OUT = Path("benchmarks/results/equal_time.json")


def step_ratios(params: Params, forms: list[str], rounds: int = 30) -> dict[str, float]:
    """Median over rounds of a form's processor seconds per step over BEST-RQ's, same batches, in turn."""
    sides: dict[str, tuple[Training, list[float]]] = {}
    for form in {BASE, *forms}:
        method, change = FORMS[form]
        sides[form] = Training(params, method, change | ON_ONE_THREAD), []
    for step, batches in zip(range(rounds + 2), feed(params).epoch(0), strict=False):
        for training, seconds in sides.values():
            begun = time.process_time()
            training.step(batches, step, 0, 1e-5)
            seconds.append(time.process_time() - begun)
    base = sides[BASE][1]
    return {form: statistics.median(a / b for a, b in zip(seconds[2:], base[2:], strict=True)) for form, (_, seconds) in sides.items()}


def word_error_rates(form: str, steps: int, seeds: list[int], cores: str) -> list[float]:
    """Per cent on the test split, one per seed."""
    method, change = FORMS[form]
    run = f"run={{methods: [{method}], seeds: {seeds}}}"
    settings = [f"{section}={json.dumps(values)}" for section, values in by_section({**change, "pretrain.steps": steps}).items()]
    targets = [f"data/score/{method}-{s}/provenance.json" for s in seeds]
    subprocess.run(["snakemake", "--cores", cores, "--quiet", "all", "--config", run, *settings, "--", *targets], check=True)
    return [100 * json.loads(Path(t).with_name("scores.json").read_text())["test"]["wer"] for t in targets]


def interval(differences: list[float], resamples: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds."""
    drawn = np.random.default_rng(0).choice(differences, (resamples, len(differences)))
    low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
    return float(low), float(high)


def difference(rates: list[float], base: list[float]) -> str:
    """Mean over seeds, with its interval."""
    differences = [a - b for a, b in zip(rates, base, strict=True)]
    low, high = interval(differences)
    return f"{statistics.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]"


def table(record: dict) -> str:
    """The table of docs/results.md."""
    seeds = record["seeds"]
    heads = " | ".join(f"seed {s}" for s in seeds)
    lines = [
        f"| form | step, times BEST-RQ's | steps | {heads} | mean | less BEST-RQ, mean over seeds [95 %] |",
        "| --- | ---: | ---: | " + "---: | " * (len(seeds) + 1) + "---: |",
    ]
    base = record["forms"][BASE]["wer"]
    for form, f in record["forms"].items():
        against = "" if form == BASE else difference(f["wer"], base)
        cells = [f"{f['ratio']:.2f}", str(f["steps"]), *(f"{w:.1f}" for w in f["wer"]), f"{statistics.mean(f['wer']):.1f}", against]
        lines.append(f"| {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def decomposition(record: dict) -> str:
    """The effect of the labels at equal steps, and that of the steps which their time costs; differences are means over seeds."""
    lines = [
        "| form | steps | WER | BEST-RQ of as many steps | less that: the labels [95 %] | that less BEST-RQ above: the time [95 %] |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    full = record["forms"][BASE]["wer"]
    for form, f in record["forms"].items():
        if same := record.get("best_rq_of_steps", {}).get(str(f["steps"])):
            cells = [form, str(f["steps"]), f"{statistics.mean(f['wer']):.1f}", f"{statistics.mean(same):.1f}"]
            lines.append(f"| {' | '.join([*cells, difference(f['wer'], same), difference(same, full)])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the steps, run the recipes, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--best-rq-steps", type=int, nargs="+", default=[])
    parser.add_argument("--cores", default="all")
    options = parser.parse_args()
    params = load()
    forms = [BASE, *(f for f in options.forms if f != BASE)]
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    ratios = {BASE: 1.0} | before.get("ratios", {})  # a run that goes on must ask for the same numbers of steps
    if missing := [f for f in forms if f not in ratios]:
        ratios |= step_ratios(params, missing)
    record = {
        "what": __doc__.splitlines()[0],
        "command": shlex.join(["python", "-m", "benchmarks.equal_time", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": machine() | {"torch": torch.__version__},
        "seeds": options.seeds,
        "ratios": ratios,
        "forms": {},
    }
    for form in forms:
        OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        steps = round(options.steps / ratios[form])
        rates = word_error_rates(form, steps, options.seeds, options.cores)
        record["forms"][form] = {"ratio": ratios[form], "steps": steps, "wer": rates}
        print(f"{form}: {steps} steps, WER " + ", ".join(f"{r:.1f}" for r in rates), flush=True)
    record["best_rq_of_steps"] = {}
    for steps in options.best_rq_steps:
        record["best_rq_of_steps"][str(steps)] = word_error_rates(BASE, steps, options.seeds, options.cores)
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))
    if options.best_rq_steps:
        print(decomposition(record))


if __name__ == "__main__":
    main()
