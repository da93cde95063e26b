"""The study on one page: no script, no network, no file beside it. Its layout is templates/study.html."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from birq.report.page import figure
from birq.report.study import figures, published, tables
from birq.report.study.compare import PROBE, WER, Part, value
from birq.report.study.rows import Row
from birq.report.study.tables import Table
from birq.report.tables import interval
from birq.report.templates import environment
from birq.report.words import counted

TITLE = "Which labels teach a speech encoder more?"


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


def render(parts: Sequence[Part], lacking: Sequence[str] = ()) -> str:
    """index.html."""
    page = environment().get_template("study.html")
    explained = tables.explained(list(parts))
    notes = tables.notes(list(parts), lacking)
    found = {"parts": [_part(p) for p in parts], "explained": explained, "published": published.beside(parts), "notes": notes}
    return page.render(title=TITLE, **found).strip() + "\n"
