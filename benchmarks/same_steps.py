"""Are a step's numbers those of an earlier commit?

    python -m benchmarks.same_steps --before COMMIT [--steps 100]

Trains BiRQ and BEST-RQ for some steps with the params and features at hand, float32, one thread: with the code of COMMIT, with the code
that lies here, and with the code of COMMIT after one weight of the head was moved by 1e-6. Prints the largest relative difference of the
loss and of its parts from the first. Last digits differ where sums are taken in another order; the third says what training makes of such
a difference. Exits with 1 where this code is further away than 1e-5 and than the moved weight.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TOLERANCE, NUDGE, FIRST = 1e-5, 1e-6, 10
FIGURES = ("loss", "anchor_loss", "enhanced_loss")


def losses(method: str, steps: int, nudge: float) -> list[dict[str, float]]:
    """The figures of every step, by the code that this process imports."""
    import torch

    from benchmarks.training import BEST_RQ, Training, feed
    from birq import params as birq_params
    from birq.train.schedule import warmup_cosine

    params = birq_params.load()
    training = Training(params, {"gradient_cosine_every_steps": 0, "cpu_threads": 1} | (BEST_RQ if method == "best_rq" else {}))
    with torch.no_grad():
        training.model.head.weight[0, 0] += nudge
    section = training.section
    schedule, found = warmup_cosine(steps, section.warmup_steps, section.final_rate_share), []
    for step, batches in zip(range(steps), feed(params).epoch(0), strict=False):
        training.step(batches, step, 0, section.learning_rate * schedule(step))
        line = training.task.figures(step + 1)
        found.append({name: line[name] for name in FIGURES if line[name] is not None})
    return found


@contextlib.contextmanager
def earlier(commit: str | None) -> Iterator[Path | None]:
    """A folder with the `birq` of a commit, while it is needed."""
    if not commit:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(HERE), "archive", commit, "birq"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def in_a_process(module: str, code: Path, options: list[str]) -> Any:
    """What a benchmark prints last, as JSON, run in a process that imports birq from a folder."""
    command = [sys.executable, "-P", "-m", module, *options]
    path = os.pathsep.join([str(code), str(HERE)])
    out = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def by(code: Path, method: str, steps: int, nudge: float = 0.0) -> list[dict[str, float]]:
    """`losses` in a process that imports birq from a folder."""
    options = ["--child", method, "--steps", str(steps), "--nudge", str(nudge)]
    return in_a_process("benchmarks.same_steps", code, options)


def apart(a: list[dict[str, float]], b: list[dict[str, float]], name: str) -> list[float]:
    """Relative difference of one figure at every step."""
    return [abs(x[name] - y[name]) / abs(x[name]) for x, y in zip(a, b, strict=True)]


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
    with earlier(options.before) as before_code:
        for method in ("birq", "best_rq"):
            before, now, moved = (by(code, method, options.steps, n) for code, n in ((before_code, 0), (HERE, 0), (before_code, NUDGE)))
            for name in before[0]:
                here, there = apart(before, now, name), apart(before, moved, name)
                different |= max(here) > max(TOLERANCE, *there)
                shown = "; ".join(f"{max(side):.1e} ({max(side[:FIRST]):.1e})" for side in (here, there))
                print(f"{method:8s} {name:14s} {shown}")
    print("different" if different else f"the same to {TOLERANCE:g}, or as near as last digits allow")
    return int(different)


if __name__ == "__main__":
    sys.exit(main())
