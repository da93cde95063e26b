"""From audio in memory to text: `Recogniser.load("data/finetune/birq-0").transcribe([(samples, rate), ...])`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from birq.saved import recogniser
from birq.speech.utterances import InMemory

BATCH_SECONDS = 240.0


class Recogniser(recogniser.Recogniser):
    """A saved recogniser that takes samples."""

    def transcribe(self, recordings: Sequence[tuple[np.ndarray, int]], batch_seconds: float = BATCH_SECONDS) -> list[str]:
        """Texts of recordings, each mono samples [n] in [-1, 1] with their rate in Hz; the same text as the decode stage gives.

        A recording of less than one encoder frame has the text "".
        """
        utterances = InMemory(recordings, self.front_end)
        index = np.flatnonzero(utterances.n_frames >= self.front_end.n_stack)
        if not len(index):
            return [""] * len(utterances)
        longest = self.front_end.seconds(utterances.n_frames.max())
        texts = self.hypotheses(utterances, index, max(batch_seconds, longest), device_of(self.model))
        return [texts.get(i, "") for i in range(len(utterances))]


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device
