"""Learning-rate factors by step: 1 is the peak. Steps count from 0, the factor is the one used *at* the step."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def warmup_cosine(steps: int, warmup_steps: int, final_share: float) -> Schedule:
    """Linear warm-up, then half a cosine down to `final_share` at the last step."""
    warmup_steps = min(warmup_steps, steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
        return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def tri_stage(steps: int, warmup_share: float, hold_share: float, final_share: float, stairs: int = 0) -> Schedule:
    """Linear warm-up, constant, exponential anneal to `final_share` (the paper's warm-up, hold, anneal).

    The anneal falls at every step; or in `stairs` of one length, each by the same factor below the one before, the first below the peak.
    """
    warmup, hold = round(steps * warmup_share), round(steps * hold_share)
    floor = max(final_share, 1e-4)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if step < warmup + hold:
            return 1.0
        if stairs:
            stair = (step - warmup - hold) * stairs // max(1, steps - warmup - hold)
            return floor ** min(1.0, (stair + 1) / stairs)
        progress = (step - warmup - hold) / max(1, steps - 1 - warmup - hold)
        return floor ** min(1.0, progress)

    return factor
