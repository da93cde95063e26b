"""Learning-rate factors, and lengths in epochs. That they are stepped is shown in test_train.py."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from tiny import ROOT

from birq.settings.params import load
from birq.train.epochs import in_steps
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


def test_stairs_are_the_papers_fine_tuning() -> None:
    """10 epochs of warm-up, 10 at the peak, 10 of decay: an epoch has the rate of the one before over the root of 2, the last 1/32."""
    steps_per_epoch = 7
    factor = tri_stage(30 * steps_per_epoch, 1 / 3, 1 / 3, 1 / 32, stairs=10)
    epochs = [[factor(e * steps_per_epoch + s) for s in range(steps_per_epoch)] for e in range(30)]
    assert epochs[0][0] == pytest.approx(1 / 70) and epochs[9][-1] == 1
    assert all(rates == [1.0] * steps_per_epoch for rates in epochs[10:20])
    for i, rates in enumerate(epochs[20:], 1):
        assert rates == pytest.approx([2 ** (-i / 2)] * steps_per_epoch)


def test_epochs_become_steps_and_steps_stay() -> None:
    """An epoch's steps are counted only where a length needs them; half an epoch is legal, and no length above 0 becomes nothing."""
    section = load(ROOT / "params.yaml").pretrain
    assert in_steps(section, lambda: pytest.fail("counted for nothing")) is section
    asked = section.model_copy(update={"steps": "100 epochs", "warmup_steps": "2.5 epochs"})
    found = in_steps(asked, lambda: 433)
    assert (found.steps, found.warmup_steps) == (43300, 1082) and asked.steps == "100 epochs"
    assert found == section.model_copy(update={"steps": 43300, "warmup_steps": 1082})
    short = section.model_copy(update={"steps": "0.01 epochs", "warmup_steps": "0 epochs"})
    assert [getattr(in_steps(short, lambda: 4), key) for key in ("steps", "warmup_steps")] == [1, 0]


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_legal_rates(steps: int) -> None:
    """Warm-up longer than the run, no anneal, a final share of 0: always within (0, 1]."""
    for factor in (
        warmup_cosine(steps, 10, 0.0),
        warmup_cosine(steps, 0, 1.0),
        tri_stage(steps, 0.5, 0.5, 0.0),
        tri_stage(steps, 0, 0, 0),
        tri_stage(steps, 0.3, 0.3, 0, 5),
    ):
        values = [factor(s) for s in range(steps)]
        assert all(0 <= v <= 1 and math.isfinite(v) for v in values)
        assert values[0] > 0
