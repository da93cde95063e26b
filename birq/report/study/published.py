"""The error rates that others report, with those of the study beside them."""

from __future__ import annotations

from collections.abc import Sequence

from birq.report.study.compare import WER, Part
from birq.report.study.tables import Table, number
from birq.report.words import counted, listed

COLUMNS = {"scratch": "not pre-trained", "best_rq": "BEST-RQ", "relabel": "BEST-RQ, relabelled", "birq": "BiRQ"}
ABSENT = "–"
# source, setting, and word error rates in per cent: of COLUMNS, and of BEST-RQ with principal components, refined and distilled codes
OTHERS = (
    (
        "arXiv 2509.15430, Table 1",
        "LibriSpeech 960 h, 100 h labelled, 137 M",
        "8.4 / 24.4",
        "7.1 / 20.5",
        "6.3 / 18.6",
        "6.6 / 19.1",
        ABSENT,
    ),
    ("arXiv 2509.15430, Table 2", "LibriSpeech 960 h, 100 h labelled, 155 M", "7.4 / 20.5", "6.8 / 19.6", ABSENT, "5.0 / 12.6", ABSENT),
    ("arXiv 2509.15430, Table 3", "YODAS 5,000 h, AMI labelled, 275 M", "25.7 / 47.0", "18.4 / 37.2", ABSENT, "16.3 / 34.0", ABSENT),
    ("arXiv 2606.30671", "LibriSpeech 960 h, 100 h labelled", "5.0 / 14.7", "4.2 / 10.1", ABSENT, "4.2 / 9.8", "3.9 / 8.8"),
    ("arXiv 2606.30671", "LibriSpeech 960 h, 10 h labelled", "17.8 / 39.2", "5.7 / 12.6", ABSENT, "5.6 / 12.4", "5.1 / 11.2"),
    ("arXiv 2606.30671", "LibriSpeech 960 h, 1 h labelled", "90.1 / 93.0", "8.1 / 16.9", ABSENT, "7.7 / 16.0", "7.1 / 14.8"),
)
NOTES = (
    "Published: LibriSpeech test-clean / test-other, AMI IHM / SDM. One run a cell, no intervals. BiRQ with one codebook and as many "
    "epochs as BEST-RQ, relabelled with twice as many. The second paper took the best of five seeds of BEST-RQ, and that seed for all. "
    "docs/method.md has the rest.",
    "This study is smaller by a factor of hundreds in speech and in weights, so the order of methods may be compared, the rates may not.",
)


def beside(parts: Sequence[Part]) -> Table:
    """Published rows first, then a row for every part of the study that has words: means over seeds."""
    rows = [list(row) for row in OTHERS]
    for part in parts:
        if not part.measured(WER):
            continue
        means = {name: form.mean(WER, part.layer) for name in COLUMNS if (form := part.form(name))}
        splits = listed(sorted({row["words"]["split"] for row in part.rows if row["words"]}))
        seeds = counted(max(len(f.values(WER, part.layer)) for f in part.forms), "seed")
        cells = [ABSENT if means.get(name) is None else number(means[name], WER) for name in COLUMNS]
        rows.append([f"this study, {part.name}", f"{splits}, {seeds}", *cells, ABSENT])
    head = ["source", "setting", *COLUMNS.values(), "principal components, refined, distilled"]
    return Table("What others report: word error rates, %", head, rows, 2, NOTES)
