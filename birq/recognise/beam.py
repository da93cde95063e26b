"""Beam search over CTC with an n-gram of words. The blank is the last unit.

By `ctc-beam-decoder`, which searches as pyctcdecode does and has KenLM inside.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birq.errors import BirqError
from birq.recognise.lm import END_WORD, library
from birq.settings.params import Search

WORD_START = "▁"  # in front of a piece that begins a word
NEVER = -80.0  # natural log; the library takes 1e-15 for anything less
TAKEN = "_|⁇"  # signs that the library has meanings of its own for
PRUNE_LOGP = -10.0  # beams that are so much less likely than the best one are dropped, in nats; the library's default
TOKEN_MIN_LOGP = -5.0  # units that are less likely than this in a frame are not tried there; the library's default


@dataclass(frozen=True)
class Found:
    """Hypotheses of one utterance, best first, `search.n_best` of them.

    scores: natural log of the CTC probability, plus weight times that of the n-gram, plus the bonus for every word. confidence: the best
    one's share of the probability of all that were found; word_confidences: that of the hypotheses with the same word at the same time.
    """

    texts: list[str]
    scores: list[float]
    confidence: float
    word_confidences: list[float]


NOTHING = Found([""], [0.0], 1.0, [])


class Beam:
    """A search with a language model and the weights of its parts."""

    def __init__(self, vocab: Sequence[str], arpa: Path, words: Sequence[str], section: Search, weight: float, bonus: float):
        """vocab: units without the blank. words: those that the n-gram knows.

        Errors: BirqError for a language model or units that the library cannot read, or where it is not installed.
        """
        if taken := sorted(set(TAKEN) & set("".join(vocab))):
            raise BirqError(f"tokenizer.alphabet: {taken} cannot be searched for; take it out, or set lm.source: none")
        self.section, self.bonus = section, bonus
        pieces = any(unit.startswith(WORD_START) for unit in vocab)
        units = [*vocab, f"{WORD_START * pieces}{END_WORD}", ""]
        # one word more at the end of every hypothesis, which the n-gram takes for its end: the library cannot tell `a ` from `a` else
        self._end = [len(vocab)] if pieces else [vocab.index(" "), len(vocab)]
        with _quiet() as said:
            try:
                self._decoder = library().BeamSearchDecoder(
                    units,
                    kenlm_model_path=str(arpa),
                    unigrams=[*words, END_WORD],
                    alpha=weight,
                    beta=bonus,
                    unk_score_offset=section.unknown,
                )
            except (ValueError, OSError) as e:
                raise BirqError(f"{arpa}: KenLM cannot read it: {e} {said()}".rstrip()) from None

    def __call__(self, logp_TV: np.ndarray, prune_logp: float = PRUNE_LOGP, token_min_logp: float = TOKEN_MIN_LOGP) -> Found:
        """Hypotheses for natural log probabilities [T, V], the blank last. No hypothesis at all is the empty one."""
        n_frames, n_units = logp_TV.shape
        ended_TV = np.full((n_frames + len(self._end), n_units + 1), NEVER, np.float32)
        ended_TV[:n_frames, : n_units - 1], ended_TV[:n_frames, -1] = logp_TV[:, :-1], logp_TV[:, -1]
        ended_TV[range(n_frames, len(ended_TV)), self._end] = 0.0
        beams = self._decoder.decode_beams(ended_TV, self.section.beam, prune_logp, token_min_logp)
        return _found(beams, self.section.n_best, self.bonus) if beams else NOTHING


def _found(beams: list[tuple[str, None, list[tuple[str, tuple[int, int]]], float, float]], n_best: int, bonus: float) -> Found:
    """Without the word at the end and its bonus."""
    beams = sorted(beams, key=lambda b: (-b[4], b[0]))
    scores = np.array([b[4] - bonus for b in beams])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    words = [
        sum(share for share, other in zip(shares, beams, strict=True) if any(w == word and s < end and start < e for w, (s, e) in other[2]))
        for word, (start, end) in beams[0][2]
        if word != END_WORD
    ]
    texts = [" ".join(b[0].removesuffix(END_WORD).split()) for b in beams[:n_best]]
    return Found(texts, scores[:n_best].tolist(), float(shares[0]), [float(min(w, 1.0)) for w in words])


@contextmanager
def _quiet() -> Iterator[Any]:
    """Without what KenLM prints while it loads; yields a function that returns it."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        before = os.dup(2)
        os.dup2(kept.fileno(), 2)

        def said() -> str:
            kept.seek(0)
            return " ".join(kept.read().decode(errors="replace").split())[-500:]

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
