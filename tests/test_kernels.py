"""birq's kernels for a CPU do what torch's own do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from birq.model import kernels


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_the_rate_and_scales_the_rest(rate: float) -> None:
    """Within five deviations of a binomial; in every place of four that share one draw; the gradient has the same mask."""
    torch.manual_seed(0)
    x = torch.full((1001, 401), 3.0, requires_grad=True)
    y = kernels.dropout(x, rate)
    y.sum().backward()
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 3 / (1 - rate)))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept / (1 - rate))
    for place in range(4):
        share = kept.flatten()[place::4].double()
        assert abs(share.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / len(share))
    neighbours = (kept[:, :-1] & kept[:, 1:]).double().mean()
    assert abs(neighbours - (1 - rate) ** 2) < 0.01


def test_dropout_follows_the_seed_and_is_drawn_again_by_recomputation() -> None:
    x = torch.randn(3, 7, 5, requires_grad=True)

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return kernels.dropout(x, 0.3)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    torch.manual_seed(1)
    y = checkpoint(lambda x: kernels.dropout(x.sin(), 0.3), x, use_reentrant=False)
    kernels.dropout(x, 0.3)  # another draw between the two passes
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach().sin() * x.detach().cos())


def test_without_a_rate_nothing_is_drawn() -> None:
    x = torch.randn(3, 4)
    before = torch.get_rng_state()
    assert torch.equal(kernels.dropout(x, 0.0), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention_with_dropout_is_torchs_but_for_the_draw(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 9, 8, requires_grad=True)
    given = None
    if mask == "bool":
        given = (torch.arange(9) < torch.tensor([[9], [6]]))[:, None, None, :]
    elif mask == "float":
        given = torch.randn(2, 4, 9, 9).masked_fill(torch.rand(2, 4, 9, 9) < 0.2, -torch.inf)
    asked = []
    monkeypatch.setattr(kernels, "dropout", lambda x, rate: asked.append((x, rate)) or x)
    ours = kernels.attention(q, k, v, given, 0.25)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, attn_mask=given))
    ((share_BHTT, rate),) = asked  # the shares of attention are what is dropped
    torch.testing.assert_close(share_BHTT.sum(-1), torch.ones(2, 4, 9))
    assert rate == 0.25


@pytest.mark.parametrize("shape", [(2, 40, 24), (1, 7, 24), (3, 1, 5), (4, 64, 1)])
@pytest.mark.parametrize("kernel", [1, 15, 31])
def test_depthwise_convolution_is_conv1d(shape: tuple[int, int, int], kernel: int) -> None:
    """Output and both gradients, also of an input that does not lie in order, and where the input wants no gradient."""
    torch.manual_seed(0)
    convolution = kernels.DepthwiseConvolution(shape[2], kernel)
    ours = torch.randn(shape[1], shape[0], shape[2]).transpose(0, 1).requires_grad_()
    theirs, weight = ours.detach().clone().requires_grad_(), convolution.weight.detach().clone().requires_grad_()
    want = F.conv1d(theirs.transpose(1, 2), weight, padding=kernel // 2, groups=shape[2]).transpose(1, 2)
    got = convolution(ours)
    torch.testing.assert_close(got, want)
    pull = torch.randn(shape)
    got.backward(pull)
    want.backward(pull)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(convolution.weight.grad, weight.grad)
    convolution.zero_grad()
    convolution(ours.detach()).backward(pull)
    torch.testing.assert_close(convolution.weight.grad, weight.grad)


def test_under_autocast_torchs_own_are_used() -> None:
    """Other types meet there; what a graphics card runs is torch's own too."""
    convolution, x = kernels.DepthwiseConvolution(8, 3), torch.randn(2, 9, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = kernels.dropout(convolution(x), 0.1)
        z = kernels.attention(y, y, y, None, 0.1)
    z.float().sum().backward()
    assert y.dtype == torch.bfloat16 and convolution.weight.grad is not None and convolution.weight.grad.dtype == torch.float32
