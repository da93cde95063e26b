"""Project folders with odd names."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario import ALL, scenario
from test_bad_input import BAD, one_error
from test_scenarios_tools import CLONES
from tinyproject import Project

pytestmark = pytest.mark.pipeline


@scenario(
    CLONES,
    "a project folder with blanks, quotes, `#`, `%`, `$`, `&`, `[` and letters outside ASCII in its name",
    "as anywhere else",
    computed="score probe report",
    restored=ALL,
)
def test_odd_name(by_snakemake: Project, tmp_path: Path) -> None:
    """Both tools, git, the shell and the report get the path as it is. DVC has not run here, so it calls every verb."""
    project = by_snakemake.copy(tmp_path / 'it\'s a "straße" #1 %s $HOME & [b]')
    project.set("score.confidence=0.9")
    project.snakemake()
    project.dvc()
    project.up_to_date()
    project.nothing_to_do()
    project.verify()
    project.snakemake("--report", "report.zip")


@scenario(BAD, "a project folder with braces in its name", "both tools say so, and do nothing")
def test_braces(made: Project, tmp_path: Path) -> None:
    """Snakemake and DVC fill in what stands in braces, in the middle of their work."""
    project = made.copy(tmp_path / "{x}")
    for done in (project.snakemake(status=None), project.dvc(status=None)):
        one_error(done, f"{tmp_path}/{{x}}: Snakemake and DVC cannot work in a folder with braces in its path")
