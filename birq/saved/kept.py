"""Tables of hypotheses, and the log probabilities that are kept beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from birq.errors import BirqError

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


class Kept:
    """Log probabilities of a split's utterances, float32 [all frames, V], one utterance after the other, in the order of the table."""

    def __init__(self, n_frames: np.ndarray, logp: np.ndarray):
        self.ends, self.logp = np.concatenate([[0], np.cumsum(n_frames, dtype=np.int64)]), logp

    @classmethod
    def empty(cls, n_frames: np.ndarray, n_units: int) -> Self:
        """To be filled. In memory: a disk that fills up under a mapped file would kill the process without a word."""
        return cls(n_frames, np.zeros((int(n_frames.sum()), n_units), np.float32))

    @classmethod
    def load(cls, path: Path, n_frames: np.ndarray) -> Self:
        """Errors: BirqError for a file that does not hold so many frames."""
        way_out = f"delete the folder {path.parent} and run again, it is made anew"
        try:
            logp = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as e:
            raise BirqError(f"{path}: not readable ({e}); {way_out}") from None
        if len(logp) != n_frames.sum():
            raise BirqError(f"{path}: {len(logp)} frames, not {n_frames.sum()}; {way_out}")
        return cls(n_frames, logp)

    def save(self, path: Path) -> None:
        np.save(path, self.logp)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.logp[self.ends[row] : self.ends[row + 1]]

    def __setitem__(self, row: int, logp_TV: np.ndarray) -> None:
        self.logp[self.ends[row] : self.ends[row + 1]] = logp_TV
