"""The adapter to Snakemake, which compares only the times of files: stamps for changes that it cannot see, and repairs of times.

A stamp is a small file with everything that decides a node's result besides its inputs: params, code, a corpus' own files. Its rule
has it as input. It is rewritten only when its content changes; comments in params.yaml or in the code change nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from birq import files
from birq.errors import BirqError
from birq.pipeline import artifact, dag, keys, locations, sharing, sources, stage
from birq.pipeline.dag import Node
from birq.settings import lineage, presets, yamlfile
from birq.settings.params import Params, parse, section

CLOCK_SECONDS = 1.0  # clocks that differ by less do no harm


# ---- stamps


def stamp_path(node: Node) -> Path:
    """A corpus and a method have a stamp of their own; the seeds of a method share one."""
    return locations.data_root() / ".stamps" / f"{node.stem}.json"


def stamp_content(node: Node) -> str:
    """Everything that decides the node's result besides its inputs, under these params and this code."""
    record = {
        "code": node.code,
        "params": {s: section(node.params, s) for s in node.sections},
        "sources": sources.digest(node),
    }
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def write_stamp(node: Node) -> Path:
    """Bring one stamp up to date; an unchanged one keeps its time."""
    return files.write_if_changed(stamp_path(node), stamp_content(node))


def write_stamps(params: Params) -> list[Path]:
    """Bring every stamp up to date."""
    wanted = {stamp_path(n): n for n in dag.every(params)}
    return [write_stamp(n) for n in wanted.values()]


# ---- repairs


def prepare(params: Params, say: Callable[[str], None]) -> None:
    """Before Snakemake looks at the files: write stamps, and date stale artifacts so that it makes them again."""
    locations.require_plain_name()
    with sharing.explained(), sources.looked_at_once():
        write_stamps(params)
        nodes = dag.every(params)
        unprotect(nodes)
        mend_times(nodes, say)
        for line in lineage.also_made(params):
            say(line)
        mark_stale(nodes, say)


def after_verb(node: Node, stamp: Path) -> None:
    """After a verb: the artifact is not older than its inputs, nor the rule's benchmark file older than the artifact.

    Snakemake goes by time, on a cluster the clocks of two machines may differ, and a rule's benchmark file counts among its outputs.
    """
    newest = max((p.stat().st_mtime_ns for p in (stamp, *(n.provenance for n in node.before)) if p.exists()), default=0)
    for path in _declared(node):
        if path.stat().st_mtime_ns < newest:
            os.utime(path, ns=(newest, newest))
    with contextlib.suppress(FileNotFoundError):
        os.utime(locations.data_root() / "logs" / f"{node.name}.benchmark.tsv")


def _declared(node: Node) -> list[Path]:
    """The files of an artifact that its rule declares as outputs."""
    more = artifact.list_files(node.folder) if node.stage.files_declared else []
    return [node.folder / f for f in (artifact.PROVENANCE, *more)]


def unprotect(nodes: list[Node]) -> None:
    """Copy the declared files where DVC left read-only links to its cache: Snakemake refuses to replace those."""
    for path in (p for n in nodes for p in _declared(n)):
        if not path.exists() or path.stat().st_mode & stat.S_IWUSR:
            continue
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(path, fresh)
        shutil.copystat(path, fresh)
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)


def mend_times(nodes: list[Node], say: Callable[[str], None]) -> None:
    """Give files that are dated in the future the present time: a machine whose clock is ahead made them.

    Until then, Snakemake would refuse everything that is made from them.
    """
    for path in dict.fromkeys(p for n in nodes for p in (stamp_path(n), n.provenance)):
        if path.exists() and path.stat().st_mtime > time.time() + CLOCK_SECONDS:
            say(f"{path} is dated in the future: do clocks differ? Its time is set to now")
            os.utime(path)


def mark_stale(nodes: list[Node], say: Callable[[str], None]) -> None:
    """Give the provenance of artifacts that are damaged, or that others would replace, an old time. `dvc checkout` brings such ones.

    Sound ones that the store lacks are taken into it, as after `dvc pull` in a clone: a job that fails would lose its provenance.
    """
    for node in nodes:
        if not node.provenance.exists():
            continue
        try:
            record = artifact.of(node)
            problem = artifact.damage(node.folder, record["files"], keys.memo(node, record["key"]))
        except artifact.LEFT_ALONE:
            raise
        except BirqError as e:
            problem = str(e)
        if problem:
            say(f"{problem}: will be made again")
        else:
            stage.keep(node, locations.store_path(node.stage.name, record["key"]), say)
        # without a current key an input is missing or damaged: the stage is run anyway
        if problem or keys.current_key(node) not in (None, record["key"]):
            os.utime(node.provenance, (1, 1))


# ---- --config


def _read_again(value: Any) -> Any:
    """Snakemake hands nested values of --config over as text: `{steps: 7}` arrives as {"steps": "7"}."""
    if isinstance(value, dict):
        return {k: _read_again(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_read_again(v) for v in value]
    return presets.plain(yamlfile.with_comments().load(value)) if isinstance(value, str) else value


def overridden(config: dict[str, Any], path: Path, folder: Path) -> Path:
    """params.yaml with `snakemake --config pretrain='{steps: 7}'` merged over it, as a file in `folder`; params.yaml stays as it is.

    Errors: BirqError for a result that is not legal.
    """
    tree = presets.read(path)
    presets.merge(tree, _read_again(config))
    parse(presets.plain(tree), f"{path} with --config")
    text = presets.dump(tree)
    target = folder / f"params-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    return files.write_text(target, text)
