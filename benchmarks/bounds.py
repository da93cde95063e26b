"""What a step on a GPU cannot be faster than: the kernels that it starts, the bytes that they move, the products that they compute.

Every operation is taken to read each of its tensors once and to write its result once, at a bandwidth and a rate that good kernels reach
on an H100. Operations are bounded one by one and added up, since one kernel runs after the other. So it is a bound for this sequence of
operations, not for the training step as such: fewer, larger kernels would move fewer bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BYTES_PER_SECOND = 2.4e12  # of 3.35e12, H100 SXM's data sheet
BF16, TF32, FLOAT32 = (
    0.6 * 989e12,
    0.4 * 494e12,
    50e12,
)  # operations per second; the data sheet's peaks, and shares that large products reach
ATTENTION = 0.25 * 989e12  # torch's memory-efficient kernel
DEPTHWISE = 8e12  # torch's own kernels: loads decide, not products
SHORTEST_SECONDS = 2.5e-6  # of a kernel

NOTHING = {
    f"aten::{n}" for n in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "is_pinned", "_unsafe_view")
}
VIEWS = {f"aten::{n}" for n in ("detach", "alias", "lift_fresh", "_reshape_alias", "view", "t")}
WRITES_ONLY = {f"aten::{n}" for n in ("zero_", "fill_", "normal_", "uniform_")}
INDEXED = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
KERNELS = {  # of one call, where it is not one
    "aten::native_layer_norm_backward": 3,
    "aten::nonzero": 4,
    "aten::masked_scatter": 4,
    "aten::sort": 4,
    "aten::randperm": 5,
    "aten::convolution": 2,
    "aten::convolution_backward": 5,
    "aten::_scaled_dot_product_efficient_attention_backward": 3,
    "aten::_scaled_dot_product_cudnn_attention_backward": 3,
    "aten::bincount": 4,
    "aten::_ctc_loss": 3,
    "aten::_ctc_loss_backward": 3,
    "aten::cumsum": 2,
}


def footprint(x: Tensor) -> int:
    """Bytes of different numbers: an expanded tensor is read once."""
    return math.prod(size if stride else 1 for size, stride in zip(x.shape, x.stride(), strict=True)) * x.element_size()


def operations(name: str, args: Any) -> float:
    """Floating-point operations of the products in a call."""
    if name in ("aten::mm", "aten::bmm"):
        return 2.0 * args[0].numel() * args[1].shape[-1]
    if name in ("aten::addmm", "aten::addmm_"):
        return 2.0 * args[1].numel() * args[2].shape[-1]
    if name == "aten::convolution":
        return 2.0 * args[0].shape[0] * args[0].shape[2] * args[1].numel()
    if name == "aten::convolution_backward":
        return 4.0 * args[1].shape[0] * args[1].shape[2] * args[2].numel()
    if "scaled_dot_product" in name:
        backward = "backward" in name
        q, k = args[backward : 2 + backward]
        return (10.0 if backward else 4.0) * q.numel() * k.shape[2]
    return 0.0


def _kernels(name: str, args: Any) -> int:
    if name in INDEXED:
        of_bools = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        return (12 if of_bools else 8) if "put" in name else (5 if of_bools else 1)
    if name.startswith("aten::_foreach") or name == "aten::_fused_adamw_":
        depth = {"aten::_foreach_norm": 110, "aten::_fused_adamw_": 36}.get(name, 64)
        return max(-(-len(args[0]) // depth), -(-sum(-(-x.numel() // 65536) for x in args[0]) // 320))
    return KERNELS.get(name, 1)


def _rate(name: str, dtype: torch.dtype) -> float:
    if name.startswith("aten::convolution"):
        return DEPTHWISE
    if "attention" in name:
        return ATTENTION
    if dtype in (torch.bfloat16, torch.float16):
        return BF16
    return TF32 if torch.backends.cuda.matmul.allow_tf32 else FLOAT32


@dataclass
class Work:
    """Sums over the operations that were added."""

    kernels: int = 0
    bytes: int = 0
    operations: float = 0.0
    seconds: float = 0.0
    seconds_by_name: Counter[str] = field(default_factory=Counter)

    def add(self, func: Any, args: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """A call of torch's dispatcher, with the tensors in it."""
        name, returns = func._schema.name, func._schema.returns
        alias = returns[0].alias_info if returns else None
        if name in NOTHING or name in VIEWS or (alias is not None and not alias.is_write):
            return
        kernels, products = _kernels(name, args), operations(name, args)
        moved = sum(map(footprint, outputs)) + (0 if name in WRITES_ONLY else sum(map(footprint, inputs)))
        dtype = next((x.dtype for x in inputs if x.is_floating_point()), torch.float32)
        seconds = max(kernels * SHORTEST_SECONDS, moved / BYTES_PER_SECOND, products / _rate(name, dtype))
        self.kernels, self.bytes, self.operations = self.kernels + kernels, self.bytes + moved, self.operations + products
        self.seconds += seconds
        self.seconds_by_name[name] += seconds


class Counted(TorchDispatchMode):
    """While it is open, adds up the work of all operations on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs, outputs = ([x for x in tree_leaves(side) if isinstance(x, Tensor)] for side in ((args, kwargs), out))
        if any(x.is_cuda for x in inputs + outputs):
            self.work.add(func, args, inputs, outputs)
        return out
