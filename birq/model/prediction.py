"""BEST-RQ (Chiu et al. 2022): the encoder predicts the codes of masked frames. BiRQ builds on this module.

Logits over all codes of all masked frames, M × N × V, would be the largest tensor of a step, and autograd would hold several of them.
`sum_over_chunks` computes a loss and its gradient for a few frames at a time, which fit a CPU's cache or take little of a GPU's memory.

Shape suffixes: B utterances, T encoder frames, F mel bins, S stacked bins, D width, M masked frames, R of a chunk, N codebooks, V codes,
K = N · V outputs of a head.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.distilled import DistilledCodebook
from birq.model.encoder import Encoder, valid_mask
from birq.model.masking import Masked, masked
from birq.model.quantized import Quantization, QuantizedEncoder
from birq.model.quantizer import CHUNK_VALUES


@dataclass(frozen=True, kw_only=True)
class AnchorObjective(Quantization):
    """Constants of G; values stand in params.yaml."""

    anchor_weight: float  # w2
    similarity_weight: float = 0.0  # of the divergence from the label code's similarities, inside G
    similarity_temperature: float = 1.0
    distil_weight: float = 0.0  # of D, inside G; 0: no further codebook
    distil_codes: int = 2
    distil_layers: Sequence[int] = (1,)
    distil_begins_share: float = 0.0  # share of the steps before there is the further codebook
    mask_fill_std: float

    def at(self, done_share: float) -> AnchorObjective:
        """The objective of a step, before which this share of all steps is done."""
        early = self.distil_weight and done_share < self.distil_begins_share
        return replace(self, distil_weight=0.0) if early else self


@dataclass(frozen=True)
class Share:
    """The utterances of a batch that this process computes, while others compute the rest.

    Means over frames, statistics of z and the mean label are those of the whole batch; the losses of all shares add up to the batch's.
    """

    masked_B: Tensor  # masked frames of every utterance of the batch, int64 on the CPU
    first: int  # utterances of the batch before those here
    total: Callable[[Tensor], Tensor]  # a tensor summed over the shares, its gradient as well
    predicted_B: Tensor | None = None  # those of them that are predicted; None: all

    @property
    def n_masked(self) -> int:
        return int(self.masked_B.sum())

    @property
    def n_predicted(self) -> int:
        return self.n_masked if self.predicted_B is None else int(self.predicted_B.sum())

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
    n_masked: int  # of the batch, all shares; those that are predicted
    n_correct: Tensor  # masked frames × codebooks whose anchoring label is predicted
    anchor_codes_MN: Tensor
    anchor_frames_MS: Tensor | None  # of which the anchoring labels are made; None for labels from a file
    enhanced: Tensor | None = None  # F
    label_entropy: Tensor | None = None  # H of the mean noise-free label, nats, mean over codebooks
    n_labelled: int = 0  # masked frames of the batch that got an enhanced label
    n_faithful: Tensor | None = None  # labelled frames × codebooks whose sampled enhanced code is the nearest one
    n_agreeing: Tensor | None = None  # ... whose nearest enhanced code equals the anchoring code
    enhanced_codes_MN: Tensor | None = None  # nearest, noise-free, of the labelled frames
    enhanced_frames_MD: Tensor | None = None  # z of the labelled frames, without gradient
    distilled: Tensor | None = None  # cross-entropy of the further codebook's labels; None without one
    distance: Tensor | None = None  # D
    distilled_codes_M1: Tensor | None = None


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


def similarity_divergence(logp_RNV: Tensor, y_RN: Tensor, codebook_NVh: Tensor, temperature: float) -> Tensor:
    """KL(softmax over n of cos(C_y, C_n) / temperature ‖ prediction), sum over frames and codebooks (after Baumann et al. 2025).

    Cross-entropy counts every wrong code alike; this asks less of those that stand near the label's.
    """
    unit_NVh = F.normalize(codebook_NVh, dim=-1)
    own_NRh = unit_NVh.gather(1, y_RN.T[:, :, None].expand(-1, -1, unit_NVh.shape[-1]))
    log_target_NRV = F.log_softmax(torch.matmul(own_NRh, unit_NVh.transpose(1, 2)) / temperature, dim=-1)
    return F.kl_div(logp_RNV.transpose(0, 1), log_target_NRV, reduction="sum", log_target=True)


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
        self.head = nn.Linear(encoder.shape.d_model, math.prod(objective.label_sizes))
        self.distilled = None
        if objective.distil_weight:
            if not all(1 <= k <= encoder.shape.n_layers for k in objective.distil_layers):
                raise ValueError(f"distil_layers {list(objective.distil_layers)} of {encoder.shape.n_layers}")
            self.distilled = DistilledCodebook(self.anchor_quantizer, objective.distil_codes, encoder.shape.d_model)

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
        self,
        x_BTS: Tensor,
        source_BTS: Tensor,
        lengths_B: Tensor,
        m: Masked,
        generator: torch.Generator,
        share: Share | None,
        outputs: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, int]:
        """Of the predicted frames: output [M, D], labels [M, N], what these are made of [M, S]; how many the whole batch has.

        Here: all masked ones, and anchoring labels (eq. 2) of `source_BTS`. `outputs`: gets those of all layers, [B, T, D].
        """
        view_MS = self.anchor_view(source_BTS, lengths_B).flatten(0, 1).index_select(0, m.masked_M)
        y_MN = self.anchor_quantizer.nearest(view_MS)
        h_MD = self.masked_output(x_BTS, lengths_B, m, generator, share, outputs)
        return h_MD, y_MN, view_MS, share.n_masked if share else len(y_MN)

    def masked_output(
        self,
        x_BTS: Tensor,
        lengths_B: Tensor,
        m: Masked,
        generator: torch.Generator,
        share: Share | None,
        outputs: list[Tensor] | None = None,
    ) -> Tensor:
        """Output [M, D] of the masked frames, which noise has replaced in the input."""
        x_AS, n_here = x_BTS.flatten(0, 1), len(m.masked_M)
        n_masked, before = (share.n_masked, share.masked_before) if share else (n_here, 0)
        fill_MS = torch.randn(n_masked, x_BTS.shape[-1], generator=generator, device=x_BTS.device)[before : before + n_here]
        masked_BTS = x_AS.index_copy(0, m.masked_M, fill_MS * self.objective.mask_fill_std).view(x_BTS.shape)
        return self.encoder(masked_BTS, lengths_B, outputs=outputs).flatten(0, 1).index_select(0, m.masked_M).float()

    def anchor_terms(self, o: AnchorObjective, logp_RNV: Tensor, y_RN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What w2 multiplies, and `anchor_loss`; sums over frames and codebooks."""
        anchor, n_correct = anchor_loss(logp_RNV, y_RN)
        if not o.similarity_weight:
            return anchor, anchor, n_correct
        divergence = similarity_divergence(logp_RNV, y_RN, self.anchor_quantizer.codebook, o.similarity_temperature)
        return anchor + o.similarity_weight * divergence, anchor, n_correct

    def anchor_sums(self, o: AnchorObjective, h_MD: Tensor, y_MN: Tensor) -> tuple[Tensor, ...]:
        """`anchor_terms` of the head's prediction, summed over all frames."""

        def loss(h_RD: Tensor, y_RN: Tensor, weight_KD: Tensor, bias_K: Tensor) -> tuple[Tensor, ...]:
            return self.anchor_terms(o, log_probabilities(h_RD, weight_KD, bias_K, y_RN.shape[1]), y_RN)

        return sum_over_chunks(loss, [h_MD, y_MN], [self.head.weight, self.head.bias], len(self.head.bias))

    def forward(
        self,
        feats_BTF: Tensor,
        lengths_B: Tensor,
        mask: Masked | Tensor,
        generator: torch.Generator,
        share: Share | None = None,
        objective: AnchorObjective | None = None,
        label_feats_BTF: Tensor | None = None,
    ) -> Forward:
        """Losses of a batch, or of a share of it: normalised log-mel, lengths in encoder frames, mask [B, T] or what `masked` makes of it.

        `generator` on the same device; every share gets one in the same state. `objective`: other weights than the model's own.
        `label_feats_BTF`: what anchoring labels are made from, where the encoder sees something else.
        """
        o, m = objective or self.objective, self._on_device(mask, lengths_B)
        x_BTS, outputs = self.encoder.stack(feats_BTF), self.kept_outputs(o)
        source_BTS = x_BTS if label_feats_BTF is None else self.encoder.stack(label_feats_BTF)
        h_MD, y_MN, view_MS, n_masked = self.masked_pass(x_BTS, source_BTS, lengths_B, m, generator, share, outputs)
        loss, anchor, n_correct = self.anchor_sums(o, h_MD, y_MN)
        n = n_masked * y_MN.shape[1]
        found = Forward(
            total=o.anchor_weight * (loss / n),
            anchor=anchor.detach() / n,
            n_masked=n_masked,
            n_correct=n_correct,
            anchor_codes_MN=y_MN,
            anchor_frames_MS=view_MS,
        )
        return self.with_distilled(o, found, source_BTS, lengths_B, m, h_MD, outputs, share)

    def kept_outputs(self, o: AnchorObjective) -> list[Tensor] | None:
        """Where `masked_pass` puts the layers' outputs; None where nobody reads them."""
        return [] if o.distil_weight and self.distilled is not None else None

    def with_distilled(
        self,
        o: AnchorObjective,
        found: Forward,
        source_BTS: Tensor,
        lengths_B: Tensor,
        m: Masked,
        h_MD: Tensor,
        outputs: list[Tensor] | None,
        share: Share | None,
    ) -> Forward:
        """With the further codebook's part of G: its cross-entropy, which counts as any codebook's, and `distil_weight` times D."""
        further = self.distilled
        if outputs is None or further is None:
            return found
        b, t, _ = source_BTS.shape
        y_A = further.labels(self.anchor_quantizer, self.anchor_view(source_BTS, lengths_B).flatten(0, 1))
        frames_BT = (valid_mask(m.lengths_B, t) & ~m.mask_BT).to(y_A.device, non_blocking=True)
        distance = further.distances(y_A.view(b, t), [outputs[k - 1] for k in o.distil_layers], frames_BT).sum()
        distance = distance / (len(share.masked_B) if share else b)
        y_M1 = y_A.index_select(0, m.masked_M)[:, None]

        def loss(h_RD: Tensor, y_R1: Tensor, weight_VD: Tensor, bias_V: Tensor) -> tuple[Tensor, ...]:
            return anchor_loss(log_probabilities(h_RD, weight_VD, bias_V, 1), y_R1)

        loss_sum, _ = sum_over_chunks(loss, [h_MD, y_M1], [further.head.weight, further.head.bias], len(further.head.bias))
        mean = loss_sum / found.n_masked
        return replace(
            found,
            total=found.total + o.anchor_weight * (mean / o.n_codebooks + o.distil_weight * distance),
            distilled=mean.detach(),
            distance=distance.detach(),
            distilled_codes_M1=y_M1,
        )


Model, Constants = BestRq, AnchorObjective
