"""What all figures share: colours and letters, a figure without data, SVG by vl-convert. No network, no browser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import altair as alt
import vl_convert

INK, MUTED, GRID = "#1c2430", "#5b6572", "#e6e9ee"
WIDTH, HEIGHT = 520, 310  # of the whole figure, so that all figures of the page have letters of one size
DOT: dict[str, Any] = {
    "size": 10,
    "filled": False,
    "strokeWidth": 3,
    "opacity": 1,
}  # a stroke, as the lines are, so that one legend serves both
FONT = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"


def data(rows: Iterable[Mapping[str, Any]]) -> alt.Data:
    """Rows for a chart."""
    return alt.Data(values=[{k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows])


def legend(orient: str = "top", **more: Any) -> alt.Legend:
    return alt.Legend(orient=orient, offset=6, symbolType="stroke", direction="horizontal", **more)


def finish(chart: alt.TopLevelMixin, title: str, subtitle: str, height: int | None = HEIGHT) -> dict[str, Any]:
    """The specification of a figure. height: None for one of several panels, whose sizes are its own."""
    size = {} if height is None else {"width": WIDTH, "height": height, "autosize": alt.AutoSizeParams(type="fit", contains="padding")}
    styled = (
        chart.properties(
            title=alt.TitleParams(
                title, subtitle=subtitle, anchor="start", frame="group", offset=8, fontSize=14, subtitleFontSize=11, subtitlePadding=4
            ),
            **size,
        )
        .configure(font=FONT, background="white", padding=8)
        .configure_view(stroke=None)
        .configure_title(color=INK, subtitleColor=MUTED, fontWeight=600)
        .configure_axis(
            labelColor=MUTED,
            titleColor=MUTED,
            titleFontWeight=400,
            labelFontSize=11,
            titleFontSize=11,
            gridColor=GRID,
            domainColor="#b6bdc7",
            tickColor="#b6bdc7",
        )
        .configure_axisX(grid=False, tickCount=6)
        .configure_axisY(tickCount=5, domain=False, ticks=False)
        .configure_legend(labelColor=INK, labelFontSize=11, symbolStrokeWidth=2.2, symbolSize=160, padding=0, columnPadding=12)
    )
    return styled.to_dict()


def note(title: str, why: str) -> dict[str, Any]:
    """A figure with the reason why there is none."""
    chart = alt.Chart(alt.Data(values=[{"why": why}])).mark_text(color=MUTED, fontSize=12, lineBreak="\n").encode(text="why:N")
    return finish(chart, title, "")


def _numbered_from_0(svg: str) -> str:
    """The renderer counts clip paths over the life of the process; counted per figure, equal figures are equal files."""
    names = {old: f"clip{i}" for i, old in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)))}
    return re.sub(r"\bclip\d+\b", lambda m: names.get(m[0], m[0]), svg)


def svg(spec: dict[str, Any]) -> str:
    """A specification, drawn."""
    return _numbered_from_0(vl_convert.vegalite_to_svg(spec))
