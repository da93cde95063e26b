"""The store from outside: list artifacts with their sizes and references, remove unused ones, hash everything again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birq import files
from birq.errors import BirqError
from birq.pipeline import artifact, dag, keys, locations, references, sharing
from birq.settings.params import Params


@dataclass
class Kept:
    """An artifact of the store."""

    stage: str
    key: str
    folder: Path
    bytes: int
    made: float  # seconds since 1970
    runs: str  # its wildcards
    wall_seconds: float
    uses: list[str] = field(default_factory=list)  # who refers to it


def _folders() -> Iterator[Path]:
    """Whatever has an artifact's place in the store; a stage's folder where that may not be listed."""
    for of_stage in sorted(f for f in locations.store_root().glob("[a-z]*") if f.is_dir()):
        try:
            yield from sorted(Path(f.path) for f in os.scandir(of_stage) if f.is_dir() and not f.name.startswith("."))
        except PermissionError:
            yield of_stage


def _records() -> Iterator[tuple[Path, dict[str, Any] | None, BirqError | None]]:
    """The artifacts with their provenance, or the error in its place."""
    for folder in _folders():
        try:
            yield folder, artifact.read_provenance(folder), None
        except BirqError as e:
            yield folder, None, e


def listing(unseen: references.Unseen) -> list[Kept]:
    """Everything in the store, oldest first, with who refers to it. `unseen` is told what this user may not read."""
    kept = []
    for folder, record, problem in _records():
        if isinstance(problem, sharing.RefusedError):
            unseen(problem)
            continue
        made = (folder / artifact.PROVENANCE).stat().st_mtime if record else folder.stat().st_mtime
        size = sum(f["bytes"] for f in record["files"].values()) if record else 0
        runs = "-".join(record.get("wildcards", {}).values()) if record else "damaged"
        seconds = record.get("wall_seconds", 0.0) if record else 0.0
        kept.append(Kept(folder.parent.name, folder.name, folder, size, made, runs, seconds))
    uses, locked = references.workspaces(unseen), references.lock_files(unseen)
    for k in kept:
        k.uses = sorted(uses.get(k.key, set())) + [f"dvc.lock of {name}" for name, outs in locked.items() if _in_lock(k, outs)]
    return sorted(kept, key=lambda k: k.made)


# ---- dvc.lock


def dvc_digest(folder: Path) -> str:
    """The MD5 by which DVC knows a folder: that of the list of its files' MD5s."""
    names = sorted([*artifact.list_files(folder), artifact.PROVENANCE])
    entries = [{"md5": _md5(folder / n), "relpath": n} for n in names]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


def _in_lock(kept: Kept, outs: dict[str, set[str]]) -> bool:
    wanted = outs.get(kept.stage, set())
    if not wanted or kept.runs == "damaged":
        return False
    memo = locations.memo(f"dvc-{kept.stage}-{kept.key}")
    try:
        digest = json.loads(memo.read_text())
    except (OSError, ValueError):
        with sharing.explained(reading=True):
            digest = dvc_digest(kept.folder)
        with contextlib.suppress(OSError):  # a memo saves time, nothing more
            files.write_text(memo, json.dumps(digest))
    return digest in wanted


# ---- the verbs


def ls() -> str:
    """A table: stage, key, run, size, when, minutes that it took, who refers to it."""
    rows = [("stage", "key", "run", "MiB", "made", "minutes", "needed by")]
    refused: list[BirqError] = []
    kept = listing(refused.append)
    for k in kept:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(k.made))
        rows.append((k.stage, k.key[:12], k.runs, f"{k.bytes / 2**20:.1f}", made, f"{k.wall_seconds / 60:.1f}", ", ".join(k.uses) or "-"))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    right = (3, 5)
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip() for r in rows
    ]
    total, free = sum(k.bytes for k in kept), sum(k.bytes for k in kept if not k.uses)
    told = f"{len(kept)} artifacts, {total / 2**20:.1f} MiB in {locations.store_root()}"
    if refused:
        lines += [told + "; not all can be seen:", *(f"  {line}" for line in dict.fromkeys(map(str, refused)))]
    else:
        lines.append(told + f"; `birq store gc` would remove {free / 2**20:.1f} MiB")
    return "\n".join(lines)


