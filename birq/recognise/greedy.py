"""Greedy CTC decoding. The blank is the last unit."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def greedy(logp_BTV: Tensor, lengths_B: Tensor, blank: int) -> list[list[int]]:
    """Best unit per frame, repeats merged, blanks dropped, for the whole batch at once."""
    # numpy's argmax is several times faster than torch's on a CPU
    on_cpu = logp_BTV.device.type == "cpu"
    best_BT = logp_BTV.detach().numpy().argmax(-1) if on_cpu else logp_BTV.argmax(-1).cpu().numpy()
    keep_BT = (best_BT != blank) & (np.arange(best_BT.shape[1]) < lengths_B.cpu().numpy()[:, None])
    keep_BT[:, 1:] &= best_BT[:, 1:] != best_BT[:, :-1]
    kept = best_BT[keep_BT].tolist()
    rows, begin = [], 0
    for n in keep_BT.sum(1).tolist():
        rows.append(kept[begin : begin + n])
        begin += n
    return rows
