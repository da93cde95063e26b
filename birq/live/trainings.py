"""The trainings of the present params, and where their curves lie while they grow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birq.pipeline import artifact, dag, keys, locations
from birq.pipeline.dag import Node
from birq.settings.params import Params


@dataclass(frozen=True)
class Training:
    """One pre-training or fine-tuning. name: `pretrain/birq-0`. folder: of its curves."""

    name: str
    node: Node
    key: str
    folder: Path
    finished: bool

    @property
    def curve(self) -> Path:
        return self.folder / "curve.jsonl"


def _key(node: Node) -> str | None:
    """The key of a training, or None while its inputs are not there or are those of other params."""
    key = keys.current_key(node)
    for before in (n for n in node.before if n.method) if key else ():
        if artifact.of(before)["key"] != _key(before):
            return None
    return key


def nodes(params: Params) -> list[Node]:
    return [n for n in dag.every(params) if n.stage.ranks]


def training(node: Node) -> Training | None:
    """A training that could begin: finished, at work, or stopped. None while its inputs are not there."""
    if (key := _key(node)) is None:
        return None
    stored = locations.store_path(node.stage.name, key)
    finished = stored.exists()
    return Training(node.name, node, key, stored if finished else locations.work_root() / node.stage.name / key / "scratch", finished)


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The finished lines of a file of JSON lines that may grow meanwhile; a step that a resumed training writes again comes once."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:  # not begun, or published just now: the next look finds it
        return
    step = 0
    for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()):
        if line["step"] > step:
            step = line["step"]
            yield line
