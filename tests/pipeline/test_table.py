"""docs/workflow.md lists just the scenarios that the tests run."""

from __future__ import annotations

import scenario


def test_the_page_lists_the_scenarios() -> None:
    """A row without its test, or a test without its row, would make the page untrue; seconds are those of the last `--write-docs`."""
    assert scenario.is_current(), "pytest tests/pipeline --write-docs brings docs/workflow.md up to date"
