"""Forms of pre-training compared by the linear probe of their encoders, over seeds. Needs no fine-tuning, so it can screen many forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from birq.errors import BirqError
from birq.evaluate.compare import MIN_SEEDS
from birq.files import read_json
from birq.pipeline import artifact, dag, verify
from birq.pipeline.artifact import read_provenance
from birq.report.tables import grid, pipes, points
from birq.report.words import counted, listed, mean
from birq.settings.params import Params

MOST_SHOWN = 2  # changes of a variant


@dataclass(frozen=True)
class Form:
    """A method or variant with its seeds."""

    name: str
    changed: str  # the numbers of a variant; empty for a method
    layers: Mapping[int, list[float]]  # by seed, the linear probe's accuracy in layers 0 (input) to K, fractions
    seconds: Mapping[int, float]  # by seed, of pre-training and of what its labels come from


@dataclass(frozen=True)
class Difference:
    """Of a form from another one with the same seeds."""

    mean: float
    low: float | None  # None below MIN_SEEDS seeds
    high: float | None


def _changed(params: Params, name: str) -> str:
    changes = [f"{key.rpartition('.')[2]} {value}" for key, value in params.variants.get(name, {}).items() if key != "method"]
    more = len(changes) - MOST_SHOWN
    return ", ".join(changes if more <= 0 else [*changes[:MOST_SHOWN], f"{more} more"])


def forms(params: Params) -> tuple[list[Form], list[str]]:
    """Every name in run.methods with the seeds that are probed, and the probes that are not there.

    Errors: BirqError for a probe that is stale or damaged, or was trained on no frames.
    """
    probes = {(n.wildcards["method"], int(n.wildcards["seed"])): n for n in dag.nodes(params, "probe")}
    lacking = [n.name for n in probes.values() if not n.provenance.exists()]
    out = []
    for name in params.run.methods:
        layers, seconds = {}, {}
        for seed in params.run.seeds:
            node = probes[name, seed]
            if node.name in lacking:
                continue
            verify.node(node)
            found = read_json(node.folder / "probe.json")
            if not found["linear"]["available"]:
                raise BirqError(f"{node.folder}/probe.json: no linear probe: {found['linear']['why_not']}")
            layers[seed] = [row["linear"] for row in found["rows"]]
            pretrained = dag.node("pretrain", node.wildcards, params)
            seconds[seed] = artifact.seconds(read_provenance(pretrained.folder))
        if layers:
            out.append(Form(name, _changed(params, name), layers, seconds))
    return out, lacking


def difference(form: Form, base: Form, layer: int, confidence: float) -> Difference | None:
    """Of the seeds that both have: mean, and the interval by Student's t, which is exact for normal seed effects. None without a seed."""
    seeds = [s for s in form.layers if s in base.layers]
    if not seeds:
        return None
    by_seed = np.array([form.layers[s][layer] - base.layers[s][layer] for s in seeds])
    if len(seeds) < MIN_SEEDS:
        return Difference(float(by_seed.mean()), None, None)
    half = float(stats.t.ppf((1 + confidence) / 2, len(seeds) - 1) * by_seed.std(ddof=1) / np.sqrt(len(seeds)))
    return Difference(float(by_seed.mean()), float(by_seed.mean()) - half, float(by_seed.mean()) + half)


def _base(made: list[Form], name: str) -> Form:
    for form in made:
        if form.name == name:
            return form
    raise BirqError(f"--against {name}: has no probe here; these have: {', '.join(f.name for f in made)}")


def _row(form: Form, base: Form, layer: int, depth: int, confidence: float) -> list[str]:
    seeds = list(form.layers)
    cells = [form.name, form.changed, str(len(seeds))]
    cells += [f"{100 * mean([form.layers[s][k] for s in seeds]):.1f}" for k in range(1, depth + 1)]
    d = difference(form, base, layer, confidence) if form is not base else None
    text = "" if d is None else points(d.mean)
    if d is not None and d.low is not None:
        text += f" [{points(d.low)}, {points(d.high)}]"
    return [*cells, text, f"{mean(list(form.seconds.values())) / 60:.1f}"]


def text(params: Params, against: str, layer: int | None, *, markdown: bool) -> str:
    """One row a form: mean accuracy of every layer over the seeds, and the difference from another form in one layer.

    layer: birq.label_layer if None. Errors: BirqError if nothing is probed yet, for a form or a layer that is not there.
    """
    made, lacking = forms(params)
    if not made:
        raise BirqError("nothing is probed yet; `snakemake --cores all --until probe` or `dvc repro probe` makes and probes every encoder")
    layer, base = params.birq.label_layer if layer is None else layer, _base(made, against)
    depth = min(len(x) for f in made for x in f.layers.values()) - 1
    if not 1 <= layer <= depth:
        raise BirqError(f"--layer {layer}: legal are 1 to {depth}")
    sure = params.score.confidence
    unit = f"less {against}, layer {layer}" + (f" [{100 * sure:g} %]" if len(params.run.seeds) >= MIN_SEEDS else "")
    head = ["form", "changed", "seeds", *(f"layer {k}" for k in range(1, depth + 1)), unit, "min"]
    order = sorted(made, key=lambda f: -mean([x[layer] for x in f.layers.values()]))
    lines = (pipes if markdown else grid)(head, [_row(f, base, layer, depth, sure) for f in order], left=2)
    return "\n".join([*lines, "", *_notes(params, lacking)])


def _notes(params: Params, lacking: list[str]) -> list[str]:
    notes = [
        f"Linear phone probe: frames of the {params.probe.split} split whose phone is found, %. {counted(params.pretrain.steps, 'step')} "
        "of pre-training; min: of pre-training, with labels and the encoders behind them."
    ]
    if len(params.run.seeds) < MIN_SEEDS:
        notes.append(f"Fewer than {MIN_SEEDS} seeds support no statement about forms: this screens.")
    if lacking:
        notes.append(f"Not probed yet: {listed(lacking)}.")
    return notes


def record(params: Params) -> list[dict[str, Any]]:
    """The same facts for a file: one row a form."""
    return [
        {"form": f.name, "changed": params.variants.get(f.name, {"method": f.name}), "layers": dict(f.layers), "seconds": dict(f.seconds)}
        for f in forms(params)[0]
    ]
