"""torch's dropout, attention with dropout and convolution over time, with less work on a CPU; elsewhere torch's own.

Compiled code has its own form of the convolution, on every device.

Shape suffixes: B utterances, T frames, D width, H heads, E head width, K kernel.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def _plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def dropout(x: Tensor, rate: float) -> Tensor:
    """F.dropout. On a CPU it draws 16 bits an element, not a float, which takes a fifth of the time; `rate` then holds to 1/65536."""
    if not rate or not _plain_cpu(x):
        return F.dropout(x, rate)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    halves = words.view(torch.int16)[: x.numel()].view(x.shape)
    dropped = min(round(rate * 2**16), 2**16 - 1)
    factor = torch.ge(halves, dropped - 2**15, out=torch.empty(x.shape, dtype=x.dtype))
    return x * factor.div_(1 - rate)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm in float32, or with `low` in the dtype of its input: bf16 in and bf16 out, summed in float32.

    So the residual stream of a model is in the dtype of its norms. For float32 input both are nn.LayerNorm.
    """

    def __init__(self, d: int, *, low: bool = False):
        super().__init__(d)
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        if not self.low or x.dtype != torch.bfloat16:
            return super().forward(x.float())
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


ALIGNMENT = 8  # numbers: rows of a mask begin at multiples of it, or torch's memory-efficient attention copies the mask first


def aligned(n: int) -> int:
    """The next multiple of ALIGNMENT, `n` itself if it is one."""
    return -(-n // ALIGNMENT) * ALIGNMENT


def as_mask(seen_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask for `attention` in the form that its device takes: on a CPU the bool itself, else 0 or -inf of `dtype`, with False up to an
    aligned width. torch would make that of a bool in every layer."""
    if seen_BT.device.type == "cpu":
        return seen_BT
    seen_BT = F.pad(seen_BT, (0, aligned(seen_BT.shape[1]) - seen_BT.shape[1]))
    return torch.where(seen_BT, 0.0, -torch.inf).to(dtype)


def masked(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on the scores with a mask of `as_mask`."""
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """F.scaled_dot_product_attention, with this module's dropout: on a CPU, torch has no fused form with dropout either.

    `mask`, broadcast to [B, H, T, T]: bool, True where a key takes part (one at least for every query), or float, added to the scores; it
    may be wider than there are keys.
    """
    if mask is not None:
        mask = mask[..., : k_BHTE.shape[-2]]
    if not rate or not _plain_cpu(q_BHTE):
        return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask, dropout_p=rate)
    score_BHTT = q_BHTE * q_BHTE.shape[-1] ** -0.5 @ k_BHTE.mT
    if mask is not None:
        score_BHTT = score_BHTT + mask if mask.is_floating_point() else score_BHTT.masked_fill(~mask, -torch.inf)
    return dropout(score_BHTT.softmax(-1), rate) @ v_BHTE


class DepthwiseConvolution(nn.Conv1d):
    """Every channel by itself over time, [B, T, D] -> [B, T, D], zeros beyond the ends; `kernel` is odd.

    torch's convolution over time wants time last. On a CPU (x86, torch 2.13), that layout takes 17 times as long as channels last in the
    forward pass and 4 times for the gradient to the input. Only the gradient of the weights is faster in it.
    Compiled code takes the sum of `_Shifted`. Without a compiler, that would be a pass over memory for each of the weights.
    """

    def __init__(self, d: int, kernel: int):
        super().__init__(d, d, kernel, padding=kernel // 2, groups=d, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return _Shifted.apply(x_BTD, self.weight)
        if _plain_cpu(x_BTD):
            return _Depthwise.apply(x_BTD, self.weight)
        return super().forward(x_BTD.transpose(1, 2)).transpose(1, 2)


def _channels_last(x_BTD: Tensor) -> Tensor:
    """As an image of one row: [B, D, 1, T]."""
    return x_BTD[:, None].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class _Depthwise(torch.autograd.Function):
    """Each part in the layout in which it is fastest; the numbers are those of F.conv1d."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D1K: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_D1K)
        d, _, kernel = weight_D1K.shape
        y_BD1T = F.conv2d(_channels_last(x_BTD), weight_D1K[:, :, None], padding=(0, kernel // 2), groups=d)
        return y_BD1T.permute(0, 2, 3, 1)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BTD, weight_D1K = ctx.saved_tensors
        d, _, kernel = weight_D1K.shape
        back = torch.ops.aten.convolution_backward
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            image, zeros = (_channels_last(a) for a in (grad_BTD, x_BTD)), (0, kernel // 2)
            grad_x = back(*image, weight_D1K[:, :, None], None, (1, 1), zeros, (1, 1), False, (0, 0), d, (True, False, False))[0]
            grad_x = grad_x.permute(0, 2, 3, 1)[:, 0]
        if ctx.needs_input_grad[1]:
            rows = (a.transpose(1, 2) for a in (grad_BTD, x_BTD))
            grad_weight = back(*rows, weight_D1K, None, (1,), (kernel // 2,), (1,), False, (0,), d, (False, True, False))[1]
        return grad_x, grad_weight


def _in_memory(x: Tensor) -> Tensor:
    """`x`, which a compiler then writes to memory once, as as_strided needs it. Else each of the K reads would compute it anew."""
    return torch.as_strided(x, x.shape, x.stride())


def _sum_of_shifted(x_BTD: Tensor, weight_KD: Tensor) -> Tensor:
    """y_t = Σ_j w_j x_{t+j-K/2} with zeros beyond the ends; products and sums in float32, the result in the dtype of `x`."""
    kernel, t = len(weight_KD), x_BTD.shape[1]
    padded = F.pad(x_BTD, (0, 0, kernel // 2, kernel // 2))
    copies = (padded[:, j : j + t].float() * weight_KD[j] for j in range(kernel))
    return reduce(torch.add, copies).to(x_BTD.dtype)


class _Shifted(torch.autograd.Function):
    """The convolution as a sum of K scaled copies, each shifted by a frame, for code that is compiled.

    Inductor makes of it: one pass over memory forward, one for the gradient of the input, and one that sums all K gradients of the weights
    at once, for all lengths. autograd's own gradient of the sum moves twice the bytes. What is kept is the input and the weights.
    """

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D1K: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_D1K)
        return _sum_of_shifted(_in_memory(x_BTD), _in_memory(weight_D1K[:, 0].T.contiguous()))  # weights of neighbouring channels together

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD, weight_D1K = ctx.saved_tensors
        kernel, t = weight_D1K.shape[-1], x_BTD.shape[1]
        grad_x = _sum_of_shifted(_in_memory(grad_BTD), _in_memory(weight_D1K[:, 0].flip(1).T.contiguous()))
        padded = F.pad(x_BTD, (0, 0, kernel // 2, kernel // 2))
        # by utterance first: a sum over all frames would be cut into parts, and those added up by a kernel for each j
        parts = [(padded[:, j : j + t].float() * grad_BTD.float()).sum(1) for j in range(kernel)]
        return grad_x, torch.stack(parts).sum(1).T[:, None].contiguous().to(weight_D1K.dtype)
