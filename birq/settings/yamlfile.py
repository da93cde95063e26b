"""YAML 1.2, as DVC reads it: `1e-4` is a number, and a key that stands twice is an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from birq.errors import BirqError


def with_comments() -> YAML:
    """A reader and writer that keeps comments and quotes."""
    yaml = YAML()
    yaml.width = 4096  # a long line stays one line
    yaml.preserve_quotes = True
    return yaml


def plain() -> YAML:
    """A reader and writer of plain dicts, lists and scalars."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    return yaml


def read(path: Path, yaml: YAML) -> dict[str, Any]:
    """The sections of a YAML file. Errors: BirqError for a file that is missing, not readable as YAML, or without sections."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BirqError(f"{path}: no such file; run birq from the project's root folder") from None
    except (YAMLError, UnicodeDecodeError) as e:
        raise BirqError(f"{path}: not readable as YAML: {reason(e)}") from None
    if not isinstance(tree, dict):
        raise BirqError(f"{path}: holds no sections; `git checkout {path}` brings the tracked one back")
    return tree


def reason(error: Exception) -> str:
    """The problem and its line, without advice for programmers."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        return f"{error.problem.splitlines()[0]}{where}"
    return str(error)


def text(tree: Any, yaml: YAML) -> str:
    """A tree as YAML."""
    buffer = io.StringIO()
    yaml.dump(tree, buffer)
    return buffer.getvalue()
