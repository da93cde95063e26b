"""The code of a stage: which modules of birq it runs, and a hash that comments and docstrings do not change."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from birq import files

# folders with code that decides when, where or how fast a stage runs, not its result; so do the modules at birq's root
OUTSIDE = ("birq.pipeline", "birq.settings", "birq.train.runtime")
TEXTS = (".html", ".css", ".js")  # a template beside a module counts as its package's code


def keyed(module: str) -> bool:
    """Whether a module can change a stage's result."""
    if module.split(".")[0] != "birq":
        return True
    in_folder = module.count(".") > 1 or (module != "birq" and module_source(module).name == "__init__.py")
    return in_folder and not any(module == o or module.startswith(o + ".") for o in OUTSIDE)


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


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(module_source(module).read_text(encoding="utf-8"))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements in it, however deep; expressions, where nearly all nodes are, are left out."""
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, None)
        for child in inner if isinstance(inner, list) else ():
            yield from _statements(child)


def _imports(module: str) -> set[str]:
    """Modules of birq that a module imports, anywhere in its text."""
    names: set[str] = set()
    for node in _statements(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return {m for m in names if m.split(".")[0] == "birq" and _find(m)}


@cache
def modules(*roots: str) -> tuple[str, ...]:
    """The modules that make a stage's bytes: the closure of the imports of `roots` within birq, sorted."""
    todo, seen = list(roots), set()
    while todo:
        name = todo.pop()
        if name in seen or not keyed(name):
            continue
        seen.add(name)
        todo += _imports(name)
        todo += [p for p in (name.rpartition(".")[0],) if p]
    return tuple(sorted(seen))


@cache
def _module_digest(module: str) -> str:
    tree = _tree(module)  # taking the docstrings out of it leaves its imports
    for node in _statements(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    digest = hashlib.sha256(ast.dump(tree).encode())
    source = module_source(module)
    if source.name == "__init__.py":
        for text in sorted(p for p in source.parent.rglob("*") if p.suffix in TEXTS):
            digest.update(text.name.encode() + text.read_bytes())
    return digest.hexdigest()


@cache
def digests(*roots: str) -> dict[str, str]:
    """Hash of each module that makes a stage's bytes; comments, docstrings and layout do not change it."""
    return {m: _module_digest(m) for m in modules(*roots)}


def keep(made_by: dict[str, str], folder: Path) -> None:
    """Keep the modules' text by digest, so that `birq why` can show the line that differs."""
    for module, digest in made_by.items():
        target = folder / f"{digest}.py"
        if not target.exists():
            files.write_bytes(target, module_source(module).read_bytes())
