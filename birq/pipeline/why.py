"""Why an artifact would be made again: the param, the input, the line of code that has changed."""

from __future__ import annotations

import contextlib
import difflib
import json
from pathlib import Path
from typing import Any

from birq.errors import BirqError
from birq.pipeline import artifact, code, dag, keys, locations, sharing
from birq.pipeline.dag import Node
from birq.settings.params import Params

LINES_SHOWN = 6  # changed lines of code, each way, per module


def _params(made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    lines = []
    for section, value in now.items():
        old = made.get(section)
        if isinstance(old, dict) and isinstance(value, dict):
            keys = [k for k in sorted(old.keys() | value.keys()) if old.get(k) != value.get(k)]
            lines += [f"{section}.{k} was {json.dumps(old.get(k))} when it was made, is {json.dumps(value.get(k))} now" for k in keys]
        elif old != value:
            lines.append(f"{section} was {json.dumps(old)} when it was made, is {json.dumps(value)} now")
    return lines


def _code_lines(module: str, old_digest: str) -> list[str]:
    """The lines that differ between the module and its text in the store; comments and empty lines are left out."""
    path = code.module_source(module)
    try:
        old = (locations.code_root() / f"{old_digest}.py").read_text(encoding="utf-8").splitlines()
    except OSError:
        return [f"{module} has changed since it was made (its old text is not in the store)"]
    new = path.read_text(encoding="utf-8").splitlines()
    lines, shown = [], {"-": 0, "+": 0}
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for sign, text, first, last in (("-", old, a, b), ("+", new, c, d)):
            for number in range(first, last):
                line = text[number].strip()
                if line and not line.startswith("#"):
                    shown[sign] += 1
                    if shown[sign] <= LINES_SHOWN:
                        lines.append(f"    {number + 1:>4} {sign} {line}")
    more = sum(max(0, n - LINES_SHOWN) for n in shown.values())
    source = Path(*module.split(".")).with_suffix(".py") if path.name != "__init__.py" else Path(*module.split("."), "__init__.py")
    return [f"{source} has changed since it was made:", *lines, *([f"    … and {more} more lines"] if more else [])]


def code_changes(made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The modules whose code differs between the parts of two keys, with their lines, indented."""
    old, lines = made.get("code") if isinstance(made.get("code"), dict) else {}, []
    for module, digest in now["code"].items():
        if module not in old:
            lines.append(f"{module} is code that was not used when it was made")
        elif old[module] != digest:
            lines += _code_lines(module, old[module])
    return lines + [f"{module} is code that is not used any more" for module in sorted(set(old) - set(now["code"]))]


def input_folder(label: str, run: str) -> Path:
    """The folder of an input that a key names: one of the same run is named by its stage alone."""
    of_run = "/" not in label and label in dag.STAGES and bool(dag.STAGES[label].wildcards)
    return locations.data_root() / (f"{label}/{run}" if of_run else label)


def other_changes(run: str, made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The params, inputs and files of a corpus that differ between the parts of two keys, one line each."""
    lines = _params(made.get("params", {}), now["params"])
    for label, digest in now["inputs"].items():
        if made.get("inputs", {}).get(label) != digest:
            lines.append(f"its input {input_folder(label, run)} is another one than when it was made")
    gone = set(made.get("inputs", {})) - set(now["inputs"])
    lines += [f"its input {input_folder(label, run)} is not used any more" for label in sorted(gone)]
    if made.get("sources") != now["sources"]:
        lines.append("the files of the corpus folder have changed since it was made")
    if made.get("accepted") != now.get("accepted"):
        lines.append("one of its inputs was accepted under changed code since it was made")
    return lines


def differences(run: str, made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """All that differs between the parts of two keys, one line each; lines of code follow, indented. Empty if the keys are equal."""
    return other_changes(run, made, now) + code_changes(made, now)


def _state(node: Node) -> list[str]:
    """Reasons of its own for which an artifact would be made again, or nothing."""
    try:
        with sharing.explained(reading=True):
            if not node.provenance.exists():
                return [f"{node.folder} is not there"]
        record = artifact.of(node)
        problem = artifact.damage(node.folder, record["files"], keys.memo(node, record["key"]))
    except BirqError as e:
        return [str(e)]
    reasons = [problem] if problem else []
    with contextlib.suppress(BirqError):  # an input is missing or damaged: its own node reports that
        reasons += differences(node.run, record["parts"], keys.key_parts(node))
    return reasons


def explain(text: str, params: Params) -> str:
    """Why an artifact would be made again, from the first stage on that has a reason."""
    target = dag.find(text, params)
    moved: set[str] = set()
    lines: list[str] = []
    for node in dag.upstream(target):
        if reasons := _state(node):
            lines += [f"{node.folder} would be {_way(node)}:", *(f"  {r}" for r in reasons)]
        elif before := ", ".join(str(n.folder) for n in node.before if n.name in moved):
            lines.append(f"{node.folder} would be made again if one of these comes out different: {before}")
        else:
            continue
        moved.add(node.name)
    return "\n".join(lines) if lines else f"{target.folder} is up to date: params, inputs and code are those that made it"


def _way(node: Node) -> str:
    key = keys.current_key(node)
    if key is None:
        return "made again"
    return "restored from the store" if locations.store_path(node.stage.name, key).exists() else "computed"
