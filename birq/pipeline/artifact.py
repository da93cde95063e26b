"""Artifacts: folders of files with a provenance.json that names their origin. They are stored, adopted and restored here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from birq import __version__
from birq.errors import BirqError
from birq.pipeline import sharing
from birq.pipeline.dag import PROVENANCE, Node
from birq.pipeline.hashes import sha256_file, sha256_files

_NOT_CONTENT = frozenset({PROVENANCE, ".snakemake_timestamp"})
# files about the course of a run, not its result; they stay out of the digest
VOLATILE = frozenset({*_NOT_CONTENT, "timing.jsonl"})
FORMAT = 3  # of provenance.json; raised when an older birq could misread it


class NewerFormatError(BirqError):
    """An artifact of a later birq."""


LEFT_ALONE = (NewerFormatError, sharing.RefusedError)  # what cannot be judged is neither used nor replaced


def sha256_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def list_files(folder: Path) -> list[str]:
    """Relative paths of an artifact's files, sorted, provenance and Snakemake's timestamp left out."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in paths if p.name not in _NOT_CONTENT)


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each of an artifact's files."""
    return {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_file(folder / n)} for n in list_files(folder)}


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Digest of an artifact's content: its files' hashes, without those of files about the course of the run."""
    return sha256_json({name: f["sha256"] for name, f in files.items() if Path(name).name not in VOLATILE})


def read_provenance(folder: Path) -> dict[str, Any]:
    """An artifact's provenance. Errors: BirqError if the artifact is missing, its provenance not readable or that of a later birq."""
    path = folder / PROVENANCE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if _whole(record):
            return record
        if isinstance(record, dict) and isinstance(record.get("format"), int) and record["format"] > FORMAT:
            raise NewerFormatError(
                f"{path}: made by birq {record.get('birq')}, this is birq {__version__} and cannot read it; update birq, or delete {folder}"
            )
        reason = "it is no record of an artifact"
    except FileNotFoundError:
        raise BirqError(f"{folder}: not made yet (no {PROVENANCE}); `snakemake --cores all` or `dvc repro` makes it") from None
    except NotADirectoryError:
        raise BirqError(f"{folder} is no folder, so it holds no artifact; delete it and run again") from None
    except PermissionError as e:
        raise sharing.refused(e, reading=True) or e from None
    except OSError as e:
        reason = e.strerror
    except (ValueError, RecursionError) as e:
        reason = str(e)
    raise BirqError(f"{path}: not readable ({reason}); delete {folder} and run again")


def _whole(record: Any) -> bool:
    """Whether a record has what everything relies on."""
    if not isinstance(record, dict) or not isinstance(record.get("format", 1), int) or record.get("format", 1) > FORMAT:
        return False
    parts, wildcards, files = record.get("parts"), record.get("wildcards", {}), record.get("files")
    if not all(isinstance(part, dict) for part in (parts, wildcards, files)):
        return False
    texts = [record.get("key"), record.get("digest"), *wildcards.values()]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(parts.get(p, {}), dict) for p in ("params", "inputs")):
        return False
    return all(_described(name, file) for name, file in files.items())


def _described(name: str, file: Any) -> bool:
    """Whether an entry describes a file inside of the artifact's folder."""
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and isinstance(file, dict) and isinstance(file.get("bytes"), int) and isinstance(file.get("sha256"), str)


def of(node: Node) -> dict[str, Any]:
    """The provenance of a node's artifact. Errors: as `read_provenance`; BirqError too if another stage or corpus made it."""
    record = read_provenance(node.folder)
    # a variant that changes nothing has the artifact of its method
    wanted = {"stage": node.stage.name} | {k: v for k, v in node.wildcards.items() if k != "method"}
    made = {"stage": record.get("stage")} | record.get("wildcards", {})
    if any(made.get(k) != v for k, v in wanted.items()):
        said = "-".join(str(v) for v in made.values())
        raise BirqError(f"{node.provenance}: it is that of another artifact ({said}); delete {node.folder} and run again")
    return record


def own_seconds(record: dict[str, Any]) -> float:
    """Wall time that an artifact took."""
    # the training loop's clock goes on over kills; the stage's loses what ended in one
    return float(record["notes"].get("train_seconds", record["wall_seconds"]))


def seconds(record: dict[str, Any]) -> float:
    """Wall time with that of the runs that it is made from: of an encoder, the labels that it learned and all encoders before."""
    return own_seconds(record) + float(record.get("input_seconds", 0.0))


def damage(folder: Path, files: dict[str, dict[str, Any]], memo: Path | None = None) -> str | None:
    """The first problem with an artifact's files, or None. They are hashed again, except those that `memo` shows unchanged since.

    A damaged file is made writable: it may be a hard link into DVC's cache, and DVC trusts read-only files there without hashing them.

    Errors: RefusedError for a file that this user may not read.
    """
    problem, changed = _difference(folder, files, memo)
    if changed:
        with contextlib.suppress(OSError):
            os.chmod(changed, changed.stat().st_mode | stat.S_IWUSR)
    return problem


