"""Tables of hypotheses, and the log probabilities that are kept beside them."""

from __future__ import annotations

from pathlib import Path

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
