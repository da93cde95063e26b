"""Models that output blanks only, or one text for all recordings: the commonest trouble with CTC, which an error rate does not name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

MOST = 0.9  # of the utterances with words: above it, one text for all of them is no accident
ADVICE = (
    "CTC learns blanks first and letters later, so train longer (finetune.steps) or with more transcripts; halve finetune.learning_rate "
    "if the loss does not fall; see that transcripts belong to their recordings and that utterances have more encoder frames than letters "
    "(docs/healthy.md)"
)


def stuck(references: Sequence[str | None], hypotheses: Sequence[str | None]) -> str | None:
    """What is wrong, as the end of a sentence whose subject is the model; None where hypotheses differ, or references do not."""
    pairs = [(" ".join(r.split()), " ".join((h or "").split())) for r, h in zip(references, hypotheses, strict=True) if r and r.strip()]
    if len(pairs) < 2:
        return None
    text, n = Counter(h for _, h in pairs).most_common(1)[0]
    share = n / len(pairs)
    if share <= MOST or sum(r == text for r, _ in pairs) > len(pairs) / 2:
        return None
    if not text:
        return f"outputs blanks only: {100 * share:.0f} % of its texts are empty. {ADVICE}"
    return f"says the same for {100 * share:.0f} % of the utterances, {text!r}. {ADVICE}"
