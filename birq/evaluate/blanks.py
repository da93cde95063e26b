"""Models that output blanks only: the commonest trouble with CTC, which a word error rate of 100 % does not name."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 0.9  # of the utterances with words: above it, their empty hypotheses are no accident
ADVICE = (
    "CTC learns blanks first and letters later, so train longer (finetune.steps) or with more transcripts; halve finetune.learning_rate "
    "if the loss does not fall; see that transcripts belong to their recordings and that utterances have more encoder frames than letters "
    "(docs/healthy.md)"
)


def silent_share(references: Sequence[str | None], hypotheses: Sequence[str | None]) -> float:
    """The share of empty hypotheses among utterances whose reference holds a word; 0 where none does."""
    said = [not (h or "").strip() for r, h in zip(references, hypotheses, strict=True) if (r or "").strip()]
    return sum(said) / len(said) if said else 0.0
