"""The study's figures. They must be readable with twenty forms, so forms have places and names in them, not twenty colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from birq.report import charts
from birq.report.charts import INK, MUTED
from birq.report.gather import PALETTE
from birq.report.study import compare
from birq.report.study.compare import PROBE, WER, Form, Measure, Part, value
from birq.report.study.rows import Row
from birq.report.words import mean

MAIN, FAINT = PALETTE[0], "#b6bdc7"  # the second is that of axes, which the page's dark style knows
PANELS = 4  # side by side
PANEL_WIDTH, PANEL_HEIGHT = 120, 84
NAME_SHOWN = 26  # characters over a panel
ROW = 19  # pixels of a form in a list
LABEL = 13  # pixels of a line of text
Dot = dict[str, Any]


def _short(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else name[: NAME_SHOWN - 1] + "…"


# ---- a panel per form


def by_layer(part: Part) -> dict[str, Any]:
    """The probe by layer: a panel a form, with its seeds as dots, and the form that differences are from in grey."""
    title = f"{part.name}: linear phone probe by layer"
    forms = [f for f in part.forms if f.values(PROBE, part.layer)]
    if not forms:
        return charts.note(title, "no form has a linear probe")
    layers = range(part.depth + 1)
    rows: list[Dot] = []
    for form in forms:
        who = {"form": _short(form.name)}
        rows += [who | {"layer": k, "value": 100 * v, "kind": "seed"} for k in layers for v in form.values(PROBE, k).values()]
        for kind, shown in (("form", form), ("against", part.base)):
            means = {k: shown.mean(PROBE, k) for k in layers} if shown else {}
            rows += [who | {"layer": k, "value": 100 * m, "kind": kind} for k, m in means.items() if m is not None]
    x = alt.X("layer:Q", title=None, axis=alt.Axis(values=list(layers), format="d", grid=False))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=4))
    base = alt.Chart().encode(x=x, y=y)
    parts = [
        base.transform_filter("datum.kind == 'against'").mark_line(color=MUTED, strokeWidth=1.2, strokeDash=[3, 2]),
        base.transform_filter("datum.kind == 'form'").mark_line(color=MAIN, strokeWidth=1.8),
        base.transform_filter("datum.kind == 'seed'").mark_point(color=MAIN, filled=True, size=14, opacity=0.75),
    ]
    panels = alt.layer(*parts, data=charts.data(rows)).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    order = [_short(f.name) for f in forms]
    header = alt.Header(title=None, labelFontSize=10, labelColor=INK, labelPadding=3)
    chart = panels.facet(facet=alt.Facet("form:N", sort=order, header=header), columns=PANELS, spacing=12)
    against = f"; dashed: {part.against}" if part.base else ""
    return charts.finish(chart, title, f"accuracy on frames (%), layer 0 = the input; dots are seeds{against}", height=None)


def by_step(part: Part) -> dict[str, Any] | None:
    """The probe along pre-training: a panel a form, a line a layer, the stronger the higher. None where no run has snapshots."""
    layers = range(1, part.depth + 1)
    forms = [f for f in part.forms if f.by_step(part.layer)]
    if not forms:
        return None
    rows: list[Dot] = []
    for form in forms:
        for kind, shown, some in (("form", form, layers), ("against", part.base, [part.layer])):
            who = {"form": _short(form.name), "kind": kind}
            means = [(k, step, mean([*found.values()])) for k in some for step, found in (shown.by_step(k) if shown else {}).items()]
            rows += [who | {"layer": k, "step": step, "value": 100 * m} for k, step, m in means]
    x = alt.X("step:Q", title=None, axis=alt.Axis(tickCount=2, format=",d", grid=False))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, nice=True), axis=alt.Axis(tickCount=4))
    shown_as = {"symbolType": "circle", "symbolFillColor": MAIN, "symbolSize": 60, "labelExpr": "'layer ' + datum.label"}
    legend = alt.Legend(orient="top", offset=6, columns=6, **shown_as)
    shade = alt.Opacity("layer:O", title=None, scale=alt.Scale(range=[0.25, 1.0]), legend=legend)
    lines = alt.Chart().transform_filter("datum.kind == 'form'").encode(x=x, y=y, opacity=shade)
    parts = [
        alt.Chart().transform_filter("datum.kind == 'against'").mark_line(color=MUTED, strokeWidth=1.2, strokeDash=[3, 2]).encode(x=x, y=y),
        lines.mark_line(color=MAIN, strokeWidth=1.8),
        lines.mark_point(color=MAIN, filled=True, size=14),
    ]
    panels = alt.layer(*parts, data=charts.data(rows)).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    header = alt.Header(title=None, labelFontSize=10, labelColor=INK, labelPadding=3)
    chart = panels.facet(facet=alt.Facet("form:N", sort=[_short(f.name) for f in forms], header=header), columns=PANELS, spacing=12)
    against = f"; dashed: {part.against}, layer {part.layer}" if part.base and part.base.by_step(part.layer) else ""
    title = f"{part.name}: linear phone probe by step"
    return charts.finish(chart, title, f"accuracy on frames (%), mean over seeds{against}", height=None)


# ---- a line per form


def differences(part: Part, measure: Measure = PROBE) -> dict[str, Any]:
    """The difference from the base, of the probe or of words: a dot a seed, the mean, and its interval over seeds."""
    what, unit = ("word error rate", "points of WER") if measure.words else ("linear phone probe", f"points, layer {part.layer}")
    title = f"{part.name}: {what}, less {part.against}"
    rows, seeds = [], []
    for form in part.forms:
        found, beside = compare.less(part, form, measure), part.beside(part.against, form, measure)
        if found is None or beside is None:
            continue
        rows.append({"form": form.name, "value": 100 * found.mean} | _span(found))
        base = beside.values(measure, part.layer)
        of_seed = form.values(measure, part.layer)
        seeds += [{"form": form.name, "value": 100 * (v - base[s])} for s, v in of_seed.items() if s in base]
    if not rows:
        return charts.note(title, "nothing to compare")
    y = alt.Y("form:N", sort=[r["form"] for r in rows], title=None, axis=alt.Axis(labelFontSize=11, labelColor=INK, labelLimit=220))
    x = alt.X("value:Q", title=unit, scale=alt.Scale(nice=True, padding=10), axis=alt.Axis(grid=True))
    zero = alt.Chart(alt.Data(values=[{"value": 0}])).mark_rule(color=INK, strokeWidth=1).encode(x=x)
    span = alt.Chart(charts.data(r for r in rows if "low" in r)).mark_rule(strokeWidth=4, opacity=0.35, color=MAIN, strokeCap="round")
    dots = alt.Chart(charts.data(seeds)).mark_tick(thickness=1.5, size=9, color=MUTED).encode(x=x, y=y)
    points = alt.Chart(charts.data(rows)).mark_point(filled=True, size=55, color=MAIN, opacity=1).encode(x=x, y=y)
    drawn = [zero, span.encode(x=alt.X("low:Q"), x2="high:Q", y=y), dots, points]
    enough = any("low" in r for r in rows)
    sure = f"bar: {100 * part.confidence:g} % interval, Student's t" if enough else "too few seeds for an interval"
    return charts.finish(alt.layer(*drawn), title, f"mean over seeds, ticks are seeds; {sure}", height=110 + ROW * len(rows))


def _span(found: compare.Difference) -> dict[str, float]:
    return {} if found.low is None or found.high is None else {"low": 100 * found.low, "high": 100 * found.high}


# ---- runs in a plane, the forms' names at the right edge


def _edge(marks: Sequence[Dot], height: int, low: float, high: float) -> list[Dot]:
    """Places of the names, in the order of their marks, so that no two overlap; in units of y."""
    per_pixel = (high - low) / height
    step, ordered = LABEL * per_pixel, sorted(marks, key=lambda m: m["y"])
    places: list[float] = []
    for mark in ordered:
        places.append(max(mark["y"], places[-1] + step if places else low + step / 2))
    limit = high - step / 2
    for i in reversed(range(len(places))):  # what was pushed over the top comes down again
        places[i] = min(places[i], limit)
        limit = places[i] - step
    return [mark | {"place": place} for mark, place in zip(ordered, places, strict=True)]


Point = Callable[[Row], tuple[float, float] | None]


def _plane(forms: Sequence[Form], point: Point, title: str, about: str, x: dict[str, Any], unit: str) -> dict[str, Any]:
    """A dot a run, the forms' means larger, each joined to its name. `x`: title and scale."""
    runs, marks = [], []
    for form in forms:
        found = [p for row in form.rows.values() if (p := point(row))]
        runs += [{"x": a, "y": b} for a, b in found]
        if found:
            marks.append({"form": form.name, "x": mean([a for a, _ in found]), "y": mean([b for _, b in found])})
    if not marks:
        return charts.note(title, "no run has both figures")
    height = max(260, LABEL * (len(marks) + 1))
    values = [r["y"] for r in runs]
    margin = 0.06 * (max(values) - min(values)) or 1.0
    low, high = min(values) - margin, max(values) + margin
    named = _edge(marks, height, low, high)
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    y = alt.Y("y:Q", title=unit, scale=scale, axis=alt.Axis(grid=False, tickCount=6))
    place = alt.Y("place:Q", title=unit, scale=scale)
    across = alt.X("x:Q", **x)
    edge = alt.value("width")
    drawn = [
        alt.Chart(charts.data(named)).mark_rule(color=FAINT, strokeWidth=0.8).encode(x=across, x2=edge, y=y, y2="place:Q"),
        alt.Chart(charts.data(runs)).mark_point(filled=True, size=18, color=MAIN, opacity=0.45).encode(x=across, y=y),
        alt.Chart(charts.data(marks)).mark_point(filled=True, size=60, color=MAIN, opacity=1).encode(x=across, y=y),
        alt.Chart(charts.data(named))
        .mark_text(align="left", baseline="middle", dx=4, fontSize=11, color=INK)
        .encode(x=edge, y=place, text="form:N"),
    ]
    return charts.finish(alt.layer(*drawn), title, about, height=height + 90)


