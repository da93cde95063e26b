"""docs/performance.md's tables (between its markers) and charts, from benchmarks/results/*.json."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import equal_time
from benchmarks.harness import RESULTS, ROOT, Part, read, spread

PAGE = ROOT / "docs" / "performance.md"
FIGURES = ROOT / "docs" / "figures"
NAMES = ("fbank", "features", "feed", "labels", "step", "decode", "gpu")
COLOURS = {"birq": "#1d5fd1", "opponent": "#9aa3ae", "floor": "#d9660a"}
Results = dict[str, tuple[dict[str, Any], dict[str, Part]]]


# ---- figures


def number(x: float) -> str:
    """Three significant digits."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def interval(r: dict[str, float]) -> str:
    return f"{number(r['median'])} [{number(r['low'])}, {number(r['high'])}]"


def base_of(part: Part) -> str:
    """The contender that the others are compared with: the last of birq's own."""
    ours = [c for c in part.wall if not c.startswith("floor") and c not in OPPONENTS]
    return ours[-1]


OPPONENTS = {
    *("torchaudio kaldi.fbank", "kaldi-native-fbank", "lhotse Fbank + lilcom_chunky", "lhotse Fbank + numpy files"),
    *("SpeechBrain Fbank + numpy files", "lhotse, lilcom", "lhotse, numpy files", "lhotse, numpy files, GlobalMVN"),
    *("SpeechBrain RandomProjectionQuantizer", "vector-quantize-pytorch", "normalize + cdist + argmin", "SpeechBrain"),
    *("transformers Wav2Vec2CTCTokenizer, to text", "SpeechBrain ctc_greedy_decode, to units"),
}


def kind_of(contender: str) -> str:
    if contender.startswith("floor"):
        return "floor"
    return "opponent" if contender in OPPONENTS else "birq"


def table(part: Part, base: str) -> list[str]:
    """Times of a part, and ratios to the contender `base`."""
    lines = [
        f"{part.title}: {part.work}; {len(part.wall[base])} rounds",
        "",
        f"| | seconds, median | time over that of *{base}* [quartiles] |",
    ]
    lines.append("|---|---:|---:|")
    for name, times in part.wall.items():
        shown = f"**{name}**" if kind_of(name) == "birq" else name
        lines.append(f"| {shown} | {number(statistics.median(times))} | {'1' if name == base else interval(part.ratio(name, base))} |")
    return [*lines, ""]


def facts(part: Part) -> list[str]:
    """The facts measured beside the times."""
    lines = []
    for name, value in part.facts.items():
        text = name.replace("_", " ")
        if isinstance(value, dict):
            value = "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
        lines.append(f"- {text}: {_plain(value)}")
    return [*lines, ""] if lines else []


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


# ---- the aims


@dataclass(frozen=True)
class Aim:
    """A bound on a figure of a part: at least (`sign` ">=") or at most ("<=")."""

    text: str
    benchmark: str
    part: str
    figure: Callable[[Part], dict[str, float]]
    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == ">=" else value <= self.bound


def times(above: str, below: str) -> Callable[[Part], dict[str, float]]:
    return lambda part: part.ratio(above, below)


def fact(*path: str) -> Callable[[Part], dict[str, float]]:
    def get(part: Part) -> dict[str, float]:
        value: Any = part.facts
        for key in path:
            value = value[key]
        return spread([float(value)])

    return get


def _two_workers(part: Part) -> dict[str, float]:
    one, many = list(part.wall)[:2]
    return part.ratio(one, many)


def _growth(part: Part) -> dict[str, float]:
    small, large = part.facts.values()
    return spread([large / small])


def _scoring_share(part: Part) -> dict[str, float]:
    recognition, score = (part.wall[name] for name in list(part.wall)[:2])
    return spread([s / (s + r) for r, s in zip(recognition, score, strict=True)])


def _seconds(name: str) -> Callable[[Part], dict[str, float]]:
    return lambda part: spread(part.wall[name])


