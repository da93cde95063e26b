"""The results as plain text for the terminal, or as Markdown for a README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birq.report.gather import read_json
from birq.report.verdict import counted, verdict
from birq.report.verdict import points as signed_points

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


def _results(records: Sequence[Record], layout: Callable[..., list[str]]) -> list[str]:
    sure = round(100 * records[0].get("confidence", 0.95))
    head = ["method", "seed", f"WER % [{sure} %]", f"CER % [{sure} %]", "unlabelled h", "labelled h", "pretrain min", "finetune min"]
    rows = [
        [
            r["method"],
            str(r["seed"]),
            interval(r, "wer"),
            interval(r, "cer"),
            f"{r['unlabelled_hours']:.2f}",
            f"{r['labelled_hours']:.2f}",
            _minutes(r["pretrain_seconds"]),
            _minutes(r["finetune_seconds"]),
        ]
        for r in records
    ]
    return layout(head, rows)


def _comparison(c: Record) -> str:
    text = f"{c['a']} is {verdict(c)} {c['b']}: WER {points(c['difference'])} points [{points(c['low'])}, {points(c['high'])}] by utterance"
    if c.get("speaker_low") is not None:
        text += f", [{points(c['speaker_low'])}, {points(c['speaker_high'])}] by speaker"
    return text + (f", p = {c['p']:.3g}" if c.get("p") is not None else "")


def _health(h: Record) -> str:
    text = f"codes of {h['method']}-{h['seed']}: perplexity {h['enhanced_perplexity']:.0f} enhanced, {h['anchor_perplexity']:.0f} anchoring"
    text += f" (ratio over the run {h['ratio_min']:.2f} to {h['ratio_max']:.2f})"
    if h.get("fidelity_min") is not None:
        text += f", label fidelity {h['label_fidelity']:.2f} (lowest {h['fidelity_min']:.2f})"
    return text + (": held" if h["held"] else f": DID NOT HOLD, {h['why']}")


def render(
    records: Sequence[Record],
    comparisons: Sequence[Record] = (),
    health: Sequence[Record] = (),
    *,
    split: str | None = None,
    synthetic: bool | None = None,
    markdown: bool = False,
) -> str:
    """Table of results, paired differences and the codes' health.

    records: as in metrics.json; `split` keeps one of their splits, None shows each under its name.
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
        blocks.append("\n".join(item.format(_comparison(c)) for c in comparisons))
    lines = [item.format(_health(h)) for h in health if h.get("ratio_min") is not None]
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
    synthetic = any(rest["synthetic"])
    text = render(records, rest["comparisons"], rest["health"], split=rest["main_split"], synthetic=synthetic, markdown=markdown)
    return text if markdown else f"{text}\n\n{page or metrics.parent / 'index.html'}"
