"""The divergence from the similarities of codes, inside G."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import batch, every_other, noise, pretrainer

from birq.model.prediction import similarity_divergence

CODES = torch.tensor([[[1.0, 0], [0, 2], [-3, 0]]])  # cosines with the first one: 1, 0, −1


def target(temperature: float) -> torch.Tensor:
    weight = torch.tensor([1.0, 0, -1]) / temperature
    return weight.exp() / weight.exp().sum()


def test_the_divergence_of_a_worked_out_case() -> None:
    """(e, 1, 1/e) over their sum against (1/2, 1/4, 1/4): .6652 ln(.6652/.5) + .2447 ln(.2447/.25) + .0900 ln(.0900/.25) = .0928."""
    prediction = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    found = similarity_divergence(prediction, torch.tensor([[0]]), CODES, 1.0)
    p, q = target(1.0).tolist(), (0.5, 0.25, 0.25)
    assert float(found) == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), rel=1e-5)
    assert float(found) == pytest.approx(0.0928, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_least_where_the_prediction_is_the_target(temperature: float) -> None:
    """A divergence is zero for equal distributions and positive for others; its gradient vanishes there."""
    logits = target(temperature).log()[None, None].clone().requires_grad_(True)
    here = similarity_divergence(logits.log_softmax(-1), torch.tensor([[0]]), CODES, temperature)
    assert abs(here.item()) < 1e-6
    (grad,) = torch.autograd.grad(here, logits)
    assert grad.abs().max() < 1e-6
    there = (logits.detach() + torch.tensor([0.0, 3, 0])).log_softmax(-1)
    assert similarity_divergence(there, torch.tensor([[0]]), CODES, temperature) > 5e-4


def test_at_a_low_temperature_it_is_cross_entropy() -> None:
    """The softmax of similarities tends to the one-hot of the label, whose entropy is zero."""
    logp, y = torch.randn(40, 1, 3, generator=noise()).log_softmax(-1), torch.randint(0, 3, (40, 1), generator=noise(1))
    found = similarity_divergence(logp, y, CODES, 0.01)
    torch.testing.assert_close(found, -logp.gather(-1, y[:, :, None]).sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("changes", [{"enhanced_weight": 0.0}, {"label_share": 0.4}, {}], ids=["BEST-RQ", "some labels", "all labels"])
def test_g_gets_its_mean_and_the_figure_of_g_stays(changes: dict) -> None:
    """w2 (G + weight × divergence), a mean as G is; the curve's G is the cross-entropy, so that runs compare."""
    lengths, o = [20, 13, 9], {"noise": "none", **changes}
    b, weight = batch(lengths), 0.7
    mask = every_other(lengths)
    plain, p = pretrainer(**o), pretrainer(**o, similarity_weight=weight)
    one, other = (m(b.feats_BTF, b.lengths_B, mask, noise()) for m in (plain, p))
    x_BTS = p.encoder.stack(b.feats_BTF)
    h_MD, y_MN, _, n_masked = p.masked_pass(x_BTS, x_BTS, b.lengths_B, p.masked(mask, b.lengths_B), noise(), None)
    logp = p.head(h_MD).unflatten(1, (2, -1)).log_softmax(-1)
    expected = similarity_divergence(logp, y_MN, p.anchor_quantizer.codebook, 0.1) / (n_masked * 2)
    torch.testing.assert_close(other.total - one.total, 2.4 * weight * expected)
    torch.testing.assert_close(other.anchor, one.anchor)