STACKED = "birq, stacking 4"
QUARTER, HALF, WHOLE = (f"BiRQ, labels of {part} batch" for part in ("a quarter of the", "half the", "the whole"))
AIMS = [
    Aim("log-mel kernel against torchaudio's", "fbank", "fbank", times("torchaudio kaldi.fbank", "birq"), ">=", 2.5),
    Aim("log-mel: labels that differ from torchaudio's", "fbank", "fbank", fact("labels_that_differ"), "<=", 0.0002),
    Aim("feature stage against lhotse, lilcom", "features", "features", times("lhotse Fbank + lilcom_chunky", "birq"), ">=", 2.5),
    Aim("feature stage against lhotse, numpy", "features", "features", times("lhotse Fbank + numpy files", "birq"), ">=", 1.8),
    Aim("feature stage, share of its floor", "features", "features", times("floor: decode, rFFT, mel product, log", "birq"), ">=", 0.55),
    Aim("feature stage, two workers against one", "features", "features on two cores", _two_workers, ">=", 1.8),
    Aim("feature stage, memory at four times the audio", "features", "memory of the feature stage", _growth, "<=", 1.25),
    Aim("feed against lhotse, lilcom", "feed", "feed", times("lhotse, lilcom", "birq"), ">=", 30),
    Aim("feed against lhotse, numpy", "feed", "feed", times("lhotse, numpy files", "birq"), ">=", 10),
    Aim("feed against a raw memory map", "feed", "feed", times("birq", "floor: raw memmap, scaled and padded"), "<=", 1.2),
    Aim("padding, 281,241 utterances", "feed", "plan", fact("padding", "birq, 281,241"), "<=", 0.005),
    Aim("plan of 281,241 utterances, seconds", "feed", "plan", _seconds("birq, 281,241"), "<=", 0.2),
    Aim("labels against the bare products", "labels", "labels", times("birq", "floor: the two matrix products"), "<=", 2.5),
    Aim("labels against SpeechBrain", "labels", "labels", times("SpeechBrain RandomProjectionQuantizer", "birq"), ">=", 50),
    Aim("labels equal to float64, share", "labels", "labels", fact("agrees_with_float64", "birq"), ">=", 1),
    Aim("labels, MiB", "labels", "labels", fact("peak_mib", "birq"), "<=", 16),
    Aim("BEST-RQ step over SpeechBrain's", "step", "step, dropout 0.1", times(STACKED, "SpeechBrain"), "<=", 0.52),
    Aim("same front end", "step", "step, dropout 0.1", times("birq, the same front end, lean", "SpeechBrain"), "<=", 0.60),
    Aim("d 512 x 12 step, share of its linear layers", "step", "step, large", times("floor: its linear layers", "birq"), ">=", 0.65),
    Aim("BiRQ over BEST-RQ, 1 codebook, a quarter of the labels", "step", "BiRQ, one codebook", times(QUARTER, "BEST-RQ"), "<=", 1.25),
    Aim("BiRQ over BEST-RQ, 1 codebook, half the labels", "step", "BiRQ, one codebook", times(HALF, "BEST-RQ"), "<=", 1.25),
    Aim("BiRQ over BEST-RQ, 1 codebook, all labels", "step", "BiRQ, one codebook", times(WHOLE, "BEST-RQ"), "<=", 1.25),
    Aim("BiRQ over BEST-RQ, 8 codebooks, a quarter of the labels", "step", "BiRQ, eight codebooks", times(QUARTER, "BEST-RQ"), "<=", 1.25),
    Aim("BiRQ over BEST-RQ, 8 codebooks, half the labels", "step", "BiRQ, eight codebooks", times(HALF, "BEST-RQ"), "<=", 1.25),
    Aim("BiRQ over BEST-RQ, 8 codebooks, all labels", "step", "BiRQ, eight codebooks", times(WHOLE, "BEST-RQ"), "<=", 1.25),
    Aim("greedy CTC, share of the argmax", "decode", "greedy", times("floor: argmax by torch", "birq, to units"), ">=", 0.75),
    Aim("scoring, share of recognition and scoring", "decode", "scoring", _scoring_share, "<=", 0.01),
]


def aims(results: Results) -> list[str]:
    lines = ["| figure | aim | measured [quartiles] | |", "|---|---:|---:|---|"]
    for a in AIMS:
        if a.benchmark in results:
            measured = a.figure(results[a.benchmark][1][a.part])
            shown = interval(measured) if measured["low"] != measured["high"] else number(measured["median"])
            sign = {"<=": "≤", ">=": "≥"}[a.sign]
            lines.append(f"| {a.text} | {sign} {number(a.bound)} | {shown} | {'met' if a.met(measured['median']) else '**missed**'} |")
    return [*lines, ""]


