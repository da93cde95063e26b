"""The study's tables: the same cells for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from birq.evaluate.compare import MIN_SEEDS
from birq.report.study import compare
from birq.report.study.compare import (
    ABX_ACROSS,
    ABX_WITHIN,
    CEILING,
    CER,
    DEV_LOSS,
    FLOOR,
    IN_TRAINING,
    OF_LAYER,
    PROBE,
    WER,
    Difference,
    Form,
    Measure,
    Part,
)
from birq.report.tables import grid, pipes
from birq.report.words import listed, mean, points

MOST_SHOWN = 2  # changes of a variant
NAMES_SHOWN = 8  # artifacts that lack


@dataclass(frozen=True)
class Table:
    """The first `left` columns hold text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    notes: Sequence[str] = field(default=())


def changed(values: Mapping[str, Any]) -> str:
    """The numbers of a variant; empty for a method."""
    changes = [f"{key.rpartition('.')[2]} {value}" for key, value in values.items()]
    more = len(changes) - MOST_SHOWN
    return ", ".join(changes if more <= 0 else [*changes[:MOST_SHOWN], f"{more} more"])


def number(value: float | None, measure: Measure) -> str:
    return "-" if value is None else f"{(100 if measure.percent else 1) * value:.{measure.digits}f}"


def signed(value: float, measure: Measure) -> str:
    """A difference: percentage points, or the measure's own unit."""
    return points(value) if measure.percent else f"{value:+.{measure.digits}f}".replace("-", "−")


def less(part: Part, form: Form, measure: Measure) -> str:
    """`+1.1 [+0.4, +1.8]`; empty for the base itself."""
    found = compare.less(part, form, measure)
    return "" if found is None else spanned(found, measure)


def spanned(found: Difference, measure: Measure) -> str:
    """With its interval, where there is one."""
    mean = signed(found.mean, measure)
    return mean if found.low is None else f"{mean} [{signed(found.low, measure)}, {signed(found.high, measure)}]"


def _unit(part: Part) -> str:
    most = max(len(f.rows) for f in part.forms)
    return f"less {part.against}" + (f" [{100 * part.confidence:g} %]" if most >= MIN_SEEDS else "")


def _who(form: Form, measure: Measure | None = None, layer: int = 0) -> list[str]:
    seeds = form.values(measure, layer) if measure else form.rows
    return [form.name, changed(form.changed), str(len(seeds))]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %".replace("-", "−")


def _student(part: Part, form: Form) -> str:
    """`+25 % [+20, +31]`; empty for the base itself."""
    found = compare.student_share(part, form, PROBE)
    if found is None:
        return ""
    span = "" if found.low is None or found.high is None else f" [{100 * found.low:+.0f}, {100 * found.high:+.0f}]"
    return f"{100 * found.mean:+.0f} %{span}".replace("-", "−")


WHO = ("form", "changed", "seeds")


def probe(part: Part) -> Table | None:
    """Accuracy of the linear probe in every layer, the difference in one, the share of the ceiling, and what a run costs."""
    forms = [f for f in part.forms if f.values(PROBE, part.layer)]
    if not forms:
        return None
    layers = range(1, part.depth + 1)
    topped = part.base is not None and bool(part.like(CEILING))
    spanned = topped and bool(part.like(FLOOR))
    rows = []
    for form in forms:
        share = compare.ceiling_share(part, form, PROBE)
        rows.append(
            [*_who(form), *(number(form.mean(PROBE, k), PROBE) for k in layers)]
            + ([less(part, form, PROBE)] if part.base else [])
            + ([_share(share)] if topped else [])
            + ([_student(part, form)] if spanned else [])
            + [f"{form.seconds / 60:.1f}"]
        )
    head = [*WHO, *(f"layer {k}" for k in layers)]
    head += [f"{_unit(part)}, layer {part.layer}"] if part.base else []
    head += ["of the ceiling"] if topped else []
    head += [f"of {CEILING} − {FLOOR}"] if spanned else []
    return Table(f"{part.name}: linear phone probe", [*head, "min"], rows, 2, _probe_notes(part, topped, spanned))


