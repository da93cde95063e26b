"""The pipeline as SVG, laid out from the stage table."""

from __future__ import annotations

from html import escape

from birq.pipeline import dag
from birq.pipeline.dag import Node

BOX_W, BOX_H, GAP_X, GAP_Y, MARGIN = 118, 50, 46, 26, 8


Box = tuple[str, int]  # a stage, and how many of its own kind lie before: a method may need the encoder of another one


def _recurring(nodes: list[Node]) -> set[str]:
    """Stages that come after themselves, where one method's labels or first weights are of another one's encoder."""
    after: dict[str, set[str]] = {}
    for node in nodes:
        for one in node.before:
            after.setdefault(one.stage.name, set()).add(node.stage.name)

    def reached(stage: str, seen: set[str]) -> set[str]:
        for name in after.get(stage, set()) - seen:
            seen.add(name)
            reached(name, seen)
        return seen

    return {stage for stage in after if stage in reached(stage, set())}


def boxes(nodes: list[Node]) -> tuple[dict[Box, list[Node]], list[tuple[Box, Box]]]:
    """The nodes of every box, and (from, to) for every artifact that a box reads. `nodes`: inputs before what reads them."""
    order, recurring = list(dag.STAGES), _recurring(nodes)
    rounds: dict[str, int] = {}  # how often the way to a node does not go on in the table of stages
    box_of: dict[str, Box] = {}
    found: dict[Box, list[Node]] = {}
    pairs = []
    for node in nodes:
        here = order.index(node.stage.name)
        rounds[node.name] = max((rounds[b.name] + (order.index(b.stage.name) >= here) for b in node.before), default=0)
        box = (node.stage.name, rounds[node.name] if node.stage.name in recurring else 0)
        box_of[node.name] = box
        found.setdefault(box, []).append(node)
        pairs += [(box_of[one.name], box) for one in node.before]
    return found, list(dict.fromkeys(pairs))


def reduced(pairs: list[tuple[Box, Box]]) -> list[tuple[Box, Box]]:
    """The edges that no longer path implies (transitive reduction): the same order of work with fewer lines."""
    after: dict[Box, set[Box]] = {}
    for a, b in pairs:
        after.setdefault(a, set()).add(b)

    def reaches(a: Box, b: Box) -> bool:
        return any(n == b or reaches(n, b) for n in after.get(a, ()))

    return [(a, b) for a, b in dict.fromkeys(pairs) if not any(n != b and reaches(n, b) for n in after[a])]


def ranks(every: list[Box], pairs: list[tuple[Box, Box]]) -> dict[Box, int]:
    """Column of each box: the length of the longest path to it."""
    before = {box: [a for a, b in pairs if b == box] for box in every}

    def rank(box: Box) -> int:
        return 1 + max((rank(a) for a in before[box]), default=-1)

    return {box: rank(box) for box in every}


def _rows(every: list[Box], pairs: list[tuple[Box, Box]], columns: dict[Box, int]) -> dict[Box, float]:
    """Row of each box: a chain runs on the row of the box it comes from, so that lines stay straight."""
    rows: dict[Box, float] = {}
    for column in range(max(columns.values()) + 1):
        here = [box for box in every if columns[box] == column]
        wanted = {box: [rows[a] for a, b in pairs if b == box] for box in here}
        taken: set[float] = set()
        # the box with the longest way still to go gets the straight line
        for box in sorted(here, key=lambda x: -_ahead(x, pairs)):
            row = min(wanted[box], default=0.0)
            while row in taken:
                row += 1
            rows[box] = row
            taken.add(row)
    return rows


def _ahead(box: Box, pairs: list[tuple[Box, Box]]) -> int:
    return 1 + max((_ahead(b, pairs) for a, b in pairs if a == box), default=-1)


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


def _box(nodes: list[Node], x: float, y: float) -> str:
    stage = nodes[0].stage
    below = f"{len(nodes)} × {', '.join(stage.wildcards)}" if stage.wildcards else "once"
    reads = dict.fromkeys(name for node in nodes for name in node.inputs)
    params = dict.fromkeys(section.partition(".")[0] for node in nodes for section in node.sections)
    hint = f"reads {', '.join(reads) or 'audio'}; params {', '.join(params)}"
    return (
        f'<g><title>{escape(hint)}</title><rect x="{x:g}" y="{y:g}" width="{BOX_W}" height="{BOX_H}" rx="7" class="dag-box"/>'
        f'<text x="{x + BOX_W / 2:g}" y="{y + 21:g}" class="dag-name">{escape(stage.name)}</text>'
        f'<text x="{x + BOX_W / 2:g}" y="{y + 38:g}" class="dag-times">{escape(below)}</text></g>'
    )


def svg(nodes: list[Node]) -> str:
    """The stages as boxes, left to right, each with how often it runs. `nodes`: inputs before what reads them."""
    every, pairs = boxes(nodes)
    pairs = reduced(pairs)
    columns = ranks(list(every), pairs)
    rows = _rows(list(every), pairs, columns)
    at = {box: (MARGIN + columns[box] * (BOX_W + GAP_X), MARGIN + rows[box] * (BOX_H + GAP_Y)) for box in every}
    width = max(x for x, _ in at.values()) + BOX_W + MARGIN
    height = max(y for _, y in at.values()) + BOX_H + MARGIN
    lines = [_arrow(at[a][0] + BOX_W, at[a][1] + BOX_H / 2, at[b][0] - 4, at[b][1] + BOX_H / 2) for a, b in pairs]
    drawn = [_box(found, *at[box]) for box, found in every.items()]
    style = (
        ".dag-box{fill:#fff;stroke:#9aa5b4;stroke-width:1.2}.dag-edge{fill:none;stroke:#7c8898;stroke-width:1.4}"
        ".dag-name{font:600 14px system-ui,sans-serif;fill:#1c2430;text-anchor:middle}"
        ".dag-times{font:11px system-ui,sans-serif;fill:#5b6572;text-anchor:middle}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="The pipeline\'s stages and what each reads"><style>{style}</style>'
        '<defs><marker id="dag-tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8L7 4L0 7.2Z" fill="#7c8898"/></marker></defs>' + "".join(lines + drawn) + "</svg>\n"
    )