def at_equal_time(part: Part, record: dict[str, Any]) -> list[str]:
    """The cost of a step, and the word error rates that the same time of pre-training gives (equal_time.json)."""
    base = equal_time.BASE
    seeds, budget = len(record["seeds"]), record["forms"][base]["steps"]
    heads = (
        "a step over BEST-RQ's [quartiles]",
        f"steps in the time of {budget:,}",
        f"WER %, mean of {seeds} seeds",
        "less BEST-RQ [95 %]",
    )
    lines = [f"| the demo's model | {' | '.join(heads)} |", "|---|---:|---:|---:|---:|"]
    for form, results in record["forms"].items():
        ratio = "1" if form == base else interval(part.ratio(form, base))
        less = "" if form == base else equal_time.difference(results["wer"], record["forms"][base]["wer"])
        lines.append(f"| {form} | {ratio} | {results['steps']:,} | {statistics.mean(results['wer']):.1f} | {less} |")
    return [*lines, ""]


# ---- the page


def conditions(results: Results) -> list[str]:
    lines = ["| benchmark | date | machine | load before | minutes | command |", "|---|---|---|---:|---:|---|"]
    for name, (about, _) in results.items():
        m = about["machine"]
        where = f"{m['cpu']}, {m['cores']} cores, {m['ram_gib']:.0f} GiB"
        minutes, quick = about["seconds"] / 60, " (quick: few rounds)" if about["quick"] else ""
        lines.append(f"| {name}{quick} | {about['date']} | {where} | {m['load']:.1f} | {minutes:.1f} | `{about['command']}` |")
    seen = {k: {about["versions"][k] for about, _ in results.values()} for about, _ in results.values() for k in about["versions"]}
    lines += ["", "Versions: " + ", ".join(f"{k} {' and '.join(sorted(v))}" for k, v in seen.items()) + "."]
    return [*lines, ""]


def blocks(results: Results) -> dict[str, str]:
    """The texts between the page's markers."""
    out = {"aims": aims(results), "conditions": conditions(results)}
    if "step" in results:
        out["equal_time"] = at_equal_time(
            results["step"][1]["BiRQ, the demo's model"], json.loads((RESULTS / "equal_time.json").read_text())
        )
    for name, (_, parts) in results.items():
        lines = []
        for part in parts.values():
            lines += table(part, base_of(part)) if part.wall else [f"{part.title}: {part.work}", ""]
            lines += facts(part)
        out[name] = lines
    return {k: "\n".join(v).rstrip() for k, v in out.items()}


def filled(page: str, texts: dict[str, str]) -> str:
    """The page with every block replaced. Errors: KeyError for a block that the page has no markers for."""
    for name, text in texts.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
        if not pattern.search(page):
            raise KeyError(f"{PAGE}: no markers <!-- {name}:begin --> and <!-- {name}:end -->")
        page = pattern.sub(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page)
    return page


def load() -> Results:
    return {name: read(RESULTS / f"{name}.json") for name in NAMES if (RESULTS / f"{name}.json").exists()}


def write() -> None:
    results = load()
    PAGE.write_text(filled(PAGE.read_text(), blocks(results)))
    for name, (_, parts) in results.items():
        path = FIGURES / f"performance-{name}.svg"
        draw(next(iter(parts.values())), path)
        print(f"{path.relative_to(ROOT)} is written")
    print(f"{PAGE.relative_to(ROOT)} is written")


def draw(part: Part, path: Path) -> None:
    """Bars of the first part: time relative to birq's, whiskers from quartile to quartile, logarithmic."""
    import altair as alt

    base = base_of(part)
    rows = [{"contender": n, "kind": kind_of(n), **{k: round(v, 4) for k, v in part.ratio(n, base).items()}} for n in part.wall]
    order = [r["contender"] for r in rows]
    x = alt.X("median:Q", title=f"time over that of {base}", scale=alt.Scale(type="log", domainMin=min(0.1, *(r["low"] for r in rows))))
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    y = alt.Y("contender:N", title=None, sort=order, axis=alt.Axis(labelLimit=320))
    chart = alt.Chart(alt.Data(values=rows))
    dots = chart.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, color=colour)
    whiskers = chart.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=colour)
    labels = chart.mark_text(dy=-11).encode(x=x, y=y, text=alt.Text("median:Q", format=".2~f"))
    rule = alt.Chart(alt.Data(values=[{"median": 1}])).mark_rule(strokeDash=[4, 3], color="#9aa3ae").encode(x="median:Q")
    title = alt.TitleParams(part.title, subtitle=part.work, anchor="start", frame="group")
    picture = (rule + whiskers + dots + labels).properties(width=420, height=26 * len(rows), title=title)
    picture.configure(background="white").configure_view(stroke=None).save(str(path))
