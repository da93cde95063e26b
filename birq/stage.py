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
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birq import __version__, artifact, code, dag, places, ranks
from birq.artifact import damage, read_provenance
from birq.errors import BirqError
from birq.hashes import sha256_files
from birq.params import Params, section
from birq.progress import say as say_line

# freed when an artifact is published, so that a disk that fills up just then does not cost what was computed
RESERVE_BYTES = 4 << 20
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
Part = tuple[int, int]  # the first of three is (1, 3)


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


# ---- the key


def key_parts(stage: str, wildcards: dict[str, str], params: Params) -> dict[str, Any]:
    """Everything that decides what a stage makes. Errors: BirqError for an input that is missing or damaged."""
    inputs = dag.inputs(stage, wildcards, params)
    return {
        "stage": stage,
        "wildcards": wildcards,
        "params": {s: section(params, s) for s in dag.sections(stage, wildcards)},
        "inputs": {str(p): _digest_of_input(p) for paths in inputs.values() for p in paths},
        "code": code.digests(dag.STAGES[stage].code),
        "sources": outside_files(stage, wildcards, params),
    }


def key_of(parts: dict[str, Any]) -> str:
    """The key of an artifact, from everything that decides it."""
    return artifact.sha256_json(parts)[:32]


def _digest_of_input(folder: Path) -> str:
    record = read_provenance(folder)
    if problem := damage(folder, record["files"], _memo(folder, record["key"])):
        raise BirqError(f"{problem}; delete {folder} and run again: it is restored from {places.store_root()} or made anew")
    return record["digest"]


def _memo(folder: Path, key: str) -> Path:
    return places.memo(f"{folder.relative_to(places.data_root()).parts[0]}-{key}")


def outside_files(stage: str, wildcards: dict[str, str], params: Params) -> str | None:
    """Digest of a corpus folder of the user's: names and content of its files. Content is read again where size or time have changed.

    A corpus that may be downloaded is what its name says; the download itself must not change the key.
    """
    if stage != "corpus":
        return None
    corpus = params.corpora[wildcards["corpus"]]
    root = None if getattr(corpus, "download", False) else getattr(corpus, "root", None)
    paths: list[Path] = []
    for place in (Path(p) for p in (root, *getattr(corpus, "alignments", [])) if p):
        paths += sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place] * place.is_file()
    if not paths:
        return None
    digests = sha256_files(paths, places.memo(f"sources-{wildcards['corpus']}"))
    return artifact.sha256_json([[str(p), d] for p, d in zip(paths, digests, strict=True)])


# ---- lock


