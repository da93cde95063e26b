"""Labels that another method's encoder makes: which methods those are, and whether they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birq.settings.methods import METHODS

if TYPE_CHECKING:
    from birq.settings.params import Params


def sources(params: Params, run: str) -> list[str]:
    """The methods whose encoders make the labels of a name in run.methods, the first one first."""
    source = params.method(run).labels_from
    return [*sources(params, source), source] if source in METHODS else []


def check(params: Params, run: str) -> None:
    """The source has the layer, and its frames are those of the method that learns from them. A source has the numbers of params.yaml.

    Errors: ValueError names the key, its value and the legal ones.
    """
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
    check(params, source)
