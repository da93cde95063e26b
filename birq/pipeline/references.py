"""Who refers to the artifacts of a store: the workspaces of the clones that use it, and their dvc.lock files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ruamel.yaml.error import YAMLError

from birq.errors import BirqError
from birq.pipeline import artifact, git, locations, sharing
from birq.progress import say
from birq.settings import yamlfile

LOCKS = ("dvc.lock", "workflow/study/dvc.lock")  # of dvc.yaml, and of the study's group
Unseen = Callable[[BirqError], None]  # is told of a reference that this user may not see

# ---- clones


def _marks() -> list[Path]:
    """In a store that clones share, a file per clone that holds its path."""
    return sorted((locations.store_root() / ".users").glob("[!.]*")) if locations.shared() else []


def register() -> None:
    """Register this clone in a shared store, so that another clone's `store gc` spares its artifacts."""
    if not locations.shared():
        return
    here, root = str(locations.project().resolve()), locations.store_root()
    mark = root / ".users" / hashlib.sha256(here.encode()).hexdigest()[:16]
    try:
        if not mark.exists():
            sharing.write(mark, here.encode())
    except OSError as e:
        if e.errno in sharing.REFUSED and os.access(root, os.W_OK):  # a store that is read-only is not cleaned either
            why = sharing.refusal(mark, e)
            say(f"warning: this clone cannot be registered in the store, so `birq store gc` may remove what it uses: {why}")


def _path(mark: Path) -> Path:
    """The clone that a mark names. Errors: RefusedError where it may not be read."""
    with sharing.explained(reading=True):
        return Path(os.fsdecode(mark.read_bytes()))


def forget(paths: list[str]) -> None:
    """Remove the marks of clones that are gone. Errors: RefusedError for a mark that this user may not remove."""
    for mark in _marks():
        if str(_path(mark)) in paths:
            with sharing.explained(reading=False):
                mark.unlink()


def _clones(unseen: Unseen) -> list[Path]:
    """This project first, then the other clones that use the store."""
    clones = [locations.project().resolve()]
    for mark in _marks():
        try:
            clones.append(_path(mark))
        except sharing.RefusedError as e:
            unseen(e)
    return list(dict.fromkeys(clones))


def require_visible() -> None:
    """Errors: BirqError for a clone whose artifacts cannot all be seen from here: it may need anything."""

    def refuse(e: BirqError) -> None:
        raise BirqError(f"nothing was removed, because not everything that refers to the store can be seen: {e}")

    for clone in _clones(refuse)[1:]:
        try:
            there = (clone / locations.data_root()).is_dir()
        except OSError as e:
            if better := sharing.refused(e, reading=True):
                refuse(better)
            raise
        if not there:
            raise BirqError(
                f"{clone} uses this store and is not to be seen from here; nothing was removed. If it is gone: --forget {clone}"
            )
    workspaces(refuse)
    lock_files(refuse)


# ---- workspaces


def _records(folder: Path) -> Iterator[Path]:
    """The provenance files of a workspace. Errors: PermissionError for a folder that may not be read."""

    def refuse(e: OSError) -> None:
        if not isinstance(e, FileNotFoundError):  # replaced just now
            raise e

    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = [f for f in folders if depth < 2 and not f.startswith(".")]  # data/STAGE/NAME is the deepest
        if artifact.PROVENANCE in names:
            yield Path(here, artifact.PROVENANCE)


def workspaces(unseen: Unseen) -> dict[str, set[str]]:
    """Key -> the workspaces where it is in place."""
    uses: dict[str, set[str]] = {}
    clones = _clones(unseen)
    for clone in clones:
        name = "workspace" if clone == clones[0] else str(clone)
        try:
            for path in _records(clone / locations.data_root()):
                with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                    uses.setdefault(json.loads(path.read_text(encoding="utf-8"))["key"], set()).add(name)
        except OSError as e:
            unseen(sharing.refused(e, reading=True) or BirqError(f"{clone}: {e}"))
    return uses


# ---- dvc.lock


def lock_files(unseen: Unseen) -> dict[str, dict[str, set[str]]]:
    """DVC's locks in the workspaces, and at the tips of branches, tags and experiments: name -> stage -> MD5 of its outputs."""
    locks: dict[str, dict[str, set[str]]] = {}
    clones = _clones(unseen)
    for clone in clones:
        own = clone == clones[0]
        for lock in LOCKS:
            try:
                locks.setdefault(clone.name if own else str(clone), {}).update(_outs((clone / lock).read_text(encoding="utf-8")))
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as e:
                unseen(sharing.refused(e, reading=True) or BirqError(f"{clone / lock}: {e}"))
        try:
            refs = _refs(clone)
        except BirqError as e:
            unseen(e)
            continue
        for ref, lock in itertools.product(refs, LOCKS):
            if text := git.answer("show", f"{ref}:{lock}", cwd=clone):
                name = ref.removeprefix("refs/").removeprefix("heads/")
                locks.setdefault(name if own else f"{clone} at {name}", {}).update(_outs(text))
    return locks


def _refs(clone: Path) -> list[str]:
    """Branches, tags and experiments of a clone. Errors: BirqError where git has them and does not tell: it reads no other user's clone."""
    try:
        here = clone.is_dir() and any((f / ".git").exists() for f in (clone, *clone.parents))
    except OSError as e:
        raise sharing.refused(e, reading=True) or BirqError(f"{clone}: {e}") from None
    if not here:
        return []
    return git.git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags", "refs/exps", cwd=clone).split()


def _outs(lock: str) -> dict[str, set[str]]:
    outs: dict[str, set[str]] = {}
    try:
        stages = (yamlfile.plain().load(lock) or {}).get("stages", {})
    except YAMLError as e:
        raise BirqError(f"a dvc.lock is not readable ({e}); nothing is removed while its references are unknown") from None
    for name, entry in stages.items():
        outs.setdefault(name.split("@")[0], set()).update(o["md5"] for o in entry.get("outs", []) if "md5" in o)
    return outs
