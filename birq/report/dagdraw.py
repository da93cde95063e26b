"""The pipeline as SVG, laid out from the stage table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from birq.dag import STAGES

BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 118, 50, 46, 26, 8


def edges() -> list[tuple[str, str]]:
    """(from, to) for every artifact that a stage reads."""
    return [(spec.removeprefix("+").partition(":")[0], s.name) for s in STAGES.values() for spec in s.inputs]


def reduced(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges that no longer path implies (transitive reduction): the same order of work with fewer lines."""
    after: dict[str, set[str]] = {}
    for a, b in pairs:
        after.setdefault(a, set()).add(b)

    def reaches(a: str, b: str) -> bool:
        return any(n == b or reaches(n, b) for n in after.get(a, ()))

    return [(a, b) for a, b in dict.fromkeys(pairs) if not any(n != b and reaches(n, b) for n in after[a])]


def ranks(pairs: list[tuple[str, str]]) -> dict[str, int]:
    """Column of each stage: the length of the longest path to it."""
    before: dict[str, list[str]] = {name: [a for a, b in pairs if b == name] for name in STAGES}

    def rank(name: str) -> int:
        return 1 + max((rank(a) for a in before[name]), default=-1)

    return {name: rank(name) for name in STAGES}


def _rows(pairs: list[tuple[str, str]], columns: dict[str, int]) -> dict[str, float]:
    """Row of each stage: a chain runs on the row of the stage it comes from, so that lines stay straight."""
    rows: dict[str, float] = {}
    for column in range(max(columns.values()) + 1):
        here = [n for n in STAGES if columns[n] == column]
        wanted = {n: [rows[a] for a, b in pairs if b == n] for n in here}
        taken: set[float] = set()
        # the stage with the longest way still to go gets the straight line
        for name in sorted(here, key=lambda n: -_ahead(n, pairs)):
            row = min(wanted[name], default=0.0)
            while row in taken:
                row += 1
            rows[name] = row
            taken.add(row)
    return rows


def _ahead(name: str, pairs: list[tuple[str, str]]) -> int:
    return 1 + max((_ahead(b, pairs) for a, b in pairs if a == name), default=-1)


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """A line that stays on its row and bends in the last gap before its aim, or in the first if it comes from above."""
    if y0 == y1:
        path = f"M{x0:g} {y0:g}H{x1:g}"
    elif y1 > y0:
        bend = x0 + GAP_X / 2
        path = f"M{x0:g} {y0:g}C{bend:g} {y0:g} {bend:g} {y1:g} {x0 + GAP_X:g} {y1:g}H{x1:g}"
    else:
        start = x1 - GAP_X
        bend = start + GAP_X / 2
        path = f"M{x0:g} {y0:g}H{start:g}C{bend:g} {y0:g} {bend:g} {y1:g} {x1:g} {y1:g}"
    return f'<path d="{path}" class="dag-edge" marker-end="url(#dag-tip)"/>'


def _box(name: str, x: float, y: float, times: int) -> str:
    stage = STAGES[name]
    below = f"{times} × {', '.join(stage.wildcards)}" if stage.wildcards else "once"
    hint = f"reads {', '.join(dict.fromkeys(a for a, b in edges() if b == name)) or 'audio'}; params {', '.join(stage.sections)}"
    return (
        f'<g><title>{escape(hint)}</title><rect x="{x:g}" y="{y:g}" width="{BOX_W}" height="{BOX_H}" rx="7" class="dag-box"/>'
        f'<text x="{x + BOX_W / 2:g}" y="{y + 21:g}" class="dag-name">{escape(name)}</text>'
        f'<text x="{x + BOX_W / 2:g}" y="{y + 38:g}" class="dag-times">{escape(below)}</text></g>'
    )


def svg(times: Mapping[str, int]) -> str:
    """The stages as boxes, left to right. times: how often each stage ran."""
    pairs = reduced(edges())
    columns = ranks(pairs)
    rows = _rows(pairs, columns)
    corner = {n: (MARGIN + columns[n] * (BOX_W + GAP_X), MARGIN + rows[n] * (BOX_H + GAP_Y)) for n in STAGES}
    width = max(x for x, _ in corner.values()) + BOX_W + MARGIN
    height = max(y for _, y in corner.values()) + BOX_H + MARGIN
    lines = [_arrow(corner[a][0] + BOX_W, corner[a][1] + BOX_H / 2, corner[b][0] - 4, corner[b][1] + BOX_H / 2) for a, b in pairs]
    boxes = [_box(n, *corner[n], times.get(n, 1)) for n in STAGES]
    style = (
        ".dag-box{fill:#fff;stroke:#9aa5b4;stroke-width:1.2}.dag-edge{fill:none;stroke:#7c8898;stroke-width:1.4}"
        ".dag-name{font:600 14px system-ui,sans-serif;fill:#1c2430;text-anchor:middle}"
        ".dag-times{font:11px system-ui,sans-serif;fill:#5b6572;text-anchor:middle}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="The pipeline\'s stages and what each reads"><style>{style}</style>'
        '<defs><marker id="dag-tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8L7 4L0 7.2Z" fill="#7c8898"/></marker></defs>' + "".join(lines + boxes) + "</svg>\n"
    )
