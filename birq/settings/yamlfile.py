"""YAML 1.2, as DVC reads it: `1e-4` is a number, and a key that stands twice is an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

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
    back = f"`git checkout {path}` brings the tracked one back"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise BirqError(f"{path}: no such file; run birq from the project's root folder") from None
    except OSError as e:
        raise BirqError(f"{path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise BirqError(
            f"{path}: not UTF-8 (line {line}, byte {e.start}: {e.reason}); save it as UTF-8, or convert it with iconv"
        ) from None
    if not text.strip():
        raise BirqError(f"{path}: is empty; {back}")
    try:
        tree = _by_libyaml(text, path, yaml)
    except DuplicateKeyError as e:
        raise BirqError(f"{path}: {_twice(text) or reason(e)}") from None
    except YAMLError as e:
        raise BirqError(f"{path}: not readable as YAML: {reason(e)}") from None
    if not isinstance(tree, dict):
        raise BirqError(f"{path}: holds no sections; {back}")
    return tree


def _by_libyaml(text: str, path: Path, yaml: YAML) -> Any:
    """As DVC reads it: libyaml takes a sixth of the time, and refuses some of YAML 1.2. What both refuse is said in the words of `yaml`."""
    try:
        tree = YAML(typ="safe").load(text)
    except YAMLError as e:
        yaml.load(text)
        raise BirqError(
            f"{path}: DVC cannot read it: {reason(e)}; in brackets and braces, a value that holds a colon or begins with a question mark "
            'needs quotes: ["http://server/x"]'
        ) from None
    return tree if yaml.typ == ["safe"] else yaml.load(text)


def _twice(text: str) -> str:
    """The first key that stands twice in its section, and both lines."""
    nodes = [("", plain().compose(text))]
    while nodes:
        prefix, node = nodes.pop(0)
        seen: dict[str, int] = {}
        if isinstance(node, SequenceNode):
            nodes += [(f"{prefix}{i}.", item) for i, item in enumerate(node.value)]
        for key, value in node.value if isinstance(node, MappingNode) else ():
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in seen:
                where = f"in line {line}" if line == seen[name] else f"in line {seen[name]} and in line {line}"
                return f"{name} stands twice, {where}; remove one of them"
            seen[name] = line
            nodes.append((f"{name}.", value))
    return ""


def reason(error: Exception) -> str:
    """The problem and its line, without advice for programmers."""
    if isinstance(error, MarkedYAMLError) and error.problem:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        if "'\\t' that cannot start any token" in error.problem:
            return f"a tab stands where YAML wants spaces{where}; replace it by spaces"
        return f"{error.problem.splitlines()[0]}{where}"
    return str(error).splitlines()[0]


def text(tree: Any, yaml: YAML) -> str:
    """A tree as YAML that libyaml reads too."""
    _quote(tree, in_brackets=False)
    buffer = io.StringIO()
    yaml.dump(tree, buffer)
    return buffer.getvalue()


def _quote(node: Any, in_brackets: bool) -> None:
    """Put quotes around what libyaml refuses without, in the lists and mappings that are written with brackets and braces."""
    flow = in_brackets or bool(getattr(node, "fa", None) and node.fa.flow_style())
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, (dict, list)):
            _quote(value, flow)
        elif flow and type(value) is str and (":" in value or value.startswith("?")):
            node[key] = DoubleQuotedScalarString(value)
