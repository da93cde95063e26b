"""When tokens were said: the most probable path of a token sequence through CTC's outputs (Viterbi; Graves et al. 2006, section 4.1).

Shape suffixes: T encoder frames, V units with the blank, L tokens, S states (a blank before, between and after the tokens).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMPOSSIBLE = -np.inf


def spans(logp_TV: np.ndarray, ids: Sequence[int], blank: int) -> np.ndarray | None:
    """First frame of each token and the frame after its last one, [L, 2]; None if there are fewer frames than the tokens need.

    logp_TV: natural log probabilities. Of equally probable paths, the one that leaves a state later.
    """
    n_frames, n_states = len(logp_TV), 2 * len(ids) + 1
    if not len(ids):
        return np.empty((0, 2), np.int64)
    units_S = np.full(n_states, blank)
    units_S[1::2] = ids
    skips_S = np.zeros(n_states, bool)  # from a token to the next one without a blank between, if they differ
    skips_S[3::2] = units_S[3::2] != units_S[1:-2:2]
    emitted_TS = np.asarray(logp_TV, np.float64)[:, units_S]
    best_S = np.full(n_states, IMPOSSIBLE)
    if n_frames:
        best_S[:2] = emitted_TS[0, :2]
    back_TS = np.zeros((n_frames, n_states), np.int8)  # by how many states the path came forward
    for t in range(1, n_frames):
        came_3S = np.full((3, n_states), IMPOSSIBLE)
        came_3S[0], came_3S[1, 1:] = best_S, best_S[:-1]
        came_3S[2, 2:] = np.where(skips_S[2:], best_S[:-2], IMPOSSIBLE)
        back_TS[t] = came_3S.argmax(0)
        best_S = came_3S.max(0) + emitted_TS[t]
    state = n_states - 1 if n_frames and best_S[-1] >= best_S[-2] else n_states - 2
    if not n_frames or best_S[state] == IMPOSSIBLE:
        return None
    path_T = np.empty(n_frames, np.int64)
    for t in range(n_frames - 1, -1, -1):
        path_T[t] = state
        state -= int(back_TS[t, state])
    tokens_L = np.arange(1, n_states, 2)
    return np.stack([np.searchsorted(path_T, tokens_L), np.searchsorted(path_T, tokens_L, side="right")], axis=1)
