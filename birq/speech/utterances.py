"""Utterances from audio in memory; `birq.speech.shards.Split` has those of shards, and batches read both.

Shape suffixes: T log-mel frames, F mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from birq.speech import fbank, shards
from birq.speech.frontend import FrontEnd
from birq.speech.resampling import resample


class InMemory:
    """Utterances from samples: their log-mel is rounded as shards store it, so that both give the same numbers."""

    def __init__(self, recordings: Sequence[tuple[np.ndarray, int]], front_end: FrontEnd):
        """Recordings: mono samples [n] in [-1, 1] and their rate in Hz."""
        meta = shards.metadata(storage=front_end.about["dtype"], **front_end.kernel)
        rate = front_end.about["sample_rate_hz"]
        waves = [resample(samples, from_hz, rate) for samples, from_hz in recordings]
        self._raw = [shards.encode(fbank.fbank(wave, front_end.kernel).numpy(), meta) for wave in waves]
        self.ids = [str(i) for i in range(len(waves))]
        self.speakers = ["unknown"] * len(waves)
        self.texts: list[str | None] = [None] * len(waves)
        self.n_frames = np.array([len(r) for r in self._raw], np.int64)
        self.duration_s = np.array([len(w) / rate for w in waves], np.float64)
        self.n_mels, self.step = front_end.n_mels, float(meta["step_nat"])

    def __len__(self) -> int:
        return len(self.ids)

    def raw(self, i: int) -> np.ndarray:
        """Stored values [T, F] of utterance i."""
        return self._raw[i]
