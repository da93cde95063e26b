"""The error rates that others report, as printed: the one place that holds them. A test writes them into docs/method.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from birq.report.study import compare
from birq.report.study.compare import WER, Part
from birq.report.study.tables import Table, number, spanned
from birq.report.words import counted, listed

ABSENT = "–"
NONE, BEST_RQ, RELABEL, BIRQ = "no pre-training", "BEST-RQ", "BEST-RQ, relabelled", "BiRQ"
OURS = {NONE: "scratch", BEST_RQ: "best_rq", RELABEL: "relabel", BIRQ: "birq"}  # the methods of birq
DISTILLED = "+ distilled codebook"
PAPER, RERUN = "arXiv 2509.15430", "arXiv 2606.30671"


@dataclass(frozen=True)
class Setting:
    """A column of a published table: word error rates in per cent on two test sets, by row."""

    source: str
    about: str
    rates: Mapping[str, tuple[float, float]]

    def cell(self, row: str) -> str:
        return " / ".join(f"{rate:.1f}" for rate in self.rates[row]) if row in self.rates else ABSENT


C1 = Setting(
    f"{PAPER}, table 1",
    "LibriSpeech 960 h, 100 h labelled, 137 M",
    {
        NONE: (8.4, 24.4),
        BEST_RQ: (7.1, 20.5),
        RELABEL: (6.3, 18.6),
        "relabelled twice": (6.2, 18.7),
        BIRQ: (6.6, 19.1),
        "BiRQ, 200 epochs": (6.1, 17.4),
        "BiRQ, 300 epochs": (5.9, 17.2),
        "BiRQ, k = 2": (7.4, 21.1),
        "BiRQ, k = 4": (6.4, 17.9),
        "BiRQ, 4 codebooks": (6.2, 16.3),
    },
)
C2 = Setting(
    f"{PAPER}, table 2",
    "LibriSpeech 960 h, 100 h labelled, 155 M",
    {NONE: (7.4, 20.5), BEST_RQ: (6.8, 19.6), BIRQ: (5.0, 12.6)},
)
C3 = Setting(f"{PAPER}, table 3", "YODAS 5,000 h, AMI labelled, 275 M", {NONE: (25.7, 47.0), BEST_RQ: (18.4, 37.2), BIRQ: (16.3, 34.0)})
HOURS_100 = Setting(
    RERUN,
    "LibriSpeech 960 h, 100 h labelled",
    {
        NONE: (5.0, 14.7),
        BEST_RQ: (4.2, 10.1),
        BIRQ: (4.2, 9.8),
        "+ projection on principal components": (4.1, 9.5),
        "+ codes refined in training": (4.0, 9.2),
        DISTILLED: (3.9, 8.8),
    },
)
HOURS_10 = Setting(
    RERUN,
    "LibriSpeech 960 h, 10 h labelled",
    dict(zip(HOURS_100.rates, [(17.8, 39.2), (5.7, 12.6), (5.6, 12.4), (5.7, 12.6), (5.5, 11.7), (5.1, 11.2)], strict=True)),
)
HOURS_1 = Setting(
    RERUN,
    "LibriSpeech 960 h, 1 h labelled",
    dict(zip(HOURS_100.rates, [(90.1, 93.0), (8.1, 16.9), (7.7, 16.0), (8.0, 16.6), (7.5, 15.1), (7.1, 14.8)], strict=True)),
)
SETTINGS = (C1, C2, C3, HOURS_100, HOURS_10, HOURS_1)
CODEBOOKS = (1, 2, 4, 6)
OF_CODEBOOKS = {  # BEST-RQ of the second paper: WER on test-other after 100 h, and H100-hours of an epoch
    "random codes: test-other": ("10.1", "9.6", "9.2", "9.2"),
    "random codes: H100-hours an epoch": ("1.31", "1.42", "1.71", "1.99"),
    "principal components, refined codes: test-other": ("9.2", "9.1", "9.2", "9.1"),
    "principal components, refined codes: H100-hours an epoch": ("1.31", "1.42", "1.75", "2.05"),
}
NOTES = (
    "Published: LibriSpeech test-clean / test-other, AMI IHM / SDM. One run a cell, no intervals. BiRQ with one codebook and as many "
    "epochs as BEST-RQ, relabelled with twice as many. The second paper took the best of five seeds of BEST-RQ, and that seed for all. "
    "Better codes: of principal components, refined in training, with a distilled codebook beside them.",
    "This study is smaller by a factor of hundreds in speech and in weights, so the order of methods may be compared, the rates may not.",
)


def tables() -> dict[str, Table]:
    """All that is published, by name."""
    hours = (HOURS_100, HOURS_10, HOURS_1)
    paper = [[row, *(f"{rate:.1f}" for rate in rates)] for row, rates in C1.rates.items()]
    others = [[s.source, s.about, *map(s.cell, C2.rates)] for s in (C2, C3)]
    rerun = [[row, *(s.cell(row) for s in hours)] for row in HOURS_100.rates]
    books = [[row, *cells] for row, cells in OF_CODEBOOKS.items()]
    return {
        "paper": Table(
            f"{C1.source}: {C1.about}",
            ["WER %", "test-clean", "test-other"],
            paper,
            notes=[
                "5 × 1024 Conformer, k = 3 unless said, 100 epochs; relabelled: labels of layer 3 of the finished BEST-RQ, 100 more epochs."
            ],
        ),
        "settings": Table(f"{PAPER}, tables 2 and 3", ["WER %", "setting", NONE, BEST_RQ, "BiRQ, k = 7"], others, 2),
        "rerun": Table(
            f"{RERUN}, by hours of labelled speech",
            ["WER %, test-clean / test-other", "100 h", "10 h", "1 h"],
            rerun,
            notes=["12 × 512 Conformer, LibriSpeech 960 h, 30 epochs, one codebook. A row with + adds to the row above it."],
        ),
        "codebooks": Table(f"{RERUN}: BEST-RQ by number of codebooks", ["BEST-RQ, 100 h labelled", *map(str, CODEBOOKS)], books),
    }


def beside(parts: Sequence[Part]) -> Table:
    """Published rows first, then a row for every part of the study that has words: means over seeds."""
    rows = []
    for s in SETTINGS:
        less = [f"{b - a:+.1f}".replace("-", "−") for a, b in zip(s.rates[BEST_RQ], s.rates[BIRQ], strict=True)]
        rows.append([s.source, s.about, *map(s.cell, OURS), " / ".join(less), s.cell(DISTILLED)])
    rows += [_ours(part) for part in parts if part.measured(WER)]
    head = ["source", "setting", *OURS, "BiRQ less BEST-RQ", "BiRQ, better codes"]
    return Table("What others report: word error rates, %", head, rows, 2, NOTES)


def _ours(part: Part) -> list[str]:
    forms = {name: part.form(method) for name, method in OURS.items()}
    values = {name: form.values(WER, part.layer) if form else {} for name, form in forms.items()}
    splits = listed(sorted({row["words"]["split"] for row in part.rows if row["words"]}))
    seeds = counted(max(len(f.values(WER, part.layer)) for f in part.forms), "seed")
    cells = [number(form.mean(WER, part.layer), WER) if form and values[name] else ABSENT for name, form in forms.items()]
    less = compare.difference(values[BIRQ], values[BEST_RQ], part.confidence)
    return [f"this study, {part.name}", f"{splits}, {seeds}", *cells, ABSENT if less is None else spanned(less, WER), ABSENT]
