"""Attention on the pretended device: the kernel that torch takes on Hopper, and its numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmarks.pretended.seen import SEEN, where

aten = torch.ops.aten
GENERATOR, real_sdpa = torch.Generator, F.scaled_dot_product_attention


def _meta(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def choice(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> str:
    """Which kernel torch takes on Hopper with cuDNN 9.20."""
    low, width = q.dtype in (torch.bfloat16, torch.float16), q.shape[-1]
    flat = all(x.stride(-1) == 1 for x in (q, k, v, *([] if mask is None else [mask])))
    learned = mask is not None and mask.requires_grad
    if (
        torch.backends.cuda.cudnn_sdp_enabled()
        and low
        and width <= 128
        and width % 8 == 0
        and flat
        and (rate * 16) % 1 == 0
        and not learned
    ):
        return "cudnn"
    if low and mask is None and width <= 256 and flat:
        return "flash"
    return "efficient" if width % (8 if low else 4) == 0 and flat else "math"


def _aligned(bias: Tensor) -> Tensor:
    """As torch's memory-efficient kernel wants it; a copy if it is not."""
    if any(stride % 8 for stride, n in zip(bias.stride()[:-1], bias.shape[:-1], strict=True) if n > 1) or bias.storage_offset() % 8:
        SEEN.attention["bias copied"] += 1
        n = bias.shape[-1]
        return F.pad(bias, (0, 8 - n % 8))[..., :n]
    return bias


def sdpa(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if not query.is_cuda:
        return real_sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled("cuda"):
        low = torch.get_autocast_dtype("cuda")
        query, key, value, attn_mask = (x.to(low) if x is not None and x.is_floating_point() else x for x in (query, key, value, attn_mask))
    if not query.dtype == key.dtype == value.dtype or (attn_mask is not None and attn_mask.dtype not in (torch.bool, query.dtype)):
        raise RuntimeError(f"Expected one dtype, got {query.dtype}, {key.dtype}, {value.dtype} and a mask of another: {where()}")
    with torch.autocast("cuda", enabled=False):
        kernel = choice(query, key, value, attn_mask, dropout_p)
        SEEN.attention[kernel] += 1
        bias = attn_mask
        if bias is not None and bias.dtype == torch.bool:
            zero = torch.zeros((), dtype=query.dtype, device=query.device)
            bias = torch.where(bias.logical_not(), -65504.0 if kernel == "cudnn" else -torch.inf, zero).to(query.dtype)
        grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        given = (query, key, value)
        if kernel == "cudnn":
            return aten._scaled_dot_product_cudnn_attention(*given, bias, grad, dropout_p, is_causal, False, scale=scale)[0]
        if kernel == "flash":
            return aten._scaled_dot_product_flash_attention(*given, dropout_p, is_causal, False, scale=scale)[0]
        if kernel == "efficient":
            if bias is not None:
                bias = _aligned(bias).expand(*query.shape[:3], key.shape[2])
            return aten._scaled_dot_product_efficient_attention(*given, bias, grad, dropout_p, is_causal, scale=scale)[0]
        return aten._scaled_dot_product_attention_math(*given, bias, dropout_p, is_causal, scale=scale)[0]


def _attend(q, k, v, bias, rate, seed, scale, grad=None):
    """In float32; with `grad`, the gradients at q, k, v and bias."""
    q, k, v, scale = q.float(), k.float(), v.float(), scale or q.shape[-1] ** -0.5
    score = q * scale @ k.mT if bias is None else q * scale @ k.mT + bias.float()
    p = score.softmax(-1)
    keep = torch.rand(p.shape, generator=GENERATOR().manual_seed(seed)).ge_(rate).div_(1 - rate) if rate else 1.0
    if grad is None:
        return (p * keep) @ v
    grad = grad.float()
    grad_p = (grad @ v.mT) * keep
    grad_score = p * (grad_p - (grad_p * p).sum(-1, keepdim=True))
    return grad_score @ k * scale, grad_score.mT @ q * scale, (p * keep).mT @ grad, grad_score


def numbers(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """The operations of attention that only a GPU has; their form from torch, their numbers from `_attend`."""
    shapes = func(*tree_map_only(Tensor, _meta, args), **kwargs)
    out = [torch.empty_strided(s.shape, s.stride(), dtype=s.dtype).zero_() if isinstance(s, Tensor) else s for s in shapes]
    cudnn = "cudnn" in name
    if "backward" not in name:
        bias, rate = args[3], args[5] if len(args) > 5 else 0.0
        seed = len(SEEN.attention) + SEEN.attention.total()
        out[0].copy_(_attend(*args[:3], bias, rate, seed, kwargs.get("scale")))
        out[6 if cudnn else 2] = torch.tensor(seed)
        return tuple(out)
    grad, q, k, v = args[:4]
    if cudnn:
        seed, bias, rate = args[6], args[8], args[13]
    else:
        bias, seed, rate = args[4], args[7], args[9]
    for place, g in zip(out, _attend(q, k, v, bias, rate, int(seed.flatten()[0]), kwargs.get("scale"), grad), strict=False):
        if isinstance(place, Tensor) and place.numel():
            place.copy_(g)
    return tuple(out)
