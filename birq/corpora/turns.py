"""Turns of a conversation to utterances: three rules for their borders, and one for their text.

- `kaldi`: s5b of Kaldi's AMI recipe (local/ami_split_segments.pl). A turn is split at every `.` and `?`, at the time of the sign; what then
  has more than 30 words and signs is split at the comma nearest to its middle, again and again. Borders lie where words end; pauses stay.
- `at_most_30_words`: lhotse's. A turn is split at every `.`; what then has more than 30 words and signs is cut at commas, into pieces of
  up to 30 where there are commas enough. An utterance lasts from its first word to its last.
- `whole`: a turn as the transcriber set it, from its first word to its last.

Words without times go with their neighbours. Laughter and other sounds are no text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from birq.corpora.nite import Token, Turn

MOST_WORDS = 30
STOPS = (".", "?")
MARKS = (*STOPS, ",", "!", ":")  # those that Kaldi's rule knows
KEPT_WHOLE = ((r"\bMM HMM\b", "MM-HMM"), (r"\bUH HUH\b", "UH-HUH"), (r"\bO K\b", "OK"))


@dataclass(frozen=True)
class Piece:
    """An utterance of a turn."""

    start_s: float
    end_s: float
    text: str


def spoken(text: str) -> str:
    """The words as Kaldi's and lhotse's AMI recipes write them: capitals, digits, apostrophes.

    Everything else parts words: remote-control is two, T_V_ is T V. MM-HMM, UH-HUH and OK stay one word each. Accents go.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).upper()
    words = [w for w in re.sub(r"[^A-Z0-9']+", " ", plain).split() if w.strip("'")]
    plain = " ".join(words)
    for apart, whole in KEPT_WHOLE:
        plain = re.sub(apart, whole, plain)
    return plain


def _text(tokens: Sequence[Token]) -> str:
    return spoken(" ".join(t.text for t in tokens if t.word))


def _extent(tokens: Sequence[Token], turn: Turn) -> tuple[float, float]:
    """From the first to the last time; the transcriber's where the tokens have none."""
    starts = [t.start_s for t in tokens if t.start_s is not None]
    ends = [t.end_s for t in tokens if t.end_s is not None]
    return min(starts, default=turn.start_s), max(ends, default=turn.end_s)


# ---- rules


def whole(turn: Turn) -> Iterator[Piece]:
    words = [t for t in turn.tokens if t.word]
    yield Piece(*_extent(words, turn), _text(words))


def _parted(tokens: Sequence[Token], sign: str) -> list[list[Token]]:
    """The stretches between signs that hold words."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.text == sign:
            parts.append([])
        elif token.text:
            parts[-1].append(token)
    return [p for p in parts if any(t.word for t in p)]


def at_most_30_words(turn: Turn) -> Iterator[Piece]:
    for sentence in _parted(turn.tokens, "."):
        pieces: list[list[Token]] = []
        for part in _parted(sentence, ",") if len(sentence) > MOST_WORDS else [sentence]:
            if pieces and len(pieces[-1]) + len(part) <= MOST_WORDS:
                pieces[-1] += part
            else:
                pieces.append(list(part))
        for piece in pieces:
            words = [t for t in piece if t.word]
            yield Piece(*_extent(words, turn), _text(words))


def kaldi(turn: Turn) -> Iterator[Piece]:
    begin_s, end_s = _extent(turn.tokens, turn)
    sentence: list[Token] = []
    for token in turn.tokens:
        if _is_mark(token, STOPS):
            assert token.start_s is not None
            yield from _by_commas(sentence, begin_s, token.start_s)
            begin_s, sentence = token.start_s, []
        elif token.word or _is_mark(token, MARKS):
            sentence.append(token)
    yield from _by_commas(sentence, begin_s, end_s)


def _is_mark(token: Token, signs: Sequence[str]) -> bool:
    return token.punctuation and token.text in signs and token.start_s is not None


def _by_commas(tokens: list[Token], begin_s: float, end_s: float) -> Iterator[Piece]:
    """Times are cut off to hundredths of a second, as Kaldi's are."""
    at = _middle_comma(tokens, begin_s, end_s) if len(tokens) > MOST_WORDS else None
    if at is None:
        yield Piece(int(begin_s * 100) / 100, int(end_s * 100) / 100, _text(tokens))
        return
    time_s = tokens[at].start_s
    assert time_s is not None
    yield from _by_commas(tokens[:at], begin_s, time_s)
    yield from _by_commas(tokens[at + 1 :], time_s, end_s)


def _middle_comma(tokens: list[Token], begin_s: float, end_s: float) -> int | None:
    """The sign nearest to the middle, if it is a comma: where another sign is nearer, Kaldi's script leaves the sentence whole."""
    middle_s = (begin_s + end_s) / 2
    inside = [(t.start_s, i) for i, t in enumerate(tokens) if t.punctuation and t.start_s is not None and begin_s < t.start_s < end_s]
    nearest = min(inside, key=lambda m: abs(middle_s - m[0]), default=None)
    return nearest[1] if nearest and tokens[nearest[1]].text == "," else None


RULES: dict[str, Callable[[Turn], Iterator[Piece]]] = {"kaldi": kaldi, "at_most_30_words": at_most_30_words, "whole": whole}


def pieces(turn: Turn, rule: str) -> list[Piece]:
    """The utterances of a turn that hold words."""
    return [p for p in RULES[rule](turn) if p.text]
