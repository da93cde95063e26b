"""The study on one page: no script, no network, no file beside it. Its layout is templates/study.html."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from birq.report.page import figure
from birq.report.study import compare, figures, predictions, published, tables
from birq.report.study.compare import PROBE, WER, Part, value
from birq.report.study.predictions import Found
from birq.report.study.rows import Row
from birq.report.study.tables import Table
from birq.report.tables import interval
from birq.report.templates import environment
from birq.report.words import counted

TITLE = "Which labels teach a speech encoder more?"
WEAK = 0.3  # of a correlation over runs: below it nothing is said to go together


@dataclass(frozen=True)
class Section:
    """Prose under one heading, as HTML. tables: the study's tables and figures come in its place."""

    id: str
    title: str
    html: str
    tables: bool = False


@dataclass(frozen=True)
class Notes:
    """The study's prose: what stands before the first section, and the sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def _commit(row: Row) -> str:
    made = row["made"]
    if not made.get("commit"):
        return "no git"
    accepted = f", accepted: {', '.join(made['accepted'])}" if made.get("accepted") else ""
    return made["commit"][:10] + (" + changes" if made.get("dirty") else "") + accepted


def _machine(row: Row) -> str:
    made = row["made"]
    known = [made.get("device"), made.get("machine"), f"{made['cpus']} CPUs" if made.get("cpus") else None, made.get("torch")]
    return ", ".join(x for x in known if x) or "–"


def runs(part: Part) -> Table:
    """Every run with its figures, its cost and what made it."""
    spoken = part.measured(WER)
    rows = []
    for form in part.forms:
        for seed, row in sorted(form.rows.items()):
            keys = ", ".join(f"{stage} {key[:12]}" for stage, key in row["keys"].items()) or "–"
            found = row["words"] or {}
            rates = [interval(found, "wer"), interval(found, "cer")] if spoken else []
            probed = tables.number(value(row, PROBE, part.layer), PROBE)
            cells = [form.name, str(seed), probed, *rates, f"{row['steps']:,}", f"{row['seconds'] / 60:.1f}"]
            rows.append([*cells, _machine(row), _commit(row), keys])
    rates = ["WER %", "CER %"] if spoken else []
    head = ["form", "seed", f"probe %, layer {part.layer}", *rates, "steps", "min", "machine", "commit", "keys"]
    return Table(f"{part.name}: runs", head, rows)


def _params(part: Part) -> str:
    """Params of all forms, and what each variant changes."""
    lines = [f"{key}: {json.dumps(found, ensure_ascii=False)}" for key, found in sorted(part.params.items())]
    forms = [f"  {f.name}: {json.dumps({'method': f.method} | dict(f.changed), ensure_ascii=False)}" for f in part.forms]
    return "\n".join([*lines, "", "forms:", *forms])


def _part(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "about": f"{counted(len(part.forms), 'form')}, seeds {', '.join(map(str, sorted({row['seed'] for row in part.rows})))}",
        "said": tables.statements(part),
        "figures": [figure(name, svg) for name, svg in figures.of_part(part).items()],
        "tables": tables.of_part(part),
        "runs": runs(part),
        "params": _params(part),
        "layer": part.layer,
    }


def _negative(parts: Sequence[Part], expected: Sequence[Found]) -> list[str]:
    """What did not come out, by the figures alone."""
    failed = [f for f in expected if f.verdict == predictions.FAILS]
    lines = [
        f"Prediction {f.prediction} does not hold in {f.part}: {f.about.form} less {f.against} is {predictions.shown(f)}, "
        f"expected {predictions.expected(f.about)}."
        for f in failed
    ]
    lines += [line for part in parts for line in tables.disappointments(part)]
    if found := compare.correlations(list(parts)):
        best = max(found, key=lambda c: abs(c.pearson))
        if abs(best.pearson) < WEAK:
            by = f"the largest |r| is {abs(best.pearson):.2f}, of {best.measure.title}"
            lines.append(f"No measure goes with the word error rate over {best.runs} runs: {by}.")
    return lines


def _code(text: str) -> str:
    """As HTML, names in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _grouped(expected: Sequence[Found]) -> list[dict[str, Any]]:
    """By prediction: its sentence and the cells of its rows."""
    names = dict.fromkeys(f.prediction for f in expected)
    return [
        {"name": name, "says": _code(rows[0].says), "rows": [(predictions.cells(f)[:-1], f.verdict) for f in rows]}
        for name in names
        if (rows := [f for f in expected if f.prediction == name])
    ]


def render(parts: Sequence[Part], expected: Sequence[Found] = (), lacking: Sequence[str] = (), notes: Notes | None = None) -> str:
    """index.html."""
    page = environment().get_template("study.html")
    limits = tables.notes(list(parts), lacking)
    found = {
        "parts": [_part(p) for p in parts],
        "explained": tables.explained(list(parts)),
        "expected": _grouped(expected),
        "predictions": predictions,
        "negative": _negative(parts, expected),
        "beside": published.beside(parts),
        "published": published.tables(),
        "limits": limits,
        "notes": notes,
    }
    return page.render(title=notes.title if notes else TITLE, **found).strip() + "\n"
