"""What was expected before the runs, and what was found: a range of a difference against its interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from birq.report.study import compare, tables
from birq.report.study.compare import ABX_ACROSS, PROBE, WER, Difference, Form, Measure, Part
from birq.report.study.record import Record
from birq.report.study.tables import Table
from birq.settings.study import OTHERS, Compared, Prediction

MEASURES = {m.key: m for m in (PROBE, ABX_ACROSS, WER)}
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
NOTE = (
    "Differences in points. A prediction holds where the whole interval over seeds lies in the expected range, does not hold where none "
    "of it does, and is not decided otherwise or without an interval. Of “others”, the least favourable form is shown, "
    "and the prediction must hold for each."
)


@dataclass(frozen=True)
class Found:
    """One comparison of a prediction in one part."""

    prediction: str
    says: str
    about: Compared
    part: str
    against: str
    difference: Difference | None  # None: the part, a form or the figure has no run
    seeds: int
    verdict: str


def verdict(about: Compared, found: Difference | None) -> str:
    """Of one difference, as a fraction, against a range in points."""
    if found is None or found.low is None or found.high is None:
        return OPEN
    low = -float("inf") if about.more_than is None else about.more_than / 100
    high = float("inf") if about.less_than is None else about.less_than / 100
    return FAILS if found.high <= low or found.low >= high else HOLDS if low < found.low and found.high < high else OPEN


def look(record: Record, parts: Sequence[Part], only: str | None = None) -> list[Found]:
    """Every comparison of every prediction, in those of its parts that have it; once without a difference where none has.

    only: a part; predictions that do not look there are left out, and so are their other parts.
    """
    by_name = {part.name: part for part in parts}
    out: list[Found] = []
    for name, told in record.get("predictions", {}).items():
        prediction = Prediction.model_validate(told)
        looked_at = [p for p in prediction.parts if only in (None, p)]
        for about in prediction.compared:
            tried = [_look(name, prediction.says, about, p, by_name.get(p)) for p in looked_at]
            out += [found for found in tried if found.difference] or tried[:1]
    return out


def _look(name: str, says: str, about: Compared, where: str, part: Part | None) -> Found:
    form = part.form(about.form) if part else None
    against = [f for f in part.forms if about.against in (f.name, OTHERS) and f is not form] if part and form else []
    tried = [(other, *_difference(part, about, form, other)) for other in against] if part and form else []
    tried = [(other, d, seeds) for other, d, seeds in tried if d is not None]
    if not tried:
        return Found(name, says, about, where, about.against, None, 0, OPEN)
    verdicts = [verdict(about, d) for _, d, _ in tried]
    all_of_them = FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS
    other, difference, seeds = min(tried, key=lambda t: _margin(about, t[1]))
    shown = f"{OTHERS}: {other.name}" if about.against == OTHERS else other.name
    return Found(name, says, about, where, shown, difference, seeds, all_of_them)


def _difference(part: Part, about: Compared, form: Form, other: Form) -> tuple[Difference | None, int]:
    """And how many seeds it is over."""
    measure = MEASURES[about.measure]
    ours, theirs = (
        {seed: v for seed, v in f.values(measure, part.layer).items() if about.seeds is None or seed in about.seeds} for f in (form, other)
    )
    return compare.difference(ours, theirs, part.confidence), len(set(ours) & set(theirs))


def _margin(about: Compared, found: Difference) -> float:
    """How far inside of the range a difference lies."""
    inside = [] if about.more_than is None else [found.mean - about.more_than / 100]
    return min(inside if about.less_than is None else [*inside, about.less_than / 100 - found.mean])


# ---- as text


def expected(about: Compared) -> str:
    """`above 0`, `below −1`, `−1 to 0`."""
    low, high = (None if x is None else f"{x:g}".replace("-", "−") for x in (about.more_than, about.less_than))
    return f"{low} to {high}" if low and high else f"above {low}" if low else f"below {high}"


def shown(found: Found) -> str:
    """`−1.1 [−2.3, −0.00]`."""
    return "no run" if found.difference is None else tables.spanned(found.difference, MEASURES[found.about.measure])


def cells(found: Found) -> list[str]:
    measure: Measure = MEASURES[found.about.measure]
    who = [found.about.form, found.against, measure.title.removesuffix(" %")]
    return [*who, found.part, expected(found.about), shown(found), str(found.seeds), found.verdict]


HEAD = ("form", "less", "measure", "part", "expected", "found", "seeds", "verdict")


def table(found: Sequence[Found]) -> Table | None:
    if not found:
        return None
    rows = [[f.prediction, *cells(f)] for f in found]
    return Table("Predictions: expected and found", ["prediction", *HEAD], rows, 5, [NOTE])
