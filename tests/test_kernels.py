"""birq's kernels for a CPU do what torch's own do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks import compiled
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


def pulled(f, x: torch.Tensor, weight: torch.Tensor, pull: torch.Tensor) -> list[torch.Tensor]:
    """Output and both gradients."""
    x, weight = (a.detach().clone().requires_grad_() for a in (x, weight))
    y = f(x, weight)
    y.backward(pull.to(y.dtype))
    assert x.grad is not None and weight.grad is not None
    return [y.detach(), x.grad, weight.grad]


def conv1d(x_BTD: torch.Tensor, weight_D1K: torch.Tensor) -> torch.Tensor:
    d, _, kernel = weight_D1K.shape
    return F.conv1d(x_BTD.transpose(1, 2), weight_D1K.to(x_BTD.dtype), padding=kernel // 2, groups=d).transpose(1, 2)


@pytest.mark.parametrize("shape", [(2, 40, 24), (1, 7, 24), (3, 1, 5)])
@pytest.mark.parametrize("kernel", [1, 3, 15, 31])
def test_the_sum_of_shifted_copies_is_conv1d(shape: tuple[int, int, int], kernel: int) -> None:
    """In float32 up to rounding, also where an utterance is shorter than the kernel. In bf16, products and sums are in float32, so that
    only the result is rounded: no further from float64's than torch's is."""
    torch.manual_seed(0)
    x, pull = torch.randn(2, *shape)
    weight = torch.randn(shape[2], 1, kernel)
    shifted = kernels._Shifted.apply
    for got, want in zip(pulled(shifted, x, weight, pull), pulled(conv1d, x, weight, pull), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    low, low_weight, low_pull = x.bfloat16(), weight.bfloat16().float(), pull.bfloat16()
    truth = pulled(conv1d, low.double(), low_weight.double(), low_pull)
    ours, theirs = (pulled(f, low, low_weight, low_pull) for f in (shifted, conv1d))
    for got, torchs, true in zip(ours, theirs, truth, strict=True):
        assert got.dtype == torchs.dtype and (got - true).norm() <= 1.01 * (torchs - true).norm() + 1e-6 * true.norm()


def test_the_sum_of_shifted_copies_keeps_its_input_and_weights_only() -> None:
    """A copy for each of the 31 weights would be 31 times the memory."""
    x, weight = torch.randn(2, 40, 8, requires_grad=True), torch.randn(8, 1, 31, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: kept.append(a) or a, lambda a: a):
        kernels._Shifted.apply(x, weight)
    assert [a.shape for a in kept] == [x.shape, weight.shape]


def test_under_autocast_torchs_own_are_used() -> None:
    """Other types meet there; what a graphics card runs is torch's own too."""
    convolution, x = kernels.DepthwiseConvolution(8, 3), torch.randn(2, 9, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = kernels.dropout(convolution(x), 0.1)
        z = kernels.attention(y, y, y, None, 0.1)
    z.float().sum().backward()
    assert y.dtype == torch.bfloat16 and convolution.weight.grad is not None and convolution.weight.grad.dtype == torch.float32


def test_the_benchmark_calls_torchs_convolution() -> None:
    """What `benchmarks.compiled` counts as torch's own is torch's own: equal to the bit, gradients too, in the layout that it promises."""
    conv, generator = kernels.DepthwiseConvolution(6, 5), torch.Generator().manual_seed(2)
    x, grad = (torch.randn(2, 9, 6, generator=generator) for _ in range(2))
    results = []
    for form in (
        lambda x: compiled._convolution(x, conv.weight),
        lambda x: torch.nn.Conv1d.forward(conv, x.transpose(1, 2)).transpose(1, 2),
    ):
        leaf = x.clone().requires_grad_()
        y = form(leaf)
        results.append((y, *torch.autograd.grad(y, [leaf, conv.weight], grad)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][0].stride() == compiled._time_last(x).stride()
