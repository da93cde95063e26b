"""The study's record: what study.json holds, and what outlives a store in benchmarks/results.

    {"format": 1, "parts": {PART: {"against", "layer", "confidence", "params", "forms": {FORM: {"method", "changed"}}}}, "rows": [...],
     "predictions": {NAME: {"says", "parts", "compared": [...]}}}

params: every key that decides a row of the part, dotted, with its value in params.yaml; a variant's own numbers are `changed`.
rows: one per part, form and seed, as `rows.row` returns them. `snapshots` is in those of runs that have some.
predictions: as in `study.predictions`; older records have none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from birq import files
from birq.errors import BirqError
from birq.report.study import rows
from birq.settings.params import Params
from birq.settings.study import Prediction

FORMAT = 1
Record = dict[str, Any]


PLACES = ("root", "audio", "alignments")  # of a corpus: where its files lie on a machine; what they hold is in the keys of the rows


@dataclass(frozen=True)
class Sitting:
    """What is there of the study of some params."""

    record: Record
    reads: dict[tuple[str, str], dict[str, Any]]  # by part and form, the keys of params.yaml that decide its rows
    lacking: list[str]  # artifacts


def gather(project: Params, present: rows.Present) -> Sitting:
    """Every run of the study that is there. Forms without a row are left out."""
    parts: dict[str, Any] = {}
    found: list[rows.Row] = []
    reads: dict[tuple[str, str], dict[str, Any]] = {}
    lacking: dict[str, None] = {}
    for part, spec in project.study.parts.items():
        for name in spec.names:
            tried = [rows.row(project, part, name, seed, present) for seed in spec.seeds]
            lacking |= dict.fromkeys(x for _, missing in tried for x in missing)
            if made := [row for row, _ in tried if row]:
                found += made
                reads[part, name] = {k: _named(k, v) for k, v in rows.leaves(project, name, spec.words).items()}
                about = parts.setdefault(part, _about(project))
                about["params"] |= reads[part, name]
                about["forms"][name] = {"method": project.method(name).name, "changed": _changed(project, name)}
    expected = {name: p.model_dump(mode="json", exclude_defaults=True) for name, p in project.study.predictions.items()}
    return Sitting({"format": FORMAT, "parts": parts, "predictions": expected, "rows": found}, reads, list(lacking))


def _named(key: str, value: Any) -> Any:
    """A value as any machine would have it: of a place, the last name."""
    if not (key.startswith("corpora.") and key.rpartition(".")[2] in PLACES):
        return value
    return [Path(v).name for v in value] if isinstance(value, list) else value and Path(value).name


def _about(project: Params) -> dict[str, Any]:
    shown = {"against": project.study.against, "layer": project.birq.label_layer, "confidence": project.score.confidence}
    return shown | {"params": {}, "forms": {}}


def _changed(project: Params, name: str) -> dict[str, Any]:
    return {key: value for key, value in project.variants.get(name, {}).items() if key != "method"}


def merge(old: Record, new: Sitting, where: Path) -> Record:
    """The rows of `old` with those of a sitting: same part, form and seed replaced, others kept.

    Errors: BirqError for a form whose params are not those that are recorded for its part; it names part, form, key and both values.
    For a prediction that is recorded otherwise.
    """
    parts = json.loads(json.dumps(old["parts"]))
    predictions = _predictions(old, new, where)
    for part, about in new.record["parts"].items():
        before = parts.setdefault(part, about)
        for form, is_now in about["forms"].items():
            _require_same(before, form, is_now, new.reads[part, form], f"{where}: {part}, {form}")
            before["params"] |= new.reads[part, form]
            before["forms"][form] = is_now
        before |= {key: about[key] for key in ("against", "layer", "confidence")}
    fresh = {_who(row): row for row in new.record["rows"]}
    place = {(part, form): i for i, (part, form) in enumerate((p, f) for p, about in parts.items() for f in about["forms"])}
    kept = [row for row in old["rows"] if _who(row) not in fresh]
    ordered = sorted([*kept, *fresh.values()], key=lambda row: (place[row["part"], row["form"]], row["seed"]))
    return {"format": FORMAT, "parts": parts, "predictions": predictions, "rows": ordered}


def _predictions(old: Record, new: Sitting, where: Path) -> dict[str, Any]:
    """Those of both. One that is recorded was made before runs that are there, so it stays as it is."""
    before, now = old.get("predictions", {}), new.record.get("predictions", {})
    if changed := [name for name, found in now.items() if before.get(name, found) != found]:
        raise BirqError(
            f"{where}: study.predictions.{changed[0]}: is recorded otherwise, {json.dumps(before[changed[0]])}; what was expected is not "
            "changed after the runs: write it into params.yaml as it is recorded, or give the new one another name"
        )
    return before | now


def _who(row: rows.Row) -> tuple[str, str, int]:
    return row["part"], row["form"], row["seed"]


def _require_same(before: dict[str, Any], form: str, is_now: dict[str, Any], reads: dict[str, Any], who: str) -> None:
    """All forms of a part share its params. A key that is not recorded is one that came later."""
    was = before["forms"].get(form, is_now)
    pairs = [("method", was["method"], is_now["method"])]
    pairs += [(key, was["changed"].get(key), is_now["changed"].get(key)) for key in {**was["changed"], **is_now["changed"]}]
    pairs += [(key, before["params"][key], value) for key, value in reads.items() if key in before["params"]]
    for key, old, now in pairs:
        if old != now:
            raise BirqError(
                f"{who}: recorded with {key} = {json.dumps(old)}, here it is {json.dumps(now)}; "
                "give the part another name in study.parts, or record into another file"
            )


# ---- files


def text(record: Record) -> str:
    """As JSON, a run a line, so that a sitting changes the lines of its runs."""
    head = json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=1)
    lines = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in record["rows"])
    return f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n'


def read(path: Path) -> Record:
    """A record's file. Errors: BirqError if there is none, or it is none, or for a prediction in it that is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BirqError(f"{path}: no such record; `birq compare --record {path}` writes one") from None
    except (OSError, ValueError) as e:
        raise BirqError(f"{path}: not readable as JSON ({e})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not {"parts", "rows"} <= set(found):
        raise BirqError(f"{path}: is no record of a study of format {FORMAT}; `birq compare --record FILE` writes one")
    for name, told in found.get("predictions", {}).items():
        try:
            Prediction.model_validate(told)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(map(str, ("predictions", name, *first["loc"])))
            raise BirqError(f"{path}: {where}: {first['msg']}; docs/parameters.md (`study.predictions`) says what one holds") from None
    return found


def add(path: Path, new: Sitting) -> Record:
    """Merge a sitting into a record's file, which may not be there yet. Errors: as `merge`; then nothing is written."""
    merged = merge(read(path) if path.exists() else {"format": FORMAT, "parts": {}, "predictions": {}, "rows": []}, new, path)
    files.write_text(path, text(merged))
    return merged
