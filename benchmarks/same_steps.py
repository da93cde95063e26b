"""Are a step's numbers those of an earlier commit?

    python -m benchmarks.same_steps --before COMMIT [--steps 100]

Trains BiRQ and BEST-RQ for some steps with the params and features at hand, float32, one thread: once with the code of COMMIT, once with
the code that lies here. Prints the largest difference of the loss and of its parts; exits with 1 where one is above 1e-5 of the loss. Last
digits differ where sums are taken in another order, and training enlarges them, so this is about the first steps only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOLERANCE = 1e-5
FIGURES = ("loss", "anchor_loss", "enhanced_loss")


def losses(method: str, steps: int) -> list[dict[str, float]]:
    """The figures of every step, by the code that this process imports."""
    import torch

    from birq import params as birq_params
    from birq.shards import open_split, read_stats
    from birq.train.loop import adamw, step_seed
    from birq.train.pretrain import PretrainTask, pretraining_feed
    from birq.train.schedule import warmup_cosine
    from birq.train.state import build_pretrainer

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    p = birq_params.load()
    change = {"gradient_cosine_every_steps": 0} | ({"enhanced_weight": 0.0} if method == "best_rq" else {})
    section = p.pretrain.model_copy(update=change)
    folders = [Path("data/features") / c for c in p.run.pretrain_corpora]
    mean_F, std_F = read_stats(folders)
    feed = pretraining_feed(open_split(folders, "train"), mean_F, std_F, section, p.model.n_stack, p.features.frame_shift_ms, 0)
    tree = {name: getattr(p, name).model_dump(mode="json") for name in ("model", "features")}
    model = build_pretrainer({"seed": 0, **tree, "pretrain": section.model_dump(mode="json")}).train()
    task = PretrainTask(model, section, method, torch.device("cpu"), 0, p.features.frame_shift_ms)
    optimiser, schedule = adamw([{"params": list(model.parameters())}], section), warmup_cosine(steps, section.warmup_steps, 0.05)
    found = []
    for step, batches in zip(range(steps), feed.epoch(0), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = section.learning_rate * schedule(step) * group["rate_factor"]
        torch.manual_seed(step_seed(0, step))
        optimiser.zero_grad(set_to_none=True)
        task.backward(batches, step, 0)
        torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip_norm)
        optimiser.step()
        line = task.figures(step + 1)
        found.append({name: line[name] for name in FIGURES if line[name] is not None})
    return found


def by(code: Path, method: str, steps: int) -> list[dict[str, float]]:
    """`losses` in a process that imports birq from a folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", method, "--steps", str(steps)]
    out = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> int:
    """Compare, print, and say by the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="commit")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(losses(options.child, options.steps)))
        return 0
    here, worst = Path(__file__).resolve().parent.parent, 0.0
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(here), "archive", options.before, "birq"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        for method in ("birq", "best_rq"):
            before, now = (by(code, method, options.steps) for code in (Path(folder), here))
            for name in before[0]:
                apart = [abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(before, now, strict=True)]
                worst = max(worst, *apart)
                first, last = (line[name] for line in (now[0], now[-1]))
                print(f"{method:8s} {name:14s} first {first:.5f}, last {last:.5f}; relative difference at most {max(apart):.1e}")
    print(f"{len(now)} steps: {'the same' if worst <= TOLERANCE else 'different'} to {TOLERANCE:g} of the loss")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
