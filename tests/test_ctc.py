"""CTC: the loss against a sum over all paths, greedy decoding against the definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny import batch, noise, shape

from birq.model.ctc import CtcModel, Targets, ctc_loss, frames_needed
from birq.model.encoder import Encoder
from birq.recognise.greedy import greedy


def collapse(path: list[int], blank: int) -> list[int]:
    return [unit for unit, _ in itertools.groupby(path) if unit != blank]


def log_probabilities(b: int, t: int, v: int) -> torch.Tensor:
    return torch.randn(b, t, v, generator=noise()).log_softmax(-1)


@pytest.mark.parametrize("tokens", [[0], [0, 1], [1, 1], [0, 1, 0]])
def test_loss_is_minus_log_of_the_sum_over_all_paths(tokens: list[int]) -> None:
    """The definition, by enumeration: with 5 frames and 3 units there are 243 paths."""
    logp, blank = log_probabilities(1, 5, 3), 2
    total = sum(
        math.exp(sum(float(logp[0, t, unit]) for t, unit in enumerate(path)))
        for path in itertools.product(range(3), repeat=5)
        if collapse(list(path), blank) == tokens
    )
    loss = ctc_loss(logp, torch.tensor([5]), Targets.of([tokens]), blank)
    assert float(loss) == pytest.approx(-math.log(total), abs=1e-4)


def test_loss_of_a_batch_is_the_sum_and_ignores_padding() -> None:
    """So the step's loss, divided by all its tokens, does not depend on how utterances were put together."""
    logp, lengths, targets = log_probabilities(3, 12, 5), torch.tensor([12, 6, 9]), [[0, 1, 2], [3, 3], [1]]
    together = ctc_loss(logp, lengths, Targets.of(targets), 4)
    alone = sum(
        ctc_loss(logp[i : i + 1, :n], lengths[i : i + 1], Targets.of(targets[i : i + 1]), 4) for i, n in enumerate(lengths.tolist())
    )
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("tokens", [[0], [0, 1, 0], [1, 1], [2, 2, 2, 0]])
def test_frames_needed_is_exact(tokens: list[int]) -> None:
    """One frame fewer and no path is left: the loss is infinite; with as many it is finite."""
    n = frames_needed(tokens)
    logp = log_probabilities(1, n, 4)
    assert math.isfinite(ctc_loss(logp, torch.tensor([n]), Targets.of([tokens]), 3))
    assert n == 1 or math.isinf(ctc_loss(logp[:, : n - 1], torch.tensor([n - 1]), Targets.of([tokens]), 3))


def test_greedy_merges_repeats_then_drops_blanks_within_the_length() -> None:
    """The vectorised form against the definition, row by row, with padding that would add units."""
    logp, lengths = log_probabilities(40, 30, 5), torch.randint(1, 31, (40,), generator=noise(1))
    want = [collapse(logp[i, :n].argmax(-1).tolist(), 4) for i, n in enumerate(lengths.tolist())]
    assert greedy(logp, lengths, 4) == want
    assert any(a == b for row in want for a, b in itertools.pairwise(row)), "a blank between equal units keeps both"


def test_all_blank_is_an_empty_text() -> None:
    """Silence gives no token, and a batch of silence no error."""
    logp = torch.full((2, 7, 4), -9.0)
    logp[:, :, 3] = 0
    assert greedy(logp, torch.tensor([7, 3]), 3) == [[], []]


def test_model_gives_log_probabilities_that_do_not_depend_on_batch_mates() -> None:
    """Rows sum to one, the blank is the last of n_tokens + 1 units, and padding changes nothing."""
    torch.manual_seed(0)
    model = CtcModel(Encoder(shape()), n_tokens=6).eval()
    b = batch([20, 8])
    logp, lengths = model(b.feats_BTF, b.lengths_B)
    assert logp.shape == (2, 20, 7) and model.blank == 6 and torch.equal(lengths, b.lengths_B)
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(2, 20))
    alone, _ = model(b.feats_BTF[1:, :32], b.lengths_B[1:])
    torch.testing.assert_close(logp[1, :8], alone[0], atol=1e-5, rtol=0)
