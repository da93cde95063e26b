"""The results as plain text for the terminal, or as Markdown for a README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birq.errors import BirqError
from birq.report.claims import PRIMARY, PROBE, cost, scope, spread, statement, subject
from birq.report.decoding import described, weights
from birq.report.gather import read_json
from birq.report.words import counted, listed
from birq.report.words import points as signed_points

Record = dict[str, Any]


def points(value: float | None) -> str:
    """Signed percentage points, in ASCII: not every terminal knows more."""
    return "-" if value is None else signed_points(value).replace("−", "-")


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Columns as wide as their widest cell; the first `left` ones are flush left, the others flush right."""
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))).rstrip()

    return [line(head), "  ".join("-" * w for w in widths), *map(line, rows)]


def pipes(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The same as a Markdown table."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def interval(record: Record, rate: str) -> str:
    """`31.2 [29.8, 32.7]`, in per cent."""
    if record.get(rate) is None:
        return "-"
    low, high = record.get(f"{rate}_low"), record.get(f"{rate}_high")
    value = f"{100 * record[rate]:.1f}"
    return value if low is None or high is None else f"{value} [{100 * low:.1f}, {100 * high:.1f}]"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _probed(records: Sequence[Record]) -> bool:
    return any(r.get("probe") is not None for r in records)


def _with_abx(records: Sequence[Record]) -> bool:
    return any(r.get("abx_across") is not None for r in records)


def _searched(records: Sequence[Record]) -> list[Record]:
    return [r for r in records if r.get("lm_wer") is not None]


def _results(records: Sequence[Record], layout: Callable[..., list[str]]) -> list[str]:
    sure = round(100 * records[0].get("confidence", 0.95))
    probed = [f"probe % [{sure} %]"] if _probed(records) else []
    abx = ["ABX %"] if _with_abx(records) else []
    searched = [f"WER % LM [{sure} %]"] if _searched(records) else []
    head = [
        "method",
        "seed",
        f"WER % [{sure} %]",
        *searched,
        f"CER % [{sure} %]",
        *probed,
        *abx,
        "unlabelled h",
        "labelled h",
        "pretrain min",
        "finetune min",
    ]
    rows = [
        [
            r["method"],
            str(r["seed"]),
            interval(r, "wer"),
            *([interval(r, "lm_wer")] if searched else []),
            interval(r, "cer"),
            *([interval(r, "probe")] if probed else []),
            *([interval(r, "abx_across")] if abx else []),
            f"{r['unlabelled_hours']:.2f}",
            f"{r['labelled_hours']:.2f}",
            _minutes(r["pretrain_seconds"]),
            _minutes(r["finetune_seconds"]),
        ]
        for r in records
    ]
    return [*layout(head, rows), *_labelled(records), *_with_lm(records)]


def _with_lm(records: Sequence[Record]) -> list[str]:
    """A line on the search with a language model."""
    found = _searched(records)
    return ["", f"WER % LM: {described(found[0])}; {weights(found)}. Comparisons are of the greedy WER"] if found else []


def _labelled(records: Sequence[Record]) -> list[str]:
    """A line on the pre-training time of methods that learn labels from a file, or begin with another encoder."""
    names = list(dict.fromkeys(r["method"] for r in records if r.get("label_seconds") is not None))
    return ["", f"pretrain min of {listed(names)}: with those of the labels and encoders that it needs"] if names else []


def _comparison(c: Record, rate: str = "WER") -> str:
    spans = []
    for prefix, unit in (("", "utterance"), ("speaker_", "speaker")):
        if c[f"{prefix}low"] is not None:
            low, high = (points(c[f"{prefix}{end}"]) for end in ("low", "high"))
            spans.append(f"[{low}, {high}] by {unit} (p = {c[f'{prefix}p']:.3g})")
    text = f"{statement(c, subject(c, 'a', c['a']), subject(c, 'b', c['b']), rate)}: {points(c['difference'])} points, {', '.join(spans)}"
    return f"{text}; {paid}" if (paid := cost(c)) else text


def _primary(r: Record) -> str:
    text = f"probe: accuracy of the linear phone probe on frames of {r['probe_split']}, layer {r['probe_layer']}: {PRIMARY}"
    abx = "; ABX: errors of the same layer when phones of several speakers are told apart, 50 is chance" if _with_abx([r]) else ""
    return text + abx


def _scope(comparisons: Sequence[Record], records: Sequence[Record]) -> str:
    seeds = {name: [r["wer"] for r in records if r["method"] == name] for name in dict.fromkeys(r["method"] for r in records)}
    kind = "methods" if all(c["kind"] == "methods" for c in comparisons) else "models"
    return f"{scope(max(map(len, seeds.values())), kind)} {spread(seeds)}".replace("±", "+-")


def _health(h: Record) -> str:
    text = f"codes of {h['method']}-{h['seed']}: perplexity {h['enhanced_perplexity']:.0f} enhanced, {h['anchor_perplexity']:.0f} anchoring"
    text += f" (ratio over the run {h['ratio_min']:.2f} to {h['ratio_max']:.2f})"
    if h.get("fidelity_min") is not None:
        text += f", label fidelity {h['label_fidelity']:.2f} (lowest {h['fidelity_min']:.2f})"
    return text + (": within bounds" if h["held"] else f": OUT OF BOUNDS, {h['why']}")


def _accepted(a: Record) -> str:
    return f"{a['artifact']} was accepted under changed code on {a['when']}: {', '.join(a['modules'])}"


def render(
    records: Sequence[Record],
    comparisons: Sequence[Record] = (),
    health: Sequence[Record] = (),
    accepted: Sequence[Record] = (),
    probe_comparisons: Sequence[Record] = (),
    *,
    split: str | None = None,
    synthetic: bool | None = None,
    markdown: bool = False,
) -> str:
    """Table of results, paired differences and the codes' health, the last four as in comparisons.json.

    records: as in metrics.json. split: of the comparisons, and the only one that is shown; None shows all.
    """
    layout, item = (pipes, "- {}") if markdown else (grid, "{}")
    blocks: list[str] = []
    for name in dict.fromkeys(r["split"] for r in records):
        if split not in (None, name):
            continue
        kept = [r for r in records if r["split"] == name]
        first = kept[0]
        title = f"{name}: {counted(first['utterances'], 'utterance')}, {counted(first['speakers'], 'speaker')}, {first['hours']:.2f} h"
        blocks.append("\n".join([title + (", synthetic speech" if synthetic else ""), "", *_results(kept, layout)]))
    if comparisons:
        rows = [r for r in records if split in (None, r["split"])]
        blocks.append("\n".join(item.format(text) for text in [*map(_comparison, comparisons), _scope(comparisons, rows)]))
    if _probed(records):
        texts = [_comparison(c, PROBE) for c in probe_comparisons]
        blocks.append("\n".join(item.format(text) for text in [*texts, _primary(records[0])]))
    lines = [item.format(_health(h)) for h in health if h.get("ratio_min") is not None]
    lines += [item.format(_accepted(a)) for a in accepted]
    if lines:
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def from_file(metrics: Path, page: Path | None = None, *, markdown: bool = False) -> str:
    """The table of a finished report; on the terminal the page's path stands below it.

    metrics: metrics.json of the report; the comparisons and the codes' health lie beside it.
    Errors: BirqError if the report has not been made.
    """
    records = read_json(metrics)
    rest = read_json(metrics.parent / "comparisons.json")
    if "probe_comparisons" not in rest:
        raise BirqError(f"{metrics.parent}: made by an earlier birq; `python -m birq report` makes it again")
    parts = rest["comparisons"], rest["health"], rest["accepted"], rest["probe_comparisons"]
    text = render(records, *parts, split=rest["main_split"], synthetic=any(rest["synthetic"]), markdown=markdown)
    return text if markdown else f"{text}\n\n{page or metrics.parent / 'index.html'}"
