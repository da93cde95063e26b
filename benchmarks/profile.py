"""Where a step of pre-training spends its time, by kind of operation: the code of an earlier commit and the code that lies here.

    python -m benchmarks.profile [--before bc87c8d] [--steps 10]

Params and features as they lie here (`make demo`), BEST-RQ and BiRQ, the same batches. On a GPU it times kernels, else one thread
of the CPU. Each operation counts the time that it spends itself. Writes benchmarks/results/profile-gpu.json or profile-cpu.json, prints the
table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from datetime import date

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.earlier import code_of, in_a_process, training
from benchmarks.harness import ROOT, machine

METHODS = ("best_rq", "birq")
WARM_STEPS = 3
KINDS = {  # the first that an operation's name contains
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "convolution": ("conv", "Depthwise"),
    "matrix products": ("addmm", "::mm", "bmm", "matmul", "linear", "gemm", "cutlass", "nvjet"),
    "optimiser": ("_foreach", "adam", "Optimizer", "clip_grad", "multi_tensor"),
    "norms": ("norm",),
    "activations, dropout, softmax": ("elu", "silu", "sigmoid", "glu", "dropout", "bernoulli", "softmax", "exp", "tanh", "log"),
    "random numbers": ("rand", "normal_", "uniform_", "exponential"),
    "search and statistics of labels": ("argmax", "amax", "max", "topk", "bincount", "scatter", "histc"),
    "copies, gathers, layout": ("copy", "cat", "index", "gather", "clone", "contiguous", "fill", "zero", "select", "slice", "pad"),
    "sums and element by element": ("add", "mul", "div", "sub", "sum", "mean", "where", "neg", "pow", "sqrt", "elementwise", "reduce"),
}


def kind_of(name: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other")


def seconds_by_kind(method: str, steps: int) -> dict[str, float]:
    """Seconds of a step by kind, by the code that this process imports; the longest first."""
    here = training()
    params = here.load()
    run = here.Training(params, method, here.ON_ONE_THREAD)
    batches = [b for _, b in zip(range(WARM_STEPS + steps), here.feed(params).epoch(0), strict=False)]
    for step in range(WARM_STEPS):
        run.step(batches[step], step, 0, 1e-5)
    gpu = run.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        for step in range(WARM_STEPS, WARM_STEPS + steps):
            run.step(batches[step], step, 0, 1e-5)
    seconds: dict[str, float] = {}
    for event in seen.key_averages():
        micros = event.self_device_time_total if gpu else event.self_cpu_time_total
        seconds[kind_of(event.key)] = seconds.get(kind_of(event.key), 0.0) + micros / 1e6 / steps
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def table(record: dict) -> str:
    """Milliseconds of a step, before and after, of both methods."""
    sides = [(method, side) for method in METHODS for side in ("before", "after") if side in record[method]]
    kinds = sorted({k for m, s in sides for k in record[m][s]}, key=lambda k: -record["birq"]["after"].get(k, 0))
    lines = [f"| ms of a step ({record['device']}) | " + " | ".join(f"{m}, {s}" for m, s in sides) + " |", "|---|" + "---:|" * len(sides)]
    for kind in [*kinds, "in all"]:
        cells = (sum(record[m][s].values()) if kind == "in all" else record[m][s].get(kind, 0.0) for m, s in sides)
        lines.append(f"| {kind} | " + " | ".join(f"{1000 * c:.1f}" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Profile both methods by both codes, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="commit")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(seconds_by_kind(options.child, options.steps)))
        return
    gpu = torch.cuda.is_available()
    record = {
        "what": __doc__.splitlines()[0],
        "command": shlex.join(["python", "-m", "benchmarks.profile", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if gpu else "CPU, one thread",
        "machine": machine() | {"torch": torch.__version__},
        "before": options.before,
    }
    with contextlib.ExitStack() as stack:
        codes = {"before": stack.enter_context(code_of(options.before))} if options.before else {}
        for method in METHODS:
            asked = ["--child", method, "--steps", str(options.steps)]
            record[method] = {side: in_a_process("benchmarks.profile", code, asked) for side, code in (codes | {"after": ROOT}).items()}
    out = ROOT / "benchmarks" / "results" / f"profile-{'gpu' if gpu else 'cpu'}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()
