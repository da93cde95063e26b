"""Proof that what lies in data/ was made by these params, these inputs and this code, and has not changed since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from birq import artifact as store
from birq import dag, stage
from birq.errors import BirqError
from birq.params import Params


def _differs(made: dict[str, Any], now: dict[str, Any]) -> str:
    """Names the first part of a key that is not what it was."""
    for section, value in now["params"].items():
        old = made.get("params", {}).get(section)
        if old != value:
            if isinstance(old, dict) and isinstance(value, dict):
                key = next(k for k in sorted(old.keys() | value.keys()) if old.get(k) != value.get(k))
                return f"{section}.{key} was {json.dumps(old.get(key))} when it was made, is {json.dumps(value.get(key))} now"
            return f"{section} was {json.dumps(old)} when it was made, is {json.dumps(value)} now"
    for name, digest in now["inputs"].items():
        if made.get("inputs", {}).get(name) != digest:
            return f"its input {name} is another one than when it was made"
    if made.get("code") != now["code"]:
        return "the stage's code has changed since it was made"
    return "the files of the corpus folder have changed since it was made"


def artifact(name: str, wildcards: dict[str, str], params: Params) -> tuple[Path, int, int]:
    """Check one artifact; returns folder, files, bytes.

    Errors: BirqError names the first thing that does not hold.
    """
    folder = dag.artifact(name, wildcards)
    record = store.read_provenance(folder)
    way_out = "run `snakemake --cores all` or `dvc repro`"
    if problem := store.damage(folder, record["files"], rehash=True):
        raise BirqError(f"{problem}; delete {folder} and {stage.store_path(name, record['key'])}, then {way_out}")
    if extra := sorted(set(store.list_files(folder)) - set(record["files"])):
        raise BirqError(f"{folder / extra[0]} was not made by the stage; remove it")
    if store.content_digest(record["files"]) != record["digest"]:
        raise BirqError(f"{folder / store.PROVENANCE}: its digest does not fit its files; delete {folder} and {way_out}")
    parts = stage.key_parts(name, wildcards, params)
    if stage.key_of(parts) != record["key"]:
        raise BirqError(f"{folder} is stale: {_differs(record['parts'], parts)}; {way_out}")
    return folder, len(record["files"]), sum(f["bytes"] for f in record["files"].values())


def everything(params: Params) -> str:
    """Check every artifact of the current params, first to last; returns one sentence."""
    checked = [artifact(name, w, params) for name in dag.STAGES for w in dag.instances(name, params)]
    files, size = sum(c[1] for c in checked), sum(c[2] for c in checked)
    return f"{len(checked)} artifacts, {files} files, {size / 2**20:.1f} MiB: every hash and every key holds"
