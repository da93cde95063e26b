"""A training step, float32, one thread: BEST-RQ against SpeechBrain's recipe, BiRQ against BEST-RQ, both against their matrix products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import models
from benchmarks.harness import Contender, Part, peak_mib, race
from benchmarks.training import Change

# the recipe's: feed-forward four times as wide, convolution over 31 frames, one codebook of 8192
PUBLISHED = {
    "model.n_stack": 4,
    "model.n_heads": 4,
    "model.ff_expansion": 4,
    "model.conv_kernel": 31,
    "model.conv_expansion": 1,
    "model.positions": "rotary",
}
SMALL = PUBLISHED | {"model.d_model": 256, "model.n_layers": 8}
LARGE = PUBLISHED | {"model.d_model": 512, "model.n_layers": 12, "model.n_heads": 8}
NO_DROPOUT = {"pretrain.dropout": 0.0, "birq.label_layer": 6}
ONE_CODEBOOK = NO_DROPOUT | {"random_projection.n_codebooks": 1, "random_projection.codebook_size": 8192}
EIGHT_CODEBOOKS = NO_DROPOUT | {"random_projection.n_codebooks": 8, "random_projection.codebook_size": 1024}
SPEECHBRAIN, STACKED = "SpeechBrain", "birq, stacking 4"
FRONT_ENDS = {"birq, SpeechBrain's front end": lambda x: x, "birq, the same front end, lean": models.LeanFrontEnd}
METHODS: dict[str, tuple[str, Change]] = {  # method, change
    "BEST-RQ": ("best_rq", {}),
    "BiRQ, labels of a quarter of the batch": ("birq", {"birq.label_share": 0.25}),
    "BiRQ, labels of half the batch": ("birq", {"birq.label_share": 0.5}),
    "BiRQ, labels of the whole batch": ("birq", {"birq.label_share": 1.0}),
}


def best_rq(name: str, b: models.Batch, dropout: float) -> models.Step:
    """One of the BEST-RQ steps that do the same job."""
    if name == SPEECHBRAIN:
        return models.speechbrain_step(b, 256, 8, dropout)
    front = FRONT_ENDS[name](models.front_end()) if name in FRONT_ENDS else None
    return models.birq_step(b, "best_rq", SMALL | ONE_CODEBOOK | {"pretrain.dropout": dropout}, front)


def difference_of_front_ends(b: models.Batch) -> dict[str, float]:
    """Largest difference between the two implementations, over the largest value: of the outputs and of a weight's gradient."""
    theirs = models.front_end().eval()
    lean = models.LeanFrontEnd(theirs).eval()
    out, again = theirs(b.feats_BTF), lean(b.feats_BTF)
    pull = torch.randn_like(out)
    out.backward(pull)
    again.backward(pull)
    weight = next(m.weight for m in theirs.modules() if isinstance(m, torch.nn.Conv2d))
    assert weight.grad is not None and lean.weights[0].grad is not None
    pairs = {"out": (out, again), "gradient": (weight.grad.mT, lean.weights[0].grad)}
    return {name: float(((x - y).abs().max() / x.abs().max()).detach()) for name, (x, y) in pairs.items()}


def against_speechbrain(quick: bool, dropout: float) -> Part:
    b = models.batch(2 if quick else 4)
    names = (SPEECHBRAIN, *FRONT_ENDS, STACKED)
    steps = {name: best_rq(name, b, dropout) for name in names}
    contenders = [Contender(name, step) for name, step in steps.items()]
    contenders.append(Contender("floor: linear layers of birq, stacking 4", models.linear_floor(steps[STACKED])))
    work = f"one step of BEST-RQ on {b.seconds:.0f} s, d 256 x 8 layers, 8192 codes, dropout {dropout}, one thread"
    part = race(f"step, dropout {dropout}", work, contenders, 2 if quick else 5)
    part.facts["front_ends_differ_by"] = difference_of_front_ends(b)
    return part


def large(quick: bool) -> Part:
    b = models.batch(2 if quick else 3)
    step = models.birq_step(b, "best_rq", LARGE | ONE_CODEBOOK)
    contenders = [Contender("birq", step), Contender("floor: its linear layers", models.linear_floor(step))]
    return race(
        "step, large", f"one step of BEST-RQ on {b.seconds:.0f} s, d 512 x 12 layers, dropout 0, one thread", contenders, 2 if quick else 5
    )


def birq_over_best_rq(quick: bool, title: str, shape: str, change: Change, n_utterances: int) -> Part:
    b = models.batch(4 if quick else n_utterances)  # a quarter of it is whole utterances
    contenders = [Contender(name, models.birq_step(b, method, change | form)) for name, (method, form) in METHODS.items()]
    return race(title, f"one step on {b.seconds:.0f} s, {shape}, one thread", contenders, 2 if quick else 7)


# ---- memory


def memory_of(kind: str, name: str, n_utterances: int) -> Callable[[], None]:
    """For `peak_mib`: a step, after one that has made the optimiser's state."""
    torch.set_num_threads(1)
    b = models.batch(n_utterances)
    if kind == "BEST-RQ":
        step = best_rq(name, b, 0.1)
    else:
        method, form = METHODS[name]
        step = models.birq_step(b, method, SMALL | (ONE_CODEBOOK if kind == "1 x 8192" else EIGHT_CODEBOOKS) | form)
    step()
    return lambda: step() and None


def memory(quick: bool) -> Part:
    n = 2 if quick else 4
    part = Part("memory of a step", f"MiB at the peak on top of weights and optimiser, {models.batch(n).seconds:.0f} s, d 256 x 8 layers")
    for name in (SPEECHBRAIN, *FRONT_ENDS, STACKED):
        part.facts[f"BEST-RQ: {name}"] = peak_mib("benchmarks.step:memory_of", "BEST-RQ", name, n)["peak"]
    for kind in ("1 x 8192", "8 x 1024"):
        for name in METHODS:
            part.facts[f"{kind} codes: {name}"] = peak_mib("benchmarks.step:memory_of", kind, name, n)["peak"]
    return part


def run(scratch: Path, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    return [
        against_speechbrain(quick, 0.1),
        against_speechbrain(quick, 0.0),
        large(quick),
        birq_over_best_rq(quick, "BiRQ, one codebook", "d 256 x 8 layers, 1 x 8192 codes", SMALL | ONE_CODEBOOK, 4),
        birq_over_best_rq(quick, "BiRQ, eight codebooks", "d 256 x 8 layers, 8 x 1024 codes", SMALL | EIGHT_CODEBOOKS, 4),
        birq_over_best_rq(quick, "BiRQ, the demo's model", "the model of params.yaml, its codebooks", {}, 8),
        memory(quick),
    ]
