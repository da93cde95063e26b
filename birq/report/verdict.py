"""What the numbers say, in words: the headline, what limits it, and whether the codes held."""

from __future__ import annotations

from typing import Any, Literal

from birq.report.gather import NAMES, Facts, Run

Verdict = Literal["better than", "worse than", "not told apart from"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def verdict(difference: dict[str, Any]) -> Verdict:
    """Of method a against method b, from their paired difference WER(a) − WER(b).

    Both intervals, by utterance and by speaker, must leave out 0. One speaker alone has no interval and does not vote.
    """
    ends = [(difference["low"], difference["high"]), (difference.get("speaker_low"), difference.get("speaker_high"))]
    ends = [(low, high) for low, high in ends if low is not None and high is not None]
    if ends and all(high < 0 for _, high in ends):
        return "better than"
    if ends and all(low > 0 for low, _ in ends):
        return "worse than"
    return "not told apart from"


def turned(difference: dict[str, Any]) -> dict[str, Any]:
    """The same comparison seen from the other method."""

    def minus(key: str) -> float | None:
        return None if difference.get(key) is None else -difference[key]

    swapped = {"a": difference["b"], "b": difference["a"], "difference": -difference["difference"]}
    swapped |= {"low": minus("high"), "high": minus("low"), "speaker_low": minus("speaker_high"), "speaker_high": minus("speaker_low")}
    return {**difference, **swapped}


def protagonist(methods: list[str]) -> str:
    """The method that the headline speaks of."""
    return "birq" if "birq" in methods else methods[0]


def against(method: str, facts: Facts) -> list[dict[str, Any]]:
    """The comparisons that a method takes part in, seen from it."""
    return [c if c["a"] == method else turned(c) for c in facts.comparisons if method in (c["a"], c["b"])]


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def rate(facts: Facts, method: str, key: str = "wer") -> float | None:
    """Mean over seeds of a rate on the main split, in per cent."""
    values = [r.scores[facts.main_split][key] for r in facts.of(method)]
    return None if any(v is None for v in values) else 100 * mean(values)


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f} %"


def points(value: float | None) -> str:
    """A difference of two rates, given as a fraction, in signed percentage points."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def headline(facts: Facts) -> str:
    """`BiRQ 31.2 % WER: better than no pre-training, not told apart from BEST-RQ`."""
    who = protagonist(facts.methods)
    text = f"{sentence_start(NAMES.get(who, who))}: {percent(rate(facts, who))} word error rate on {speech_kind(facts)}"
    judged = [(verdict(c), NAMES.get(c["b"], c["b"])) for c in against(who, facts)]
    clauses = []
    for word in ("better than", "not told apart from", "worse than"):
        names = [name for v, name in judged if v == word]
        if names:
            clauses.append(f"{word} {listed(names)}")
    return f"{text}, {', '.join(clauses)}" if clauses else text


def sentence_start(text: str) -> str:
    return text[0].upper() + text[1:]


def speech_kind(facts: Facts) -> str:
    """`synthetic speech`, `recorded speech` or both."""
    kinds = set(facts.synthetic)
    return "synthetic speech" if kinds == {True} else "recorded speech" if kinds == {False} else "synthetic and recorded speech"


def counted(n: int, unit: str) -> str:
    """`1 speaker`, `2,500 utterances`."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def amount(hours: float) -> str:
    """`12 min` or `4.2 h`."""
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"


def lead(facts: Facts) -> str:
    """The headline's full sentence: what was tested, on what, with which margins."""
    who = protagonist(facts.methods)
    runs, split = facts.of(who), facts.main_split
    score = runs[0].scores[split]
    sure = round(100 * facts.score_params["confidence"])
    low, high = (100 * mean([r.scores[split][k] for r in runs]) for k in ("wer_low", "wer_high"))
    seeds = "one seed" if len(runs) == 1 else f"mean of {len(runs)} seeds"
    text = (
        f"On {speech_kind(facts)} ({listed(facts.finetune_corpora)}), fine-tuned on {amount(runs[0].labelled_hours)} of transcripts "
        f"and tested on {counted(score['utterances'], split + ' utterance')} of {counted(score['speakers'], 'voice')}, "
        f"{NAMES.get(who, who)} makes {percent(rate(facts, who))} word errors "
        f"({sure} % interval {low:.1f} to {high:.1f}, {seeds})."
    )
    return text + "".join(f" It is {_compared(facts, c)}." for c in against(who, facts))


