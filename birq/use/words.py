"""Words of a transcript: when they were said, and how sure the recogniser is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from birq.text.tokenizer import Tokenizer
from birq.use import alignment


@dataclass(frozen=True)
class Word:
    """A word with its time in the recording.

    confidence: in [0, 1]. Of the greedy decoder, the geometric mean of the probabilities of its tokens over the frames that they fill.
    Of the search, the share of the probability that hypotheses with this word have.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2


def of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[list[int]]:
    """Positions in `ids` of the tokens of each word of their text; what only parts words belongs to none."""
    words: list[list[int]] = []
    before = ""
    for i in range(len(ids)):
        text = tokenizer.decode(ids[: i + 1]).strip()
        if text != before:
            n = len(text.split())
            words += [[] for _ in range(n - len(words))]
            words[n - 1].append(i)
            before = text
    return words


def timed(
    logp_TV: np.ndarray,
    ids: Sequence[int],
    tokenizer: Tokenizer,
    frame_s: float,
    first_s: float,
    confidences: Sequence[float] | None = None,
) -> list[Word]:
    """The words of a token sequence. frame_s: seconds of an encoder frame; first_s: when the first one begins.

    Tokens that do not fit into the frames, which only a search with other pieces can bring about, share them evenly.
    """
    found = alignment.spans(logp_TV, ids, tokenizer.size)
    words = []
    for n, positions in enumerate(of_tokens(tokenizer, ids)):
        if found is None:
            begin, end = (p * len(logp_TV) / len(ids) for p in (positions[0], positions[-1] + 1))
            sure = 0.0
        else:
            begin, end = found[positions[0], 0], found[positions[-1], 1]
            sure = float(np.mean(np.concatenate([logp_TV[slice(*found[p]), ids[p]] for p in positions])))
        text = tokenizer.decode([ids[p] for p in positions]).strip()
        confidence = confidences[n] if confidences is not None else float(np.exp(sure))
        words.append(Word(text, first_s + float(begin) * frame_s, first_s + float(end) * frame_s, confidence))
    return words
