"""Mean and deviation over frames that come in batches: they standardise a layer whose frames are too many to hold.

Shape suffixes: M frames of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def moments(batches: Iterable[list[Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviation per dimension of each of several outputs [M, D], over the frames of all batches; sums are in float64."""
    sums: list[list[Tensor]] = []
    total = 0
    for outputs in batches:
        total += len(outputs[0])
        fresh = [[x.sum(0), x.square().sum(0)] for x in (x_MD.double() for x_MD in outputs)]
        sums = [[a + b for a, b in zip(s, f, strict=True)] for s, f in zip(sums, fresh, strict=True)] if sums else fresh
    out = []
    for first_D, second_D in sums:
        mean_D = first_D / total
        var_D = (second_D / total - mean_D.square()).clamp_min(0)
        out.append((mean_D.float(), (var_D + 1e-5).sqrt().float()))
    return out
