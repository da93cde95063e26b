"""The store from outside: list artifacts with their sizes and references, remove unused ones, hash everything again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from birq import files
from birq.errors import BirqError
from birq.pipeline import artifact, dag, git, locations, stage
from birq.settings import yamlfile
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


def _records() -> Iterator[tuple[Path, dict[str, Any] | None]]:
    for folder in sorted(f for f in locations.store_root().glob("[a-z]*/*/") if not f.name.startswith(".")):
        try:
            yield folder, artifact.read_provenance(folder)
        except BirqError:
            yield folder, None


def listing() -> list[Kept]:
    """Everything in the store, oldest first, with who refers to it."""
    kept = []
    for folder, record in _records():
        made = (folder / artifact.PROVENANCE).stat().st_mtime if record else folder.stat().st_mtime
        size = sum(f["bytes"] for f in record["files"].values()) if record else 0
        runs = "-".join(record["wildcards"].values()) if record else "damaged"
        kept.append(Kept(folder.parent.name, folder.name, folder, size, made, runs, record["wall_seconds"] if record else 0.0))
    uses = _workspaces()
    locked = _lock_files()
    for k in kept:
        k.uses = sorted(uses.get(k.key, set())) + [f"dvc.lock of {name}" for name, outs in locked.items() if _in_lock(k, outs)]
    return sorted(kept, key=lambda k: k.made)


# ---- references


def _users() -> list[Path]:
    return [Path(m.read_text(encoding="utf-8")) for m in locations.user_marks()]


def _workspaces() -> dict[str, set[str]]:
    """Key -> the workspaces where it is in place."""
    here, uses = locations.project().resolve(), {}
    for project in {here, *_users()}:
        name = "workspace" if project == here else str(project)
        for path in (project / locations.data_root()).glob("[a-z]*/**/" + artifact.PROVENANCE):
            with contextlib.suppress(OSError, ValueError, KeyError):
                uses.setdefault(json.loads(path.read_text(encoding="utf-8"))["key"], set()).add(name)
    return uses


def _lock_files() -> dict[str, dict[str, set[str]]]:
    """dvc.lock in the workspaces, and at the tips of branches, tags and experiments: name -> stage -> MD5 of its outputs."""
    locks = {}
    for project in {locations.project().resolve(), *_users()}:
        with contextlib.suppress(OSError):
            locks[f"{project.name}"] = _outs((project / "dvc.lock").read_text(encoding="utf-8"))
        refs = (git.answer("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags", "refs/exps", cwd=project) or "").split()
        for ref in refs:
            if text := git.answer("show", f"{ref}:dvc.lock", cwd=project):
                locks[ref.removeprefix("refs/").removeprefix("heads/")] = _outs(text)
    return locks


def _outs(lock: str) -> dict[str, set[str]]:
    outs: dict[str, set[str]] = {}
    try:
        stages = (yamlfile.plain().load(lock) or {}).get("stages", {})
    except YAMLError as e:
        raise BirqError(f"dvc.lock is not readable ({e}); nothing is removed while its references are unknown") from None
    for name, entry in stages.items():
        outs.setdefault(name.split("@")[0], set()).update(o["md5"] for o in entry.get("outs", []) if "md5" in o)
    return outs


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
        digest = dvc_digest(kept.folder)
        files.write_text(memo, json.dumps(digest))
    return digest in wanted


# ---- the verbs


def ls() -> str:
    """A table: stage, key, run, size, when, minutes that it took, who refers to it."""
    rows = [("stage", "key", "run", "MiB", "made", "minutes", "needed by")]
    kept = listing()
    for k in kept:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(k.made))
        rows.append((k.stage, k.key[:12], k.runs, f"{k.bytes / 2**20:.1f}", made, f"{k.wall_seconds / 60:.1f}", ", ".join(k.uses) or "-"))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    right = (3, 5)
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip() for r in rows
    ]
    total, free = sum(k.bytes for k in kept), sum(k.bytes for k in kept if not k.uses)
    lines.append(
        f"{len(kept)} artifacts, {total / 2**20:.1f} MiB in {locations.store_root()}; `birq store gc` would remove {free / 2**20:.1f} MiB"
    )
    return "\n".join(lines)


@contextlib.contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Whether nobody is making the artifact of this lock, which is held meanwhile."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _wanted_work(params: Params) -> set[str]:
    """Keys whose killed runs would be resumed under these params."""
    return {key for node in dag.nodes(params) if (key := stage.current_key(node))}


def gc(params: Params, *, dry_run: bool, forget: list[str]) -> str:
    """Remove artifacts to which no workspace and no dvc.lock refers, and the work folders of killed runs of other params.

    Errors: BirqError if a clone that uses the store cannot be seen; `forget` names clones that are gone.
    """
    for mark in locations.user_marks():
        if mark.read_text(encoding="utf-8") in forget:
            mark.unlink()
    for user in _users():
        if not (user / locations.data_root()).is_dir():
            raise BirqError(f"{user} uses this store and is not to be seen from here; nothing was removed. If it is gone: --forget {user}")
    removed, size, busy = 0, 0, 0
    for kept in listing():
        if kept.uses:
            continue
        with _free(kept.folder.with_suffix(".lock")) as free:
            if not free:
                busy += 1
                continue
            removed, size = removed + 1, size + kept.bytes
            if not dry_run:
                gone = kept.folder.with_name(f".{kept.folder.name}.gone")
                os.rename(kept.folder, gone)  # by rename, so that no process sees half an artifact
                artifact.remove(gone)
    work = _old_work(params, dry_run)
    if not dry_run:
        _half_copied()
        _forget_past()
    verb = "would be removed" if dry_run else "removed"
    summary = f"{removed} artifacts, {size / 2**20:.1f} MiB, and {work} work folders of killed runs {verb}"
    return summary + (f"; {busy} are being made and stay" if busy else "")


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
    code = {d for _, r in _records() if r and isinstance(r["parts"].get("code"), dict) for d in r["parts"]["code"].values()}
    for path in locations.code_root().glob("*.py"):
        if path.stem not in code:
            path.unlink()
    keys = {k.name for k, _ in _records()}
    for path in locations.memo("x").parent.glob("*-*.json"):
        if not path.name.startswith("sources-") and path.stem.rpartition("-")[2] not in keys:
            path.unlink()


def check() -> str:
    """Hash everything in the store again. Errors: BirqError lists the damaged artifacts."""
    damaged, n, size = [], 0, 0
    for folder, record in _records():
        n += 1
        problem = artifact.damage(folder, record["files"]) if record else f"{folder}: no readable {artifact.PROVENANCE}"
        if problem:
            damaged.append(f"  {problem}")
        elif record:
            size += sum(f["bytes"] for f in record["files"].values())
    if damaged:
        lines = "\n".join(damaged)
        raise BirqError(
            f"{len(damaged)} of {n} artifacts in {locations.store_root()} are damaged; delete their folders, they are made again:\n{lines}"
        )
    return f"{n} artifacts, {size / 2**20:.1f} MiB in {locations.store_root()}: every hash holds"