def _compared(facts: Facts, c: dict[str, Any]) -> str:
    """`better than BEST-RQ (26.4 %) by 5.9 points (3.2 to 8.2 by utterance, 4.8 to 7.0 by speaker)`."""
    word = verdict(c)
    text = f"{word} {NAMES.get(c['b'], c['b'])} ({percent(rate(facts, c['b']))})"
    ends = [(c["low"], c["high"], "utterance"), (c.get("speaker_low"), c.get("speaker_high"), "speaker")]
    ends = [e for e in ends if e[0] is not None]
    if word == "not told apart from":
        spans = ", ".join(f"{points(low)} to {points(high)} by {unit}" for low, high, unit in ends)
        return f"{text}: {points(c['difference'])} points ({spans})"
    sizes = [(*sorted((abs(low), abs(high))), unit) for low, high, unit in ends]
    spans = ", ".join(f"{100 * low:.1f} to {100 * high:.1f} by {unit}" for low, high, unit in sizes)
    return f"{text} by {100 * abs(c['difference']):.1f} points ({spans})"


def caveats(facts: Facts, codes: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before quoting the headline."""
    notes = []
    if any(facts.synthetic):
        notes.append("The speech is synthetic, more regular than people's: the rates do not carry over to recordings.")
    if len(facts.seeds) == 1:
        notes.append("One seed: the intervals cover the choice of test utterances and speakers, not the luck of one training run.")
    else:
        notes.append(f"{len(facts.seeds)} seeds: each interval is that of the test data; how far seeds lie apart shows in the table.")
    if facts.runs[0].scores[facts.main_split]["speakers"] == 1:
        notes.append("One test speaker: what is found for this voice need not hold for another.")
    notes += _time_caveat(facts)
    if "scratch" in facts.methods:
        lost = [c["a"] for c in map(_from_pretrained, facts.comparisons) if c["b"] == "scratch" and verdict(c) != "better than"]
        if lost:
            notes.append(
                f"No gain from pre-training by {listed([NAMES.get(m, m) for m in lost])} could be told apart from chance: "
                "the same encoder without it does as well, within an interval."
            )
    for c in codes:
        if c["held"] is False:
            notes.append(f"The enhanced codes of {NAMES.get(c['method'], c['method'])}, seed {c['seed']}, did not hold: {c['why']}.")
    return notes


def _from_pretrained(c: dict[str, Any]) -> dict[str, Any]:
    return turned(c) if c["a"] == "scratch" else c


def _time_caveat(facts: Facts) -> list[str]:
    seconds = {m: mean([r.seconds("pretrain") for r in facts.of(m)]) for m in facts.methods if m != "scratch"}
    if len(seconds) < 2:
        return []
    (fast, least), (slow, most) = min(seconds.items(), key=lambda x: x[1]), max(seconds.items(), key=lambda x: x[1])
    if least <= 0 or most / least < 1.1:
        return []
    return [f"Equal steps, not equal time: pre-training {NAMES[slow]} took {most / least:.1f} times as long as {NAMES[fast]} (wall time)."]


def health(run: Run) -> dict[str, Any] | None:
    """Did the codes hold over the whole of a pre-training run? None where nothing was pre-trained.

    ratio_min, ratio_max: enhanced over anchoring perplexity, worst of the run. held: ratio within 1/2 to 2 and fidelity above 1/2
    throughout; None for a method without enhanced labels.
    """
    if not run.pretrain_curve:
        return None
    curve, last = run.pretrain_curve, run.pretrain_curve[-1]
    both = [p for p in curve if p.get("enhanced_perplexity") and p.get("anchor_perplexity")]
    out: dict[str, Any] = {"method": run.method, "seed": run.seed, "steps": last["step"]}
    for key in (
        "anchor_perplexity",
        "anchor_used_share",
        "enhanced_perplexity",
        "enhanced_used_share",
        "label_fidelity",
        "agreement",
        "masked_accuracy",
    ):
        out[key] = last.get(key)
    ratios = [(p["enhanced_perplexity"] / p["anchor_perplexity"], p["step"]) for p in both]
    fidelities = [(p["label_fidelity"], p["step"]) for p in curve if p.get("label_fidelity") is not None]
    out |= {"ratio_min": None, "ratio_max": None, "fidelity_min": min(fidelities)[0] if fidelities else None, "held": None, "why": None}
    if not ratios:
        return out
    (low, low_step), (high, high_step) = min(ratios), max(ratios)
    why = []
    if low < 0.5:
        why.append(f"their perplexity fell to {low:.2f} of the anchoring codes' at step {low_step}")
    if high > 2:
        why.append(f"their perplexity rose to {high:.2f} times the anchoring codes' at step {high_step}")
    if fidelities and min(fidelities)[0] <= 0.5:
        why.append(f"label fidelity was {min(fidelities)[0]:.2f} at step {min(fidelities)[1]}")
    return out | {"ratio_min": low, "ratio_max": high, "held": not why, "why": "; ".join(why) or None}
