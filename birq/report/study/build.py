"""The study's files, from a record."""

from __future__ import annotations

from pathlib import Path

from birq.report.study import compare, page, predictions, record, tables
from birq.report.study.record import Record


def write(found: Record, out: Path) -> None:
    """study.json, study.md and index.html in a folder."""
    parts = compare.parts(found)
    expected = predictions.look(found, parts)
    (out / "study.json").write_text(record.text(found), encoding="utf-8")
    (out / "study.md").write_text(tables.text(parts, predictions.table(expected), markdown=True) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page.render(parts, expected), encoding="utf-8")
