"""Long recordings in pieces that overlap, in bounded memory, and the words of the pieces joined again.

A recording is cut where the signal is weakest. Each piece reaches half an overlap beyond its cuts. A word belongs to the piece on whose
side of the cut its middle lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from birq.use.words import Word

LONGEST_S = 35.0  # the default of features.max_seconds: what the pipeline decodes whole is heard whole
OVERLAP_S = 1.0
WINDOW_S = 0.2  # over which the power is taken
SAME_S = 0.12  # two words whose middles are nearer than this are one


@dataclass(frozen=True)
class Piece:
    """Mono samples [n] at the recording's own rate; times are those of the recording."""

    samples: np.ndarray
    rate_hz: int
    begin_s: float
    cut_s: float  # words from here on belong to the next piece

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    @property
    def end_s(self) -> float:
        return self.begin_s + self.seconds


def pieces(blocks: Iterable[np.ndarray], rate_hz: int, longest_s: float = LONGEST_S) -> Iterator[Piece]:
    """Pieces of at most `longest_s`, from blocks of mono samples. Only the last one may be short; its cut lies at infinity."""
    longest, half = round(longest_s * rate_hz), round(OVERLAP_S / 2 * rate_hz)
    held: list[np.ndarray] = []
    n_held = begin = 0  # samples that are held, and the number of the first one
    for block in blocks:
        held, n_held = [*held, block], n_held + len(block)
        while n_held > longest:
            wave = np.concatenate(held)
            cut = _weakest(wave[longest // 2 : longest - half], rate_hz) + longest // 2
            yield Piece(wave[: cut + half], rate_hz, begin / rate_hz, (begin + cut) / rate_hz)
            rest = wave[cut - half :].copy()
            held, n_held, begin = [rest], len(rest), begin + cut - half
    if n_held:
        yield Piece(held[0] if len(held) == 1 else np.concatenate(held), rate_hz, begin / rate_hz, np.inf)


def _weakest(wave: np.ndarray, rate_hz: int) -> int:
    """The middle of the window with the least power; of equal ones the last."""
    step = max(1, rate_hz // 100)
    power = np.square(wave[: len(wave) // step * step], dtype=np.float64).reshape(-1, step).sum(1)
    width = min(max(1, round(WINDOW_S * rate_hz / step)), len(power))
    summed = np.convolve(power, np.ones(width), "valid")
    return (len(summed) - 1 - int(summed[::-1].argmin())) * step + width * step // 2


def join(heard: Iterable[tuple[float, Sequence[Word]]]) -> list[Word]:
    """The words of a recording, from each piece's cut and words, in order.

    Two pieces may place a word on different sides of their cut, so a word is kept once where both heard it, however they timed it.
    """
    joined: list[Word] = []
    cut_s = -np.inf  # between the last piece and this one
    beyond: list[Word] = []  # words of the last piece after its cut
    for next_cut_s, words in heard:
        early = [w for w in words if w.middle_s < cut_s]
        own = [w for w in words if cut_s <= w.middle_s < next_cut_s]
        if joined and own and _same(joined[-1], own[0]):  # both claim it
            own = own[1:]
        elif early and beyond and _same(beyond[0], early[-1]):  # each leaves it to the other
            joined.append(max(beyond[0], early[-1], key=lambda w: w.confidence))
        joined += own
        cut_s, beyond = next_cut_s, [w for w in words if w.middle_s >= next_cut_s]
    return joined


def _same(a: Word, b: Word) -> bool:
    """Whether two pieces mean one word: words that follow each other have middles a mean length apart."""
    return abs(a.middle_s - b.middle_s) < max(SAME_S, (a.end_s - a.start_s + b.end_s - b.start_s) / 4)
