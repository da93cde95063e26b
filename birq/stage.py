"""The stage contract: a key for everything that made an artifact, a store, a lock, a keyed work folder, publishing by rename.

Every verb goes through `run`. So Snakemake and DVC can be mixed in any order: no stage is computed twice for one key, and none is stale.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from birq import __version__, dag
from birq.errors import BirqError
from birq.params import Params, section

PROVENANCE = "provenance.json"
# files that tell how a run went rather than what it made; they stay out of the digest
VOLATILE = frozenset({PROVENANCE, "timing.jsonl", ".snakemake_timestamp"})
HASH_ON_READ_BYTES = 1 << 30  # inputs up to this size are re-hashed before use, larger ones only sized (`birq verify` hashes all)
PACKAGES = ("torch", "torchaudio", "lhotse", "sentencepiece", "jiwer", "pyarrow", "numpy", "safetensors", "espeakng-loader", "soundfile")


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


# ---- digests


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def list_files(folder: Path) -> list[str]:
    """Relative paths of an artifact's files, sorted, provenance and Snakemake's timestamp left out."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return sorted(p.relative_to(folder).as_posix() for p in found if p.name not in (PROVENANCE, ".snakemake_timestamp"))


def content_digest(files: dict[str, dict[str, Any]]) -> str:
    """Digest of what an artifact says: its files' hashes, without those that only tell how the run went."""
    return sha256_json({name: f["sha256"] for name, f in files.items() if Path(name).name not in VOLATILE})


@cache
def module_source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"module {module} has no source file")
    return Path(spec.origin)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(module: str) -> set[str]:
    """Modules of birq that a module imports, anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(_tree(module_source(module))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return {m for m in found if m.split(".")[0] == "birq" and _is_module(m)}


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# the contract itself and what every stage shares decide when to run, not what comes out
_SHARED = frozenset({"birq", "birq.dag", "birq.stage", "birq.params", "birq.errors", "birq.progress"})


@cache
def code_modules(module: str) -> tuple[str, ...]:
    """The modules of birq that a stage runs: the closure of its imports, sorted."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        if name in seen or name in _SHARED:
            continue
        seen.add(name)
        todo += _imports(name)
        todo += [p for p in (name.rpartition(".")[0],) if p and p not in _SHARED]
    return tuple(sorted(seen))


def _strip_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = body[1:] or [ast.Pass()]
    return tree


@cache
def code_digest(module: str) -> str:
    """Hash of a stage's code; comments, docstrings and layout do not change it."""
    trees = {m: ast.dump(_strip_docstrings(ast.parse(module_source(m).read_text(encoding="utf-8")))) for m in code_modules(module)}
    return sha256_json(trees)


# ---- places


def data_root() -> Path:
    return Path("data")


def store_root() -> Path:
    """Where finished artifacts are kept: `data/.store`, or BIRQ_STORE for one store shared by several clones."""
    return Path(os.environ.get("BIRQ_STORE") or data_root() / ".store")


def store_path(stage: str, key: str) -> Path:
    return store_root() / stage / key


# ---- reading artifacts


def read_provenance(folder: Path) -> dict[str, Any]:
    """An artifact's provenance. Errors: BirqError if the artifact is missing or its provenance is not readable."""
    path = folder / PROVENANCE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BirqError(f"{folder}: not made yet (no {PROVENANCE}); `snakemake --cores all` or `dvc repro` makes it") from None
    except ValueError as e:
        raise BirqError(f"{path}: not readable ({e}); delete {folder} and run again") from None


def damage(folder: Path, files: dict[str, dict[str, Any]], *, rehash: bool) -> str | None:
    """What is wrong with an artifact's files, or None. `rehash` reads them all; else only sizes are compared."""
    for name, want in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != want["bytes"]:
            return f"{path} has {path.stat().st_size} bytes, not {want['bytes']}"
        if rehash and sha256_file(path) != want["sha256"]:
            return f"{path} has changed since it was made (SHA-256 differs)"
    return None


def _digest_of_input(folder: Path) -> str:
    record = read_provenance(folder)
    small = sum(f["bytes"] for f in record["files"].values()) <= HASH_ON_READ_BYTES
    if problem := damage(folder, record["files"], rehash=small):
        raise BirqError(f"{problem}; delete {folder} and run again: it is restored from {store_root()} or made anew")
    return record["digest"]


# ---- the key


def key_parts(stage: str, wildcards: dict[str, str], params: Params, inputs: dict[str, list[Path]]) -> dict[str, Any]:
    """Everything that decides what a stage makes."""
    return {
        "stage": stage,
        "wildcards": wildcards,
        "params": {s: section(params, s) for s in dag.sections(stage, wildcards)},
        "inputs": {str(p): _digest_of_input(p) for paths in inputs.values() for p in paths},
        "code": code_digest(dag.STAGES[stage].code),
        "sources": outside_files(stage, wildcards, params),
    }


def key_of(parts: dict[str, Any]) -> str:
    """The key of an artifact, from everything that decides it."""
    return sha256_json(parts)[:32]


