"""The stage contract: a key for everything that made an artifact, a store, a lock, a keyed work folder, publishing by rename.

Every verb goes through `run`. So Snakemake and DVC can be mixed in any order: no stage is computed twice for one key, and none is stale.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birq import __version__, artifact, code, dag
from birq.artifact import damage, read_provenance
from birq.errors import BirqError
from birq.params import Params, section

# freed when an artifact is published, so that a disk that fills up just then does not cost what was computed
RESERVE_BYTES = 4 << 20


@dataclass(frozen=True)
class Job:
    """What a stage's `compute` gets: params it may read, inputs, the folder to fill, a folder that outlives a kill."""

    stage: str
    wildcards: dict[str, str]
    key: str
    inputs: dict[str, list[Path]]
    out: Path  # becomes the artifact
    scratch: Path  # checkpoints and half-done shards; removed after publishing
    _params: Params = field(repr=False)
    notes: dict[str, Any] = field(default_factory=dict)  # goes into the provenance: device, minutes of audio, ...

    def input(self, stage: str) -> Path:
        """The only artifact of an input stage."""
        (path,) = self.inputs[stage]
        return path

    def read(self, dotted: str) -> Any:
        """A params section; reading one that the stage does not declare is a bug, because its key would not notice a change."""
        allowed = dag.sections(self.stage, self.wildcards)
        if not any(dotted == a or dotted.startswith(a + ".") for a in allowed):
            raise RuntimeError(f"stage {self.stage} reads {dotted!r} but declares only {allowed}")
        value: Any = self._params
        for part in dotted.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        return value


# ---- places


def data_root() -> Path:
    return Path("data")


def store_root() -> Path:
    """Where finished artifacts are kept: `data/.store`, or BIRQ_STORE for one store shared by several clones."""
    return Path(os.environ.get("BIRQ_STORE") or data_root() / ".store")


def store_path(stage: str, key: str) -> Path:
    return store_root() / stage / key


# ---- the key


def key_parts(stage: str, wildcards: dict[str, str], params: Params) -> dict[str, Any]:
    """Everything that decides what a stage makes. Errors: BirqError for an input that is missing or damaged."""
    inputs = dag.inputs(stage, wildcards, params)
    return {
        "stage": stage,
        "wildcards": wildcards,
        "params": {s: section(params, s) for s in dag.sections(stage, wildcards)},
        "inputs": {str(p): _digest_of_input(p) for paths in inputs.values() for p in paths},
        "code": code.digest(dag.STAGES[stage].code),
        "sources": outside_files(stage, wildcards, params),
    }


def key_of(parts: dict[str, Any]) -> str:
    """The key of an artifact, from everything that decides it."""
    return artifact.sha256_json(parts)[:32]


def _digest_of_input(folder: Path) -> str:
    record = read_provenance(folder)
    if problem := damage(folder, record["files"]):
        raise BirqError(f"{problem}; delete {folder} and run again: it is restored from {store_root()} or made anew")
    return record["digest"]


def outside_files(stage: str, wildcards: dict[str, str], params: Params) -> str | None:
    """A corpus folder of the user's: names, sizes and times of its files stand for its content in the key.

    A corpus that may be downloaded is what its name says; the download itself must not change the key.
    """
    if stage != "corpus":
        return None
    corpus = params.corpora[wildcards["corpus"]]
    root = None if getattr(corpus, "download", False) else getattr(corpus, "root", None)
    listing = []
    for place in (Path(p) for p in (root, *getattr(corpus, "alignments", [])) if p):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                st = path.stat()
                listing.append([str(path), st.st_size, st.st_mtime_ns])
    return artifact.sha256_json(listing) if listing else None


# ---- lock


@contextlib.contextmanager
def _lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file; another holder is named and waited for. The kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            say(f"waiting: {f.read().strip() or 'another run'} is making this artifact (lock {path})")
            fcntl.flock(f, fcntl.LOCK_EX)
        f.seek(0)
        f.truncate()
        # a note for whoever waits; a full disk must not stop what can still be restored
        with contextlib.suppress(OSError):
            f.write(f"process {os.getpid()} on {socket.gethostname()}")
            f.flush()
        yield


