"""The Conformer encoder (Gulati et al. 2020), pre-norm, LayerNorm in the convolution module.

Shape suffixes: B utterances, T encoder frames, S stacked input bins, D width, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from birq.model import kernels

Norm = Callable[[int], nn.Module]
RELATIVE_REACH = 512  # farthest distance with an embedding of its own, as in the paper's parameter count


@dataclass(frozen=True)
class Shape:
    """Size of an encoder; the fields are those of the `model` section of params.yaml, less what the front end does."""

    n_stack: int
    d_model: int
    n_layers: int
    n_heads: int
    ff_expansion: int
    conv_kernel: int
    conv_expansion: int
    positions: str
    attention_window: int
    n_mels: int
    norms: str = "float32"  # or bf16, and the residual stream with them, where autocast is on


def valid_mask(lengths_B: Tensor, n_frames: int) -> Tensor:
    """Frames that belong to their utterance: [B, T] bool."""
    return torch.arange(n_frames, device=lengths_B.device) < lengths_B[:, None]


def key_mask(valid_BT: Tensor, window: int, dtype: torch.dtype) -> Tensor:
    """Which frames attention sees, for all layers: [B, 1, 1, T], or of blocks of `window` frames [B · n, 1, 1, window].

    In the form that kernels.attention takes on the device: see kernels.as_mask. `dtype`: of queries and keys.
    """
    t = valid_BT.shape[1]
    if window and t > window:
        valid_BT = F.pad(valid_BT, (0, -t % window)).view(-1, window)
        valid_BT = valid_BT | ~valid_BT.any(-1, keepdim=True)  # a block of padding attends to itself: no row without a key
    return kernels.as_mask(valid_BT, dtype)[:, None, None, :]


def rotary_table(n_frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary positions: two [T, E/2] float32 tensors."""
    rate_E = 10000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angle_TE = torch.arange(n_frames, device=device, dtype=torch.float32)[:, None] * rate_E
    return angle_TE.cos(), angle_TE.sin()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    a, b = x_BHTE.chunk(2, dim=-1)
    return torch.cat((a * cos_TE - b * sin_TE, b * cos_TE + a * sin_TE), dim=-1)


class FeedForward(nn.Module):
    def __init__(self, d: int, expansion: int, norm: Norm):
        super().__init__()
        self.norm = norm(d)
        self.up = nn.Linear(d, expansion * d)
        self.down = nn.Linear(expansion * d, d)

    def forward(self, x: Tensor, dropout: float) -> Tensor:
        x = kernels.dropout(F.silu(self.up(self.norm(x))), dropout)
        return kernels.dropout(self.down(x), dropout)


