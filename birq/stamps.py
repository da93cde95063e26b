"""Stamps: one small file per stage that holds what decides its result besides its inputs.

Snakemake compares files, so the params sections that a stage reads and the digest of its code become a file that its rule has as input.
A stamp is rewritten only when its content changes; comments in params.yaml or in the code change nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from birq import artifact, code, dag, places, stage
from birq.errors import BirqError
from birq.params import Params, section

CLOCK_SECONDS = 1.0  # clocks that differ by less do no harm


def path(name: str, wildcards: dict[str, str]) -> Path:
    """Where a stage's stamp lies; runs of one stage (methods, seeds) share it, corpora have one each."""
    corpus = wildcards.get("corpus")
    return places.data_root() / ".stamps" / (f"{name}-{corpus}.json" if corpus else f"{name}.json")


def content(name: str, wildcards: dict[str, str], params: Params) -> str:
    """What a stage's stamp says under these params and this code."""
    record = {
        "code": code.digests(dag.STAGES[name].code),
        "params": {s: section(params, s) for s in dag.sections(name, wildcards)},
        "sources": stage.outside_files(name, wildcards, params),
    }
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def write(name: str, wildcards: dict[str, str], params: Params) -> Path:
    """Bring one stamp up to date; an unchanged one keeps its time."""
    return _write(path(name, wildcards), content(name, wildcards, params))


def _write(target: Path, text: str) -> Path:
    try:
        if target.read_text(encoding="utf-8") == text:
            return target
    except FileNotFoundError:
        pass
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, target)
    return target


def write_sources(params: Params) -> list[Path]:
    """For DVC, which sees params and code by itself: `data/sources/CORPUS.json`, the digest of a corpus' own folders."""
    folder = places.data_root() / "sources"
    digests = {c: stage.outside_files("corpus", {"corpus": c}, params) for c in params.corpora}
    return [_write(folder / f"{c}.json", json.dumps({"sources": d}) + "\n") for c, d in digests.items()]


def write_all(params: Params) -> list[Path]:
    """Bring every stamp up to date."""
    wanted = {path(name, w): (name, w) for name in dag.STAGES for w in dag.instances(name, params)}
    return [write(name, w, params) for name, w in wanted.values()]


def unprotect(params: Params) -> None:
    """Copy the files that Snakemake declares as outputs where DVC left read-only links to its cache: Snakemake refuses to replace those."""
    for name in dag.STAGES:
        for wildcards in dag.instances(name, params):
            folder = dag.artifact(name, wildcards)
            files = artifact.list_files(folder) if name == "report" else []
            for path in (folder / f for f in (artifact.PROVENANCE, *files)):
                if not path.exists() or path.stat().st_mode & stat.S_IWUSR:
                    continue
                fresh = path.with_name(f".{path.name}.{os.getpid()}")
                shutil.copyfile(path, fresh)
                shutil.copystat(path, fresh)
                os.chmod(fresh, 0o644)
                os.replace(fresh, path)


def mend_times(params: Params, say: Callable[[str], None]) -> None:
    """Give what is dated in the future the present time: a machine whose clock is ahead made it.

    Until then, Snakemake would refuse whatever is made from it.
    """
    for name in dag.STAGES:
        for wildcards in dag.instances(name, params):
            for made in (path(name, wildcards), dag.artifact(name, wildcards) / artifact.PROVENANCE):
                if made.exists() and made.stat().st_mtime > time.time() + CLOCK_SECONDS:
                    say(f"{made} is dated in the future: do clocks differ? Its time is set to now")
                    os.utime(made)


def _has_other_key(name: str, wildcards: dict[str, str], record: dict[str, Any], params: Params) -> bool:
    """Whether an artifact was made by other params, inputs or code: `dvc checkout` brings such ones, with any time."""
    try:
        return stage.key_of(stage.key_parts(name, wildcards, params)) != record["key"]
    except BirqError:  # an input is missing or damaged: the stage is run anyway
        return False


def mark_stale(params: Params, say: Callable[[str], None]) -> None:
    """Make Snakemake see artifacts that are damaged, or that others would replace: their provenance gets an old time.

    Sound ones that the store lacks are taken into it.

    Snakemake itself looks at nothing but the time of provenance.json.
    """
    for name in dag.STAGES:
        for wildcards in dag.instances(name, params):
            folder = dag.artifact(name, wildcards)
            if not (folder / artifact.PROVENANCE).exists():
                continue
            try:
                record = artifact.read_provenance(folder)
                problem = artifact.damage(folder, record["files"], places.memo(f"{name}-{record['key']}"))
            except artifact.NewerFormatError:
                raise
            except BirqError as e:
                problem = str(e)
            if problem:
                say(f"{problem}: will be made again")
            else:
                # a clone after `dvc pull`: Snakemake deletes a stage's provenance before it calls the verb, which could do it otherwise
                stage.keep(folder, places.store_path(name, record["key"]), say)
            if problem or _has_other_key(name, wildcards, record, params):
                os.utime(folder / artifact.PROVENANCE, (1, 1))
