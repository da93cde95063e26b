"""Scenarios: tests that are rows of the table in docs/workflow.md."""

from __future__ import annotations

import functools
import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import edits
from tinyproject import GIVEN_UP, ROOT, Done, Said

from birq.pipeline import dag

PAGE = ROOT / "docs" / "workflow.md"
BEGIN, END = "<!-- scenarios:begin -->", "<!-- scenarios:end -->"
EDITS_BEGIN, EDITS_END = "<!-- edits:begin -->", "<!-- edits:end -->"
# for a method that makes its labels itself, and without the study, which only its own tests ask for
ALL = " ".join(s for s, spec in dag.STAGES.items() if s != "labels" and not spec.asked)

# the page's order
GROUPS = (
    "Nothing changed",
    "Two tools",
    "Audio",
    "Params (Snakemake unless said)",
    "Code",
    "Artifacts",
    "Clones and places",
    "Experiments of DVC",
    "`cache.type` of DVC",
    "Bad input",
)

LEDGER: list[Done] = []  # what the running test's commands printed


@dataclass(frozen=True)
class Scenario:
    """A row of the table. Stages: names of birq/pipeline/dag.py, blanks between."""

    group: str
    title: str
    expected: str
    computed: str
    restored: str

    def cells(self) -> tuple[str, str, str, str]:
        return self.title, self.expected, shown(self.computed), shown(self.restored)


TABLE: dict[str, Scenario] = {}  # by the name of the test


def shown(stages: str | None) -> str:
    """Stages in a cell of the table."""
    if stages is None:
        return "whichever comes second"
    wanted = set(stages.split())
    if wanted == set(ALL.split()):
        return "all"
    return ", ".join(s for s in dag.STAGES if s in wanted) or "–"


def _check(what: str, expected: str | None, said: list[Said]) -> None:
    if expected is not None:
        found = {s.stage for s in said if s.what == what}
        assert found == set(expected.split()), f"{what}: {sorted(found)}, not {sorted(expected.split())}\n{_printed()}"


def _printed() -> str:
    return "\n====\n".join(done.text[-8000:] for done in LEDGER)


def scenario(group: str, title: str, expected: str, *, computed: str = "", restored: str | None = "", again: str = "") -> Callable:
    """Makes a test a row: the sets of stages that computed and that came from the store must be just these.

    No key is computed twice; `again` names the stages that must be (a kill, damage). restored None: it hangs on who comes first.
    """

    def wrap(test: Callable) -> Callable:
        assert group in GROUPS
        TABLE[test.__name__] = Scenario(group, title, expected, computed, restored)

        @functools.wraps(test)
        def told(*args: object, **kwargs: object) -> None:
            LEDGER.clear()
            test(*args, **kwargs)
            said = [s for done in LEDGER for s in done.said()]
            _check("computing", computed, said)
            _check("restored", restored, said)
            given_up = Counter(name for done in LEDGER for name in GIVEN_UP.findall(done.text))
            twice = {s.stage for s, n in Counter(s for s in said if s.what == "computing").items() if n - given_up[s.artifact] > 1}
            assert twice == set(again.split()), f"computed twice: {sorted(twice)}\n{_printed()}"

        return told

    return wrap


# ---- the page


def _seconds(text: str) -> dict[str, str]:
    """What the page says now: title -> seconds."""
    return {m[1]: m[2] for m in re.finditer(r"^\| (.+?) \|.*\| ([\d.]+|\?) \|$", text, flags=re.M)}


def rendered(seconds: dict[str, str]) -> str:
    """The table between the markers; `seconds` by title, "?" where not known."""
    lines = []
    for group in GROUPS:
        lines += ["", f"**{group}**", "", "| scenario | expected | computed | restored | seconds |", "| --- | --- | --- | --- | ---: |"]
        rows = [s for s in TABLE.values() if s.group == group]
        lines += ["| " + " | ".join((*s.cells(), seconds.get(s.title, "?"))) + " |" for s in rows]
    return "\n".join([BEGIN, *lines, "", END])


def write(measured: dict[str, float], page: Path = PAGE) -> None:
    """Bring the page's table up to date; `measured`: seconds by the name of the test."""
    read_all()
    text = page.read_text(encoding="utf-8")
    seconds = _seconds(text) | {TABLE[name].title: f"{s:.0f}" for name, s in measured.items() if name in TABLE}
    head, rest = text.split(BEGIN)
    text = head + rendered(seconds) + rest.split(END)[1]
    head, rest = text.split(EDITS_BEGIN)
    page.write_text(f"{head}{EDITS_BEGIN}\n{edits.table()}\n{EDITS_END}{rest.split(EDITS_END)[1]}", encoding="utf-8")


def read_all() -> None:
    """Import the modules of tests, which fill TABLE; where several processes run tests, the one that writes has imported none."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(path.stem)


def is_current(page: Path = PAGE) -> bool:
    """True if the page lists just the scenarios that there are; seconds are not compared."""
    read_all()
    text = page.read_text(encoding="utf-8")
    table = text[text.index(BEGIN) : text.index(END) + len(END)]
    return table == rendered(_seconds(table))
