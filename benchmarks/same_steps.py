"""Are a step's numbers those of an earlier commit?

    python -m benchmarks.same_steps --before COMMIT [--steps 100]

Trains BiRQ and BEST-RQ for some steps with the params and features at hand, float32, one thread: with the code of COMMIT, with the code
that lies here, and with the code of COMMIT after one weight of the head was moved by 1e-6. Prints the largest relative difference of the
loss and of its parts from the first. Sums in another order differ by float rounding; the third run shows how far training carries such
a difference. Exits with 1 where this code is further away than 1e-5 over the first 10 steps, or than that and thrice the moved weight's
distance over all of them: that distance is one draw of many, and another weight's differs by about so much.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.earlier import code_of, in_a_process, training
from benchmarks.harness import ROOT
from birq.train.schedule import warmup_cosine

TOLERANCE, NUDGE, FIRST, DRAW = 1e-5, 1e-6, 10, 3
FIGURES = ("loss", "anchor_loss", "enhanced_loss")


def losses(method: str, steps: int, nudge: float) -> list[dict[str, float]]:
    """The figures of every step, by the code that this process imports."""
    here = training()
    params = here.load()
    run = here.Training(params, method, here.ON_ONE_THREAD)
    with torch.no_grad():
        run.model.head.weight[0, 0] += nudge
    section = run.section
    schedule, lines = warmup_cosine(steps, section.warmup_steps, section.final_rate_share), []
    for step, batches in zip(range(steps), here.feed(params).epoch(0), strict=False):
        run.step(batches, step, 0, section.learning_rate * schedule(step))
        line = run.task.figures(step + 1)
        lines.append({name: line[name] for name in FIGURES if line[name] is not None})
    return lines


def by(code: Path, method: str, steps: int, nudge: float = 0.0) -> list[dict[str, float]]:
    """`losses` in a process that imports birq from a folder."""
    options = ["--child", method, "--steps", str(steps), "--nudge", str(nudge)]
    return in_a_process("benchmarks.same_steps", code, options)


def apart(a: list[dict[str, float]], b: list[dict[str, float]], name: str) -> list[float]:
    """Relative difference of one figure at every step."""
    return [abs(x[name] - y[name]) / abs(x[name]) for x, y in zip(a, b, strict=True)]


def differs(here: list[float], moved: list[float]) -> bool:
    """Whether one figure's distances are more than float rounding in the first steps, or more than training makes of that later."""
    return max(here[:FIRST]) > TOLERANCE or max(here) > max(TOLERANCE, DRAW * max(moved))


def main() -> int:
    """Compare, print, and say by the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="commit")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--nudge", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(losses(options.child, options.steps, options.nudge)))
        return 0
    if not options.before:
        parser.error("--before COMMIT: which code to compare with")
    different = False
    print(f"relative difference from {options.before}, {options.steps} steps (the first {FIRST}):")
    print(f"this code; that code after a weight was moved by {NUDGE:g}")
    with code_of(options.before) as before_code:
        for method in ("birq", "best_rq"):
            before, now, moved = (by(code, method, options.steps, n) for code, n in ((before_code, 0), (ROOT, 0), (before_code, NUDGE)))
            for name in before[0]:
                here, there = apart(before, now, name), apart(before, moved, name)
                different |= differs(here, there)
                shown = "; ".join(f"{max(side):.1e} ({max(side[:FIRST]):.1e})" for side in (here, there))
                print(f"{method:8s} {name:14s} {shown}")
    print("different" if different else f"the same to {TOLERANCE:g}, or equal up to float rounding")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
