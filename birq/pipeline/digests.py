"""For DVC, which sees params by itself: digests of code and of corpora, in data/digests.

One file a stage, or one a stage and corpus or method. DVC's own stage `digests` writes them at every start.
A comment in the code changes none.
"""

from __future__ import annotations

import json
from pathlib import Path

from birq import files
from birq.pipeline import dag, locations, sources
from birq.settings.params import Params


def write(params: Params) -> list[Path]:
    """Bring `data/digests/STAGE.json`, `STAGE-CORPUS.json` and `STAGE-METHOD.json` up to date.

    Errors: BirqError where DVC could not go on.
    """
    locations.require_plain_name()
    folder = locations.data_root() / "digests"
    nodes = {folder / f"{node.stem}.json": node for node in dag.nodes(params)}
    content = {path: {"code": node.code, "sources": sources.digest(node)} for path, node in nodes.items()}
    for old in set(folder.glob("*.json")) - set(content):
        old.unlink()
    return [files.write_if_changed(path, json.dumps(c, indent=1, sort_keys=True) + "\n") for path, c in content.items()]
