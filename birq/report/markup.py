"""Small pieces of HTML: tables, figures, alignments. Everything that comes from data is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from birq.report.aligned import Pair
from birq.report.gather import NAMES
from birq.report.plots import COLOURS


class Markup(str):
    """Text that is HTML already."""


def text(value: Any, digits: int | None = None) -> Markup:
    """A table cell's content: None is a dash, floats have `digits` decimals, the rest is escaped."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("–")
    if isinstance(value, float) and digits is not None:
        return Markup(f"{value:,.{digits}f}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Markup(f"{value:,}")
    return Markup(escape(str(value)))


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], *, left: Sequence[int] = (0,), wrap: Sequence[int] = (), group: int | None = None
) -> Markup:
    """left: columns that are flush left. wrap: columns whose text may break. group: column whose change draws a line above."""

    def attrs(i: int) -> str:
        names = [n for n, on in (("l", i in left), ("wrap", i in wrap)) if on]
        return f' class="{" ".join(names)}"' if names else ""

    body, before = [], None
    for row in rows:
        cells = "".join(f"<td{attrs(i)}>{text(c)}</td>" for i, c in enumerate(row))
        new = group is not None and before is not None and before != row[group]
        before = row[group] if group is not None else None
        body.append(f"<tr{' class=group' if new else ''}>{cells}</tr>")
    top = "".join(f"<th{attrs(i)}>{escape(h)}</th>" for i, h in enumerate(head))
    return Markup(f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>')


def method(name: str) -> Markup:
    """A method's name with its colour, the same as in the figures."""
    return Markup(f'<span class="dot" style="--c:{COLOURS.get(name, "#7a3fb0")}"></span>{escape(NAMES.get(name, name))}')


def rate(value: float | None, low: float | None, high: float | None) -> Markup:
    """A rate given as a fraction, in per cent with its interval."""
    if value is None:
        return Markup("–")
    interval = "" if low is None or high is None else f'<span class="iv">{100 * low:.1f} – {100 * high:.1f}</span>'
    return Markup(f"<b>{100 * value:.1f}</b>{interval}")


def duration(seconds: float) -> str:
    """`8.2 s`, `3.1 min`, `5.2 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def figure(name: str, svg: str) -> Markup:
    """An SVG inside the page. Its ids get the figure's name: inside one page they must be unique, or one figure clips another."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return Markup(f'<figure id="fig-{name}">{svg[svg.index("<svg") :]}</figure>')


def figures(svgs: dict[str, str], names: Sequence[str]) -> Markup:
    return Markup(f'<div class="figures">{"".join(figure(n, svgs[n]) for n in names)}</div>')


def alignment(pairs: Sequence[Pair]) -> Markup:
    """Reference above, hypothesis below, word by word; S, D and I in their colours. Equal words show once more, paler."""
    cells = []
    for kind, reference, hypothesis in pairs:
        cls = "w" if kind == "=" else f"w w{kind}"
        cells.append(f'<span class="{cls}"><i class="r">{escape(reference) or "+"}</i><i class="h">{escape(hypothesis) or "×"}</i></span>')
    return Markup(f'<div class="words">{"".join(cells)}</div>')


def definitions(pairs: Iterable[tuple[str, Any]]) -> Markup:
    return Markup("<dl>" + "".join(f"<dt>{escape(t)}</dt><dd>{text(d)}</dd>" for t, d in pairs) + "</dl>")


def paragraph(words: str, cls: str = "") -> Markup:
    return Markup(f"<p{f' class={cls}' if cls else ''}>{text(words)}</p>")
