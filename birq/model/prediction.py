"""BEST-RQ (Chiu et al. 2022): the encoder predicts the codes of masked frames. BiRQ builds on this module.

Logits over all codes of all masked frames, M × N × V, would be the largest tensor of a step, and autograd would hold several of them.
`sum_over_chunks` computes a loss and its gradient for a few frames at a time, which fit a CPU's cache or take little of a GPU's memory.

Shape suffixes: B utterances, T encoder frames, F mel bins, S stacked bins, D width, M masked frames, R of a chunk, N codebooks, V codes,
K = N · V outputs of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.encoder import Encoder
from birq.model.masking import Masked, masked
from birq.model.quantized import Quantization, QuantizedEncoder
from birq.model.quantizer import CHUNK_VALUES


@dataclass(frozen=True, kw_only=True)
class AnchorObjective(Quantization):
    """Constants of G; values stand in params.yaml."""

    anchor_weight: float  # w2
    mask_fill_std: float


@dataclass(frozen=True)
class Share:
    """The utterances of a batch that this process computes, while others compute the rest.

    Means over frames, statistics of z and the mean label are those of the whole batch; the losses of all shares add up to the batch's.
    """

    masked_B: Tensor  # masked frames of every utterance of the batch, int64 on the CPU
    first: int  # utterances of the batch before those here
    total: Callable[[Tensor], Tensor]  # a tensor summed over the shares, its gradient as well

    @property
    def n_masked(self) -> int:
        return int(self.masked_B.sum())

    @property
    def masked_before(self) -> int:
        return int(self.masked_B[: self.first].sum())

    def chosen(self, chosen_B: Tensor) -> Share:
        """The share of a batch of which only some utterances are left. chosen_B: bool, over the whole batch, on the CPU."""
        return Share(self.masked_B[chosen_B], int(chosen_B[: self.first].sum()), self.total)


@dataclass(kw_only=True)
class Forward:
    """Figures of one forward pass; for a share of a batch, its part of the batch's losses. Enhanced parts are None for BEST-RQ.

    Only `total` has a gradient.
    """

    total: Tensor  # w1 (F − β H) + w2 G
    anchor: Tensor  # G
    n_masked: int  # of the batch, all shares
    n_correct: Tensor  # masked frames × codebooks whose anchoring label is predicted
    anchor_codes_MN: Tensor
    enhanced: Tensor | None = None  # F
    label_entropy: Tensor | None = None  # H of the mean noise-free label, nats, mean over codebooks
    n_labelled: int = 0  # masked frames of the batch that got an enhanced label
    n_faithful: Tensor | None = None  # labelled frames × codebooks whose sampled enhanced code is the nearest one
    n_agreeing: Tensor | None = None  # ... whose nearest enhanced code equals the anchoring code
    enhanced_codes_MN: Tensor | None = None  # nearest, noise-free, of the labelled frames


# ---- losses over frames × codes


class _KnownGradient(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx, value: Tensor, grads: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, None, *(None if g is None else g * grad for g in ctx.grads)


@contextlib.contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """TF32 products. They are exact enough for a head, and for gradients that go on to an encoder in bf16; labels stay in float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def log_probabilities(h_RD: Tensor, weight_KD: Tensor, bias_K: Tensor, n_codebooks: int) -> Tensor:
    """A head's prediction, [R, N, V]."""
    with _tensor_cores(h_RD.device):
        logits_RK = F.linear(h_RD, weight_KD, bias_K)
    return F.log_softmax(logits_RK.unflatten(1, (n_codebooks, -1)), dim=-1)