def cost(part: Part, measure: Measure = PROBE) -> dict[str, Any]:
    """The probe, or WER, against the time of pre-training. An untrained encoder took none and stands at the left edge."""
    trained = [row["seconds"] for row in part.rows if row["steps"]]
    least = min(trained, default=60.0)

    def point(row: Row) -> tuple[float, float] | None:
        found = value(row, measure, part.layer)
        return None if found is None else ((row["seconds"] if row["steps"] else 0.8 * least) / 60, 100 * found)

    x = {
        "title": "minutes of pre-training, with labels and the encoders behind them",
        "scale": alt.Scale(type="log", nice=False, padding=14),
    }
    untrained = "; far left: took no time" if any(not row["steps"] for row in part.rows) else ""
    what, unit = ("word error rate", "WER (%)") if measure.words else ("linear phone probe", f"probe, layer {part.layer} (%)")
    about = "" if measure.words else "accuracy on frames (%); "
    return _plane(part.forms, point, f"{part.name}: {what} by cost", f"{about}large dots are means over seeds{untrained}", x, unit)


def wer_by_probe(part: Part) -> dict[str, Any]:
    """WER against the probe of the encoder that was fine-tuned."""

    def point(row: Row) -> tuple[float, float] | None:
        found, wer = value(row, PROBE, part.layer), value(row, WER, part.layer)
        return None if found is None or wer is None else (100 * found, 100 * wer)

    x = {"title": f"linear phone probe, layer {part.layer} (%)", "scale": alt.Scale(zero=False, nice=True, padding=10)}
    title = f"{part.name}: word error rate by probe"
    return _plane(part.forms, point, title, "one dot a run; large dots are means over seeds", x, "WER (%)")