def outside_files(stage: str, wildcards: dict[str, str], params: Params) -> str | None:
    """A corpus folder of the user's: names, sizes and times of its files stand for its content in the key."""
    if stage != "corpus":
        return None
    corpus = params.corpora[wildcards["corpus"]]
    roots = [getattr(corpus, "root", None), *getattr(corpus, "alignments", [])]
    listing = []
    for root in (Path(r) for r in roots if r):
        paths = sorted(root.rglob("*")) if root.is_dir() else [root]
        for p in paths:
            if p.is_file():
                st = p.stat()
                listing.append([str(p), st.st_size, st.st_mtime_ns])
    return sha256_json(listing) if listing else None


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
        f.write(f"process {os.getpid()} on {socket.gethostname()}")
        f.flush()
        yield


# ---- publishing


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _place(stored: Path, target: Path) -> None:
    """Put a stored artifact in its place: built beside it, then renamed. Data files are links to read-only files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.new-{os.getpid()}"
    _remove(fresh)
    for name in list_files(stored):
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(stored / name, fresh / name)
    # copied, never linked: Snakemake deletes and compares the time of this one
    shutil.copyfile(stored / PROVENANCE, fresh / PROVENANCE)
    if target.exists() or target.is_symlink():
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        os.rename(target, old)
        os.rename(fresh, target)
        _remove(old)
    else:
        os.rename(fresh, target)


def _publish(job: Job, parts: dict[str, Any], seconds: float) -> None:
    files = {n: {"bytes": (job.out / n).stat().st_size, "sha256": sha256_file(job.out / n)} for n in list_files(job.out)}
    if not files:
        raise RuntimeError(f"stage {job.stage} made no files")
    record = {
        "birq": __version__,
        "stage": job.stage,
        "wildcards": job.wildcards,
        "key": job.key,
        "digest": content_digest(files),
        "parts": parts,
        "files": files,
        "wall_seconds": round(seconds, 3),
        "notes": job.notes,
        "environment": environment(),
    }
    for name in files:
        os.chmod(job.out / name, 0o444)
    (job.out / PROVENANCE).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
    stored = store_path(job.stage, job.key)
    stored.parent.mkdir(parents=True, exist_ok=True)
    if job.out.stat().st_dev == stored.parent.stat().st_dev:
        os.rename(job.out, stored)
        return
    # a store on another disk: copy beside, then rename there
    near = stored.parent / f".{job.key}.{os.getpid()}"
    _remove(near)
    shutil.copytree(job.out, near)
    os.rename(near, stored)


def environment() -> dict[str, Any]:
    """Where and with what an artifact was made."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {p: v for p in PACKAGES if (v := _version(p))},
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = bool(subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip())
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": dirty}


# ---- the verb


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(stage: str, wildcards: dict[str, str], params: Params, say: Callable[[str], None] = _say) -> Path:
    """Make a stage's artifact, or put the stored one in place; return its folder.

    Errors: BirqError for bad input or a full disk; whatever was done stays in the work folder for the next try.
    """
    inputs = dag.inputs(stage, wildcards, params)
    parts = key_parts(stage, wildcards, params, inputs)
    key = key_of(parts)
    target, stored = dag.artifact(stage, wildcards), store_path(stage, key)
    name = "/".join([stage, *wildcards.values()])
    work = data_root() / ".work" / stage / key
    try:
        with _lock(work.with_suffix(".lock"), say):
            if not _usable(stored, say):
                _compute(stage, wildcards, params, inputs, parts, key, name, work, say)
            elif not (target / PROVENANCE).is_file() or read_provenance(target)["key"] != key:
                say(f"{name}: restored from the store ({key[:12]})")
            else:
                say(f"{name}: up to date ({key[:12]})")
            _place(stored, target)
    except OSError as e:
        if e.errno in (28, 122):  # no space, quota
            raise BirqError(f"{name}: the disk is full ({e.filename or work}); what is done stays in {work}, free space and run again") from e
        raise
    return target


def _usable(stored: Path, say: Callable[[str], None]) -> bool:
    if not stored.exists():
        return False
    try:
        record = read_provenance(stored)
        small = sum(f["bytes"] for f in record["files"].values()) <= HASH_ON_READ_BYTES
        problem = damage(stored, record["files"], rehash=small)
    except BirqError as e:
        problem = str(e)
    if problem is None:
        return True
    say(f"the store is damaged: {problem}; this artifact is made again")
    _remove(stored)
    return False


def _compute(
    stage: str,
    wildcards: dict[str, str],
    params: Params,
    inputs: dict[str, list[Path]],
    parts: dict[str, Any],
    key: str,
    name: str,
    work: Path,
    say: Callable[[str], None],
) -> None:
    say(f"{name}: computing ({key[:12]})")
    out, scratch = work / "out", work / "scratch"
    _remove(out)  # `out` is rebuilt; what a stage wants to keep over a kill lies in scratch
    out.mkdir(parents=True)
    scratch.mkdir(parents=True, exist_ok=True)
    job = Job(stage, wildcards, key, inputs, out, scratch, params)
    before = time.monotonic()
    spent = scratch / "seconds"
    earlier = float(spent.read_text()) if spent.exists() else 0.0
    try:
        importlib.import_module(dag.STAGES[stage].code).compute(job)
    finally:
        seconds = earlier + time.monotonic() - before
        with contextlib.suppress(OSError):
            spent.write_text(f"{seconds:.3f}")
    _publish(job, parts, seconds)
    _remove(work)
    say(f"{name}: done in {seconds:.1f} s")