@contextlib.contextmanager
def _lock(stored: Path, say: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a key; another holder is named and waited for. The kernel frees it when its holder dies.

    It lies in the store, which several clones may share. Where that is read-only nothing can be made, and what is there needs no lock.
    """
    path, kind = stored.with_suffix(".lock"), fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        f = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as e:
        if e.errno not in READ_ONLY:
            raise
        if not stored.exists():
            raise BirqError(
                f"the store {places.store_root()} is read-only and does not hold this artifact; set BIRQ_STORE to a folder "
                "that can be written, or unset it"
            ) from None
        yield
        return
    with f:
        try:
            fcntl.flock(f, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            say(f"waiting: {f.read().strip() or 'another run'} is making this artifact (lock {path})")
            fcntl.flock(f, kind)
        f.seek(0)
        f.truncate()
        # a note for whoever waits; a full disk must not stop what can still be restored
        with contextlib.suppress(OSError):
            f.write(f"process {os.getpid()} on {socket.gethostname()}")
            f.flush()
        yield


# ---- the verb


def run(
    stage: str,
    wildcards: dict[str, str],
    params: Params,
    say: Callable[[str], None] = say_line,
    part: Part | None = None,
    launch: Callable[[], Callable[[], None] | None] | None = None,
) -> Path:
    """Make a stage's artifact, or put the stored one in place; return its folder.

    `part` (I, N): do only this part of the work, where the stage can be divided; the run without it finds all parts done and publishes.
    `launch`: asked when the artifact has to be computed; returns what does so in other processes, which go through `run` and `follow`.
    Errors: BirqError for bad input, a full or a read-only disk; whatever was done stays in the work folder for the next try.
    """
    name = "/".join(x for x in (stage, "-".join(wildcards.values())) if x)
    work = places.work_root() / stage
    try:
        parts = key_parts(stage, wildcards, params)
        key = key_of(parts)
        target, stored, work = dag.artifact(stage, wildcards), places.store_path(stage, key), work / key
        with _lock(stored, say, shared=part is not None):
            known = _usable(stored, say) or _adopted(target, stored, key, say)
            elsewhere = launch() if launch and not known else None
            if known:
                ranks.tell("")
            elif not elsewhere:
                job = Job(stage, wildcards, key, dag.inputs(stage, wildcards, params), work / "out", work / "scratch", params)
                _compute_part(job, part, name, say) if part else _compute(job, parts, name, work, stored, say)
            if part is None and not elsewhere:
                there = _put(stored, target, name)
                known = known and ("up to date" if there else known)
            if known:
                say(f"{name}: {known} ({key[:12]})")
        if elsewhere:  # the lock is free again: one of those processes takes it
            elsewhere()
    except Exception as e:
        if isinstance(e, OSError) and e.errno in READ_ONLY:
            raise BirqError(f"{name}: {e.filename} cannot be written ({e.strerror}); what is done stays in {work}") from e
        if _disk_full(e, work):
            raise BirqError(f"{name}: the disk is full ({e}); what is done stays in {work}: free space and run again") from e
        raise
    return target


def follow(stage: str, wildcards: dict[str, str], params: Params) -> None:
    """What ranks other than 0 do: wait for its word, and compute with it if there is something to compute. They publish nothing."""
    if key := ranks.hear():
        work = places.work_root() / stage / key
        job = Job(stage, wildcards, key, dag.inputs(stage, wildcards, params), work / "out", work / "scratch", params)
        importlib.import_module(dag.STAGES[stage].code).compute(job)


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


def _put(stored: Path, target: Path, name: str) -> bool:
    """Put an artifact in its place in the workspace; True if it was there."""
    # Snakemake declares the report's files one by one, and refuses to rewrite read-only ones: they are copied
    link = not target.match("data/report")
    there = artifact.place(stored, target, places.transit(name), link=link, memo=_memo(target, stored.name))
    # Snakemake counts a rule's benchmark file among its outputs: an old one would make the rule stale after `dvc repro`
    with contextlib.suppress(FileNotFoundError):
        os.utime(places.data_root() / "logs" / f"{name}.benchmark.tsv")
    return there


def _usable(stored: Path, say: Callable[[str], None]) -> str:
    """How an artifact of the store would be used, or nothing: it is not there, or damaged and removed."""
    if not stored.exists():
        return ""
    try:
        record = read_provenance(stored)
        problem = damage(stored, record["files"], places.memo(f"{stored.parent.name}-{stored.name}"))
    except artifact.NewerFormatError:
        raise
    except BirqError as e:
        problem = str(e)
    if problem is None:
        return "restored from the store"
    say(f"the store is damaged: {problem}; this artifact is made again")
    artifact.remove(stored)
    if stored.exists():
        raise BirqError(f"{problem}, and {stored} cannot be removed: is the store read-only?")
    return ""


def _adopted(target: Path, stored: Path, key: str, say: Callable[[str], None]) -> str:
    """Take what lies in the workspace into the store if it is what would be made: a clone after `dvc pull` has no store."""
    try:
        record = read_provenance(target)
        if record["key"] != key:
            return ""
        problem = damage(target, record["files"], _memo(target, key))
    except artifact.NewerFormatError:
        raise
    except BirqError:  # nothing there, or nothing that could be used
        return ""
    if problem:
        say(f"{problem}; this artifact is made again")
        return ""
    artifact.adopt(target, stored, link=not target.match("data/report"))
    return "taken into the store"


def keep(folder: Path, stored: Path, say: Callable[[str], None]) -> None:
    """Take a sound artifact of the workspace into the store where that lacks it and can be written."""
    if stored.exists():
        return
    with contextlib.suppress(OSError, BirqError), _lock(stored, say):
        if not stored.exists():
            artifact.adopt(folder, stored, link=not folder.match("data/report"))


def _reserve(path: Path) -> None:
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, RESERVE_BYTES)


def _compute_part(job: Job, part: Part, name: str, say: Callable[[str], None]) -> None:
    say(f"{name}: part {part[0]} of {part[1]} on {socket.gethostname()} ({job.key[:12]})")
    job.scratch.mkdir(parents=True, exist_ok=True)
    importlib.import_module(dag.STAGES[job.stage].code).compute_part(job, part)


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
    ranks.tell(job.key)
    try:
        importlib.import_module(dag.STAGES[job.stage].code).compute(job)
    finally:
        seconds = earlier + time.monotonic() - before
        (work / "reserve").unlink()
        with contextlib.suppress(OSError):
            spent.write_text(f"{seconds:.3f}")
    code.keep(parts["code"], places.code_root())
    files = artifact.describe(job.out)
    if not files:
        raise RuntimeError(f"stage {job.stage} made no files")
    record = {
        "birq": __version__,
        "format": artifact.FORMAT,
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
