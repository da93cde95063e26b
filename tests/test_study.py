"""Forms of pre-training compared over seeds."""

from __future__ import annotations

import pytest

from birq.report.study import Form, difference


def form(*accuracies: float) -> Form:
    return Form("some", "", {seed: [0.0, value] for seed, value in enumerate(accuracies)}, {})


def test_the_interval_of_three_seeds() -> None:
    """By hand: differences .1, .1, .2 have the mean .1333 and the deviation .0577; Student's t of 2 degrees at 97.5 % is 4.303."""
    d = difference(form(0.5, 0.6, 0.7), form(0.4, 0.5, 0.5), 1, 0.95)
    assert d is not None and d.low is not None and d.high is not None
    assert d.mean == pytest.approx(0.13333, abs=1e-5)
    assert (d.high - d.mean, d.mean - d.low) == pytest.approx((0.14343, 0.14343), abs=1e-4)


def test_few_seeds_have_no_interval() -> None:
    """Two seeds give an interval of 12.7 standard errors, which would be read as knowledge."""
    d = difference(form(0.5, 0.6), form(0.4, 0.5), 1, 0.95)
    assert d is not None and d.mean == pytest.approx(0.1) and d.low is None


def test_only_seeds_that_both_have_are_compared() -> None:
    """Forms are paired by seed: another seed has another quantizer and other batches."""
    d = difference(form(0.5), form(0.4, 0.9), 1, 0.95)
    assert d is not None and d.mean == pytest.approx(0.1)
    assert difference(Form("a", "", {1: [0.0, 0.5]}, {}), form(0.4), 1, 0.95) is None
