"""Reference and hypothesis, word by word."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jiwer


class Pair(NamedTuple):
    """One column of an alignment. `=` equal, S substitution, D deletion (hypothesis empty), I insertion (reference empty)."""

    kind: Literal["=", "S", "D", "I"]
    reference: str
    hypothesis: str


_KINDS = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}


def align(reference: str, hypothesis: str) -> list[Pair]:
    """The cheapest alignment of two sentences, by jiwer, so that its S, D and I are those of the scores."""
    ref, hyp = reference.split(), hypothesis.split()
    pairs: list[Pair] = []
    for chunk in jiwer.process_words(" ".join(ref), " ".join(hyp)).alignments[0]:
        left = ref[chunk.ref_start_idx : chunk.ref_end_idx]
        right = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(left), len(right))):
            pairs.append(Pair(_KINDS[chunk.type], left[i] if i < len(left) else "", right[i] if i < len(right) else ""))
    return pairs


def counts(pairs: list[Pair]) -> dict[str, int]:
    """S, D and I of an alignment."""
    return {kind: sum(p.kind == kind for p in pairs) for kind in "SDI"}
