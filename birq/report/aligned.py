"""Reference and hypothesis, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jiwer


class Pair(NamedTuple):
    """One column of an alignment. `=` equal, S substitution, D deletion (hypothesis empty), I insertion (reference empty)."""

    kind: Literal["=", "S", "D", "I"]
    reference: str
    hypothesis: str


_KINDS = {"equal": "=", "substitute": "S", "delete": "D", "insert": "I"}


def _pairs(output: jiwer.WordOutput | jiwer.CharacterOutput) -> list[list[Pair]]:
    out = []
    for ref, hyp, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True):
        pairs: list[Pair] = []
        for chunk in chunks:
            left = ref[chunk.ref_start_idx : chunk.ref_end_idx]
            right = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
            for i in range(max(len(left), len(right))):
                pairs.append(Pair(_KINDS[chunk.type], left[i] if i < len(left) else "", right[i] if i < len(right) else ""))
        out.append(pairs)
    return out


def _plain(texts: Sequence[str]) -> list[str]:
    return [" ".join(t.split()) for t in texts]


def align(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """The cheapest alignment of each pair of sentences, by jiwer, so that its S, D and I are those of the scores."""
    return _pairs(jiwer.process_words(_plain(references), _plain(hypotheses))) if references else []


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[Pair]]:
    """The same by characters, the space between words among them."""
    return _pairs(jiwer.process_characters(_plain(references), _plain(hypotheses))) if references else []


def counts(pairs: list[Pair]) -> dict[str, int]:
    """S, D and I of an alignment."""
    return {kind: sum(p.kind == kind for p in pairs) for kind in "SDI"}
