"""Statements that a comparison supports: about methods or about two models, with their cost. The page and the terminal share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import stdev
from typing import Any, Literal

from birq.report.gather import Facts
from birq.report.words import duration, listed, mean, percent

Comparison = dict[str, Any]
Outcome = Literal["lower", "higher", "none"]

EQUAL_TIME = 0.05  # pre-training times that differ by less, relatively, count as equal
NOT_TRIED = "equal time was not tried in this run"
STUDY = "A recorded study on the demo's corpus showed about ±1.4 points over four seeds (docs/results.md)."
PROBE = "accuracy of the linear phone probe"
PRIMARY = "the primary measure of pre-training"
ADVERBS: dict[Outcome, str] = {
    "lower": "significantly lower than",
    "higher": "significantly higher than",
    "none": "no significant difference from",
}


def outcome(c: Comparison) -> Outcome:
    """The rate of a beside that of b: WER, or accuracy of a probe.

    It is lower or higher only if both intervals, by utterance and by speaker, exclude 0. One speaker alone has no interval, and the one by
    utterance decides.
    """
    ends = [(c["low"], c["high"]), (c.get("speaker_low"), c.get("speaker_high"))]
    ends = [(low, high) for low, high in ends if low is not None and high is not None]
    if ends and all(high < 0 for _, high in ends):
        return "lower"
    return "higher" if ends and all(low > 0 for low, _ in ends) else "none"


def turned(c: Comparison) -> Comparison:
    """The same comparison with a and b exchanged."""
    out = dict(c)
    for key in c:
        if key.endswith("_a") or key == "a":
            other = f"{key[:-1]}b"
            out[key], out[other] = c[other], c[key]
        elif key.endswith("low"):
            high = f"{key[:-3]}high"
            out[key], out[high] = (None if c[k] is None else -c[k] for k in (high, key))
    out["difference"] = -c["difference"]
    if c.get("seed_differences"):
        out["seed_differences"] = [-d for d in c["seed_differences"]]
    if c.get("time_ratio"):
        out["time_ratio"] = 1 / c["time_ratio"]
    return out


# ---- cost


def with_cost(facts: Facts, rows: Sequence[Comparison]) -> list[Comparison]:
    """Rows of `compare_methods` with the pre-training time of both sides.

    pretrain_seconds_a, pretrain_seconds_b: means over seeds, null without pre-training. time_ratio: a over b. equal_time: whether they
    are equal within EQUAL_TIME; null if neither is pre-trained. equal_time_in: names of another row that compares the same two methods
    at equal time, else null.
    """
    out = [dict(c) | _times(facts, c["a"], c["b"]) for c in rows]
    return [c | {"equal_time_in": _equal_time_row(facts, c, out)} for c in out]


def _times(facts: Facts, a: str, b: str) -> dict[str, Any]:
    seconds = [mean([r.seconds("pretrain") for r in runs]) if runs[0].pretrained else None for runs in map(facts.runs_of, (a, b))]
    ratio = seconds[0] / seconds[1] if seconds[0] and seconds[1] else None
    equal = None if seconds == [None, None] else ratio is not None and 1 - EQUAL_TIME <= ratio <= 1 + EQUAL_TIME
    return {"pretrain_seconds_a": seconds[0], "pretrain_seconds_b": seconds[1], "time_ratio": ratio, "equal_time": equal}


def _equal_time_row(facts: Facts, c: Comparison, rows: Sequence[Comparison]) -> list[str] | None:
    def methods(row: Comparison) -> list[str]:
        return sorted(facts.runs_of(row[side])[0].method.name for side in "ab")

    if c["equal_time"] is not False or len(set(methods(c))) == 1:
        return None
    shared = {c["a"], c["b"]}
    return next((r for r in ([r["a"], r["b"]] for r in rows if r["equal_time"] and methods(r) == methods(c)) if shared & set(r)), None)


def cost(c: Comparison, title: Callable[[str], str] = str) -> str:
    """`pre-training took 1.28 times as long; equal time was not tried in this run`; empty where neither side is pre-trained."""
    if c["equal_time"] is None:
        return ""
    if c["time_ratio"] is None:
        a, b = (duration(s) if s else "none" for s in (c["pretrain_seconds_a"], c["pretrain_seconds_b"]))
        text = f"pre-training time {a} against {b}"
    else:
        text = f"pre-training took {c['time_ratio']:.2f} times as long"
    if c["equal_time"]:
        return f"{text}, equal within {100 * EQUAL_TIME:.0f} %"
    other = c["equal_time_in"]
    return f"{text}; {f'for equal time see {title(other[0])} against {title(other[1])}' if other else NOT_TRIED}"


# ---- subjects


def subject(c: Comparison, side: str, title: str, pretrained: bool = True) -> str:
    """A method by its title; below the least number of seeds `the BiRQ model of seed 0`."""
    if c["kind"] == "methods":
        return title
    return models(title, c[f"seeds_{side}"], pretrained)


def models(title: str, seeds: Sequence[int], pretrained: bool = True) -> str:
    """`the BiRQ model of seed 0`, `the models without pre-training of seeds 0 and 1`."""
    s = "" if len(seeds) == 1 else "s"
    which = f"{title} model{s}" if pretrained else f"model{s} without pre-training"
    return f"the {which} of seed{s} {listed([str(x) for x in seeds])}"


def statement(c: Comparison, a: str, b: str, rate: str = "WER") -> str:
    """The whole sentence, without its numbers. a, b: subjects. rate: what is compared."""
    many = c["kind"] == "models" and len(c["seeds_a"]) > 1
    if outcome(c) == "none":
        return f"{a} {'show' if many else 'shows'} no significant difference in {rate} from {b}"
    return f"{a} {'have' if many else 'has'} a significantly {outcome(c)} {rate} than {b}"


# ---- seeds


def scope(n_seeds: int, kind: str) -> str:
    """Whom the statements of a run are about."""
    if kind == "methods":
        return f"The statements are about methods. They rest on {n_seeds} seeds; intervals cover seeds, test utterances and speakers."
    seeds = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    return (
        f"The statements are about these models, not about methods: this run has {seeds} per method, and three are needed. "
        "Intervals cover the choice of test utterances and speakers, not the training."
    )


def spread(rates: Mapping[str, Sequence[float]]) -> str:
    """How far WER lies apart over seeds. rates: fractions by title."""
    known = {title: values for title, values in rates.items() if len(values) > 1}
    if not known:
        return f"The spread over seeds is not known from this run. {STUDY}"
    parts = [f"{t} {100 * min(v):.1f} to {percent(max(v))} (standard deviation {100 * stdev(v):.1f})" for t, v in known.items()]
    return f"WER over seeds: {'; '.join(parts)}."
