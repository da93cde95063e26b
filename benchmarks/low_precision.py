"""What bf16 costs in accuracy: the gradient of a step in mixed precision against float32's, with norms in float32 and in bf16.

    python -m benchmarks.low_precision [--steps 200] [--batches 8]

Trains BiRQ and BEST-RQ in float32 for some steps with the params and features at hand. Then, for some batches, the gradient by float32 and
by the CPU's autocast to bf16, which casts as the GPU's does. Error: norm of the difference over the norm of float32's gradient. That of two
batches' gradients in float32 stands beside: it is the noise that training has anyway. It says nothing about speed.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks import training
from birq.settings.params import load
from birq.train import pretraining
from birq.train.schedule import warmup_cosine


def bf16(_: torch.device) -> torch.autocast:
    """In the place of `precision`."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def gradient(run: training.Training, batches: list, step: int) -> torch.Tensor:
    """Of all weights, one after another."""
    run.optimiser.zero_grad(set_to_none=True)
    run.task.backward(batches, step, 0)
    return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])


def errors(method: str, steps: int, n_batches: int) -> dict[str, list[float]]:
    """Error of every batch, by kind of precision."""
    params = load()
    changes = {"float32": training.ON_ONE_THREAD, "bf16": training.ON_ONE_THREAD | {"model.norms": "bf16"}}
    runs = {norms: training.Training(params, method, change) for norms, change in changes.items()}
    section, exact = runs["float32"].section, pretraining.precision
    schedule, given = warmup_cosine(steps, section.warmup_steps, section.final_rate_share), training.feed(params).epoch(0)
    epoch = 0
    for step in range(steps):
        batches = next(given, None)
        if batches is None:
            epoch += 1
            given = training.feed(params).epoch(epoch)
            batches = next(given)
        runs["float32"].step(batches, step, epoch, section.learning_rate * schedule(step))
    runs["bf16"].model.load_state_dict(runs["float32"].model.state_dict())
    found: dict[str, list[float]] = {"norms in float32": [], "norms in bf16": [], "another batch": []}
    earlier = None
    for batches, step in zip(training.feed(params).epoch(epoch + 1), range(steps, steps + n_batches), strict=False):
        wanted = gradient(runs["float32"], batches, step)
        pretraining.precision = bf16
        for norms, run in runs.items():
            found[f"norms in {norms}"].append(float((gradient(run, batches, step) - wanted).norm() / wanted.norm()))
        pretraining.precision = exact
        if earlier is not None:
            found["another batch"].append(float((earlier - wanted).norm() / wanted.norm()))
        earlier = wanted
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batches", type=int, default=8)
    options = parser.parse_args()
    print("| method | against float32 | median error of the gradient | lowest | highest |\n|---|---|---:|---:|---:|")
    for method in ("best_rq", "birq"):
        for name, values in errors(method, options.steps, options.batches).items():
            print(f"| {method} | {name} | {statistics.median(values):.4f} | {min(values):.4f} | {max(values):.4f} |", flush=True)


if __name__ == "__main__":
    main()
