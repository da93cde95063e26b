"""Span masks: what decides them, how dense they are, how long."""

from __future__ import annotations

import numpy as np
import torch

from birq.model.masking import batch_masks, span_frames, span_mask, stacked_start_probability

P, SPAN = 0.04, 10


def many(n_frames: int, n: int = 4000, epoch: int = 0) -> np.ndarray:
    return np.stack([span_mask(n_frames, P, SPAN, 0, epoch, f"u{i}") for i in range(n)])


def runs(mask: np.ndarray) -> np.ndarray:
    """Lengths of runs of masked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_masks_follow_from_seed_epoch_and_utterance() -> None:
    """The same three, the same mask, on every machine and after every resume; another of any of them, another mask."""
    mask = span_mask(500, P, SPAN, 1, 2, "a")
    assert np.array_equal(mask, span_mask(500, P, SPAN, 1, 2, "a"))
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b")):
        assert not np.array_equal(mask, span_mask(500, P, SPAN, *other))


def test_masks_do_not_depend_on_the_batch() -> None:
    """An utterance has one mask per epoch, whatever its batch mates and padding; padding is never masked."""
    together = batch_masks(["a", "b", "c"], [50, 120, 80], 120, P, SPAN, 0, 5)
    other = batch_masks(["c", "a"], [80, 50], 200, P, SPAN, 0, 5)
    assert torch.equal(together[0, :50], other[1, :50])
    assert torch.equal(together[2, :80], other[0, :80])
    assert not together[0, 50:].any() and not other[0, 80:].any()


def test_density_is_one_minus_the_chance_that_no_span_covers_a_frame() -> None:
    """A frame is free when none of the `span` frames up to it starts one: 1 − (1 − p)^span, away from the beginning."""
    density = many(100)[:, SPAN - 1 :].mean()
    assert abs(density - (1 - (1 - P) ** SPAN)) < 0.01


def test_tails_are_masked_as_often_as_the_middle() -> None:
    """Spans may start at every frame and are cut off at the end, so the last frames are no rarer than others."""
    by_frame = many(100).mean(0)
    assert abs(by_frame[-5:].mean() - by_frame[45:55].mean()) < 0.02


def test_spans_last_400_ms() -> None:
    """At 25 Hz 10 frames, at 50 Hz 20, at 100 Hz 40; runs are shorter at an utterance's end only."""
    assert [span_frames(400.0, 10.0, n) for n in (4, 2, 1)] == [10, 20, 40]
    assert span_frames(1.0, 10.0, 4) == 1
    for i in range(200):
        mask = span_mask(300, P, SPAN, 0, 0, f"u{i}")
        inner = runs(mask)[: -1 if mask[-1] else None]
        assert (inner >= SPAN).all()


def test_a_span_is_exactly_as_long_as_asked() -> None:
    """With starts so rare that they do not overlap, the usual run is one span."""
    lengths = np.concatenate([runs(span_mask(2000, 0.002, SPAN, 0, 0, f"u{i}")) for i in range(50)])
    assert np.median(lengths) == SPAN


def test_some_frame_is_always_masked() -> None:
    """Otherwise a mean over masked frames would be 0/0."""
    for n in (1, 3, 10, 11):
        for i in range(20):
            assert span_mask(n, 1e-9, SPAN, 0, 0, f"u{i}").any()


def test_stacking_keeps_the_rate_of_spans() -> None:
    """A stacked frame starts a span if one of its log-mel frames does, so spans per second hardly change with n_stack."""
    assert abs(stacked_start_probability(0.01, 1) - 0.01) < 1e-12
    assert abs(stacked_start_probability(0.01, 4) - (1 - 0.99**4)) < 1e-12
    assert stacked_start_probability(1.0, 4) == 1.0


def test_every_frame_masked_is_legal() -> None:
    """p = 1 masks all: the arithmetic of overlapping spans must not count a frame down to free again."""
    assert span_mask(57, 1.0, SPAN, 0, 0, "u").all()
