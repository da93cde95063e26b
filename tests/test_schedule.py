"""Learning-rate factors. That they are stepped is shown in test_train.py."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from birq.train.schedule import tri_stage, warmup_cosine


def test_warmup_is_linear_and_ends_at_the_peak() -> None:
    """Step w − 1 is the first at the full rate; step 0 is not 0, or a step would be lost."""
    factor = warmup_cosine(100, 10, 0.05)
    assert [factor(s) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factor(10) == pytest.approx(1.0)


def test_cosine_falls_without_a_jump_to_the_final_share() -> None:
    """Half way down in the middle, the final share at the last step, and nothing below it after."""
    factor = warmup_cosine(101, 0, 0.1)
    values = [factor(s) for s in range(101)]
    assert values[0] == pytest.approx(1) and values[50] == pytest.approx(0.55) and values[100] == pytest.approx(0.1)
    assert all(0 <= a - b < 0.02 for a, b in pairwise(values))
    assert factor(500) == pytest.approx(0.1)


def test_tri_stage_warms_up_holds_and_anneals_exponentially() -> None:
    """10 % up, 40 % at the peak, then equal ratios down to the final share."""
    factor = tri_stage(100, 0.1, 0.4, 0.02)
    values = [factor(s) for s in range(100)]
    assert values[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert values[10:50] == [1.0] * 40
    ratios = [b / a for a, b in pairwise(values[50:])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) and ratios[0] < 1
    assert values[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_legal_rates(steps: int) -> None:
    """Warm-up longer than the run, no anneal, a final share of 0: always within (0, 1]."""
    for factor in (warmup_cosine(steps, 10, 0.0), warmup_cosine(steps, 0, 1.0), tri_stage(steps, 0.5, 0.5, 0.0), tri_stage(steps, 0, 0, 0)):
        values = [factor(s) for s in range(steps)]
        assert all(0 <= v <= 1 and math.isfinite(v) for v in values)
        assert values[0] > 0