class Attention(nn.Module):
    """Multi-head self-attention, over the whole utterance or inside blocks of `window` frames."""

    def __init__(self, d: int, n_heads: int, positions: str, window: int, norm: Norm = nn.LayerNorm):
        super().__init__()
        self.n_heads, self.width, self.window = n_heads, d // n_heads, window
        self.norm = norm(d)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d)
        self.relative = nn.Embedding(2 * RELATIVE_REACH + 1, self.width) if positions == "relative" else None
        if self.relative is not None:
            nn.init.normal_(self.relative.weight, std=0.02)

    def forward(self, x_BTD: Tensor, keys: Tensor | None, rotary: tuple[Tensor, Tensor] | None, dropout: float) -> Tensor:
        """`keys`: of `key_mask`; None: nothing is padding."""
        b, t, d = x_BTD.shape
        qkv_3BHTE = self.qkv(self.norm(x_BTD)).view(b, t, 3, self.n_heads, self.width).permute(2, 0, 3, 1, 4)
        if rotary is None:
            q, k, v = qkv_3BHTE
        else:
            qk_2BHTE, v_1BHTE = qkv_3BHTE.split((2, 1))
            (q, k), v = rotate(qk_2BHTE, *rotary), v_1BHTE.squeeze(0)
        if self.window and t > self.window:
            y_BTD = self._blocks(q, k, v, keys, dropout)
        else:
            y_BTD = self._attend(q, k, v, keys, dropout).transpose(1, 2).reshape(b, t, d)
        return kernels.dropout(self.out(y_BTD), dropout)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, dropout: float) -> Tensor:
        if self.relative is None:
            return kernels.attention(q, k, v, keys, dropout)
        bias = self._relative_bias(q, q.shape[2] if keys is None else keys.shape[-1])
        return kernels.attention(q, k, v, bias if keys is None else kernels.masked(bias, keys), dropout)

    def _relative_bias(self, q_BHTE: Tensor, n_columns: int) -> Tensor:
        """Shaw et al. 2018: q · embedding(j − i) / √E, [B, H, T, n_columns] for queries i and keys j.

        One product gives a query's scores for all distances that can occur, in ascending order. Row i of the result begins i places
        further left in it, so rows of one number less than there are distances hold the result, without a gather. All strides are
        multiples of 8, as GPUs want them.
        """
        assert self.relative is not None
        b, h, t, _ = q_BHTE.shape
        first = kernels.aligned(t - 1)  # distances begin at −first
        n_distances = first + kernels.aligned(n_columns) + 1
        low, high = (min(max(d, -RELATIVE_REACH), RELATIVE_REACH) for d in (-first, n_distances - 1 - first))
        weight = self.relative.weight
        parts = [weight[:1].expand(low + first, -1), weight[low + RELATIVE_REACH : high + RELATIVE_REACH + 1]]
        parts.append(weight[-1:].expand(n_distances - 1 - first - high, -1))
        rows_RE = torch.cat([p for p in parts if len(p)])
        q_BHTE = F.pad(q_BHTE * self.width**-0.5, (0, 0, 0, kernels.aligned(t) - t))
        score_BHTR = q_BHTE @ rows_RE.to(q_BHTE.dtype).T
        strides = (*score_BHTR.stride()[:2], n_distances - 1, 1)
        return torch.as_strided(score_BHTR, (b, h, t, n_columns), strides, score_BHTR.storage_offset() + first)

    def _blocks(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, dropout: float) -> Tensor:
        b, h, t, e = q.shape
        w = self.window
        n = -(-t // w)
        pad = n * w - t
        if keys is None:
            keys = key_mask(torch.ones(b, t, dtype=torch.bool, device=q.device), w, q.dtype)

        def cut(x: Tensor) -> Tensor:
            return F.pad(x, (0, 0, 0, pad)).view(b, h, n, w, e).transpose(1, 2).reshape(b * n, h, w, e)

        y = self._attend(cut(q), cut(k), cut(v), keys, dropout)
        return y.view(b, n, h, w, e).permute(0, 1, 3, 2, 4).reshape(b, n * w, h * e)[:, :t]


class Convolution(nn.Module):
    """Pointwise, GLU, depthwise over time, LayerNorm, SiLU, pointwise. No BatchNorm: BiRQ runs masked and unmasked passes."""

    def __init__(self, d: int, expansion: int, kernel: int, norm: Norm):
        super().__init__()
        inner = expansion * d
        self.norm = norm(d)
        self.up = nn.Linear(d, 2 * inner)
        self.depthwise = kernels.DepthwiseConvolution(inner, kernel)
        self.inner_norm = norm(inner)
        self.down = nn.Linear(inner, d)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None, dropout: float) -> Tensor:
        x = F.glu(self.up(self.norm(x_BTD)), dim=-1)
        if valid_BT is not None:  # padding must not leak into an utterance's last frames
            x = x * valid_BT[:, :, None].to(x.dtype)
        x = F.silu(self.inner_norm(self.depthwise(x)))
        return kernels.dropout(self.down(x), dropout)


