"""Why an artifact would be made again: the param, the input, the line of code that is not what it was."""

from __future__ import annotations

import contextlib
import difflib
import json
from pathlib import Path
from typing import Any

from birq import artifact, code, dag, places, stage
from birq.errors import BirqError
from birq.params import Params

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
        old = (places.code_root() / f"{old_digest}.py").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
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
    place = Path(*module.split(".")).with_suffix(".py") if path.name != "__init__.py" else Path(*module.split("."), "__init__.py")
    return [f"{place} has changed since it was made:", *lines, *([f"    … and {more} more lines"] if more else [])]


def differences(made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the parts of two keys, one line each; lines of code follow, indented. Empty if the keys are equal."""
    lines = _params(made.get("params", {}), now["params"])
    for name, digest in now["inputs"].items():
        if made.get("inputs", {}).get(name) != digest:
            lines.append(f"its input {name} is another one than when it was made")
    gone = set(made.get("inputs", {})) - set(now["inputs"])
    lines += [f"its input {name} is not used any more" for name in sorted(gone)]
    old_code = made.get("code") if isinstance(made.get("code"), dict) else {}
    for module, digest in now["code"].items():
        if module not in old_code:
            lines.append(f"{module} is code that was not used when it was made")
        elif old_code[module] != digest:
            lines += _code_lines(module, old_code[module])
    lines += [f"{module} is code that is not used any more" for module in sorted(set(old_code) - set(now["code"]))]
    if made.get("sources") != now["sources"]:
        lines.append("the files of the corpus folder have changed since it was made")
    return lines


def find(text: str, params: Params) -> tuple[str, dict[str, str]]:
    """Stage and wildcards of an artifact given as `data/finetune/birq-0`, `finetune/birq-0` or `report`.

    Errors: BirqError lists the artifacts of these params.
    """
    legal = {str(dag.artifact(s, w)): (s, w) for s in dag.STAGES for w in dag.instances(s, params)}
    asked = text.rstrip("/").removesuffix(f"/{artifact.PROVENANCE}")
    for name in (asked, f"{places.data_root()}/{asked}"):
        if name in legal:
            return legal[name]
    close = difflib.get_close_matches(asked, [*legal, *(n.removeprefix("data/") for n in legal)], n=1)
    hint = f"did you mean {close[0]}?" if close else f"these are: {', '.join(n.removeprefix('data/') for n in legal)}"
    raise BirqError(f"{text} is not an artifact of these params; {hint}")


def _upstream(name: str, wildcards: dict[str, str], params: Params) -> list[tuple[str, dict[str, str]]]:
    """An artifact and everything that it is made from, first to last."""
    wanted = {dag.artifact(name, wildcards)}
    order = [(s, w) for s in dag.STAGES for w in dag.instances(s, params)]
    for s, w in reversed(order):
        if dag.artifact(s, w) in wanted:
            wanted |= {p for paths in dag.inputs(s, w, params).values() for p in paths}
    return [(s, w) for s, w in order if dag.artifact(s, w) in wanted]


def _state(name: str, wildcards: dict[str, str], params: Params) -> list[str]:
    """Reasons of its own for which an artifact would be made again, or nothing."""
    folder = dag.artifact(name, wildcards)
    if not (folder / artifact.PROVENANCE).exists():
        return [f"{folder} is not there"]
    try:
        record = artifact.read_provenance(folder)
        problem = artifact.damage(folder, record["files"], places.memo(f"{name}-{record['key']}"))
    except BirqError as e:
        return [str(e)]
    reasons = [problem] if problem else []
    with contextlib.suppress(BirqError):  # an input is missing or damaged: told where it stands
        reasons += differences(record["parts"], stage.key_parts(name, wildcards, params))
    return reasons


def explain(text: str, params: Params) -> str:
    """Why an artifact would be made again, from the first stage on that has a reason."""
    name, wildcards = find(text, params)
    moved: set[Path] = set()
    lines: list[str] = []
    for s, w in _upstream(name, wildcards, params):
        folder = dag.artifact(s, w)
        inputs = [p for paths in dag.inputs(s, w, params).values() for p in paths]
        if reasons := _state(s, w, params):
            lines += [f"{folder} would be {_way(s, w, params)}:", *(f"  {r}" for r in reasons)]
        elif before := ", ".join(str(p) for p in inputs if p in moved):
            lines.append(f"{folder} would be made again if one of these comes out different: {before}")
        else:
            continue
        moved.add(folder)
    target = dag.artifact(name, wildcards)
    return "\n".join(lines) if lines else f"{target} is up to date: params, inputs and code are those that made it"


def _way(name: str, wildcards: dict[str, str], params: Params) -> str:
    try:
        key = stage.key_of(stage.key_parts(name, wildcards, params))
    except BirqError:
        return "made again"
    return "restored from the store" if places.store_path(name, key).exists() else "computed"
