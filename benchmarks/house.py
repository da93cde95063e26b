"""The size of the code: birq's modules and lines, its stages and layers, at one commit or at two.

    python -m benchmarks house [--before COMMIT] [--at COMMIT]

Reads the trees from git and imports nothing of them, so any commit will do. Lines of code: neither empty nor docstring nor comment alone.
Without --at: the files as they lie here, those that git does not know yet included. benchmarks.contract has the idle seconds of the tools.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from benchmarks.harness import ROOT

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
READ = ("birq/*.py", "pyproject.toml", "dvc.yaml", "README.md")  # git's * goes through folders
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
DOCUMENTED = ast.Module | ast.ClassDef | FUNCTIONS


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def tree_of(commit: str | None) -> dict[str, str]:
    """Path -> text of the files that count, of a commit, or as they lie here."""
    if commit is None:
        names = _git("ls-files", "--cached", "--others", "--exclude-standard", "--", *READ).splitlines()
        return {n: (ROOT / n).read_text(encoding="utf-8") for n in names if (ROOT / n).is_file()}
    names = _git("ls-tree", "-r", "--name-only", commit).splitlines()
    kept = [n for n in names if n in READ or (n.startswith("birq/") and n.endswith(".py"))]
    return {n: _git("show", f"{commit}:{n}") for n in kept}


# ---- one module


def docstring_lines(module: ast.Module) -> set[int]:
    """The lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def code_lines(text: str) -> int:
    """Lines that hold code, of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {n for t in tokens if t.type not in SILENT for n in range(t.start[0], t.end[0] + 1)}
    return len(lines - docstring_lines(ast.parse(text)))


def functions(inside: ast.AST, prefix: str = "") -> Iterator[tuple[int, str]]:
    """Lines and dotted name of every function, those inside of others too; from `def` to its end, docstring included."""
    for node in ast.iter_child_nodes(inside):
        name = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef | FUNCTIONS) else prefix
        if isinstance(node, FUNCTIONS):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, name[:-1]
        yield from functions(node, name)


# ---- the house


@dataclass(frozen=True)
class House:
    """The files of one commit that are counted."""

    tree: dict[str, str]

    @property
    def modules(self) -> dict[str, str]:
        return {name: text for name, text in self.tree.items() if name.endswith(".py")}

    @property
    def in_root(self) -> list[str]:
        """Modules directly in birq/, __init__ and __main__ included."""
        return [name for name in self.modules if PurePosixPath(name).parent.name == "birq"]

    @property
    def contracts(self) -> list[dict[str, Any]]:
        """Import-linter's contracts in pyproject.toml."""
        return tomllib.loads(self.tree["pyproject.toml"]).get("tool", {}).get("importlinter", {}).get("contracts", [])

    @property
    def layers(self) -> int:
        """Layers of the contracts that have some."""
        return sum(len(c.get("layers", ())) for c in self.contracts)

    def lines(self, name: str) -> int:
        return len(self.tree.get(name, "").splitlines())

    @property
    def longest_module(self) -> tuple[int, str]:
        return max((len(text.splitlines()), name) for name, text in self.modules.items())

    @property
    def longest_function(self) -> tuple[int, str]:
        return max((n, f"{file}: {name}") for file, text in self.modules.items() for n, name in functions(ast.parse(text)))


def _named(longest: tuple[int, str]) -> str:
    return f"{longest[0]:,} ({longest[1].removeprefix('birq/')})"


FIGURES: dict[str, Callable[[House], str]] = {
    "modules in the root of birq/": lambda h: f"{len(h.in_root)}",
    "folders of modules in birq/": lambda h: f"{len({PurePosixPath(name).parent for name in h.modules} - {PurePosixPath('birq')})}",
    "modules in birq/": lambda h: f"{len(h.modules):,}",
    "lines in birq/ that are not empty": lambda h: f"{sum(bool(x.strip()) for t in h.modules.values() for x in t.splitlines()):,}",
    "lines of code in birq/": lambda h: f"{sum(map(code_lines, h.modules.values())):,}",
    "longest module, lines": lambda h: _named(h.longest_module),
    "longest function, lines": lambda h: _named(h.longest_function),
    "lines of dvc.yaml": lambda h: f"{h.lines('dvc.yaml'):,}",
    "import-linter's contracts": lambda h: f"{len(h.contracts)}",
    "import-linter's layers": lambda h: f"{h.layers}",
    "lines of README.md": lambda h: f"{h.lines('README.md'):,}",
}


def table(sides: dict[str, House]) -> str:
    """A row a figure, a column a commit."""
    lines = ["| | " + " | ".join(sides) + " |", "|---|" + "---:|" * len(sides)]
    return "\n".join(lines + [f"| {name} | " + " | ".join(figure(h) for h in sides.values()) + " |" for name, figure in FIGURES.items()])


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks house", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", metavar="COMMIT", help="a column of an earlier commit")
    parser.add_argument("--at", metavar="COMMIT", help="in place of the files that lie here")
    options = parser.parse_args(arguments)
    commits = {options.before: options.before} if options.before else {}
    commits |= {options.at or "here": options.at}
    print(table({name: House(tree_of(commit)) for name, commit in commits.items()}))


if __name__ == "__main__":
    main()
