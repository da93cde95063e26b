"""Accept an artifact under changed code: for an edit that cannot change the result, where computing it again would take days.

`snakemake --touch` and `dvc commit` are the equivalents. Here the artifact keeps its bytes, gets the present key, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from birq.errors import BirqError
from birq.pipeline import artifact, code, dag, keys, locations, locking, snakemake, stage, why
from birq.pipeline.dag import Node
from birq.settings.params import Params

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stale:
    """An artifact that only its code separates from the present key."""

    node: Node
    record: dict[str, Any]
    parts: dict[str, Any]

    @property
    def changes(self) -> dict[str, list[str | None]]:
        """Digest before and now of each module that differs."""
        old, new = self.record["parts"]["code"], self.parts["code"]
        return {m: [old.get(m), new.get(m)] for m in sorted(old.keys() | new.keys()) if old.get(m) != new.get(m)}


def _stale(node: Node, asked: bool) -> Stale | None:
    """The artifact if only its code has changed. None if it is up to date, or stale for another reason and not `asked` for.

    Errors: BirqError if it was `asked` for and is missing, damaged, or made from other params or inputs.
    """
    try:
        record = artifact.of(node)
        if problem := artifact.damage(node.folder, record["files"], keys.memo(node, record["key"])):
            raise BirqError(f"{problem}; it is made again, not accepted")
        parts = keys.key_parts(node)
    except BirqError:
        if asked:
            raise
        return None
    if keys.key_of(parts) == record["key"]:
        return None
    if reasons := why.other_changes(node.run, record["parts"], parts):
        if asked:
            raise BirqError(f"{node.folder} cannot be accepted, only a change of code can: {reasons[0]}")
        return None
    return Stale(node, record, parts)


def _accept(stale: Stale, say: Say) -> None:
    """Store the artifact under its present key, and put it in the workspace."""
    node, key = stale.node, keys.key_of(stale.parts)
    stored = locations.store_path(node.stage.name, key)
    entry = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "from": stale.record["key"], "code": stale.changes}
    record = stale.record | {"key": key, "parts": stale.parts, "accepted": [*stale.record.get("accepted", []), entry]}
    with locking.lock(stored, say):
        if not stored.exists():
            artifact.adopt(node.folder, stored, link=not node.stage.files_declared, record=record)
            code.keep(stale.parts["code"])
        stage.publish(node, stored)
    snakemake.after_verb(node, snakemake.write_stamp(node))


def accept(texts: list[str], params: Params, say: Say, ask: Callable[[str], bool]) -> None:
    """Declare artifacts, and those made from them, good under the present code. Shows the lines that differ and asks first.

    Errors: BirqError for an artifact that differs in more than its code, or if the answer is no.
    """
    asked = [dag.find(text, params) for text in texts]
    names = {n.name for n in asked}
    stale = [s for n in dag.downstream(asked, params) if (s := _stale(n, n.name in names))]
    if any(not s.node.stage.shows_provenance for s in stale):  # the report lists accepted artifacts, so it is made again
        stale = [s for s in stale if not s.node.stage.shows_provenance]
    if not stale:
        say("nothing to accept: the artifacts are up to date")
        return
    shown: set[str] = set()
    for s in stale:
        say(f"{s.node.folder} was made by other code:")
        lines = why.code_changes(s.record["parts"], s.parts)
        fresh = [line for line in lines if line not in shown]
        for line in fresh or ["the same change as above"]:
            say(f"  {line}")
        shown |= set(lines)
    if not ask(f"Is the result of this code the same, to the bit? Accept {len(stale)} artifact(s)?"):
        raise BirqError("nothing was accepted")
    for s in stale:
        _accept(s, say)
        say(f"{s.node.name}: accepted under the present code")
