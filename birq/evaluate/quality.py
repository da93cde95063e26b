"""How much discrete labels say about phones, from joint counts (Hsu et al. 2021), and how evenly codes are used.

Shape suffixes: M frames, N codebooks, V codes, P phones.
"""

from __future__ import annotations

import numpy as np


def joint_counts(phones_M: np.ndarray, codes_M: np.ndarray, n_phones: int, codebook_size: int) -> np.ndarray:
    """How often phone and code meet: int64 [P, V]."""
    cells = phones_M.astype(np.int64) * codebook_size + codes_M
    return np.bincount(cells, minlength=n_phones * codebook_size).reshape(n_phones, codebook_size)


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that counts of any shape stand for."""
    p = counts[counts > 0].astype(np.float64).ravel()
    p /= p.sum()
    return float(-(p * np.log(p)).sum())


def phone_purity(joint_PV: np.ndarray) -> float:
    """Σ_code max_phone p(phone, code): accuracy of the best guess of the phone from the code."""
    return float(joint_PV.max(0).sum() / joint_PV.sum())


def cluster_purity(joint_PV: np.ndarray) -> float:
    """Σ_phone max_code p(phone, code): share of frames with their phone's commonest code; many codes make it low."""
    return float(joint_PV.max(1).sum() / joint_PV.sum())


def pnmi(joint_PV: np.ndarray) -> float:
    """I(phone; code) / H(phone): share of the uncertainty about the phone that the code takes away; 0 where there is one phone only."""
    h_phone = entropy(joint_PV.sum(1))
    if h_phone == 0:
        return 0.0
    return max(0.0, (h_phone + entropy(joint_PV.sum(0)) - entropy(joint_PV)) / h_phone)


def label_agreement(a_M: np.ndarray, b_M: np.ndarray) -> float:
    """Normalised mutual information of two label streams, I(a; b) / sqrt(H(a) H(b)), 0 where one of them is constant.

    Two quantizers number their codes independently, so the share of equal codes would say nothing. Like PNMI it is biased upward where
    frames are few for the number of codes: compare it with its value for shifted labels.
    """
    a, b = a_M.astype(np.int64), b_M.astype(np.int64)
    h_a, h_b = entropy(np.bincount(a)), entropy(np.bincount(b))
    if h_a == 0 or h_b == 0:
        return 0.0
    # only the pairs that occur: at V = 8192 all of them would be 67 million
    _, joint = np.unique(a * (b.max() + 1) + b, return_counts=True)
    return float(min(1.0, max(0.0, (h_a + h_b - entropy(joint)) / np.sqrt(h_a * h_b))))


def usage(codes_M: np.ndarray, codebook_size: int) -> np.ndarray:
    """Share of the frames that each code has, float64 [V], the commonest first."""
    counts = np.bincount(codes_M.astype(np.int64), minlength=codebook_size)
    return np.sort(counts)[::-1] / max(1, len(codes_M))


def shifted(codes: np.ndarray) -> np.ndarray:
    """The stream rotated by half its length. Frequencies and durations stay, but labels no longer belong to their frames.

    The value of a figure on such labels is its bias.
    """
    return np.roll(codes, len(codes) // 2, axis=0)


def code_figures(codes_MN: np.ndarray, codebook_size: int) -> dict[str, float]:
    """Perplexity (1 = one code, V = all equally) and share of the codes that occur, means over codebooks."""
    counts = [np.bincount(c.astype(np.int64), minlength=codebook_size) for c in codes_MN.T]
    return {
        "perplexity": float(np.mean([np.exp(entropy(c)) for c in counts])),
        "used_share": float(np.mean([(c > 0).mean() for c in counts])),
    }


def repeat_share(codes_MN: np.ndarray, utterance_M: np.ndarray) -> float:
    """Share of neighbouring frames of an utterance that have the same code, mean over codebooks; 0 where no two are neighbours.

    1 minus it is the labels' churn. Labels that repeat for as long as phones do follow the speech; those that repeat longer follow less.
    """
    neighbours = np.diff(utterance_M) == 0
    if not neighbours.any():
        return 0.0
    return float((codes_MN[1:] == codes_MN[:-1])[neighbours].mean())


PHONE_KEYS = ("phone_purity", "cluster_purity", "pnmi", "pnmi_floor")


def phone_figures(phones_M: np.ndarray, codes_MN: np.ndarray, n_phones: int, codebook_size: int) -> dict[str, float]:
    """Phone purity, cluster purity, PNMI and PNMI of the shifted labels, means over codebooks."""
    rows = []
    for codes_M, shifted_M in zip(codes_MN.T, shifted(codes_MN).T, strict=True):
        joint_PV = joint_counts(phones_M, codes_M, n_phones, codebook_size)
        floor = pnmi(joint_counts(phones_M, shifted_M, n_phones, codebook_size))
        rows.append((phone_purity(joint_PV), cluster_purity(joint_PV), pnmi(joint_PV), floor))
    return dict(zip(PHONE_KEYS, np.mean(rows, axis=0).tolist(), strict=True))


def mean_agreement(a_MN: np.ndarray, b_MN: np.ndarray) -> tuple[float, float]:
    """`label_agreement` of two label sets and its value for shifted labels, means over codebooks."""
    true = [label_agreement(a, b) for a, b in zip(a_MN.T, b_MN.T, strict=True)]
    floor = [label_agreement(a, b) for a, b in zip(a_MN.T, shifted(b_MN).T, strict=True)]
    return float(np.mean(true)), float(np.mean(floor))
