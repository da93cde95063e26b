"""The key of an artifact: a digest of everything that decides its result, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birq.errors import BirqError
from birq.pipeline import artifact, locations, sources
from birq.pipeline.dag import Node
from birq.settings.params import section


def key_parts(node: Node) -> dict[str, Any]:
    """Everything that decides a node's result. Errors: BirqError for an input that is missing or damaged.

    The name of a run is not in it: a variant that changes nothing the stage reads has the same key as its method.
    """
    records = {label: sound(n) for label, n in labelled_inputs(node).items()}
    parts = {
        "stage": node.stage.name,
        "wildcards": {k: v for k, v in node.wildcards.items() if k != "method"},
        "params": {s: section(node.params, s) for s in node.sections},
        "inputs": {label: record["digest"] for label, record in records.items()},
        "code": node.code,
        "sources": sources.digest(node),
    }
    if node.stage.shows_provenance:
        parts["accepted"] = {label: record["accepted"] for label, record in records.items() if "accepted" in record}
    return parts


def labelled_inputs(node: Node) -> dict[str, Node]:
    """A node's inputs under the names that its key has for them; that of the same run is called by its stage alone."""
    labelled = {}
    for stage, nodes in node.inputs.items():
        own = nodes[0].wildcards.get("method") if nodes else None
        labelled |= {stage if own and own == node.wildcards.get("method") else n.name: n for n in nodes}
    return labelled


def key_of(parts: dict[str, Any]) -> str:
    """The key of an artifact, from everything that decides it."""
    return artifact.sha256_json(parts)[:32]


def current_key(node: Node) -> str | None:
    """The key under the present params, inputs and code; None while an input is missing or damaged."""
    try:
        return key_of(key_parts(node))
    except BirqError:
        return None


def in_place(node: Node) -> bool:
    """Whether a node's artifact is there, sound, and made under the present params, inputs and code."""
    try:
        return sound(node)["key"] == current_key(node)
    except BirqError:
        return False


def sound(node: Node) -> dict[str, Any]:
    """The provenance of an input. Errors: BirqError if it is missing or damaged."""
    record = artifact.of(node)
    if problem := artifact.damage(node.folder, record["files"], memo(node, record["key"])):
        raise BirqError(f"{problem}; delete {node.folder} and run again: it is restored from {locations.store_root()} or made anew")
    return record


def memo(node: Node, key: str) -> Path:
    """Where the hashes of an artifact's files are remembered."""
    return locations.memo(f"{node.stage.name}-{key}")
