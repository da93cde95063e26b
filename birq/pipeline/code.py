"""The code of a stage: which modules of birq it runs, and a hash that comments and docstrings do not change."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import platform
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from birq import files
from birq.pipeline import locations, sharing
from birq.pipeline.hashes import SETTLED_SECONDS

# folders with code that decides when, where, how fast or from where, not the result; so do the modules at birq's root
OUTSIDE = ("birq.pipeline", "birq.settings", "birq.downloads", "birq.train.runtime")
TEXTS = (".html", ".css", ".js")  # a template beside a module counts as its package's code


def keyed(module: str) -> bool:
    """Whether a module can change a stage's result."""
    if module.split(".")[0] != "birq":
        return True
    in_folder = module.count(".") > 1 or (module != "birq" and module_source(module).name == "__init__.py")
    return in_folder and not any(module == o or module.startswith(o + ".") for o in OUTSIDE)


@cache
def _find(module: str) -> Path | None:
    """A module's file, found without importing it or its package: their imports would cost seconds."""
    if module.split(".")[0] == "birq":
        stem = Path(__file__).parents[2].joinpath(*module.split("."))
        return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.origin else None


@cache
def module_source(module: str) -> Path:
    """The file that holds a module."""
    path = _find(module)
    if path is None:
        raise RuntimeError(f"module {module} has no source file")
    return path


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it, however deep; expressions, where nearly all nodes are, are left out."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, None)
        for child in inner if isinstance(inner, list) else ():
            yield from _statements(child)


def _names(tree: ast.Module) -> list[str]:
    """Names of birq that a module imports, anywhere in its text: modules, or names in them."""
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return sorted(n for n in names if n.split(".")[0] == "birq")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in _statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


# ---- digests and imports of modules; parsing all of them takes a third of a second, so both are remembered by file


class _Memo:
    """Module -> mark of its files, digest, imported names; read at the first question, written when something is new."""

    def __init__(self) -> None:
        self.path = locations.memo("code")
        self.fresh: set[str] = set()
        try:
            self.known: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def save(self) -> None:
        if self.fresh:
            self.fresh.clear()
            with contextlib.suppress(OSError):  # a memo saves time, nothing more
                files.write_text(self.path, json.dumps(self.known))


@cache
def _memo() -> _Memo:
    return _Memo()


@cache
def _facts(module: str) -> tuple[str, list[str]]:
    """Digest of a module without comments, docstrings and layout, and the names that it imports.

    The templates and style sheets of a package count as its `__init__`'s.
    """
    source, memo = module_source(module), _memo()
    texts = sorted(p for p in source.parent.rglob("*") if p.suffix in TEXTS) if source.name == "__init__.py" else []
    stats = [p.stat() for p in (source, *texts)]
    # syntax trees differ between versions of Python
    mark = f"{platform.python_version()} {source} " + " ".join(f"{s.st_ino}:{s.st_size}:{s.st_mtime_ns}" for s in stats)
    known = memo.known.get(module)
    if known and known[0] == mark:
        return known[1], known[2]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = _names(tree)
    digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode())
    for text in texts:
        digest.update(text.name.encode() + text.read_bytes())
    if time.time() - max(s.st_mtime for s in stats) > SETTLED_SECONDS:
        memo.known[module] = [mark, digest.hexdigest(), names]
        memo.fresh.add(module)
    return digest.hexdigest(), names


@cache
def modules(*roots: str) -> tuple[str, ...]:
    """The modules that make a stage's bytes: the closure of the imports of `roots` within birq, sorted."""
    todo, seen = list(roots), set()
    while todo:
        name = todo.pop()
        if name in seen or not keyed(name):
            continue
        seen.add(name)
        todo += [m for m in _facts(name)[1] if _find(m)]
        todo += [p for p in (name.rpartition(".")[0],) if p]
    return tuple(sorted(seen))


@cache
def digests(*roots: str) -> dict[str, str]:
    """Hash of each module that makes a stage's bytes; comments, docstrings and layout do not change it."""
    made = {m: _facts(m)[0] for m in modules(*roots)}
    _memo().save()
    return made


def keep(made_by: dict[str, str]) -> None:
    """Keep the modules' text by digest, in the store, so that `birq why` can show the line that differs."""
    for module, digest in made_by.items():
        target = locations.code_root() / f"{digest}.py"
        with contextlib.suppress(PermissionError):  # a help for people; no artifact is lost for want of it
            if not target.exists():
                sharing.write(target, module_source(module).read_bytes())
