"""`birq compare`: the study's tables, and its page with prose, of what is there or of a record."""

from __future__ import annotations

from pathlib import Path

from birq import files
from birq.errors import BirqError
from birq.pipeline.dag import NO_STUDY
from birq.report.study import compare, notes, page, predictions, record, rows, tables
from birq.report.study.record import Record
from birq.settings.params import Params


def look(
    project: Params | None,
    *,
    part: str | None,
    against: str | None,
    layer: int | None,
    markdown: bool,
    into: Path | None,
    source: Path | None,
    html: Path | None,
    prose: Path | None,
) -> str:
    """The tables of a record's file, or of what is there under these params, and what lacks.

    into: a record's file that gets what is there. html: a file for the page. prose: a Markdown file whose sections the page holds.
    Errors: BirqError where there is nothing; for a part, form or layer that is not there; for rows that a record's params contradict.
    """
    if prose and not html:
        raise BirqError(f"--notes {prose}: is for the page; add --page FILE.html")
    found, lacking = (record.read(source), []) if source else _here(project, into)
    parts = compare.parts(found, part, against, layer)
    if not parts:
        raise BirqError(f"{source or 'study.parts'}: no run is there yet; `snakemake --cores all study` makes them")
    expected = predictions.look(found, parts, part)
    if html:
        files.write_text(html, page.render(parts, expected, lacking, notes.read(prose) if prose else None))
    return tables.text(parts, predictions.table(expected), lacking, markdown=markdown)


def _here(project: Params | None, into: Path | None) -> tuple[Record, list[str]]:
    if project is None or not project.study.parts:
        raise BirqError(f"{NO_STUDY}; --from FILE shows a record")
    found = record.gather(project, rows.in_place())
    if into:
        return record.add(into, found), found.lacking
    return found.record, found.lacking
