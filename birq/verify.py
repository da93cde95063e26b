"""Proof that what lies in data/ was made by these params, these inputs and this code, and has not changed since."""

from __future__ import annotations

import json
from pathlib import Path

from birq import artifact as store
from birq import dag, places, stage
from birq.corpora import manifests
from birq.errors import BirqError
from birq.hashes import sha256_file
from birq.params import Params
from birq.progress import Progress
from birq.why import differences

WAY_OUT = "run `snakemake --cores all` or `dvc repro`"


def artifact(name: str, wildcards: dict[str, str], params: Params) -> tuple[Path, int, int]:
    """Check one artifact; returns folder, files, bytes.

    Errors: BirqError names the first thing that does not hold.
    """
    folder = dag.artifact(name, wildcards)
    record = store.read_provenance(folder)
    if problem := store.damage(folder, record["files"]):
        raise BirqError(f"{problem}; delete {folder} and {places.store_path(name, record['key'])}, then {WAY_OUT}")
    if extra := sorted(set(store.list_files(folder)) - set(record["files"])):
        raise BirqError(f"{folder / extra[0]} was not made by the stage; remove it")
    if store.content_digest(record["files"]) != record["digest"]:
        raise BirqError(f"{folder / store.PROVENANCE}: its digest does not fit its files; delete {folder} and {WAY_OUT}")
    parts = stage.key_parts(name, wildcards, params)
    if stage.key_of(parts) != record["key"]:
        raise BirqError(f"{folder} is stale: {differences(record['parts'], parts)[0]}; {WAY_OUT}")
    return folder, len(record["files"]), sum(f["bytes"] for f in record["files"].values())


def recordings(folder: Path) -> int:
    """Hash the user's audio that a corpus artifact refers to; returns how many files. Errors: BirqError names the first that differs."""
    if manifests.info(folder)["synthetic"]:
        return 0  # its audio lies in the artifact and is hashed with it
    root = manifests.audio_root(folder)
    seen: dict[str, str] = {}
    for split in manifests.splits(folder):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            cut = json.loads(line)
            seen[cut["recording"]["sources"][0]["source"]] = cut["custom"]["sha256"]
    progress = Progress(f"hashing {root}", len(seen), "recording")
    for n, (name, want) in enumerate(sorted(seen.items()), 1):
        path = root / name
        if not path.is_file():
            raise BirqError(f"{path} is missing; {folder} was made from it")
        if sha256_file(path) != want:
            raise BirqError(
                f"{path} has changed since {folder} was made from it (SHA-256 differs); run `snakemake --cores all` or `dvc repro`"
            )
        progress.update(n)
    return len(seen)


def everything(params: Params) -> str:
    """Check every artifact of the current params, from the report back to the audio; returns one sentence."""
    order = [(name, w) for name in dag.STAGES for w in dag.instances(name, params)][::-1]
    checked = [artifact(name, w, params) for name, w in order]
    audio = sum(recordings(dag.artifact(name, w)) for name, w in order if name == "corpus")
    files, size = sum(c[1] for c in checked), sum(c[2] for c in checked)
    heard = f", {audio} recordings" if audio else ""
    return f"{len(checked)} artifacts, {files} files{heard}, {size / 2**20:.1f} MiB: every hash and every key holds"
