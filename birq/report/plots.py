"""The figures: rows for CSV, Vega-Lite specifications by altair, SVG by vl-convert. No network, no browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from birq.report import charts
from birq.report.charts import DOT, HEIGHT, INK, MUTED
from birq.report.gather import Facts
from birq.report.series import MAX_POINTS, Row, curve_rows, finetune_rows, layer_rows, usage_rows, wer_rows, write_all
from birq.report.verdict import statement_kind
from birq.report.words import listed


def _named(facts: Facts, rows: Iterable[Row]) -> list[Row]:
    return [row | {"name": facts.title(row["method"]), "run": f"{row['method']}-{row['seed']}"} for row in rows]


def _colour(facts: Facts, rows: Sequence[Row], legend: bool = True) -> alt.Color:
    names = list(dict.fromkeys(r["method"] for r in rows))
    scale = alt.Scale(domain=[facts.title(n) for n in names], range=[facts.colours[n] for n in names])
    return alt.Color("name:N", scale=scale, title=None, legend=charts.legend() if legend else None)


def _dash(kinds: Sequence[str]) -> alt.StrokeDash:
    """Solid for the first kind of line, dashed for the second, dotted for the third."""
    scale = alt.Scale(domain=list(kinds), range=[[1, 0], [5, 3], [1.5, 2.5]][: len(kinds)])
    return alt.StrokeDash("kind:N", scale=scale, title=None, legend=charts.legend("bottom", symbolStrokeColor=MUTED))


def _thin(rows: list[Row]) -> list[Row]:
    """At most MAX_POINTS per run, the last point kept."""
    longest = max((sum(1 for r in rows if (r["method"], r["seed"]) == who) for who in {(r["method"], r["seed"]) for r in rows}), default=0)
    every = -(-longest // MAX_POINTS) or 1
    if every == 1:
        return rows
    out: list[Row] = []
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or (rows[i + 1]["method"], rows[i + 1]["seed"]) != (row["method"], row["seed"])
        if last or i % every == 0:
            out.append(row)
    return out


def _step(title: str = "step") -> alt.X:
    return alt.X("step:Q", title=title, axis=alt.Axis(format=",d", tickMinStep=1))


def _curves(
    facts: Facts, rows: list[Row], y: str, title: str, subtitle: str, unit: str, *, rule: float | None = None, **scale: Any
) -> dict[str, Any]:
    """One field over steps, one colour per method, one line per seed; `rule` draws a level."""
    rows = _named(facts, (r for r in rows if r.get(y) is not None))
    if not rows:
        return charts.note(title, "not logged by any method of this run")
    axis = alt.Y(f"{y}:Q", title=unit, scale=alt.Scale(**{"zero": False, "nice": True} | scale))
    kept = ({k: r[k] for k in ("name", "run", "step", y)} for r in rows)
    chart = (
        alt.Chart(charts.data(kept))
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(x=_step(), y=axis, color=_colour(facts, rows), detail="run:N")
    )
    if rule is not None:
        level = alt.Chart(alt.Data(values=[{y: rule}])).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(y=axis)
        chart = alt.layer(level, chart)
    return charts.finish(chart, title, subtitle)


# ---- the figures


def wer(facts: Facts) -> dict[str, Any]:
    """Word error rate by method, with intervals; one point per seed."""
    rows = _named(facts, (r for r in wer_rows(facts) if r["split"] == facts.main_split and r["wer"] is not None))
    if not rows:
        return charts.note("Word error rate", f"no word in the references of {facts.main_split}")
    seeds = len(facts.seeds)
    for row in rows:
        row["label"] = f"{row['wer']:.1f}"
    order = list(dict.fromkeys(r["name"] for r in rows))
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelFontSize=12, labelColor=INK, labelPadding=8))
    offset = alt.YOffset("seed:O", scale=alt.Scale(paddingInner=0.1, paddingOuter=0.6))
    base = alt.Chart(charts.data(rows)).encode(y=y, yOffset=offset, color=_colour(facts, rows, legend=False))
    x = alt.Scale(zero=False, nice=True, padding=24)
    band = base.mark_rule(strokeWidth=5, opacity=0.28, strokeCap="round").encode(
        x=alt.X("wer_low:Q", scale=x, title="word error rate (%)"), x2="wer_high:Q"
    )
    point = base.mark_point(filled=True, size=90, opacity=1).encode(x=alt.X("wer:Q", scale=x))
    text = base.mark_text(align="left", dx=8, fontSize=12, fontWeight=600).encode(x=alt.X("wer_high:Q", scale=x), text="label:N")
    sure = round(100 * facts.score_params["confidence"])
    subtitle = f"{facts.main_split}, {sure} % interval by utterance; one point per seed"
    return charts.finish(
        alt.layer(band, point, text), "Word error rate by method", subtitle, height=max(HEIGHT, 90 + len(order) * (24 + 20 * seeds))
    )


def differences(facts: Facts) -> dict[str, Any]:
    """Paired differences of WER, with their intervals by utterance and by speaker."""
    title = "Paired differences of WER"
    if not facts.comparisons:
        return charts.note(title, "one method only: nothing to compare")
    rows = []
    for c in facts.comparisons:
        pair = f"{facts.title(c['a'])} − {facts.title(c['b'])}"
        for low, high, unit in (("low", "high", "by utterance"), ("speaker_low", "speaker_high", "by speaker")):
            if c.get(low) is not None:
                rows.append(
                    {"pair": pair, "method": c["a"], "seed": 0, "kind": unit}
                    | {"low": 100 * c[low], "high": 100 * c[high], "value": 100 * c["difference"]}
                )
    rows = _named(facts, rows)
    order, kinds = list(dict.fromkeys(r["pair"] for r in rows)), ["by utterance", "by speaker"]
    axis = alt.Axis(labelFontSize=12, labelColor=INK, labelPadding=8, labelLimit=220)
    offset = alt.YOffset("kind:N", sort=kinds, scale=alt.Scale(paddingInner=0.1, paddingOuter=0.9))
    x = alt.X("low:Q", title="difference of WER, points", scale=alt.Scale(zero=True, nice=True, padding=14))
    base = alt.Chart(charts.data(rows)).encode(y=alt.Y("pair:N", sort=order, title=None, axis=axis), yOffset=offset)
    zero = alt.Chart(alt.Data(values=[{"low": 0}])).mark_rule(color=INK, strokeWidth=1).encode(x=x)
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=[INK, "#98a2b0"]), legend=charts.legend())
    span = base.mark_rule(strokeWidth=3, strokeCap="round").encode(x=x, x2="high:Q", color=colour)
    point = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("value:Q"), color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[INK, "#98a2b0"]))
    )
    sure = round(100 * facts.score_params["confidence"])
    about = "methods" if statement_kind(facts) == "methods" else f"models of seed {listed([str(s) for s in facts.seeds])}"
    return charts.finish(
        alt.layer(zero, span, point),
        title,
        f"{about}; {facts.main_split}, {sure} % intervals",
        height=max(HEIGHT, 100 + 60 * len(order)),
    )


def pretrain_losses(facts: Facts) -> dict[str, Any]:
    """G of every method and F of those that have enhanced labels."""
    kinds = ("G, anchoring labels", "F, enhanced labels")
    rows = []
    for p in _thin(curve_rows(facts)):
        for key, kind in zip(("anchor_loss", "enhanced_loss"), kinds, strict=True):
            rows.append({"method": p["method"], "seed": p["seed"], "step": p["step"], "kind": kind, "value": p[key]})
    rows = _named(facts, (r for r in rows if r["value"] is not None))
    title, subtitle = "Pre-training losses", "cross-entropy on masked frames, nats"
    if not rows:
        return charts.note(title, "no method of this run is pre-trained")
    present = [k for k in kinds if any(r["kind"] == k for r in rows)]
    chart = (
        alt.Chart(charts.data(rows))
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(
            x=_step(),
            y=alt.Y("value:Q", title="nats", scale=alt.Scale(zero=False)),
            color=_colour(facts, rows),
            strokeDash=_dash(present),
            detail=["run:N"],
        )
    )
    return charts.finish(chart, title, subtitle)


def masked_accuracy(facts: Facts) -> dict[str, Any]:
    rows = [r | {"masked_accuracy": None if r["masked_accuracy"] is None else 100 * r["masked_accuracy"]} for r in _thin(curve_rows(facts))]
    return _curves(facts, rows, "masked_accuracy", "Masked accuracy", "masked frames whose likeliest code is the anchoring label", "%")


def label_fidelity(facts: Facts) -> dict[str, Any]:
    rows = _thin(curve_rows(facts))
    subtitle = "drawn enhanced labels that are the nearest code; dotted: bound of one half"
    return _curves(facts, rows, "label_fidelity", "Label fidelity", subtitle, "share", rule=0.5, domain=[0, 1])


def perplexity(facts: Facts) -> dict[str, Any]:
    """Enhanced codes against the anchoring codes, with the band of a factor of 2."""
    title, subtitle = "Code perplexity", "band: half to twice the perplexity of the anchoring codes"
    rows = _named(facts, (r for r in _thin(curve_rows(facts)) if r["enhanced_perplexity"] and r["anchor_perplexity"]))
    if not rows:
        return charts.note(title, "no method of this run has enhanced labels")
    kinds = ("enhanced labels", "anchoring labels")
    runs = [[r for r in rows if r["run"] == run] for run in dict.fromkeys(r["run"] for r in rows)]
    first = max(runs, key=len)  # a run whose enhanced labels begin late has fewer
    band = [{"step": r["step"], "low": r["anchor_perplexity"] / 2, "high": r["anchor_perplexity"] * 2} for r in first]
    long = [
        {"run": r["run"], "method": r["method"], "name": r["name"], "step": r["step"], "kind": kind, "value": r[key]}
        for r in rows
        for kind, key in zip(kinds, ("enhanced_perplexity", "anchor_perplexity"), strict=True)
    ]
    y = alt.Y(
        "value:Q",
        title="codes in use",
        scale=alt.Scale(type="log", nice=False, padding=4),
        axis=alt.Axis(values=[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]),
    )
    area = (
        alt.Chart(charts.data(band))
        .mark_area(color=MUTED, opacity=0.12)
        .encode(x=_step(), y=alt.Y("low:Q", title="codes in use"), y2="high:Q")
    )
    line = (
        alt.Chart(charts.data(long))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=_step(), y=y, color=_colour(facts, rows, legend=len({r["method"] for r in rows}) > 1), strokeDash=_dash(kinds), detail="run:N"
        )
    )
    return charts.finish(alt.layer(area, line), title, subtitle)


def finetune(facts: Facts) -> dict[str, Any]:
    return _curves(facts, _thin(finetune_rows(facts)), "loss", "Fine-tuning loss", "CTC, training batches", "CTC loss")


def dev_wer(facts: Facts) -> dict[str, Any]:
    """Dev WER where it was taken: the best one chose the checkpoint."""
    rows = _named(facts, (r for r in finetune_rows(facts) if r["dev_wer"] is not None))
    title, subtitle = "Dev word error rate while fine-tuning", "the checkpoint with the lowest one is kept"
    if not rows:
        return charts.note(title, "dev was not scored: the corpus has no dev split")
    chart = (
        alt.Chart(charts.data(rows))
        .mark_line(strokeWidth=1.8, point=alt.OverlayMarkDef(**DOT))
        .encode(x=_step(), y=alt.Y("dev_wer:Q", title="WER (%)", scale=alt.Scale(zero=False)), color=_colour(facts, rows), detail="run:N")
    )
    return charts.finish(chart, title, subtitle)


def linear(facts: Facts) -> dict[str, Any]:
    """Accuracy of the linear phone probe at every layer, with its interval by utterance."""
    title = "Linear phone probe by layer"
    rows = _named(facts, (r for r in layer_rows(facts) if r["linear"] is not None))
    if not rows:
        return charts.note(title, next((w for r in facts.runs if (w := r.probe["linear"]["why_not"])), "no layer was probed"))
    runs = list(dict.fromkeys(r["run"] for r in rows))
    for row in rows:  # side by side, or the bars of a layer would hide each other
        row["place"] = row["layer"] + min(0.05, 0.5 / len(runs)) * (runs.index(row["run"]) - (len(runs) - 1) / 2)
    depth = max(r["layer"] for r in rows)
    axis = alt.Axis(values=list(range(depth + 1)), format="d")
    x = alt.X("place:Q", title="encoder layer; 0 = the input", scale=alt.Scale(domain=[-0.4, depth + 0.4], nice=False), axis=axis)
    y = alt.Y("linear:Q", title="accuracy on frames (%)", scale=alt.Scale(zero=False, nice=True))
    keep = ("name", "run", "place", "linear", "linear_low", "linear_high")
    base = alt.Chart(charts.data({k: r[k] for k in keep} for r in rows)).encode(x=x, color=_colour(facts, rows), detail="run:N")
    bars = base.mark_rule(strokeWidth=2, opacity=0.5).encode(y=alt.Y("linear_low:Q", scale=alt.Scale(zero=False)), y2="linear_high:Q")
    chosen = alt.Chart(alt.Data(values=[{"place": facts.probed_layer}])).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x=x)
    parts = [chosen, bars, base.mark_line(strokeWidth=1.8).encode(y=y), base.mark_point(**DOT).encode(y=y)]
    split, sure = facts.runs[0].probe["split"], round(100 * facts.score_params["confidence"])
    return charts.finish(alt.layer(*parts), title, f"{split}, {sure} % interval by utterance; dotted: the layer of the primary measure")


def pnmi(facts: Facts) -> dict[str, Any]:
    """PNMI of the enhanced labels at every layer, the anchoring labels and the floor beside them."""
    title = "Phone information in the labels"
    known = layer_rows(facts)
    if not known:
        return charts.note(title, next((r.probe["why_not"] for r in facts.runs if r.probe.get("why_not")), None) or "no phone alignments")
    kinds = ("layer outputs", "anchoring labels", "floor (shifted)")
    layers = _named(facts, (r for r in known if r["labels"] == "enhanced"))
    anchors = _named(facts, (r for r in known if r["labels"] == "anchor"))
    # every method of a seed has the same anchoring codes, so their line has no method's colour
    level = sum(r["pnmi"] for r in anchors) / len(anchors) if anchors else None
    long = [r | {"kind": kinds[0], "value": r["pnmi"]} for r in layers] + [r | {"kind": kinds[2], "value": r["pnmi_floor"]} for r in layers]
    keep = ("name", "run", "layer", "kind", "value")
    depth = max((r["layer"] for r in layers), default=1)
    x = alt.X(
        "layer:Q",
        title="encoder layer",
        scale=alt.Scale(domain=[min((r["layer"] for r in layers), default=0), depth]),
        axis=alt.Axis(values=list(range(depth + 1)), format="d"),
    )
    y = alt.Y("value:Q", title="PNMI", scale=alt.Scale(zero=True))
    line = (
        alt.Chart(charts.data({k: r[k] for k in keep} for r in long))
        .mark_line(strokeWidth=1.8)
        .encode(x=x, y=y, color=_colour(facts, layers), strokeDash=_dash(kinds), detail="run:N")
    )
    dots = alt.Chart(charts.data({k: r[k] for k in keep} for r in long if r["kind"] == kinds[0])).mark_point(**DOT)
    parts = [line, dots.encode(x=x, y=y, color=_colour(facts, layers))]
    if level is not None:
        rule = alt.Chart(alt.Data(values=[{"value": level}])).mark_rule(color=INK, strokeDash=[5, 3], strokeWidth=1.6).encode(y=y)
        parts.insert(0, rule)
    label_layers = {r.probe.get("label_layer") for r in facts.runs if r.method.predicts == "input and layer codes"} - {None}
    chosen = f"; enhanced labels are those of layer {label_layers.pop()}" if len(label_layers) == 1 else ""
    return charts.finish(alt.layer(*parts), title, f"mutual information of codes and phones{chosen}")


def usage(facts: Facts) -> dict[str, Any]:
    """Code frequencies, most used first."""
    title, subtitle = "Code usage", "share of frames per code, codebook 0, most used first"
    kinds = {"enhanced": "enhanced labels", "anchor": "anchoring labels"}
    rows = _named(facts, (r | {"kind": kinds[r["labels"]]} for r in usage_rows(facts) if r["share"] > 0 and r["labels"] in kinds))
    if not rows:
        return charts.note(
            title, next((r.probe["why_not"] for r in facts.runs if r.probe.get("why_not")), None) or "the codes were not counted"
        )
    keep = ("name", "run", "kind", "rank", "share")
    size = facts.runs[0].probe.get("codebook_size") or max(r["rank"] for r in rows)
    rule = alt.Chart(alt.Data(values=[{"share": 100 / size}])).mark_rule(color=MUTED, strokeDash=[2, 3])
    y = alt.Y(
        "share:Q",
        title="share of frames (%)",
        scale=alt.Scale(type="log", nice=False, padding=4),
        axis=alt.Axis(format="~g", values=[0.0001, 0.001, 0.01, 0.1, 1, 10, 100]),
    )
    line = (
        alt.Chart(charts.data({k: r[k] * 100 if k == "share" else r[k] for k in keep} for r in rows))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("rank:Q", title=f"code, by rank (of {size}); dotted: all equally often"),
            y=y,
            color=_colour(facts, rows),
            strokeDash=_dash(list(kinds.values())),
            detail="run:N",
        )
    )
    return charts.finish(alt.layer(rule.encode(y=y), line), title, subtitle)


FIGURES: dict[str, Callable[[Facts], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        *(wer, differences, dev_wer, finetune, linear, pretrain_losses, masked_accuracy, perplexity, label_fidelity),
        *(pnmi, usage),
    )
}


def write(facts: Facts, folder: Path) -> dict[str, str]:
    """All figures as NAME.vl.json and NAME.svg and their numbers as CSV; returns the SVG texts by name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_all(facts, folder)
    out = {}
    for name, draw in FIGURES.items():
        spec = draw(facts)
        (folder / f"{name}.vl.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        out[name] = charts.svg(spec)
        (folder / f"{name}.svg").write_text(out[name], encoding="utf-8")
    return out
