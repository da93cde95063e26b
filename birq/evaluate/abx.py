"""ABX phone discrimination (Schatz et al. 2013): is a token X nearer to a token A of its own phone than to a token B of another one?

A token is one phone as it was spoken once: the mean of a layer's outputs over the frames whose middle lies in it. The distance is the
angle between two means. Phones are compared in any context (Hallap et al. 2023), not in equal triphones as in ZeroSpeech and Libri-light:
minutes of speech hold hardly two equal triphones of one speaker. So the figures compare encoders with each other, not with those tables.

    e(a, b, s, t) = mean over A of phone a and speaker s, B of phone b and speaker s, X of phone a and speaker t, X not A,
                    of [angle(A, X) > angle(B, X)] + ½ [angle(A, X) = angle(B, X)]

Within speakers t = s. Across speakers e is first averaged over t ≠ s. Then both are averaged over s, and then over all ordered pairs of
phones a ≠ b. 0 is perfect, ½ is chance.

Shape suffixes: N tokens, D width, X tokens of one phone, A and B tokens of one speaker, P phones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tokens:
    """Tokens as spans of frames [begin, end), in the order of the frames; int64 [N] each."""

    begin_N: np.ndarray
    end_N: np.ndarray
    phone_N: np.ndarray
    speaker_N: np.ndarray

    def __len__(self) -> int:
        return len(self.begin_N)

    def capped(self, most: int) -> Tokens:
        """At most `most` tokens of each phone and speaker, evenly spread over those that there are; no draw, so the same for all."""
        kept = []
        pairs = self.speaker_N * (self.phone_N.max(initial=0) + 1) + self.phone_N
        order = np.argsort(pairs, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(pairs[order])) + 1):
            n = min(most, len(group))
            kept.append(group[np.arange(n) * len(group) // max(n, 1)])
        index = np.sort(np.concatenate(kept)) if kept else order
        return Tokens(self.begin_N[index], self.end_N[index], self.phone_N[index], self.speaker_N[index])

    def means(self, x_MD: np.ndarray) -> np.ndarray:
        """Mean over each token's frames, [N, D] float64."""
        lengths_N = self.end_N - self.begin_N
        first_N = np.cumsum(lengths_N) - lengths_N
        frames = np.arange(lengths_N.sum()) + np.repeat(self.begin_N - first_N, lengths_N)
        return np.add.reduceat(x_MD[frames].astype(np.float64), first_N, axis=0) / lengths_N[:, None]


def tokens_of(segment_M: np.ndarray, phone_M: np.ndarray, utterance_M: np.ndarray, speaker_M: np.ndarray, left_out: set[int]) -> Tokens:
    """Runs of frames in the same segment of the same utterance. Frames outside all segments (−1) and phones in `left_out` are no tokens."""
    edge_M = np.ones(len(segment_M), bool)
    edge_M[1:] = (np.diff(segment_M) != 0) | (np.diff(utterance_M) != 0)
    begin_N = np.flatnonzero(edge_M)
    end_N = np.append(begin_N[1:], len(segment_M))
    keep_N = (segment_M[begin_N] >= 0) & ~np.isin(phone_M[begin_N], list(left_out))
    begin_N, end_N = begin_N[keep_N], end_N[keep_N]
    return Tokens(begin_N, end_N, phone_M[begin_N], speaker_M[begin_N])


def why_not(tokens: Tokens) -> tuple[str | None, str | None]:
    """Why there is no figure within speakers, and none across them."""
    if len(np.unique(tokens.phone_N)) < 2:
        why = "ABX compares two phones, and the tokens have fewer"
        return why, why
    one = "ABX across speakers compares two, and the tokens have one" if len(np.unique(tokens.speaker_N)) < 2 else None
    return None, one


def _sums(worse_XAB: np.ndarray, first_P: np.ndarray) -> np.ndarray:
    """Summed over A and over the tokens of each phone among B: [X, P]."""
    return np.add.reduceat(worse_XAB.sum(1), first_P, axis=1)


def error_rates(means_ND: np.ndarray, tokens: Tokens) -> tuple[float | None, float | None]:
    """ABX error within and across speakers, as fractions; None where no triple exists. means_ND: as `Tokens.means`."""
    order = np.lexsort((tokens.phone_N, tokens.speaker_N))
    phone_N, speaker_N = tokens.phone_N[order], tokens.speaker_N[order]
    unit_ND = means_ND[order]
    unit_ND = (unit_ND / np.maximum(np.linalg.norm(unit_ND, axis=1, keepdims=True), 1e-30)).astype(np.float32)
    n_phones = int(phone_N.max(initial=0)) + 1
    total_KPP, count_KPP = np.zeros((2, n_phones, n_phones)), np.zeros((2, n_phones, n_phones))
    for a in np.unique(phone_N):
        x_X = np.flatnonzero(phone_N == a)
        nearness_XN = unit_ND[x_X] @ unit_ND.T  # cosines: the larger, the smaller the angle
        for s in np.unique(speaker_N[x_X]):
            own_X = speaker_N[x_X] == s
            b_B = np.flatnonzero((speaker_N == s) & (phone_N != a))
            if not len(b_B):
                continue
            other_P, first_P, size_P = np.unique(phone_N[b_B], return_index=True, return_counts=True)
            near_XA, near_XB = nearness_XN[:, x_X[own_X]], nearness_XN[:, b_B]
            worse_XAB = (near_XA[:, :, None] < near_XB[:, None, :]) + 0.5 * (near_XA[:, :, None] == near_XB[:, None, :])
            n_a = int(own_X.sum())
            if n_a > 1:
                within_XAB = worse_XAB[own_X]
                within_XAB[np.arange(n_a), np.arange(n_a)] = 0  # X is not A
                total_KPP[0, a, other_P] += _sums(within_XAB, first_P).sum(0) / (n_a * (n_a - 1) * size_P)
                count_KPP[0, a, other_P] += 1
            if n_a < len(x_X):
                rate_XP = _sums(worse_XAB[~own_X], first_P) / (n_a * size_P)
                _, t_X, n_t = np.unique(speaker_N[x_X][~own_X], return_inverse=True, return_counts=True)
                # the mean over the tokens of each t, then over t
                total_KPP[1, a, other_P] += (rate_XP / (n_t[t_X] * len(n_t))[:, None]).sum(0)
                count_KPP[1, a, other_P] += 1
    means = [total[count > 0] / count[count > 0] for total, count in zip(total_KPP, count_KPP, strict=True)]
    within, across = (float(m.mean()) if len(m) else None for m in means)
    return within, across
