"""For DVC, which sees params by itself: digests of code and of corpora, in data/digests.

One file a stage, or one a stage and corpus or method. DVC's own stage `digests` writes them at every start.
A comment in the code changes none. dvc.yaml has no stage for labels, so the file of a method that learns some holds what decides those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from birq import files
from birq.pipeline import dag, locations, snakemake, sources
from birq.pipeline.dag import Node
from birq.settings.params import Params


def write(params: Params) -> list[Path]:
    """Bring `data/digests/STAGE.json`, `STAGE-CORPUS.json` and `STAGE-METHOD.json` up to date.

    Errors: BirqError where DVC could not go on.
    """
    locations.require_plain_name()
    folder = locations.data_root() / "digests"
    nodes = {folder / f"{node.stem}.json": node for node in dag.every(params)}
    # the study's group in DVC depends on its file: where params have no study, its verb says so
    wanted = {folder / "study.json": {}} | {path: content(node) for path, node in nodes.items()}
    for old in set(folder.glob("*.json")) - set(wanted):
        old.unlink()
    return [files.write_if_changed(path, json.dumps(c, indent=1, sort_keys=True) + "\n") for path, c in wanted.items()]


def content(node: Node) -> dict[str, Any]:
    """What DVC does not see of a node, and of those that its verb makes on the way, with what only they read."""
    made = dag.on_the_way(node)
    known = {n.name for n in (*made, *node.before)}
    read = {n.name: n for m in made for n in m.before if n.name not in known}
    out: dict[str, Any] = {"code": node.code, "sources": sources.digest(node)}
    if made:
        out["before"] = {n.stem: json.loads(snakemake.stamp_content(n)) for n in (*read.values(), *made)}
    return out
