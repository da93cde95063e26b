"""Presets: files that hold only the differences from params.yaml, merged into it with its comments kept."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from birq import files
from birq.errors import BirqError
from birq.settings import params, yamlfile


def read(path: Path) -> dict[str, Any]:
    """A YAML file with its comments. Errors: BirqError as `yamlfile.read`."""
    return yamlfile.read(path, yamlfile.with_comments())


def names(folder: Path) -> list[str]:
    """The presets in a folder, sorted."""
    return sorted(p.stem for p in folder.glob("*.yaml"))


def find(name: str, folder: Path) -> Path:
    """A preset's file. Errors: BirqError lists the legal ones."""
    legal = names(folder)
    if name not in legal:
        close = difflib.get_close_matches(name, legal, n=1)
        raise BirqError(f"preset {name!r} is unknown" + (f", did you mean {close[0]!r}?" if close else "") + f"; legal: {', '.join(legal)}")
    return folder / f"{name}.yaml"


def merge(base: dict[str, Any], change: dict[str, Any], replace: tuple[str, ...] = ("corpora",)) -> None:
    """Put `change` into `base`, mapping by mapping; those named in `replace` are replaced whole."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key not in replace:
            merge(base[key], value, ())
        else:
            base[key] = value


def assign(tree: dict[str, Any], setting: str) -> None:
    """`section.key=value` with a YAML value. Errors: BirqError for another form or a section that is not there."""
    dotted, equals, text = setting.partition("=")
    if not equals or not dotted.strip():
        raise BirqError(f"--set {setting}: not of the form key=value, such as pretrain.steps=500")
    *parents, last = dotted.strip().split(".")
    node: Any = tree
    for i, part in enumerate(parents):
        if not isinstance(node, dict) or part not in node:
            where = ".".join(parents[:i]) or "params.yaml"
            has = f"; {where} has {', '.join(node)}" if isinstance(node, dict) else ""
            raise BirqError(f"--set {setting}: no {part!r} in {where}{has}")
        node = node[part]
    if not isinstance(node, dict):
        raise BirqError(f"--set {setting}: {'.'.join(parents)} holds a value, not keys")
    try:
        node[last] = yamlfile.with_comments().load(text)
    except YAMLError as e:
        raise BirqError(f"--set {setting}: the value is not readable as YAML: {yamlfile.reason(e)}") from None


def plain(tree: Any) -> Any:
    """A YAML tree as plain dicts, lists and scalars."""
    if isinstance(tree, dict):
        return {str(k): plain(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [plain(v) for v in tree]
    for kind in (bool, int, float, str):
        if isinstance(tree, kind):
            return kind(tree)
    return tree


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def dump(tree: dict[str, Any]) -> str:
    """A tree as the text of params.yaml, comments kept."""
    # a replaced mapping takes the blank line before the next section with it
    text = re.sub(r"(?<=[^\n])\n(?=[a-z_]+:)", "\n\n", yamlfile.text(tree, yamlfile.with_comments()))
    text = re.sub(r"\n{3,}", "\n\n", text)
    # comments follow their value by one space, whatever column they stood in
    return re.sub(r"(?<=\S) {2,}(?=# )", " ", text)


def apply(name: str | None, settings: list[str], path: Path) -> list[str]:
    """Merge a preset and settings into params.yaml; returns the changes, a line each.

    Errors: BirqError for an unknown preset, and for a result that is not legal: then nothing is written.
    """
    tree = read(path)
    before = plain(tree)
    if name:
        merge(tree, read(find(name, path.parent / "presets")))
    for setting in settings:
        assign(tree, setting)
    after = plain(tree)
    params.parse(after, path)
    files.write_text(path, dump(tree))
    old, new = _flat(before), _flat(after)
    lines = [f"{k}: {old[k]} -> {new[k]}" if k in old else f"{k}: {new[k]} (new)" for k in new if old.get(k, ...) != new[k]]
    return lines + [f"{k}: removed" for k in old if k not in new]


def command(name: str | None, settings: list[str], path: Path) -> None:
    """The verb `preset`."""
    if name is None and not settings:
        for preset in names(path.parent / "presets"):
            text = (path.parent / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
            first = text.partition("\n")[0]
            print(f"{preset:<20} {first.removeprefix('#').strip()}")
        return
    changes = apply(name, settings, path)
    for line in changes:
        print(line)
    print(f"{path}: {len(changes)} value(s) changed")
