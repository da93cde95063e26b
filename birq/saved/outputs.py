"""A recogniser's log probabilities, for decoders, as the network gives them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from birq.progress import Progress
from birq.saved.recogniser import Recogniser
from birq.speech.batches import Utterances, sequential

# positions in the source, log probabilities [B, T, V] on the device, lengths [B] in encoder frames
Outputs = tuple[list[int], Tensor, Tensor]


@torch.inference_mode()
def batches(
    recogniser: Recogniser, utterances: Utterances, index: np.ndarray, batch_seconds: float, device: torch.device, name: str
) -> Iterator[Outputs]:
    """Of all utterances of `index`; `name` for the progress.

    Errors: BirqError for an utterance longer than `batch_seconds`.
    """
    model = recogniser.model.to(device).eval()
    progress, n, seconds = Progress(name, len(index), "utterance"), 0, 0.0
    for batch in sequential(utterances, index, recogniser.front_end, batch_seconds):
        yield batch.index.tolist(), *model(batch.feats_BTF.to(device), batch.lengths_B.to(device))
        n, seconds = n + len(batch.index), seconds + batch.seconds
        progress.update(n, minutes_of_speech=seconds / 60)
    progress.close()


def each(found: Outputs) -> Iterator[tuple[int, np.ndarray]]:
    """Position and log probabilities [T, V] of every utterance of a batch."""
    index, logp_BTV, lengths_B = found
    rows = logp_BTV.float().cpu().numpy()
    for i, row, length in zip(index, rows, lengths_B.tolist(), strict=True):
        yield i, row[:length]
