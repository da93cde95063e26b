"""The study's statistics: means over seeds, paired differences, shares of the ceiling, correlations with the word error rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from birq.errors import BirqError
from birq.evaluate.compare import MIN_SEEDS
from birq.report.study.record import Record
from birq.report.study.rows import Row
from birq.report.words import mean

CEILING, FLOOR = "phones", "shuffled"
MINUTES = "finetune.labelled_minutes"


@dataclass(frozen=True)
class Measure:
    """A figure of a run: of its layer, of its labels in training, or of the words that it recognised."""

    key: str
    title: str
    percent: bool = True
    digits: int = 1
    words: bool = False
    training: bool = False


PROBE = Measure("linear", "linear probe %")
ABX_WITHIN, ABX_ACROSS = Measure("abx_within", "ABX % within"), Measure("abx_across", "ABX % across")
KMEANS_PNMI = Measure("kmeans_pnmi", "PNMI of k-means", percent=False, digits=3)
PNMI = Measure("pnmi", "PNMI of codes", percent=False, digits=3)
RANK = Measure("effective_rank", "effective rank", percent=False)
REPEATS = Measure("repeat_share", "repeats %")
OF_LAYER = (ABX_WITHIN, ABX_ACROSS, KMEANS_PNMI, PNMI, RANK, REPEATS)
WER, CER = Measure("wer", "WER %", words=True), Measure("cer", "CER %", words=True)
DEV_LOSS = Measure("dev_loss", "dev loss, nats per character", percent=False, digits=3, words=True)
IN_TRAINING = (
    Measure("enhanced_perplexity", "perplexity, enhanced", percent=False, training=True),
    Measure("anchor_perplexity", "perplexity, predicted", percent=False, training=True),
    Measure("label_fidelity", "label fidelity %", training=True),
    Measure("masked_accuracy", "masked accuracy %", training=True),
)
EXPLAINING = (PROBE, *OF_LAYER, DEV_LOSS)  # what might go with WER


def value(row: Row, measure: Measure, layer: int) -> float | None:
    """A run's figure; None where it was not taken."""
    if measure.words:
        return (row["words"] or {}).get(measure.key)
    if measure.training:
        return row.get("training", {}).get(measure.key)  # runs that were recorded earlier have none
    return next((of_layer.get(measure.key) for of_layer in row["layers"] if of_layer["layer"] == layer), None)


@dataclass(frozen=True)
class Form:
    """A method or variant in one part, with its seeds."""

    name: str
    method: str
    changed: Mapping[str, Any]
    rows: Mapping[int, Row]  # by seed

    @property
    def recipe(self) -> tuple[str, dict[str, Any]]:
        """Method and changes, the labelled minutes aside: forms of one recipe learn alike from more or less transcribed speech."""
        return self.method, {key: found for key, found in self.changed.items() if key != MINUTES}

    def values(self, measure: Measure, layer: int) -> dict[int, float]:
        """By seed, where it was taken."""
        found = {seed: value(row, measure, layer) for seed, row in self.rows.items()}
        return {seed: v for seed, v in found.items() if v is not None}

    def mean(self, measure: Measure, layer: int) -> float | None:
        found = self.values(measure, layer)
        return mean(list(found.values())) if found else None

    def by_step(self, layer: int) -> dict[int, dict[int, float]]:
        """The probe of a layer by step of pre-training, then by seed, the finished encoder's last; of runs that have snapshots."""
        out: dict[int, dict[int, float]] = {}
        for seed, row in self.rows.items():
            kept = row.get("snapshots", [])
            for state in [*kept, {"step": row["steps"], "layers": row["layers"]}] if kept else []:
                if (found := value(state, PROBE, layer)) is not None:
                    out.setdefault(state["step"], {})[seed] = found
        return dict(sorted(out.items()))

    @property
    def seconds(self) -> float:
        """Of pre-training, with labels and the encoders behind them; mean over seeds."""
        return mean([row["seconds"] for row in self.rows.values()])


@dataclass(frozen=True)
class Part:
    """A part of the study, the best form first."""

    name: str
    against: str
    layer: int
    confidence: float
    params: Mapping[str, Any]
    forms: list[Form]

    def form(self, name: str) -> Form | None:
        return next((f for f in self.forms if f.name == name), None)

    def minutes(self, form: Form) -> float | None:
        """Of transcribed speech, at most, that a form is fine-tuned on."""
        return form.changed.get(MINUTES, self.params.get(MINUTES))

    @property
    def minutes_differ(self) -> bool:
        return len({self.minutes(form) for form in self.forms}) > 1

    def like(self, name: str) -> list[Form]:
        """Forms with the recipe of the form `name`, itself first; of the method `name` where no form has that name."""
        named = self.form(name)
        recipe = named.recipe if named else (name, {})
        return sorted((form for form in self.forms if form.recipe == recipe), key=lambda form: form is not named)

    def beside(self, name: str, form: Form, measure: Measure) -> Form | None:
        """The form `name` after as many labelled minutes as another form, to compare the two; minutes change words and no encoder."""
        like = self.like(name)
        same = [f for f in like if self.minutes(f) == self.minutes(form)]
        return next(iter(same if measure.words else same or like), None)

    @property
    def base(self) -> Form | None:
        """A form that differences are from."""
        return next(iter(self.like(self.against)), None)

    @property
    def rows(self) -> list[Row]:
        return [row for form in self.forms for row in form.rows.values()]

    @property
    def depth(self) -> int:
        """Of the shallowest encoder."""
        return min(max(of_layer["layer"] for of_layer in row["layers"]) for row in self.rows)

    def measured(self, measure: Measure) -> bool:
        """Whether any of its runs has the figure."""
        return any(form.values(measure, self.layer) for form in self.forms)