class Block(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm."""

    def __init__(self, shape: Shape):
        super().__init__()
        d, norm = shape.d_model, partial(kernels.LayerNorm, low=shape.norms == "bf16")
        self.ff_in = FeedForward(d, shape.ff_expansion, norm)
        self.attention = Attention(d, shape.n_heads, shape.positions, shape.attention_window, norm)
        self.convolution = Convolution(d, shape.conv_expansion, shape.conv_kernel, norm)
        self.ff_out = FeedForward(d, shape.ff_expansion, norm)
        self.norm = norm(d)

    def forward(
        self, x_BTD: Tensor, valid_BT: Tensor | None, keys: Tensor | None, rotary: tuple[Tensor, Tensor] | None, dropout: float
    ) -> Tensor:
        x = torch.add(x_BTD, self.ff_in(x_BTD, dropout), alpha=0.5)
        x = x + self.attention(x, keys, rotary, dropout)
        x = x + self.convolution(x, valid_BT, dropout)
        x = torch.add(x, self.ff_out(x, dropout), alpha=0.5)
        return self.norm(x)


class Encoder(nn.Module):
    """Stacked log-mel frames in, K Conformer blocks, one vector per encoder frame out."""

    def __init__(self, shape: Shape, dropout: float = 0.0):
        super().__init__()
        self.shape, self.dropout = shape, dropout
        self.recompute = False  # activations of a block in the backward pass, instead of keeping them
        self.always_masks = False  # a mask even without padding, so that compiled blocks see one kind of call
        self.project = nn.Linear(shape.n_stack * shape.n_mels, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))

    def stack(self, feats_BTF: Tensor) -> Tensor:
        """n_stack neighbouring log-mel frames become one input frame: [B, T·n, F] -> [B, T, n·F]. No copy."""
        b, t, f = feats_BTF.shape
        n = self.shape.n_stack
        if t % n:
            raise ValueError(f"{t} frames are not a multiple of n_stack = {n}")
        return feats_BTF.reshape(b, t // n, n * f)

    def _passes(self, x_BTS: Tensor, lengths_B: Tensor, n_layers: int, dropout: bool):
        t = x_BTS.shape[1]
        # without padding there is nothing to mask, and attention takes its fast path; a GPU would have to be asked whether there is any
        padded = self.always_masks or x_BTS.device.type != "cpu" or bool((lengths_B != t).any())
        valid_BT = valid_mask(lengths_B, t) if padded else None
        rate = self.dropout if dropout and self.training else 0.0
        x = self.project(x_BTS)
        rotary = None
        if self.shape.positions == "rotary":  # in the dtype of queries and keys: in float32, their products would be too
            cos_TE, sin_TE = rotary_table(t, self.shape.d_model // self.shape.n_heads, x.device)
            rotary = cos_TE.to(x.dtype), sin_TE.to(x.dtype)
        keys = None if valid_BT is None else key_mask(valid_BT, self.shape.attention_window, x.dtype)
        for block in self.blocks[:n_layers]:
            given = (x, valid_BT, keys, rotary, rate)
            x = checkpoint(block, *given, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else block(*given)
            yield x

    def forward(
        self, x_BTS: Tensor, lengths_B: Tensor, n_layers: int | None = None, dropout: bool = True, outputs: list[Tensor] | None = None
    ) -> Tensor:
        """Output of layer `n_layers` (default: the last) for stacked input: [B, T, D]. `lengths_B` counts encoder frames.

        `outputs`: gets those of all layers on the way.
        """
        n_layers = self.shape.n_layers if n_layers is None else n_layers
        if not 1 <= n_layers <= self.shape.n_layers:
            raise ValueError(f"layer {n_layers} of {self.shape.n_layers}")
        if not len(x_BTS):  # a share of a batch may hold no utterance; every weight still gets a gradient, of zeros
            x = self.project(x_BTS) + 0 * sum(p.sum() for p in self.blocks[:n_layers].parameters())
            if outputs is not None:
                outputs.extend([x] * n_layers)
            return x
        for x in self._passes(x_BTS, lengths_B, n_layers, dropout):
            if outputs is not None:
                outputs.append(x)
        return x

    def layers_out(self, feats_BTF: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """Outputs of layers 1 to K, each [B, T, D], dropout off."""
        return list(self._passes(self.stack(feats_BTF), lengths_B, self.shape.n_layers, False))


def count_parameters(shape: Shape) -> int:
    """Trainable numbers of an encoder of this shape, without building it in memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in Encoder(shape).parameters())
