"""The code of a stage: which modules of birq it runs, and a hash that comments and docstrings do not change."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

# the contract and what every stage shares decide when to run, not what comes out
SHARED = frozenset(f"birq{m}" for m in ("", ".artifact", ".code", ".dag", ".stage", ".params", ".errors", ".progress"))


def _find(module: str) -> Path | None:
    """A module's file, found without importing it or its package: their imports would cost seconds."""
    if module.split(".")[0] == "birq":
        stem = Path(__file__).parent.parent.joinpath(*module.split("."))
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


def _imports(module: str) -> set[str]:
    """Modules of birq that a module imports, anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return {m for m in found if m.split(".")[0] == "birq" and _find(m)}


@cache
def modules(module: str) -> tuple[str, ...]:
    """The modules that a stage runs: the closure of its imports within birq, sorted."""
    todo, seen = [module], set()
    while todo:
        name = todo.pop()
        if name in seen or name in SHARED:
            continue
        seen.add(name)
        todo += _imports(name)
        todo += [p for p in (name.rpartition(".")[0],) if p]
    return tuple(sorted(seen))


@cache
def _module_digest(module: str) -> str:
    tree = ast.parse(module_source(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def digest(module: str) -> str:
    """Hash of a stage's code; comments, docstrings and layout do not change it."""
    lines = [f"{m} {_module_digest(m)}" for m in modules(module)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