def _probe_notes(part: Part, topped: bool, spanned: bool) -> list[str]:
    steps = dict.fromkeys(row["steps"] for row in part.rows if row["steps"])
    splits = listed(list(dict.fromkeys(row["split"] for row in part.rows)))
    trained = f"{listed([f'{n:,}' for n in steps])} steps of pre-training; " if steps else ""
    notes = [
        f"Linear phone probe: frames of the {splits} split whose phone is found, %, mean over seeds. {trained}"
        "min: of pre-training, with labels and the encoders behind them."
    ]
    if topped:
        share = f"(form − {part.against}) / ({CEILING} − {part.against})"
        notes.append(f"of the ceiling: {share}, layer {part.layer}, over the seeds that all three have.")
    if spanned:
        share = f"(form − {part.against}) / ({CEILING} − {FLOOR})"
        notes.append(
            f"of {CEILING} − {FLOOR}: {share}, layer {part.layer}, mean over seeds: what labels add, over all that labels can add."
        )
    return notes


def by_step(part: Part) -> Table | None:
    """Accuracy of the linear probe along pre-training, of the forms that have snapshots."""
    layers, rows = range(1, part.depth + 1), []
    for form in part.forms:
        found = [form.by_step(k) for k in layers]
        for step, by_seed in found[0].items():
            rows.append([form.name, f"{step:,}", str(len(by_seed)), *(number(mean(list(f[step].values())), PROBE) for f in found)])
    if not rows:
        return None
    note = "Linear phone probe of the encoder as it was after so many steps, %, mean over seeds; a form's last row is the finished encoder."
    return Table(f"{part.name}: linear phone probe by step", ["form", "step", "seeds", *(f"layer {k}" for k in layers)], rows, 1, [note])


def others(part: Part) -> Table | None:
    """The other measures of the layer."""
    measures = [m for m in OF_LAYER if part.measured(m)]
    if not measures:
        return None
    compared = ABX_ACROSS in measures and part.base is not None
    rows = [
        [*_who(f), *(number(f.mean(m, part.layer), m) for m in measures), *([less(part, f, ABX_ACROSS)] if compared else [])]
        for f in part.forms
    ]
    head = [*WHO, *(m.title for m in measures), *([f"ABX across {_unit(part)}"] if compared else [])]
    note = "Codes are those of a random codebook on the layer; repeats: neighbours with one code."
    note = f"ABX: errors, 0 is perfect, 50 is chance. {note}" if {ABX_WITHIN, ABX_ACROSS} & set(measures) else note
    return Table(f"{part.name}: layer {part.layer} by other measures", head, rows, 2, [note])


def training(part: Part) -> Table | None:
    """Labels at the end of pre-training, of the forms that have the figures: have they collapsed, and how well are they predicted?"""
    measures = [m for m in IN_TRAINING if part.measured(m)]
    if not measures:
        return None
    forms = [f for f in part.forms if any(f.values(m, part.layer) for m in measures)]
    rows = [[*_who(f, measures[-1], part.layer), *(number(f.mean(m, part.layer), m) for m in measures)] for f in forms]
    note = "Over the masked frames of the last line of the curve, mean over seeds. Predicted: the anchoring labels, or those of the file."
    return Table(f"{part.name}: labels at the end of pre-training", [*WHO, *(m.title for m in measures)], rows, 2, [note])


def words(part: Part) -> Table | None:
    """Error rates after fine-tuning, and the difference in WER."""
    forms = sorted((f for f in part.forms if f.values(WER, part.layer)), key=lambda f: f.mean(WER, part.layer) or 0.0)
    if not forms:
        return None
    rows, topped = [], part.base is not None and bool(part.like(CEILING))
    for form in forms:
        cells = [number(form.mean(m, part.layer), m) for m in (WER, CER)]
        cells += [less(part, form, WER)] if part.base else []
        cells += [_share(compare.ceiling_share(part, form, WER))] if topped else []
        rows.append([*_who(form, WER, part.layer), *cells, number(form.mean(DEV_LOSS, part.layer), DEV_LOSS)])
    head = [
        *WHO,
        WER.title,
        CER.title,
        *([f"WER {_unit(part)}"] if part.base else []),
        *(["of the ceiling"] if topped else []),
        DEV_LOSS.title,
    ]
    splits = listed(list(dict.fromkeys(row["words"]["split"] for row in part.rows if row["words"])))
    about = [f"Rates on {splits}, mean over seeds{_taught(part)}."]
    about += [f"Differences are from {_base(part)}."] if part.base and part.minutes_differ else []
    about += [] if part.measured(PROBE) else [f"There is no linear probe beside them: {why}." for why in _no_probe(part)]
    return Table(f"{part.name}: words, after fine-tuning", head, rows, 2, about)