def parts(record: Record, only: str | None = None, against: str | None = None, layer: int | None = None) -> list[Part]:
    """The parts of a record that have rows. Errors: BirqError for a part, form or layer that is not there."""
    if only and only not in record["parts"]:
        raise BirqError(f"--part {only}: has no run here; these have: {', '.join(record['parts']) or 'none'}")
    out = []
    for name, about in record["parts"].items():
        of_part = [row for row in record["rows"] if row["part"] == name]
        if (only and name != only) or not of_part:
            continue
        made = [_form(form, spec, of_part) for form, spec in about["forms"].items()]
        out.append(_part(name, about, [f for f in made if f.rows], against, layer))
    if out and against and not any(part.base for part in out):
        legal = dict.fromkeys(f.name for part in out for f in part.forms)
        raise BirqError(f"--against {against}: has no run here; these have: {', '.join(legal)}")
    return out


def _form(name: str, spec: Mapping[str, Any], rows: list[Row]) -> Form:
    return Form(name, spec["method"], spec["changed"], {row["seed"]: row for row in rows if row["form"] == name})


def _part(name: str, about: Mapping[str, Any], forms: list[Form], against: str | None, layer: int | None) -> Part:
    shown = about["layer"] if layer is None else layer
    part = Part(name, against or about["against"], shown, about["confidence"], about["params"], forms)
    if not 1 <= shown <= part.depth:
        raise BirqError(f"--layer {shown}: legal are 1 to {part.depth}")
    forms.sort(key=lambda f: (-(f.mean(PROBE, shown) or 0.0), f.mean(WER, shown) or 0.0))
    return part


# ---- statistics


@dataclass(frozen=True)
class Difference:
    """Of a form from another one with the same seeds."""

    mean: float
    low: float | None  # None below MIN_SEEDS seeds
    high: float | None


def difference(form: Mapping[int, float], base: Mapping[int, float], confidence: float) -> Difference | None:
    """Of values by seed, those seeds that both have: mean, and the interval by Student's t, which is exact for normal seed effects.

    None without a common seed.
    """
    by_seed = np.array([value - base[seed] for seed, value in form.items() if seed in base])
    if not len(by_seed):
        return None
    if len(by_seed) < MIN_SEEDS:
        return Difference(float(by_seed.mean()), None, None)
    half = float(stats.t.ppf((1 + confidence) / 2, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed)))
    return Difference(float(by_seed.mean()), float(by_seed.mean()) - half, float(by_seed.mean()) + half)


def less(part: Part, form: Form, measure: Measure) -> Difference | None:
    """A form's difference from the base after the same labelled minutes; None for a base itself."""
    base = part.beside(part.against, form, measure)
    if base is None or form.recipe == base.recipe:
        return None
    return difference(form.values(measure, part.layer), base.values(measure, part.layer), part.confidence)


def ceiling_share(part: Part, form: Form, measure: Measure) -> float | None:
    """How much of the way from the base to exact phones a form goes: means over the seeds that all three have. None without that way."""
    base, top = (part.beside(name, form, measure) for name in (part.against, CEILING))
    if base is None or top is None or form.recipe == base.recipe:
        return None
    values = [f.values(measure, part.layer) for f in (form, base, top)]
    seeds = set.intersection(*map(set, values))
    if not seeds:
        return None
    x, low, high = (mean([v[seed] for seed in sorted(seeds)]) for v in values)
    return None if high == low else (x - low) / (high - low)


def student_share(part: Part, form: Form, measure: Measure) -> Difference | None:
    """What a form's labels add to the base's, over all that labels can add: (form − base) / (phones − shuffled), by seed.

    A share without unit, so that measures and corpora compare. None for the base itself, and without a seed that all four have.
    """
    four = (form, *(part.beside(name, form, measure) for name in (part.against, CEILING, FLOOR)))
    if None in four or form.recipe == four[1].recipe:
        return None
    x, base, high, low = (f.values(measure, part.layer) if f else {} for f in four)
    seeds = sorted(set(x) & set(base) & set(high) & set(low))
    shares = {s: (x[s] - base[s]) / (high[s] - low[s]) for s in seeds if high[s] != low[s]}
    return difference(shares, dict.fromkeys(shares, 0.0), part.confidence)


@dataclass(frozen=True)
class Correlation:
    """Of a measure with WER, over runs."""

    measure: Measure
    runs: int
    pearson: float
    spearman: float


def correlations(found: list[Part]) -> list[Correlation]:
    """Of every measure with WER over all runs that are scored, each once. Fewer than three runs, or equal ones, have none."""
    scored = {tuple(row["keys"].values()): (row, part.layer) for part in found for row in part.rows if row["words"]}
    out = []
    for measure in EXPLAINING:
        pairs = [(value(row, measure, layer), value(row, WER, layer)) for row, layer in scored.values()]
        pairs = [pair for pair in pairs if None not in pair]
        if len(pairs) < 3 or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
            continue
        xs, ys = zip(*pairs, strict=True)
        out.append(Correlation(measure, len(pairs), float(stats.pearsonr(xs, ys)[0]), float(stats.spearmanr(xs, ys)[0])))
    return out