def anchor_loss(logp_RNV: Tensor, y_RN: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 5: cross-entropy against anchoring labels, and how many of them are the likeliest code; sums over frames and codebooks."""
    return -logp_RNV.gather(-1, y_RN[:, :, None]).sum(), (logp_RNV.detach().argmax(-1) == y_RN).sum()


def frames_at_once(device: torch.device, n_values: int) -> int:
    """Frames of a chunk, of `n_values` numbers each."""
    return max(1, CHUNK_VALUES[device.type] // n_values)


def sum_over_chunks(
    loss: Callable[..., tuple[Tensor, ...]], frames: list[Tensor], weights: list[Tensor], n_values: int
) -> tuple[Tensor, ...]:
    """Sums of the values of `loss(*frames, *weights)` over chunks of frames. The first sum has a gradient, taken chunk by chunk.

    frames: tensors with one row a frame; n_values: numbers a frame in the largest tensor inside `loss`, which reads nothing else that
    has a gradient. Runs in float32. No frames are a chunk of none, so that every input still gets a gradient, of zeros.
    """
    inputs, device = [*frames, *weights], frames[0].device
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in inputs]
    grads = [torch.zeros_like(x) if w else None for x, w in zip(inputs, wanted, strict=True)]
    rows, sums = frames_at_once(device, n_values), None
    with torch.autocast(device.type, enabled=False), torch.set_grad_enabled(any(wanted)):
        for begin in range(0, max(1, len(frames[0])), rows):
            parts = [x.detach()[begin : begin + rows] for x in frames] + [w.detach() for w in weights]
            leaves = [x.requires_grad_(w) for x, w in zip(parts, wanted, strict=True)]
            values = loss(*leaves)
            if any(wanted):
                with _tensor_cores(device):
                    fresh = iter(torch.autograd.grad(values[0], [x for x in leaves if x.requires_grad]))
                for i, grad in enumerate(grads):
                    if grad is not None:
                        (grad[begin : begin + rows] if i < len(frames) else grad).add_(next(fresh))
            values = tuple(v.detach() for v in values)
            sums = values if sums is None else tuple(a + b for a, b in zip(sums, values, strict=True))
    if any(wanted):
        sums = _KnownGradient.apply(sums[0], grads, *inputs), *sums[1:]
    return sums


# ---- the model


class BestRq(QuantizedEncoder):
    """A quantized encoder with a prediction head."""

    objective: AnchorObjective

    def __init__(self, encoder: Encoder, objective: AnchorObjective, seed: int):
        super().__init__(encoder, objective, seed)
        self.head = nn.Linear(encoder.shape.d_model, objective.n_codebooks * objective.codebook_size)

    @property
    def enhanced(self) -> bool:
        """Whether there are enhanced labels."""
        return False

    def masked(self, mask_BT: Tensor, lengths_B: Tensor, share: tuple[int, int] | None = None, seed: int | None = None) -> Masked:
        """A batch's masked frames, for `forward`; made on the CPU, ahead of the step where a GPU computes it.

        The rest is for methods that choose utterances. `share`: utterances of the whole batch before those here, and in all. `seed`: of the
        choice; without one, `forward` draws it.
        """
        return masked(mask_BT, lengths_B)

    def _on_device(self, mask: Masked | Tensor, lengths_B: Tensor) -> Masked:
        return (mask if isinstance(mask, Masked) else self.masked(mask, lengths_B)).to(lengths_B.device)

    def masked_pass(
        self, x_BTS: Tensor, lengths_B: Tensor, m: Masked, generator: torch.Generator, share: Share | None
    ) -> tuple[Tensor, Tensor, int]:
        """Output [M, D] and anchoring labels [M, N] (eq. 2) of the masked frames; how many the whole batch has."""
        x_AS = x_BTS.flatten(0, 1)
        y_MN = self.anchor_quantizer.nearest(self.anchor_view(x_BTS, lengths_B).flatten(0, 1).index_select(0, m.masked_M))
        n_masked, before = (share.n_masked, share.masked_before) if share else (len(y_MN), 0)
        fill_MS = torch.randn(n_masked, x_BTS.shape[-1], generator=generator, device=x_BTS.device)[before : before + len(y_MN)]
        masked_BTS = x_AS.index_copy(0, m.masked_M, fill_MS * self.objective.mask_fill_std).view(x_BTS.shape)
        return self.encoder(masked_BTS, lengths_B).flatten(0, 1).index_select(0, m.masked_M).float(), y_MN, n_masked

    def anchor_sums(self, h_MD: Tensor, y_MN: Tensor) -> tuple[Tensor, ...]:
        """`anchor_loss` of the head's prediction, summed over all frames."""

        def loss(h_RD: Tensor, y_RN: Tensor, weight_KD: Tensor, bias_K: Tensor) -> tuple[Tensor, Tensor]:
            return anchor_loss(log_probabilities(h_RD, weight_KD, bias_K, y_RN.shape[1]), y_RN)

        return sum_over_chunks(loss, [h_MD, y_MN], [self.head.weight, self.head.bias], len(self.head.bias))

    def forward(
        self,
        feats_BTF: Tensor,
        lengths_B: Tensor,
        mask: Masked | Tensor,
        generator: torch.Generator,
        share: Share | None = None,
        objective: AnchorObjective | None = None,
    ) -> Forward:
        """Losses of a batch, or of a share of it: normalised log-mel, lengths in encoder frames, mask [B, T] or what `masked` makes of it.

        `generator` on the same device; every share gets one in the same state. `objective`: other weights than the model's own.
        """
        o, m = objective or self.objective, self._on_device(mask, lengths_B)
        h_MD, y_MN, n_masked = self.masked_pass(self.encoder.stack(feats_BTF), lengths_B, m, generator, share)
        anchor, n_correct = self.anchor_sums(h_MD, y_MN)
        anchor = anchor / (n_masked * o.n_codebooks)
        return Forward(total=o.anchor_weight * anchor, anchor=anchor.detach(), n_masked=n_masked, n_correct=n_correct, anchor_codes_MN=y_MN)


Model, Constants = BestRq, AnchorObjective
