"""The result in words: the headline, its full text, and its limits."""

from __future__ import annotations

from typing import Any

from birq.report.claims import ADVERBS, NOT_TRIED, Comparison, cost, models, outcome, scope, spread, subject, turned
from birq.report.gather import Facts
from birq.report.words import amount, counted, duration, listed, mean, percent, points, sentence_start


def protagonist(facts: Facts) -> str:
    """The name that the headline is about: the first with enhanced labels, else the first that was pre-trained, else the first."""
    firsts = [facts.runs_of(n)[0] for n in facts.names]
    layered = [r for r in firsts if r.method.predicts == "input and layer codes"]
    return [*layered, *(r for r in firsts if r.pretrained), *firsts][0].name


def ordered(facts: Facts) -> list[str]:
    """All names, the headline's first."""
    first = protagonist(facts)
    return [first, *(n for n in facts.names if n != first)]


def against(name: str, facts: Facts) -> list[Comparison]:
    """The comparisons that a name takes part in, as side a."""
    return [c if c["a"] == name else turned(c) for c in facts.comparisons if name in (c["a"], c["b"])]


def statement_kind(facts: Facts) -> str:
    """What the run's statements are about: methods or models."""
    return "methods" if facts.comparisons and all(c["kind"] == "methods" for c in facts.comparisons) else "models"


def who(facts: Facts, name: str) -> str:
    """The subject of a sentence: the method's title or, with too few seeds, its models."""
    runs = facts.runs_of(name)
    return runs[0].title if statement_kind(facts) == "methods" else models(runs[0].title, [r.seed for r in runs], runs[0].pretrained)


def side(facts: Facts, c: Comparison, letter: str) -> str:
    """The subject of one side of a comparison."""
    run = facts.runs_of(c[letter])[0]
    return subject(c, letter, run.title, run.pretrained)


def wer(facts: Facts, name: str, key: str = "wer") -> float | None:
    """Mean over seeds of a rate on the main split, as a fraction."""
    values = facts.rates(name, key)
    return None if any(v is None for v in values) else mean(values)


def headline(facts: Facts) -> str:
    """`BiRQ: 31.2 % word error rate on synthetic speech; no significant difference from BEST-RQ`; a difference comes with its cost."""
    name = protagonist(facts)
    text = f"{sentence_start(who(facts, name))}: {percent(wer(facts, name))} word error rate on {speech_kind(facts)}"
    sides: dict[str, list[str]] = {word: [] for word in ADVERBS}
    for c in against(name, facts):
        sides[outcome(c)].append(side(facts, c, "b") + ("" if outcome(c) == "none" else _short_cost(c)))
    return "; ".join([text, *(f"{ADVERBS[word]} {listed(names)}" for word, names in sides.items() if names)])


def _short_cost(c: Comparison) -> str:
    if c["equal_time"] in (None, True):
        return ""
    if c["time_ratio"] is not None:
        untried = "" if c["equal_time_in"] else ", equal time not tried"
        return f" (pre-training time × {c['time_ratio']:.2f}{untried})"
    more = c["pretrain_seconds_a"] or c["pretrain_seconds_b"]
    return f" (pre-training time {'+' if c['pretrain_seconds_a'] else '−'}{duration(more)})"


def speech_kind(facts: Facts) -> str:
    """`synthetic speech`, `recorded speech` or both."""
    kinds = set(facts.synthetic)
    return "synthetic speech" if kinds == {True} else "recorded speech" if kinds == {False} else "synthetic and recorded speech"


def lead(facts: Facts) -> list[str]:
    """The headline in full: test set and rate, then one text per comparison with intervals and cost."""
    name, split = protagonist(facts), facts.main_split
    runs = facts.runs_of(name)
    score = runs[0].scores[split]
    text = (
        f"Test set: {counted(score['utterances'], f'{split} utterance')} of {counted(score['speakers'], 'speaker')}, "
        f"{speech_kind(facts)} ({listed(facts.finetune_corpora)}). "
        f"Fine-tuning used {amount(runs[0].labelled_hours)} of transcribed speech. "
        f"WER of {who(facts, name)}: {percent(wer(facts, name))} ({_margin(facts, name)})."
    )
    return [text, *(_compared(facts, c) for c in against(name, facts))]


