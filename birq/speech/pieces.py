"""Pieces of long recordings: stretches of time and channels of a file, several in one pass over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from birq.errors import BirqError
from birq.speech import audio
from birq.speech.resampling import resample
from birq.speech.streams import shown


class Piece(Protocol):
    """What is wanted of a file."""

    @property
    def offset_s(self) -> float: ...
    @property
    def duration_s(self) -> float | None: ...  # None: to the end
    @property
    def channels(self) -> tuple[int, ...] | None: ...  # positions in the file, averaged; None: all


def _within(piece: Piece, block: np.ndarray, done: int, rate_hz: int) -> np.ndarray | None:
    """The mono samples of a piece that lie in a block [n, channels] whose first sample is number `done` of the file."""
    begin = round(piece.offset_s * rate_hz)
    end = done + len(block) if piece.duration_s is None else begin + round(piece.duration_s * rate_hz)
    if done + len(block) <= begin or done >= end:
        return None
    wave = block[max(begin - done, 0) : end - done]
    return audio.mono(wave if piece.channels is None else wave[:, list(piece.channels)]).copy()  # a view would hold the block


def read(path: str | Path, sample_rate_hz: int, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """Mono float32 samples [n] of each piece at the wanted rate; the file is decoded once, up to the last piece's end.

    Errors: BirqError names a file that is missing, cannot be decoded, or has no such channel.
    """
    rates: set[int] = set()
    waves: list[list[np.ndarray]] = [[] for _ in pieces]
    last_s = None if any(p.duration_s is None for p in pieces) else max(p.offset_s + (p.duration_s or 0.0) for p in pieces)
    done = 0
    try:
        for sound, block in audio.decode(path):
            rates.add(sound.sample_rate_hz)
            for piece, wave in zip(pieces, waves, strict=True):
                found = _within(piece, block, done, sound.sample_rate_hz)
                if found is not None:
                    wave.append(found)
            done += len(block)
            if last_s is not None and done >= last_s * sound.sample_rate_hz + 1:
                break
        if len(rates) > 1:
            raise audio.AudioError("wrong rate", f"the rate changes inside the file: {sorted(rates)} Hz")
    except (audio.AudioError, IndexError) as e:
        raise BirqError(f"{shown(path)}: {e}; replace the file, or take it out of the corpus and run again") from None
    return [resample(np.concatenate(w), max(rates), sample_rate_hz) if w else np.empty(0, np.float32) for w in waves]
