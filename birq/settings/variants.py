"""Variants: a method with some numbers changed, under a name of its own. The section `variants` of params.yaml."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from birq.settings import explain
from birq.settings.methods import FROM_ANEW, METHODS, Method

VARIED = ("model", "finetune", "decode", "search")  # sections that a variant may change, besides those of its method and of its labels
P = TypeVar("P", bound=BaseModel)  # Params


def readable(params: BaseModel, method: Method) -> dict[str, list[str]]:
    """The keys that a variant of a method may change, by section."""
    legal: dict[str, list[str]] = {}
    for dotted in (*method.sections, *method.label_sections, *VARIED):
        section, _, key = dotted.partition(".")
        fields = type(getattr(params, section)).model_fields
        legal.setdefault(section, []).extend([key] if key else fields)
    return legal


def varied(params: P, name: str, variant: dict[str, Any]) -> P:
    """Params with a variant's numbers. Errors: ValueError names the variant, its key and the legal ones."""
    where = f"variants.{name}"
    if name in METHODS:
        raise ValueError(f"{where}: is the name of a method; choose another one")
    if name == FROM_ANEW:
        raise ValueError(f"{where}: in pretrain.starts_from, that stands for no encoder at all; choose another name")
    if variant.get("method") not in METHODS:
        raise ValueError(f"{where}.method: {variant.get('method')!r} is not a method; legal: {', '.join(METHODS)}")
    method = METHODS[variant["method"]]
    legal = readable(params, method)
    tree = params.model_dump(mode="python", exclude={"variants", "study"})
    tree["run"]["methods"] = [method.name]
    for dotted, value in variant.items():
        if dotted == "method":
            continue
        section, _, key = dotted.partition(".")
        if key not in legal.get(section, ()):
            close = difflib.get_close_matches(dotted, [f"{s}.{k}" for s, keys in legal.items() for k in keys], n=1)
            hint = f"did you mean {close[0]}?" if close and key else f"it reads keys of {', '.join(legal)}, such as {_example(legal)}"
            hint = explain.SUCCESSORS.get(dotted, hint)
            raise ValueError(f"{where}: {dotted} is not read by a variant of {method.name}; {hint}")
        tree[section][key] = value
    try:
        return type(params).model_validate(tree, context={"variant": True})
    except ValidationError as e:
        raise ValueError(f"{where}: " + "; ".join(_reason(x) for x in e.errors())) from None


def _example(legal: dict[str, list[str]]) -> str:
    section = "birq" if "birq" in legal else next(iter(legal))
    return f"{section}.{legal[section][0]}"


def _reason(error: Any) -> str:
    """One of pydantic's errors as key, value and why."""
    key, why = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return why if isinstance(error["input"], (dict, BaseModel)) else f"{key}: {error['input']!r} is not legal: {why}"
