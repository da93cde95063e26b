"""Span masks, one per utterance. An utterance's mask follows from (seed, epoch, utterance) alone, never from its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
