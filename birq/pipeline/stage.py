"""The stage contract: a key for everything that makes an artifact, a store, a lock, a keyed work folder, publishing by rename.

Every verb goes through `run`. So Snakemake and DVC can be mixed in any order: no stage is computed twice for one key, and none is stale.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from birq import __version__, ranks
from birq.errors import BirqError
from birq.pipeline import artifact, code, dag, environment, keys, locations, sharing
from birq.pipeline.dag import Node
from birq.pipeline.locking import lock
from birq.progress import say as say_line
from birq.settings.methods import Method
from birq.settings.params import at

# freed when an artifact is published, so that a disk that fills up just then does not cost the computed result
RESERVE_BYTES = 4 << 20
TRIES = 3  # of a verb whose inputs are removed meanwhile
SETTLE_S = 2.0  # how long an input that lacks a file is waited for: another tool may be removing or replacing it
SPARED = "spared"  # in the scratch folder of a stage that can be divided: the sound files of a damaged artifact
Part = tuple[int, int]  # the first of three is (1, 3)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """The argument of a stage's `compute`: params that it may read, inputs, the folder to fill, a folder that outlives a kill."""

    node: Node
    key: str
    out: Path  # becomes the artifact
    scratch: Path  # checkpoints and half-done shards; removed after publishing
    notes: dict[str, Any] = field(default_factory=dict)  # goes into the provenance: device, minutes of audio, ...

    @property
    def name(self) -> str:
        """For progress lines and messages, such as finetune/birq-0."""
        return self.node.name

    @property
    def wildcards(self) -> dict[str, str]:
        return self.node.wildcards

    @property
    def method(self) -> Method:
        """The method of this run."""
        assert self.node.method is not None
        return self.node.method

    @property
    def inputs(self) -> dict[str, list[Path]]:
        """Folders of the artifacts that the stage reads, by stage."""
        return {stage: [n.folder for n in nodes] for stage, nodes in self.node.inputs.items()}

    def input(self, stage: str) -> Path:
        """The only artifact of an input stage."""
        (path,) = self.inputs[stage]
        return path

    def read(self, dotted: str) -> Any:
        """A section of params, or one of its keys. Where only some keys of a section are declared, an object with just these.

        Reading an undeclared section is a bug, because the key would not notice a change of it.
        """
        declared = self.node.sections
        if any(dotted == d or dotted.startswith(d + ".") for d in declared):
            return at(self.node.params, dotted)
        if some := [d for d in declared if d.startswith(dotted + ".")]:
            return SimpleNamespace(**{d.rpartition(".")[2]: at(self.node.params, d) for d in some})
        raise RuntimeError(f"stage {self.node.stage.name} reads {dotted!r} but declares only {declared}")


# ---- the verb


def run(
    node: Node,
    say: Say = say_line,
    part: Part | None = None,
    launch: Callable[[], Callable[[], None] | None] | None = None,
) -> Path:
    """Make a node's artifact, or put the stored one in place; return its folder.

    `part` (I, N): do only this part of the work, where the stage can be divided; the run without it finds all parts done and publishes.
    `launch`: called if the artifact has to be computed. It returns a function that computes it in other processes, by `run` and `follow`.
    Errors: BirqError for bad input, a full or a read-only disk; finished work stays in the work folder for the next try.
    """
    for _ in range(TRIES - 1):
        before = _marks(node)
        try:
            return _run(node, say, part, launch)
        except Exception:  # what is read of an input that is half gone may end in an error of any kind
            settled = _settled(node)
            _bring_inputs(node, say)
            now = _marks(node)
            if None in now or (now == before and not settled):  # an input that is not to be had, or none that was replaced meanwhile
                raise
            say(f"{node.name}: an input was removed or replaced meanwhile; tried again")
    return _run(node, say, part, launch)


def _run(node: Node, say: Say, part: Part | None, launch: Callable[[], Callable[[], None] | None] | None) -> Path:
    work = locations.work_root() / node.stage.name
    try:
        parts = keys.key_parts(node)
        key = keys.key_of(parts)
        stored, work = locations.store_path(node.stage.name, key), work / key
        with lock(stored, say, shared=part is not None):
            origin = _find(node, key, stored, say)
            if not origin:
                sharing.require_writable(stored)
            elsewhere = launch() if launch and not origin else None
            if origin:
                ranks.announce("")
            elif part:
                _make_part(_job(node, key), part, say)
            elif not elsewhere:
                _make(_job(node, key), parts, work, stored, say)
            if part is None and not elsewhere and publish(node, stored) and origin:
                origin = "up to date"
            if origin:
                say(f"{node.name}: {origin} ({key[:12]})")
        if elsewhere:  # the lock is free again: one of those processes takes it
            elsewhere()
    except Exception as e:
        # what lies in the way in the work folder is the stage's own affair
        if isinstance(e, OSError) and str(work) not in str(e.filename) and (better := sharing.refused(e)):
            raise BirqError(f"{node.name}: {better}; finished work stays in {work}") from e
        if _disk_full(e, work):
            raise BirqError(f"{node.name}: the disk is full ({e}); finished work stays in {work}: free space and run again") from e
        raise
    return node.folder


