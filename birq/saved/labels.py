"""Labels of every frame of a split, made before a training: `codes.npy`, read in place, with an index and facts beside it.

Shape suffixes: A frames of the split, M masked or other chosen frames, N codebooks, V codes, U utterances, B utterances of a batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from birq.errors import BirqError
from birq.files import read_json
from birq.model.masking import Given
from birq.speech.batches import Utterances

CODES, INDEX, FACTS = "codes.npy", "index.parquet", "labels.json"
DIGITS = 6


class Writer:
    """The files of a labels artifact; utterances may come in any order. Frames of which nothing is written have no label."""

    def __init__(self, folder: Path, utterances: Utterances, n_stack: int, n_codebooks: int, codebook_size: int):
        self.folder, self.n_stack, self.codebook_size = folder, n_stack, codebook_size
        self.n_frames = utterances.n_frames // n_stack
        self.first = np.cumsum(self.n_frames) - self.n_frames
        table = {"id": utterances.ids, "first_frame": self.first, "frames": self.n_frames}
        pq.write_table(pa.table(table), folder / INDEX, compression="zstd")
        shape = int(self.n_frames.sum()), n_codebooks
        # the smallest unsigned type that holds all codes and the mark of frames without one
        self.codes_AN = np.lib.format.open_memmap(folder / CODES, "w+", np.min_scalar_type(codebook_size), shape)
        self.codes_AN[:] = codebook_size
        self.count_NV = np.zeros((n_codebooks, codebook_size), np.int64)

    def write(self, i: int, codes_MN: np.ndarray) -> None:
        """The codes of all frames of utterance i; `codebook_size` where a frame has none."""
        self.codes_AN[self.first[i] : self.first[i] + self.n_frames[i]] = codes_MN
        known_MN = codes_MN[codes_MN[:, 0] != self.codebook_size]
        for count_V, codes_M in zip(self.count_NV, known_MN.T, strict=True):
            count_V += np.bincount(codes_M, minlength=self.codebook_size)

    def close(self, about: dict[str, Any]) -> dict[str, Any]:
        """Write labels.json and return it: sizes, counts, and `about`, how they were made."""
        self.codes_AN.flush()
        share_NV = self.count_NV / np.maximum(1, self.count_NV.sum(1, keepdims=True))
        entropy_N = -(share_NV * np.log(share_NV, out=np.zeros_like(share_NV), where=share_NV > 0)).sum(1)
        facts = {
            "n_codebooks": len(self.count_NV),
            "codebook_size": self.codebook_size,
            "n_stack": self.n_stack,
            "utterances": len(self.n_frames),
            "frames": len(self.codes_AN),
            "labelled_frames": int(self.count_NV[0].sum()),
            "dead_codes": (self.count_NV == 0).sum(1).tolist(),
            "perplexity": round(float(np.exp(entropy_N).mean()), DIGITS),
            **about,
            "counts": self.count_NV.tolist(),
        }
        (self.folder / FACTS).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        return facts


@dataclass(frozen=True)
class Labels:
    """Labels of a split's frames, on disk until asked for."""

    codes_AN: np.ndarray  # unsigned; `codebook_size` where a frame has no label
    first_U: np.ndarray  # int64, of each utterance
    codebook_size: int

    def given(self, index: np.ndarray, mask_BT: Tensor) -> Given:
        """Labels of the masked frames of some utterances. index: their positions in the split; mask: bool, on the CPU."""
        row_M, place_M = mask_BT.numpy().nonzero()
        codes_MN = self.codes_AN[self.first_U[index][row_M] + place_M].astype(np.int64)
        known_M = codes_MN[:, 0] != self.codebook_size
        count_B = torch.from_numpy(np.bincount(row_M[known_M], minlength=len(index)))
        if known_M.all():
            return Given(torch.from_numpy(codes_MN), None, count_B)
        return Given(torch.from_numpy(codes_MN[known_M]), torch.from_numpy(known_M.nonzero()[0]), count_B)


def open_labels(folder: Path, utterances: Utterances, n_stack: int) -> Labels:
    """The labels of these utterances. Errors: BirqError names the first utterance whose frames they do not fit, or a damaged file."""
    facts = read_json(folder / FACTS)
    try:
        codes_AN = np.load(folder / CODES, mmap_mode="r")
        index = pq.read_table(folder / INDEX)
    except (OSError, EOFError, ValueError, pa.ArrowException) as e:
        raise BirqError(f"{folder}: labels that cannot be read ({e}); delete the folder and run again, they are made anew") from None
    first, frames = (index[name].to_numpy() for name in ("first_frame", "frames"))
    found = dict(zip(index["id"].to_pylist(), range(len(index)), strict=True))
    place = np.array([found.get(id, -1) for id in utterances.ids], np.int64)
    wanted = utterances.n_frames // n_stack
    has = np.where(place >= 0, frames[place], -1)
    if (wrong := np.flatnonzero(has != wanted)).size:
        i = int(wrong[0])
        there = "no labels" if has[i] < 0 else f"labels of {has[i]} frames"
        raise BirqError(
            f"{folder}: utterance {utterances.ids[i]} has {wanted[i]} frames of {n_stack} log-mel frames, but {there}; "
            "delete the folder and run again, they are made anew"
        )
    if len(codes_AN) != facts["frames"] or codes_AN.shape[1] != facts["n_codebooks"]:
        raise BirqError(f"{folder / CODES}: not the frames and codebooks of {FACTS}; delete the folder and run again, it is made anew")
    return Labels(codes_AN, first[place], facts["codebook_size"])