def _difference(folder: Path, files: dict[str, dict[str, Any]], memo: Path | None) -> tuple[str | None, Path | None]:
    """The first difference between a folder's files and their descriptions, and the file whose bytes differ."""
    paths = [folder / name for name in files]
    with sharing.explained(reading=True):
        for path, want in zip(paths, files.values(), strict=True):
            if not path.is_file():
                return f"{path} is missing", None
            if path.stat().st_size != want["bytes"]:
                return f"{path} has {path.stat().st_size} bytes, not {want['bytes']}", None
        try:
            hashes = sha256_files(paths, memo)
        except OSError as e:
            if e.errno in sharing.REFUSED:
                raise
            return f"{e.filename or folder} cannot be read ({e.strerror})", None
    for path, sha256, want in zip(paths, hashes, files.values(), strict=True):
        if sha256 != want["sha256"]:
            return f"{path} has changed since it was made (SHA-256 differs)", path
    return None, None


def spare(folder: Path, files: dict[str, dict[str, Any]], target: Path, memo: Path | None = None) -> None:
    """Put the sound files of a damaged artifact into another folder as well, by hard links."""
    names = [n for n, want in files.items() if (folder / n).is_file() and (folder / n).stat().st_size == want["bytes"]]
    for name, sha256 in zip(names, _hashes([folder / n for n in names], memo), strict=True):
        if sha256 == files[name]["sha256"]:
            with contextlib.suppress(OSError):  # there already, on another disk, or somebody else's: it is made again
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / name, target / name)


def _hashes(paths: list[Path], memo: Path | None) -> list[str]:
    """Hashes of files; nothing for one that cannot be read."""
    try:
        return sha256_files(paths, memo)
    except OSError:
        return [""] if len(paths) == 1 else [_hashes([p], None)[0] for p in paths]


def remove(folder: Path) -> None:
    """Remove a folder, or what lies in its place; what cannot be removed stays."""
    if folder.is_symlink() or folder.is_file():
        with contextlib.suppress(OSError):
            folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _same(stored: Path, target: Path, files: dict[str, dict[str, Any]], memo: Path | None) -> bool:
    """True if the target already equals the stored artifact: the same files, or others with the same content."""
    if not target.is_dir() or target.is_symlink() or (target / PROVENANCE).is_dir() or list_files(target) != sorted(files):
        return False
    others = {n: f for n, f in files.items() if not os.path.samefile(stored / n, target / n)}
    return _difference(target, others, memo)[0] is None


def restore(stored: Path, target: Path, transit: Path, *, link: bool, memo: Path | None = None) -> bool:
    """Put a stored artifact into the workspace in one rename; True if it was there already.

    A reader sees the old artifact or the new one. `link`: data files become hard links to the store's read-only files,
    else copies. The provenance is always a copy, and always new: its time says when the artifact was last found good.
    `transit` is a folder on the target's file system, for unfinished copies.
    """
    files = read_provenance(stored)["files"]
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = transit / f"new-{os.getpid()}", transit / f"old-{os.getpid()}"
    remove(fresh)
    fresh.mkdir(parents=True)
    there = _same(stored, target, files, memo)
    # never written through the old name: that one may be read-only, or a link into some cache
    shutil.copyfile(stored / PROVENANCE, fresh / PROVENANCE)
    if there:
        os.replace(fresh / PROVENANCE, target / PROVENANCE)
        remove(fresh)
        return True
    for name in files:
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        if not (link and _linked(stored / name, fresh / name)):
            shutil.copyfile(stored / name, fresh / name)
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.exists():
        remove(old)
        os.rename(target, old)
    os.rename(fresh, target)
    remove(old)
    return False


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


@contextlib.contextmanager
def _beside(stored: Path) -> Iterator[Path]:
    """A folder beside an artifact's path in the store, renamed to that path on success. The lock of its key must be held."""
    sharing.make_folder(stored.parent)
    for left in stored.parent.glob(f".{stored.name}.*"):  # by a killed run, maybe of another user
        remove(left)
    near = stored.with_name(f".{stored.name}.{secrets.token_hex(4)}")  # what another user's killed run left may stay there
    near.mkdir()
    try:
        yield near
        sharing.settle(near, list_files(near))
        os.rename(near, stored)
    except BaseException:
        remove(near)  # a full disk must not stay full of it
        raise


def adopt(target: Path, stored: Path, *, link: bool, record: dict[str, Any] | None = None) -> None:
    """Take an artifact of the workspace into the store, which has lost it or never had it: after a clone and `dvc pull`, say.

    `record`: its provenance from now on, where it is another one.
    """
    with _beside(stored) as near:
        for name in read_provenance(target)["files"]:
            source = (target / name).resolve()  # DVC may have put a link to its cache here
            (near / name).parent.mkdir(parents=True, exist_ok=True)
            if not (link and _linked(source, near / name)):
                shutil.copyfile(source, near / name)
        if record is None:
            shutil.copyfile(target / PROVENANCE, near / PROVENANCE)
        else:
            _write(near, record)


def _write(folder: Path, record: dict[str, Any]) -> None:
    (folder / PROVENANCE).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")


def store(out: Path, stored: Path, record: dict[str, Any]) -> None:
    """Move a finished folder into the store, read-only, with its provenance; by rename, so that it is there whole or not at all."""
    _write(out, record)
    sharing.make_folder(stored.parent)
    if out.stat().st_dev == stored.parent.stat().st_dev:
        with contextlib.suppress(PermissionError):  # not in the store's group: only what is made there gets it
            sharing.settle(out, list(record["files"]))
            os.rename(out, stored)
            return
    with _beside(stored) as near:  # a store on another disk
        shutil.copytree(out, near, dirs_exist_ok=True)