def follow(node: Node) -> None:
    """The part of ranks other than 0: wait for the key that rank 0 announces, and compute with it if there is one. They publish nothing."""
    if key := ranks.receive():
        importlib.import_module(node.module).compute(_job(node, key))


def _settled(node: Node) -> bool:
    """Wait while inputs lack files, and say whether there was one that now lacks none or is gone as a whole.

    DVC removes a folder file by file, and replaces files by links. What would be put there meanwhile would make its removal fail.
    """
    partial = [n for nodes in node.inputs.values() for n in nodes if _partial(n)]
    end = time.monotonic() + SETTLE_S
    while any(_partial(n) for n in partial) and time.monotonic() < end:
        time.sleep(0.02)
    return any(not _partial(n) for n in partial)


def _partial(node: Node) -> bool:
    """Whether an artifact's folder is there without all of its files."""
    folder = node.folder
    if not folder.is_dir() or folder.is_symlink():
        return False
    if not os.path.lexists(node.provenance):
        return True
    try:
        return not all(os.path.lexists(folder / name) for name in artifact.read_provenance(folder)["files"])
    except BirqError:  # gone just now, or damaged
        return not os.path.lexists(node.provenance)


def _bring_inputs(node: Node, say: Say) -> None:
    """Put inputs in place that the store holds and the workspace lacks.

    DVC removes an artifact before it calls the verb that will restore it. A tool that was started beside it may read it just then.
    """
    for lacking in (n for nodes in node.inputs.values() for n in nodes if _gone(n)):
        key = keys.current_key(lacking)
        if key and (stored := locations.store_path(lacking.stage.name, key)).exists():
            with lock(stored, say):
                if _gone(lacking) and _usable(stored, say, lacking):
                    publish(lacking, stored)
                    say(f"{lacking.name}: was gone, taken from the store ({key[:12]})")


def _marks(node: Node) -> list[tuple[int, int] | None]:
    """What tells an input from one put in its place; None where there is none."""

    def mark(path: Path) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            about = path.stat()
            return about.st_ino, about.st_ctime_ns
        return None

    return [mark(n.provenance) for nodes in node.inputs.values() for n in nodes]


def _gone(node: Node) -> bool:
    """Whether an artifact is not there, and nothing else in its place."""
    folder = node.folder
    return not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not os.path.lexists(node.provenance))


def _job(node: Node, key: str) -> Job:
    work = locations.work_root() / node.stage.name / key
    return Job(node, key, work / "out", work / "scratch")


def _disk_full(error: Exception, folder: Path) -> bool:
    """Libraries wrap the operating system's error in their own, so the free space is checked as well."""
    if isinstance(error, OSError) and error.errno in sharing.FULL:
        return True
    if isinstance(error, BirqError):
        return False
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return "No space left" in str(error) or disk.f_bavail * disk.f_frsize < 4096


# ---- find


def _find(node: Node, key: str, stored: Path, say: Say) -> str:
    """Where a sound artifact of this key comes from, or nothing: it must be computed."""
    if _usable(stored, say, node):
        return "restored from the store"
    if _adopted(node, key, stored, say):
        return "taken into the store"
    return ""


def _usable(stored: Path, say: Say, node: Node) -> bool:
    """Whether the store has a node's artifact, sound; a damaged one is removed, and what is sound of it is kept where it can be used."""
    record: dict[str, Any] = {}
    with sharing.explained(reading=True):
        if not stored.exists():
            return False
    try:
        record = artifact.read_provenance(stored)
        problem = artifact.damage(stored, record["files"], locations.memo(f"{stored.parent.name}-{stored.name}"))
        if (record.get("stage"), record["key"]) != (stored.parent.name, stored.name):
            problem = f"{stored} is the artifact of another key"
    except artifact.LEFT_ALONE:
        raise
    except BirqError as e:
        problem = str(e)
    if problem is None:
        return True
    say(f"the store is damaged: {problem}; this artifact is made again")
    _spare(node, stored, record)
    artifact.remove(stored)
    if stored.exists():
        sharing.require_writable(stored)
        raise BirqError(f"{problem}, and {stored} cannot be removed: what is in it belongs to {sharing.stays(stored) or 'this user'}")
    return False


