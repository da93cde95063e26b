"""Proof that the artifacts in data/ were made by these params, these inputs and this code, and have not changed since."""

from __future__ import annotations

import importlib

from birq.errors import BirqError
from birq.pipeline import artifact, dag, keys, locations
from birq.pipeline.dag import Node
from birq.pipeline.why import differences
from birq.settings.params import Params

WAY_OUT = "run `snakemake --cores all` or `dvc repro`"


def node(one: Node) -> dict:
    """Check one artifact; returns its provenance. Errors: BirqError names the first thing that does not hold."""
    folder = one.folder
    record = artifact.of(one)
    if problem := artifact.damage(folder, record["files"]):
        raise BirqError(f"{problem}; delete {folder} and {locations.store_path(one.stage.name, record['key'])}, then {WAY_OUT}")
    if extra := sorted(set(artifact.list_files(folder)) - set(record["files"])):
        raise BirqError(f"{folder / extra[0]} was not made by the stage; remove it")
    if artifact.content_digest(record["files"]) != record["digest"]:
        raise BirqError(f"{one.provenance}: its digest does not fit its files; delete {folder} and {WAY_OUT}")
    parts = keys.key_parts(one)
    if keys.key_of(record["parts"]) != record["key"]:
        raise BirqError(f"{one.provenance}: its key is not that of its parts; delete {folder} and {WAY_OUT}")
    if keys.key_of(parts) != record["key"]:
        way = f"run `snakemake --cores all study`, or remove {folder}" if one.stage.asked else WAY_OUT
        raise BirqError(f"{folder} is stale: {differences(one.run, record['parts'], parts)[0]}; {way}")
    return record


def everything(params: Params) -> str:
    """Check every artifact of the current params, from the report back to the audio; returns a sentence, and a line per acceptance.

    The study and its runs only where it was made: nothing else needs them.
    """
    studied = bool(params.study.parts) and dag.find("study", params).provenance.exists()
    order = (dag.every if studied else dag.nodes)(params)[::-1]
    records = {one.name: node(one) for one in order}
    audio = 0
    for one in order:
        module = importlib.import_module(one.stage.module) if not one.stage.inputs else None
        streams = module is not None and getattr(params.corpora.get(one.wildcards.get("corpus", "")), "streams", False)
        if module is not None and not streams:  # the first stage knows the files outside of the project; archives are in its key
            audio += module.check_sources(one.folder)
    files = [f for r in records.values() for f in r["files"].values()]
    recordings = f", {audio} recordings" if audio else ""
    size = sum(f["bytes"] for f in files) / 2**20
    lines = [f"{len(order)} artifacts, {len(files)} files{recordings}, {size:.1f} MiB: every hash and every key holds"]
    for name, record in records.items():
        for accepted in record.get("accepted", []):
            lines.append(f"{name} was accepted on {accepted['when']} under changed code of {', '.join(sorted(accepted['code']))}")
    return "\n".join(lines)