# ---- the verb


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(stage: str, wildcards: dict[str, str], params: Params, say: Callable[[str], None] = _say) -> Path:
    """Make a stage's artifact, or put the stored one in place; return its folder.

    Errors: BirqError for bad input or a full disk; whatever was done stays in the work folder for the next try.
    """
    name = "/".join(x for x in (stage, "-".join(wildcards.values())) if x)
    work = data_root() / ".work" / stage
    try:
        parts = key_parts(stage, wildcards, params)
        key = key_of(parts)
        target, stored, work = dag.artifact(stage, wildcards), store_path(stage, key), work / key
        with _lock(stored.with_suffix(".lock"), say):  # in the store, which several clones may share
            known = _usable(stored, say)
            if not known:
                job = Job(stage, wildcards, key, dag.inputs(stage, wildcards, params), work / "out", work / "scratch", params)
                _compute(job, parts, name, work, stored, say)
            # Snakemake declares the report's files one by one, and refuses to rewrite read-only ones: they are copied
            transit = data_root() / ".work" / "placing" / name
            there = artifact.place(stored, target, transit, link=stage != "report")
            # Snakemake counts a rule's benchmark file among its outputs: an old one would make the rule stale after `dvc repro`
            with contextlib.suppress(FileNotFoundError):
                os.utime(data_root() / "logs" / f"{name}.benchmark.tsv")
            if known:
                say(f"{name}: {'up to date' if there else 'restored from the store'} ({key[:12]})")
    except Exception as e:
        if _disk_full(e, work):
            raise BirqError(f"{name}: the disk is full ({e}); what is done stays in {work}: free space and run again") from e
        raise
    return target


def _disk_full(error: Exception, place: Path) -> bool:
    """Libraries wrap the operating system's error in their own, so the disk is asked as well."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if isinstance(error, BirqError):
        return False
    while not place.exists():
        place = place.parent
    disk = os.statvfs(place)
    return "No space left" in str(error) or disk.f_bavail * disk.f_frsize < 4096


def _usable(stored: Path, say: Callable[[str], None]) -> bool:
    if not stored.exists():
        return False
    try:
        problem = damage(stored, read_provenance(stored)["files"])
    except BirqError as e:
        problem = str(e)
    if problem is None:
        return True
    say(f"the store is damaged: {problem}; this artifact is made again")
    artifact.remove(stored)
    return False


def _reserve(path: Path) -> None:
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, RESERVE_BYTES)


def _compute(job: Job, parts: dict[str, Any], name: str, work: Path, stored: Path, say: Callable[[str], None]) -> None:
    say(f"{name}: computing ({job.key[:12]})")
    artifact.remove(job.out)  # `out` is rebuilt; what a stage wants to keep over a kill lies in scratch
    job.out.mkdir(parents=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    _reserve(work / "reserve")
    before = time.monotonic()
    spent = work / "seconds"  # of earlier tries that were killed or failed
    try:
        earlier = float(spent.read_text())
    except (OSError, ValueError):
        earlier = 0.0
    try:
        importlib.import_module(dag.STAGES[job.stage].code).compute(job)
    finally:
        seconds = earlier + time.monotonic() - before
        (work / "reserve").unlink()
        with contextlib.suppress(OSError):
            spent.write_text(f"{seconds:.3f}")
    files = artifact.describe(job.out)
    if not files:
        raise RuntimeError(f"stage {job.stage} made no files")
    record = {
        "birq": __version__,
        "stage": job.stage,
        "wildcards": job.wildcards,
        "key": job.key,
        "digest": artifact.content_digest(files),
        "parts": parts,
        "files": files,
        "wall_seconds": round(seconds, 3),
        "notes": job.notes,
        "environment": artifact.environment(),
    }
    artifact.store(job.out, stored, record)
    artifact.remove(work)
    say(f"{name}: done in {seconds:.1f} s")