def by_minutes(part: Part) -> dict[str, Any] | None:
    """WER by labelled minutes: a line a form, a dot a run. None where all forms have the same minutes."""
    rows: list[Dot] = []
    for form in part.forms:
        method, others = form.recipe
        name, minutes = ", ".join([method, *(f"{key.rpartition('.')[2]} {others[key]}" for key in sorted(others))]), part.minutes(form)
        who = {"form": name, "minutes": minutes}
        rows += [who | {"value": 100 * v} for v in form.values(WER, part.layer).values() if minutes]
    if len({r["minutes"] for r in rows}) < 2:
        return None
    x = alt.X("minutes:O", title="minutes of transcribed speech, or all there is if that is less", axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title="WER (%)", scale=alt.Scale(zero=False, nice=True))
    colour = alt.Color("form:N", title=None, sort=None, scale=alt.Scale(range=list(PALETTE)), legend=charts.legend(columns=4))
    base = alt.Chart(charts.data(rows)).encode(x=x, y=y, color=colour)
    drawn = alt.layer(base.mark_point(filled=True, size=18, opacity=0.5), base.encode(y="mean(value):Q").mark_line(strokeWidth=1.8))
    return charts.finish(
        drawn, f"{part.name}: word error rate by labelled minutes", "dots are runs, lines are means over seeds", height=260
    )


def of_part(part: Part) -> dict[str, str]:
    """A part's figures as SVG, by name."""
    probed, spoken = part.measured(PROBE), part.measured(WER)
    drawn = {"layers": by_layer(part), "differences": differences(part), "cost": cost(part)} if probed else {}
    drawn |= {"steps": found} if probed and (found := by_step(part)) else {}
    drawn |= {"wer-differences": differences(part, WER), "wer-cost": cost(part, WER)} if spoken else {}
    drawn |= {"wer": wer_by_probe(part)} if probed and spoken else {}
    drawn |= {"minutes": found} if spoken and (found := by_minutes(part)) else {}
    return {f"{part.name}-{name}": charts.svg(spec) for name, spec in drawn.items()}
