"""The probe: what labels and layers hold of the phones, per layer; and how the codes are used.

Shape suffixes: M frames of all probed utterances, N codebooks, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from birq.evaluate import abx, geometry, quality
from birq.evaluate.layers import moments
from birq.evaluate.phones import NO_PHONE

DIGITS = 6  # further digits depend on the order in which a machine adds


@dataclass(frozen=True)
class Truth:
    """What is known about the probed frames."""

    phone_M: np.ndarray  # NO_PHONE where none is known
    utterance_M: np.ndarray
    n_phones: int
    codebook_size: int
    tokens: abx.Tokens | None  # None: no ABX

    @property
    def known_M(self) -> np.ndarray:
        return self.phone_M != NO_PHONE


def label_row(codes_MN: np.ndarray, anchor_MN: np.ndarray, layer: int, truth: Truth) -> dict[str, Any]:
    """Figures of one label set: anchors (layer 0) or a layer's codes. Phone figures are None where no frame has a phone."""
    known_M = truth.known_M
    row: dict[str, Any] = {"labels": "enhanced" if layer else "anchor", "layer": layer}
    row |= dict.fromkeys(quality.PHONE_KEYS)
    if known_M.any():
        row |= quality.phone_figures(truth.phone_M[known_M], codes_MN[known_M], truth.n_phones, truth.codebook_size)
    row |= quality.code_figures(codes_MN, truth.codebook_size)
    row["repeat_share"] = quality.repeat_share(codes_MN, truth.utterance_M)
    row["agreement"], row["agreement_floor"] = quality.mean_agreement(codes_MN, anchor_MN) if layer else (None, None)
    return row


def layer_row(x_MD: np.ndarray, truth: Truth) -> dict[str, Any]:
    """Figures of a layer's outputs themselves, or of the input's: effective rank, PNMI of their k-means, ABX."""
    row: dict[str, Any] = {"effective_rank": geometry.effective_rank(x_MD)}
    row |= dict.fromkeys(("kmeans_pnmi", "kmeans_pnmi_floor", "abx_within", "abx_across"))
    known_M = truth.known_M
    if known_M.any():
        cluster_M = geometry.kmeans(x_MD, geometry.clusters(len(x_MD), truth.codebook_size))
        found = quality.phone_figures(truth.phone_M[known_M], cluster_M[known_M, None], truth.n_phones, truth.codebook_size)
        row |= {f"kmeans_{key}": found[key] for key in ("pnmi", "pnmi_floor")}
    if truth.tokens is not None:
        mean_D, std_D = moments(x_MD)
        means_ND = (truth.tokens.means(x_MD) - mean_D) / std_D
        row["abx_within"], row["abx_across"] = abx.error_rates(means_ND, truth.tokens)
    return row


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in row.items()}
