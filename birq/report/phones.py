"""Which phones the linear probe finds at the layer of the primary measure, and what it takes the others for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from birq.report.gather import Facts


def by_phone(facts: Facts, names: list[str]) -> list[dict[str, Any]]:
    """A row per phone, the most frequent come first; seeds are added up. Empty without a linear probe.

    frames: of one seed. found: name -> share of the phone's frames, None where a name has none. taken_for: name -> (phone, share) of the
    wrong phone that is found most often, None without an error.
    """
    counted: dict[str, dict[str, Counter[str]]] = {}
    for name in names:
        for run in facts.runs_of(name):
            # an artifact that was accepted under newer code may lack it
            if (path := run.probe_folder / "confusions.parquet").is_file():
                for row in pq.read_table(path, filters=[("layer", "==", facts.probed_layer)]).to_pylist():
                    counted.setdefault(row["phone"], {}).setdefault(name, Counter())[row["found"]] += row["frames"]
    rows = [_row(facts, phone, names, of_name) for phone, of_name in counted.items()]
    return sorted(rows, key=lambda r: (-r["frames"], r["phone"]))


def _row(facts: Facts, phone: str, names: list[str], of_name: dict[str, Counter[str]]) -> dict[str, Any]:
    row: dict[str, Any] = {"phone": phone, "frames": 0, "found": dict.fromkeys(names), "taken_for": dict.fromkeys(names)}
    for name, found in of_name.items():
        row["frames"] = max(row["frames"], found.total() // len(facts.runs_of(name)))
        row["found"][name] = found[phone] / found.total()
        wrong = sorted((-n, other) for other, n in found.items() if other != phone)
        row["taken_for"][name] = (wrong[0][1], -wrong[0][0] / found.total()) if wrong else None
    return row