def _spare(node: Node, folder: Path, record: dict[str, Any]) -> None:
    """Keep the sound files of a damaged artifact for a stage that can be divided: one lost shard of 500 costs one shard."""
    key = record.get("key", "")
    if key == keys.current_key(node) and hasattr(importlib.import_module(node.module), "compute_part"):
        artifact.spare(folder, record["files"], _job(node, key).scratch / SPARED, keys.memo(node, key))


def _adopted(node: Node, key: str, stored: Path, say: Say) -> bool:
    """Take the workspace's artifact into the store if it has this key: a clone after `dvc pull` has no store."""
    try:
        record = artifact.of(node)
        if record["key"] != key:
            return False
        problem = artifact.damage(node.folder, record["files"], keys.memo(node, key))
    except artifact.LEFT_ALONE:
        raise
    except BirqError:  # nothing there, or nothing that could be used
        return False
    if problem:
        say(f"{problem}; this artifact is made again")
        _spare(node, node.folder, record)
        return False
    sharing.require_writable(stored)
    artifact.adopt(node.folder, stored, link=not node.stage.files_declared)
    return True


def keep(node: Node, stored: Path, say: Say) -> None:
    """Take a sound artifact of the workspace into the store where that lacks it and can be written."""
    if stored.exists():
        return
    with contextlib.suppress(OSError, BirqError), lock(stored, say):
        if not stored.exists():
            artifact.adopt(node.folder, stored, link=not node.stage.files_declared)


# ---- make


def _reserve(path: Path) -> None:
    with open(path, "wb") as f:
        os.posix_fallocate(f.fileno(), 0, RESERVE_BYTES)


def _make_part(job: Job, part: Part, say: Say) -> None:
    say(f"{job.name}: part {part[0]} of {part[1]} on {socket.gethostname()} ({job.key[:12]})")
    job.scratch.mkdir(parents=True, exist_ok=True)
    importlib.import_module(job.node.module).compute_part(job, part)


def _make(job: Job, parts: dict[str, Any], work: Path, stored: Path, say: Say) -> None:
    """Compute an artifact and move it into the store."""
    spared = sum(p.is_file() for p in (job.scratch / SPARED).rglob("*"))
    say(f"{job.name}: computing ({job.key[:12]})" + (f", {spared} sound files of a damaged artifact are kept" if spared else ""))
    artifact.remove(job.out)  # `out` is rebuilt; scratch keeps finished work over a kill
    job.out.mkdir(parents=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    _reserve(work / "reserve")
    ranks.announce(job.key)
    with _timed(work / "seconds") as seconds:
        try:
            importlib.import_module(job.node.module).compute(job)
        finally:
            (work / "reserve").unlink()
    code.keep(parts["code"])
    described = artifact.describe(job.out)
    if not described:
        raise RuntimeError(f"stage {job.node.stage.name} made no files")
    record = {
        "birq": __version__,
        "format": artifact.FORMAT,
        "stage": job.node.stage.name,
        "wildcards": job.wildcards,
        "key": job.key,
        "digest": artifact.content_digest(described),
        "parts": parts,
        "files": described,
        "wall_seconds": round(seconds(), 3),
        "input_seconds": round(_input_seconds(job.node), 3),
        "notes": job.notes,
        "environment": environment.environment(),
    }
    artifact.store(job.out, stored, record)
    artifact.remove(work)
    say(f"{job.name}: done in {seconds():.1f} s")


def _input_seconds(node: Node) -> float:
    """Wall time of the labels and trainings behind a run, each counted once; 0 for a stage that is no run's."""
    if not node.method:
        return 0.0
    try:
        return sum(artifact.own_seconds(artifact.of(n)) for n in dag.upstream(*node.before) if n.method)
    except BirqError:  # one of those behind the inputs is not here any more: what the inputs' records say, each with all behind it
        return sum(artifact.seconds(artifact.of(n)) for n in node.before if n.method)


@contextlib.contextmanager
def _timed(spent: Path) -> Iterator[Callable[[], float]]:
    """Seconds of work, those of earlier tries that were killed or failed included."""
    before = time.monotonic()
    try:
        earlier = float(spent.read_text())
    except (OSError, ValueError):
        earlier = 0.0

    def seconds() -> float:
        return earlier + time.monotonic() - before

    try:
        yield seconds
    finally:
        with contextlib.suppress(OSError):
            spent.write_text(f"{seconds():.3f}")


# ---- publish


def publish(node: Node, stored: Path) -> bool:
    """Put a stored artifact in its folder in the workspace; True if it was there."""
    link, remembered = not node.stage.files_declared, keys.memo(node, stored.name)
    return artifact.restore(stored, node.folder, locations.transit(node.name), link=link, memo=remembered)