def _margin(facts: Facts, name: str) -> str:
    runs = facts.runs_of(name)
    if len(runs) > 1:
        values = [100 * v for v in facts.rates(name)]
        return f"mean of {len(runs)} seeds, which range from {min(values):.1f} to {max(values):.1f}"
    score = runs[0].scores[facts.main_split]
    sure = round(100 * facts.score_params["confidence"])
    return f"{sure} % interval {100 * score['wer_low']:.1f} to {100 * score['wer_high']:.1f} over test utterances"


def _compared(facts: Facts, c: Comparison) -> str:
    """`Significantly lower than BEST-RQ (26.4 %): −5.9 points (−8.2 to −3.2 by utterance, −7.0 to −4.8 by speaker).`"""
    ends = [(c["low"], c["high"], "utterance"), (c.get("speaker_low"), c.get("speaker_high"), "speaker")]
    spans = ", ".join(f"{points(low)} to {points(high)} by {unit}" for low, high, unit in ends if low is not None)
    text = f"{sentence_start(ADVERBS[outcome(c)])} {side(facts, c, 'b')} ({percent(wer(facts, c['b']))})"
    paid = cost(c, facts.title)
    return f"{text}: {points(c['difference'])} points ({spans}){f'; {paid}' if paid else ''}."


def caveats(facts: Facts, codes: list[dict[str, Any]]) -> list[str]:
    """The limits of the headline."""
    notes = []
    if any(facts.synthetic):
        notes.append("The speech is synthetic and more regular than people's. The rates do not carry over to recordings.")
    if facts.comparisons:
        notes.append(scope(len(facts.seeds), statement_kind(facts)))
    notes.append(spread({facts.title(n): facts.rates(n) for n in facts.names}))
    if facts.runs[0].scores[facts.main_split]["speakers"] == 1:
        notes.append("There is one test speaker. Other speakers may give another result.")
    unequal = [c for c in facts.comparisons if c["equal_time"] is False and c["time_ratio"] and not c["equal_time_in"]]
    if unequal:
        pairs = "; ".join(f"{facts.title(c['a'])} and {facts.title(c['b'])}" for c in unequal)
        notes.append(f"Pre-training times of {pairs} differ, and {NOT_TRIED}. docs/results.md has a recorded study at equal time.")
    lost = _without_gain(facts)
    if lost:
        notes.append(f"Pre-training with {listed(lost)} gave no significantly lower WER than no pre-training.")
    for run in facts.runs:
        if run.stuck:
            notes.append(f"{sentence_start(run.title)}, seed {run.seed}, {run.stuck}.")
    for c in codes:
        if c["held"] is False:
            notes.append(f"The enhanced codes of {facts.title(c['method'])}, seed {c['seed']}, left their bounds: {c['why']}.")
    return notes


def _without_gain(facts: Facts) -> list[str]:
    """Titles of pre-trained names whose WER is not lower than one without pre-training."""
    plain = {r.name for r in facts.runs if not r.pretrained}
    rows = [turned(c) if c["a"] in plain else c for c in facts.comparisons if (c["a"] in plain) != (c["b"] in plain)]
    return list(dict.fromkeys(facts.title(c["a"]) for c in rows if outcome(c) != "lower"))


def accepted(facts: Facts) -> list[dict[str, Any]]:
    """Artifacts that were declared good under changed code (`birq accept`): artifact, when, modules."""
    return [
        {"artifact": name, "when": entry["when"], "modules": list(entry["code"])}
        for name, record in facts.records()
        for entry in record.get("accepted", ())
    ]
