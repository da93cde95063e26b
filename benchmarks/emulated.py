"""Steps of true size on a pretended GPU (benchmarks/pretended): how often the CPU waits, kernels, bytes moved, memory; not their speed.

    python -m benchmarks.emulated [--before COMMIT] [--sizes "155 M" ...]

Floats have no data, so no memory is needed. `bound` is what this sequence of operations cannot be faster than by its bytes and products on
an H100 (benchmarks/bounds.py); h/h are hours of audio per hour at that bound. `plan` is the memory that `birq plan` reckons with.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.earlier import code_of, in_a_process, training
from benchmarks.harness import ROOT
from benchmarks.pretended import device as pretended
from benchmarks.pretended.seen import SEEN

PUBLISHED = {"n_stack": 4, "ff_expansion": 4, "conv_kernel": 31, "conv_expansion": 1, "positions": "rotary"}
PAPER = {"n_stack": 2, "n_heads": 8, "ff_expansion": 4, "conv_kernel": 15, "conv_expansion": 2, "positions": "relative"}
MODELS: dict[str, dict[str, Any]] = {
    "12 x 512": PUBLISHED | {"d_model": 512, "n_layers": 12, "n_heads": 8},
    "155 M": PAPER | {"d_model": 768, "n_layers": 10},
    "275 M": PAPER | {"d_model": 1024, "n_layers": 10, "attention_window": 200},
}
LABEL_LAYER = {"12 x 512": 8, "155 M": 7, "275 M": 7}
COUNTED = 1  # the step that is reported; the one before makes the optimiser's state


@dataclass(frozen=True)
class Case:
    """A step: model of MODELS, method, share of labels, utterances of about so many seconds."""

    model: str
    method: str
    label_share: float
    utterances: int
    seconds: float
    norms: str = "float32"

    @property
    def change(self) -> dict[str, Any]:
        values = {f"model.{k}": v for k, v in MODELS[self.model].items()}
        values |= {"birq.label_layer": LABEL_LAYER[self.model], "birq.label_share": self.label_share, "pretrain.dropout": 0.0}
        values |= {"random_projection.n_codebooks": 1, "random_projection.codebook_size": 8192, "pretrain.mask_start_probability": 0.02}
        if self.norms != "float32":  # earlier commits know no other
            values["model.norms"] = self.norms
        return values | {"pretrain.mask_span_ms": 400.0, "birq.gradient_cosine_every_steps": 0, "features.n_mels": 80}

    @property
    def title(self) -> str:
        name = "BEST-RQ" if self.method == "best_rq" else f"BiRQ, {100 * self.label_share:.0f} % labels"
        norms = "" if self.norms == "float32" else f", norms in {self.norms}"
        return f"{self.model}, {name}, {self.utterances} x {self.seconds:g} s{norms}"


CASES = [
    Case("12 x 512", "best_rq", 1.0, 128, 12.4),
    Case("12 x 512", "birq", 0.25, 128, 12.4),
    Case("12 x 512", "best_rq", 1.0, 4, 12.4),
    Case("155 M", "best_rq", 1.0, 32, 12.4),
    Case("155 M", "best_rq", 1.0, 65, 12.3),
    Case("155 M", "birq", 1.0, 65, 12.3),
    Case("155 M", "birq", 1.0, 32, 24.5),
    Case("155 M", "birq", 1.0, 22, 35.0),
    Case("275 M", "best_rq", 1.0, 52, 12.3),
    Case("275 M", "birq", 1.0, 52, 12.3),
    Case("12 x 512", "best_rq", 1.0, 128, 12.4, "bf16"),
    Case("12 x 512", "birq", 0.25, 128, 12.4, "bf16"),
    Case("155 M", "birq", 1.0, 65, 12.3, "bf16"),
]


def measured(case: Case) -> dict[str, Any]:
    """One step by the code that this process imports."""
    from birq.speech.batches import Batch

    pretended.install(sizes_only=True)
    here = training()
    n_stack = MODELS[case.model]["n_stack"]
    run = here.Training(here.load(ROOT / "params.yaml"), case.method, case.change)
    shorter = 1 - 0.02 * np.random.default_rng(0).random(case.utterances)
    frames = (100 * case.seconds * shorter).astype(np.int64) // n_stack
    feats_BTF = torch.empty(len(frames), int(frames.max()) * n_stack, 80).pin_memory()
    names, audio = [str(i) for i in range(len(frames))], float(frames.sum() * n_stack / 100)
    batches = [Batch(feats_BTF, torch.from_numpy(frames), names, [None] * len(frames), np.arange(len(frames)), audio)]
    weights = list(run.model.parameters())
    for step in range(COUNTED + 1):
        if hasattr(run.task, "ready"):  # earlier commits make nothing ahead
            from birq.train.runtime.ahead import pinned

            ready = pinned(run.task.ready(batches, step, 0))
        else:
            ready = batches
        gc.collect()
        SEEN.clear()
        run.optimiser.zero_grad(set_to_none=True)
        run.task.backward(ready, step, 0)
        norm = torch.nn.utils.clip_grad_norm_(weights, run.section.clip_norm)
        run.optimiser.step()
        float(norm)
    work = SEEN.work
    return {
        "waits": len(SEEN.waits),
        "where": SEEN.waits,
        "attention": dict(SEEN.attention),
        "kernels": work.kernels,
        "gigabytes": work.bytes / 1e9,
        "tera_operations": work.operations / 1e12,
        "bound_ms": 1000 * work.seconds,
        "audio_hours_per_hour": audio / work.seconds,
        "by_name_ms": {k: round(1000 * v, 2) for k, v in work.seconds_by_name.most_common(12)},
        "peak_gib": SEEN.peak / 2**30,
    }


def planned_gib(case: Case) -> float:
    """What `birq plan` reckons with."""
    from benchmarks.training import changed, load
    from birq.pipeline import dag
    from birq.study import plan

    seconds = case.utterances * case.seconds  # padding takes memory too
    audio = {"pretrain.micro_batch_seconds": seconds, "pretrain.batch_seconds": seconds}
    params = changed(load(ROOT / "params.yaml"), case.change | audio)
    node = next(n for n in dag.nodes(params) if n.stage.name == "pretrain" and n.wildcards["method"] == case.method)
    training = plan.planned(node, case.seconds, case.seconds, {})
    assert training is not None
    return training.weight_gib + training.activation_gib


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="commit")
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--details", action="store_true", help="the waits, and where the bound's time is")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if why := pretended.unknown_torch():
        sys.exit(f"error: {why}")
    if options.child:
        print(json.dumps(measured(Case(**json.loads(options.child)))))
        return
    print("| step | code | waits | attention | kernels | GB moved | TFLOP | bound, ms | h/h | peak GiB | plan |")
    print("|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        codes = {"before": stack.enter_context(code_of(options.before))} if options.before else {}
        for case in (c for c in CASES if c.model in options.sizes):
            known = codes if case.norms == "float32" else {}  # to earlier commits
            for side, code in (known | {"after": ROOT}).items():
                seen = in_a_process("benchmarks.emulated", code, ["--child", json.dumps(asdict(case))])
                kernels = ", ".join(f"{k} {n}" for k, n in seen["attention"].items())
                cells = [seen["waits"], kernels, f"{seen['kernels']:,}", f"{seen['gigabytes']:.1f}", f"{seen['tera_operations']:.1f}"]
                cells += [f"{seen['bound_ms']:.1f}", f"{seen['audio_hours_per_hour']:,.0f}", f"{seen['peak_gib']:.1f}"]
                cells.append(f"{planned_gib(case):.1f}" if side == "after" else "")
                print("| " + " | ".join(str(c) for c in [case.title, side, *cells]) + " |", flush=True)
                if options.details:
                    print(json.dumps({"where": seen["where"], "ms": seen["by_name_ms"]}), flush=True)


if __name__ == "__main__":
    main()
