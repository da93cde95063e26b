"""A recogniser's log probabilities, for decoders: as the network gives them, or kept in a file beside the table of hypotheses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from birq.errors import BirqError
from birq.progress import Progress
from birq.saved.recogniser import Recogniser
from birq.speech.batches import Utterances, sequential

BYTES = 4  # of a kept log probability
SCHEMA = pa.schema(  # a table of hypotheses
    [
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("hypothesis", pa.string()),
        ("frames", pa.int32()),  # of the encoder
    ]
)
LOGP = ".npy"  # beside a table of hypotheses


@torch.inference_mode()
def batches(
    recogniser: Recogniser, utterances: Utterances, index: np.ndarray, batch_seconds: float, device: torch.device, name: str
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Positions in the source, log probabilities [B, T, V] on the device, lengths [B] in encoder frames; `name` for the progress.

    Errors: BirqError for an utterance longer than `batch_seconds`.
    """
    model = recogniser.model.to(device).eval()
    progress, n, seconds = Progress(name, len(index), "utterance"), 0, 0.0
    for batch in sequential(utterances, index, recogniser.front_end, batch_seconds):
        yield batch.index.tolist(), *model(batch.feats_BTF.to(device), batch.lengths_B.to(device))
        n, seconds = n + len(batch.index), seconds + batch.seconds
        progress.update(n, minutes_of_speech=seconds / 60)
    progress.close()


def each(found: tuple[list[int], Tensor, Tensor]) -> Iterator[tuple[int, np.ndarray]]:
    """Position and log probabilities [T, V] of every utterance of a batch."""
    index, logp_BTV, lengths_B = found
    rows = logp_BTV.float().cpu().numpy()
    for i, row, length in zip(index, rows, lengths_B.tolist(), strict=True):
        yield i, row[:length]


class Kept:
    """Log probabilities of a split's utterances in a file, float32 [all frames, V], one utterance after the other."""

    def __init__(self, path: Path, n_frames: np.ndarray, n_units: int = 0):
        """n_frames: of each utterance, in the order of the table of hypotheses. n_units: of a file to be written.

        Errors: BirqError for a file that does not hold so many frames.
        """
        self.ends = np.concatenate([[0], np.cumsum(n_frames, dtype=np.int64)])
        if n_units:
            self.logp = np.lib.format.open_memmap(path, "w+", np.float32, (int(self.ends[-1]), n_units))
            return
        try:
            self.logp = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as e:
            raise BirqError(f"{path}: not readable ({e}); delete the folder {path.parent} and run again, it is made anew") from None
        if len(self.logp) != self.ends[-1]:
            raise BirqError(f"{path}: {len(self.logp)} frames, not {self.ends[-1]}; delete {path.parent} and run again, it is made anew")

    def __getitem__(self, row: int) -> np.ndarray:
        return self.logp[self.ends[row] : self.ends[row + 1]]

    def __setitem__(self, row: int, logp_TV: np.ndarray) -> None:
        self.logp[self.ends[row] : self.ends[row + 1]] = logp_TV
