"""docs/workflow.md lists just the scenarios that the tests run."""

from __future__ import annotations

import importlib
from pathlib import Path

import scenario


def test_the_page_lists_the_scenarios() -> None:
    """A row without its test, or a test without its row, would make the page untrue; seconds are those of the last `--write-docs`."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(path.stem)
    assert scenario.is_current(), "pytest tests/pipeline --write-docs brings docs/workflow.md up to date"