@contextlib.contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Whether nobody is making the artifact of this lock, which is held meanwhile. A lock that is refused may be held by somebody."""
    try:
        f = open(sharing.open_lock(lock), "rb")  # noqa: SIM115
    except PermissionError:
        yield False
        return
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _wanted_work(params: Params) -> set[str]:
    """Keys whose killed runs would be resumed under these params."""
    return {key for node in dag.every(params) if (key := keys.current_key(node))}


def gc(params: Params, *, dry_run: bool, forget: list[str]) -> str:
    """Remove artifacts to which no workspace and no dvc.lock refers, and the work folders of killed runs of other params.

    Errors: BirqError if a clone that uses the store cannot be seen; `forget` names clones that are gone.
    """
    references.forget(forget)
    references.require_visible()
    removed, size, busy = 0, 0, 0
    staying: Counter[str] = Counter()
    refused: list[BirqError] = []
    for kept in listing(refused.append):
        if kept.uses:
            continue
        if whose := sharing.stays(kept.folder):
            staying[whose] += 1
            continue
        with _free(kept.folder.with_suffix(".lock")) as free:
            if not free:
                busy += 1
            elif dry_run or _gone(kept.folder):
                removed, size = removed + 1, size + kept.bytes
            else:
                staying[sharing.owner(kept.folder)] += 1
    work = _old_work(params, dry_run)
    if not dry_run:
        _half_copied()
        _forget_past()
    verb = "would be removed" if dry_run else "removed"
    summary = f"{removed} artifacts, {size / 2**20:.1f} MiB, and {work} work folders of killed runs {verb}"
    summary += f"; {busy} are being made and stay" if busy else ""
    if staying:
        whose = ", ".join(f"{n} of {name}" for name, n in sorted(staying.items()))
        summary += f"; {sum(staying.values())} stay, because this user may not remove them ({whose}): the owner can"
    return "\n".join([summary, *(f"not seen: {e}" for e in refused)])


def _gone(folder: Path) -> bool:
    """Remove an artifact; by rename, so that no process sees half of it."""
    gone = folder.with_name(f".{folder.name}.gone")
    try:
        os.rename(folder, gone)
    except PermissionError:
        return False
    artifact.remove(gone)
    return not gone.exists()


def _half_copied() -> None:
    """Remove the unfinished copies of killed runs."""
    for folder in locations.store_root().glob("[a-z]*/.*/"):
        with _free(folder.parent / f"{folder.name.split('.')[1]}.lock") as free:
            if free:
                artifact.remove(folder)


def _old_work(params: Params, dry_run: bool) -> int:
    wanted, n = _wanted_work(params), 0
    for folder in locations.work_root().glob("[a-z]*/*/"):
        if folder.parent.name == "restoring" or folder.name in wanted:
            continue
        with _free(locations.store_path(folder.parent.name, folder.name).with_suffix(".lock")) as free:
            if free:
                n += 1
                if not dry_run:
                    artifact.remove(folder)
    return n


def _forget_past() -> None:
    """Remove code texts and remembered hashes to which no stored artifact refers."""
    records = list(_records())
    if any(isinstance(problem, sharing.RefusedError) for _, _, problem in records):
        return  # what they refer to is not known
    code = {d for _, r, _ in records if r and isinstance(r["parts"].get("code"), dict) for d in r["parts"]["code"].values()}
    keys = {folder.name for folder, _, _ in records}
    past = [p for p in locations.code_root().glob("*.py") if p.stem not in code]
    memos = locations.memo("x").parent.glob("*-*.json")
    past += [p for p in memos if not p.name.startswith("sources-") and p.stem.rpartition("-")[2] not in keys]
    for path in past:
        with contextlib.suppress(PermissionError):  # another user's; small
            path.unlink()


def check() -> str:
    """Hash everything in the store again. Errors: BirqError lists the damaged artifacts, and those that may not be read."""
    damaged: list[str] = []
    refused: list[str] = []
    n, size = 0, 0
    for folder, record, error in _records():
        n += 1
        try:
            if error:
                raise error
            if problem := artifact.damage(folder, record["files"]):
                raise BirqError(problem)
            size += sum(f["bytes"] for f in record["files"].values())
        except sharing.RefusedError as e:
            refused.append(f"  {e}")
        except BirqError as e:
            damaged.append(f"  {e}")
    root, lines = locations.store_root(), []
    if damaged:
        lines += [f"{len(damaged)} of {n} artifacts in {root} are damaged; delete their folders, they are made again:", *damaged]
    if refused:
        lines += [f"{len(refused)} of {n} artifacts in {root} cannot be checked by this user:", *refused]
    if lines:
        raise BirqError("\n".join(lines))
    return f"{n} artifacts, {size / 2**20:.1f} MiB in {root}: every hash holds"