def _taught(part: Part) -> str:
    """`, after at most 60 minutes of transcribed speech`, where all forms have the same."""
    minutes = part.minutes(part.forms[0])
    return "" if minutes is None or part.minutes_differ else f", after at most {minutes:g} minutes of transcribed speech"


def _base(part: Part) -> str:
    """The base of differences in words, by name."""
    return f"{part.against} after the same labelled minutes" if part.minutes_differ else part.against


def _no_probe(part: Part) -> list[str]:
    """Why runs have none."""
    return list(dict.fromkeys(row["why_not"] for row in part.rows if row["why_not"]))


def explained(parts: list[Part]) -> Table | None:
    """What goes with WER."""
    found = compare.correlations(parts)
    if not found:
        return None
    rows = [[c.measure.title, str(c.runs), f"{c.pearson:+.2f}", f"{c.spearman:+.2f}"] for c in found]
    note = "Over all runs that were fine-tuned, of all parts and forms: a correlation says what goes together here, not what causes what."
    return Table("What goes with WER", ["measure", "runs", "Pearson", "Spearman"], rows, 1, [note])


def of_part(part: Part) -> list[Table]:
    """A part's tables."""
    return [t for t in (probe(part), by_step(part), others(part), training(part), words(part)) if t]


def statements(part: Part) -> list[str]:
    """What a part says about its forms by the probe and by words, where it has the seeds for it."""
    return [line for measure in (PROBE, WER) for line in _statements(part, measure).values()]


def disappointments(part: Part) -> list[str]:
    """Those of them that are about forms that are no better than the base."""
    worse = {PROBE: (BELOW, EVEN), WER: (ABOVE, EVEN)}
    return [line for measure, groups in worse.items() for group, line in _statements(part, measure).items() if group in groups]


ABOVE, BELOW, EVEN = "above", "below", "no significant difference from"


def _statements(part: Part, measure: Measure) -> dict[str, str]:
    """By what they say."""
    what = "word error rate" if measure.words else f"linear phone probe, layer {part.layer}"
    found = [(f.name, d) for f in part.forms if (d := compare.less(part, f, measure)) and d.low is not None and d.high is not None]
    groups = {
        ABOVE: [name for name, d in found if d.low > 0],
        BELOW: [name for name, d in found if d.high < 0],
        EVEN: [name for name, d in found if d.low <= 0 <= d.high],
    }
    base = _base(part) if measure.words else part.against
    return {word: f"{part.name}, {what}: {word} {base}: {listed(names)}." for word, names in groups.items() if names}


def notes(parts: list[Part], lacking: Sequence[str]) -> list[str]:
    """What the reader must know besides."""
    told = [part for part in parts if part.measured(WER) and not part.measured(PROBE)]  # by the table of words
    out = [f"{part.name}: no linear probe: {why}." for part in parts if part not in told for why in _no_probe(part)]
    for part in parts:
        if part.base is None:
            out.append(f"{part.name}: no differences, {part.against} has no run in it.")
        if max(len(f.rows) for f in part.forms) < MIN_SEEDS:
            out.append(f"{part.name}: fewer than {MIN_SEEDS} seeds support no statement about forms: this screens.")
    if lacking:
        more = len(lacking) - NAMES_SHOWN
        names = listed(lacking if more <= 0 else [*lacking[:NAMES_SHOWN], f"{more} more"])
        out.append(f"Not there, or made under other params, inputs or code: {names}.")
    return out


def text(parts: list[Part], expected: Table | None = None, lacking: Sequence[str] = (), *, markdown: bool = False) -> str:
    """All tables with their notes; `expected`: that of the predictions."""
    layout = pipes if markdown else grid
    found = [t for t in (expected, *(t for part in parts for t in of_part(part)), explained(parts)) if t]
    blocks = []
    for table in found:
        title = f"### {table.title}" if markdown else table.title
        blocks.append("\n".join([title, "", *layout(table.head, table.rows, left=table.left), "", *table.notes]))
    if said := notes(parts, lacking):
        blocks.append("\n".join(f"- {line}" for line in said) if markdown else "\n".join(said))
    joined = "\n\n".join(blocks)
    return joined if markdown else joined.replace("−", "-")  # not every terminal knows more than ASCII
