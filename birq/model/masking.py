"""Span masks, one per utterance. An utterance's mask follows from (seed, epoch, utterance) alone, never from its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from birq.model.encoder import valid_mask


def stacked_start_probability(per_logmel_frame: float, n_stack: int) -> float:
    """Probability that at least one of the stacked log-mel frames starts a span."""
    return 1.0 - (1.0 - per_logmel_frame) ** n_stack


def span_frames(span_ms: float, frame_shift_ms: float, n_stack: int) -> int:
    """Length of a span in encoder frames, at least one."""
    return max(1, round(span_ms / (frame_shift_ms * n_stack)))


def span_mask(n_frames: int, start_probability: float, span: int, seed: int, epoch: int, utterance: str) -> np.ndarray:
    """Masked frames of one utterance, [n_frames] bool: every frame starts a span with the same chance, spans may overlap.

    At least one frame is masked, else the utterance would have no loss.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{utterance}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)))
    starts = rng.random(n_frames) < start_probability
    if not starts.any():
        starts[rng.integers(n_frames)] = True
    # a frame is masked when a span started at it or at one of the span − 1 frames before it
    total = np.cumsum(starts)
    total[span:] -= total[:-span].copy() if n_frames > span else 0
    return total > 0


def batch_masks(
    utterances: Sequence[str], lengths: Sequence[int], n_frames: int, start_probability: float, span: int, seed: int, epoch: int
) -> Tensor:
    """Masks of a batch, [B, n_frames] bool; padding is never masked."""
    mask_BT = torch.zeros(len(utterances), n_frames, dtype=torch.bool)
    for row, (utterance, length) in enumerate(zip(utterances, lengths, strict=True)):
        mask_BT[row, :length] = torch.from_numpy(span_mask(length, start_probability, span, seed, epoch, utterance))
    return mask_BT


# ---- where the frames are: counted on the CPU, before a step, so that no step has to ask a GPU how many there are


@dataclass(frozen=True)
class Places:
    """Positions of masked and valid frames among the B · T frames of some utterances, ascending."""

    masked_M: Tensor
    valid_A: Tensor
    masked_of_valid_M: Tensor  # of the masked frames among the valid ones

    def to(self, device: torch.device) -> Places:
        return Places(*(x.to(device, non_blocking=True) for x in (self.masked_M, self.valid_A, self.masked_of_valid_M)))


@dataclass(frozen=True)
class Labelled:
    """The utterances of a batch that get enhanced labels."""

    chosen_B: Tensor  # of the whole batch, all shares, bool, on the CPU
    rows_U: Tensor | None  # which of those here; None: all
    places: Places  # of their frames
    masked_L: Tensor  # of the M masked frames here, theirs
    other_O: Tensor  # of the M masked frames here, the rest

    def to(self, device: torch.device) -> Labelled:
        rows_U = None if self.rows_U is None else self.rows_U.to(device, non_blocking=True)
        masked_L, other_O = (x.to(device, non_blocking=True) for x in (self.masked_L, self.other_O))
        return Labelled(self.chosen_B, rows_U, self.places.to(device), masked_L, other_O)


@dataclass(frozen=True)
class Given:
    """Labels of masked frames that were made before the training."""

    codes_KN: Tensor  # int64, of the masked frames that have a label
    known_K: Tensor | None  # which of the M masked frames those are, ascending; None: all
    count_B: Tensor  # how many each utterance has, int64, on the CPU

    def to(self, device: torch.device) -> Given:
        known_K = None if self.known_K is None else self.known_K.to(device, non_blocking=True)
        return Given(self.codes_KN.to(device, non_blocking=True), known_K, self.count_B)


@dataclass(frozen=True)
class Masked:
    """The masked frames of a batch, or of a share of it."""

    mask_BT: Tensor  # bool, on the CPU
    lengths_B: Tensor  # on the CPU
    masked_M: Tensor  # positions among the B · T frames, ascending
    labelled: Labelled | None = None  # None: not chosen yet
    given: Given | None = None  # None: the model makes the labels

    @property
    def predicted_B(self) -> Tensor:
        """Masked frames of each utterance that are predicted, int64 on the CPU."""
        return self.mask_BT.sum(1) if self.given is None else self.given.count_B

    @property
    def n_predicted(self) -> int:
        return len(self.masked_M) if self.given is None else len(self.given.codes_KN)

    def to(self, device: torch.device) -> Masked:
        """Positions on a device; what the CPU reads stays."""
        labelled, given = self.labelled and self.labelled.to(device), self.given and self.given.to(device)
        return Masked(self.mask_BT, self.lengths_B, self.masked_M.to(device, non_blocking=True), labelled, given)


def _positions(chosen: Tensor) -> Tensor:
    return chosen.flatten().nonzero().flatten()


def places(mask_BT: Tensor, lengths_B: Tensor) -> Places:
    """Of a mask and lengths on the CPU."""
    valid_BT = valid_mask(lengths_B, mask_BT.shape[1])
    return Places(_positions(mask_BT), _positions(valid_BT), _positions(mask_BT[valid_BT]))


def masked(mask_BT: Tensor, lengths_B: Tensor) -> Masked:
    """Of a mask and lengths on any device; a GPU's are copied from it."""
    mask_BT, lengths_B = mask_BT.cpu(), lengths_B.cpu()
    return Masked(mask_BT, lengths_B, _positions(mask_BT))


def labelled(m: Masked, chosen_B: Tensor, first: int = 0) -> Labelled:
    """`chosen_B`: over the whole batch, bool, on the CPU; the utterances here begin at `first`."""
    here_B = chosen_B[first : first + len(m.mask_BT)]
    of_M = here_B[:, None].expand_as(m.mask_BT)[m.mask_BT]
    if here_B.all():
        return Labelled(chosen_B, None, places(m.mask_BT, m.lengths_B), _positions(of_M), _positions(~of_M))
    return Labelled(chosen_B, _positions(here_B), places(m.mask_BT[here_B], m.lengths_B[here_B]), _positions(of_M), _positions(~of_M))
