"""Runs that are made from other runs: from their encoders come labels, or the first weights. Which those are, and whether they can be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from birq.settings.methods import FROM_ANEW, METHODS

if TYPE_CHECKING:
    from birq.settings.params import Params

LEARNS, STARTS = "learns labels of", "starts from"


def parents(params: Params, run: str) -> dict[str, str]:
    """Why -> the name whose encoder a name in run.methods needs. A source of labels is a method, with the numbers of params.yaml."""
    found = {LEARNS: params.method(run).labels_from, STARTS: params.starts_from(run)}
    return {why: name for why, name in found.items() if name and (why == STARTS or name in METHODS)}


def sources(params: Params, run: str) -> list[str]:
    """All runs whose encoders stand behind a name in run.methods, the first one first."""
    return list(dict.fromkeys(name for parent in parents(params, run).values() for name in (*sources(params, parent), parent)))


def also_made(params: Params) -> list[str]:
    """A line for each name in run.methods that needs encoders of methods that it lacks."""
    lines = []
    for run in params.run.methods:
        for why, parent in parents(params, run).items():
            lacking = [name for name in (*sources(params, parent), parent) if name not in params.run.methods]
            if lacking:
                lines.append(f"run.methods: {run} {why} {', then '.join(lacking)}, which is made as well")
    return lines


def studied(params: Params) -> list[str]:
    """A line for each part of the study, and for the encoders that it needs besides."""
    lines = []
    for name, part in params.study.parts.items():
        seeds, end = ", ".join(map(str, part.seeds)), "fine-tuned and scored too" if part.words else "pre-trained and probed"
        line = f"study.parts.{name}: {len(part.names)} names with seeds {seeds}, {end} by `snakemake --cores all study`"
        behind = dict.fromkeys(s for run in part.names for s in sources(params, run) if s not in part.names)
        lines.append(line + (f"; {', '.join(behind)} for them" if behind else ""))
    return lines


def check(params: Params, run: str) -> None:
    """What a name in run.methods is made from is there, has the layer and the shape, and is not made from that name.

    Errors: ValueError names the key, its value and the legal ones.
    """
    _start(params, run)
    _no_circle(params, run)
    _labels(params, run)
    for name in sources(params, run):
        _start(params, name)
        _labels(params, name)


def _no_circle(params: Params, run: str, *readers: str) -> None:
    """`readers`: the runs that need this one, with their reasons."""
    if run in readers:
        circle = " ".join([*readers[readers.index(run) :], run])
        raise ValueError(
            f"pretrain.starts_from: {circle}, so none can be the first; let one begin with {FROM_ANEW} "
            "(the value in params.yaml holds for every name, one under `variants` for that name alone)"
        )
    for why, parent in parents(params, run).items():
        _known(params, run, parent)
        _no_circle(params, parent, *readers, run, why)


def _known(params: Params, run: str, name: str) -> None:
    if name in METHODS or name in params.variants:
        return
    legal = [FROM_ANEW, *METHODS, *params.variants]
    close = difflib.get_close_matches(name, legal, n=1)
    raise ValueError(
        f"{_where(params, run)}pretrain.starts_from: {name!r} is neither a method nor in variants"
        + (f", did you mean {close[0]}?" if close else "")
        + f"; legal: {', '.join(legal)}"
    )


def _where(params: Params, run: str) -> str:
    return f"variants.{run}: " if run in params.variants else ""


def _start(params: Params, run: str) -> None:
    """The weights of the other encoder fit."""
    if (start := params.starts_from(run)) is None:
        return
    _known(params, run, start)
    here, there = params.of_run(run).model, params.of_run(start).model
    for key in type(here).model_fields:
        if (mine := getattr(here, key)) != (other := getattr(there, key)):
            raise ValueError(
                f"{_where(params, run)}pretrain.starts_from: {start}'s encoder has model.{key} = {other}, that of {run} {mine}, and its "
                f"weights cannot begin as the other's; set both alike, or start from a variant that has model.{key}: {mine}"
            )


def _labels(params: Params, run: str) -> None:
    """The source of labels has the layer, and its frames are those of the run that learns from them."""
    method, here = params.method(run), params.of_run(run)
    source = method.labels_from
    if source not in METHODS:
        return
    section, _, key = (method.label_layer or "").partition(".")
    if (layer := getattr(getattr(here, section), key)) > params.model.n_layers:
        raise ValueError(
            f"{method.label_layer}: {layer} is above the depth of {source}'s encoder, whose layer makes the labels of {run}; "
            f"legal: 1 to model.n_layers = {params.model.n_layers}"
        )
    if here.model.n_stack != params.model.n_stack:
        raise ValueError(
            f"variants.{run}: model.n_stack = {here.model.n_stack}, but its labels come from {source}'s encoder with model.n_stack = "
            f"{params.model.n_stack}: their frames differ; change model.n_stack itself, for all methods"
        )
