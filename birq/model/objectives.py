"""BEST-RQ and BiRQ (Jiang et al. 2025, arXiv 2509.15430): the paper in one file.

    min F(θ)  subject to  G(θ) − min G ≤ δ                    eq. 8, the same θ on both levels
    min w1 F(θ) + w2 (G(θ) − min G)                           eq. 9, its penalty form; min G is a constant
    θ ← θ − η (w1 ∇F + w2 ∇G)                                 algorithm 1: one loop, one step

G is the cross-entropy of masked frames against anchoring labels (fixed: BEST-RQ), F against enhanced labels, which the
model's own layer k makes from the unmasked input. ∇F runs through the prediction and through the labels.
docs/method.md derives what is added here: the entropy of the mean label, and a weight on the label path's gradient.

Shape suffixes: B utterances, T encoder frames, S stacked bins, D width, M masked frames, N codebooks, V codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.encoder import Encoder, valid_mask
from birq.model.prediction import Labels, masked_prediction
from birq.model.quantizer import RandomQuantizer, layer_norm, standardise

QUANTIZER_SEED = 1 << 31  # above every legal seed; the generator takes 32 bits
SKIPPED_AT_ONCE = 1 << 20  # random numbers: 4 MiB


@dataclass(frozen=True)
class Objective:
    """Constants of the objective; defaults that hold and the paper's values stand in params.yaml."""

    enhanced_weight: float  # w1; 0 is BEST-RQ
    anchor_weight: float  # w2
    label_layer: int  # k
    temperature: float  # τ
    logit_scale: float  # s
    label_share: float  # share of a batch's utterances that get enhanced labels; 1 = the paper
    label_gradient: float  # weight on the gradient through the label path
    entropy_weight: float  # weight of H(mean label) inside F
    labels: str  # soft or hard
    gumbel_noise: bool
    label_norm: str  # standardise or layer_norm
    heads: str  # shared or separate
    mask_fill_std: float
    n_codebooks: int
    codebook_size: int
    codebook_dim: int


@dataclass(frozen=True)
class Share:
    """Which utterances of a batch are here, where the others are computed elsewhere at the same time.

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
        """The share of a batch of which only some utterances, in ascending order, are left."""
        chosen_B = chosen_B.cpu()
        return Share(self.masked_B[chosen_B], int((chosen_B < self.first).sum()), self.total)


@dataclass
class Losses:
    """One forward pass; of a share of a batch, what it adds to the batch's losses. Enhanced parts are None for BEST-RQ.

    Only `total` carries a gradient.
    """

    total: Tensor  # w1 (F − β H) + w2 G
    anchor: Tensor  # G
    enhanced: Tensor | None  # F
    label_entropy: Tensor | None  # H of the mean noise-free label, nats, mean over codebooks
    n_masked: int  # of the batch, all shares
    n_labelled: int  # masked frames of the batch that got an enhanced label
    n_correct: Tensor  # masked frames × codebooks whose anchoring label is predicted
    n_faithful: Tensor | None  # ... whose sampled enhanced code is the nearest one
    n_agreeing: Tensor | None  # ... whose nearest enhanced code equals the anchoring code
    anchor_codes_MN: Tensor
    enhanced_codes_MN: Tensor | None  # nearest, noise-free


class _WeightedGradient(torch.autograd.Function):
    """Identity; the gradient is multiplied on its way back."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.weight, None


def gumbel_noise(shape: torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Gumbel(0, 1) = −ln(−ln U), U uniform on (0, 1); on a CPU seven times faster than drawing exponentials."""
    u = torch.rand(shape, generator=generator, device=device).clamp_(min=1e-20)
    # U = 1 − 2⁻²⁴ at most, so −ln U is never 0
    return u.log_().neg_().log_().neg_()


def _skip(count: int, generator: torch.Generator, device: torch.device) -> None:
    """Leave a generator where `count` uniform numbers would leave it: it has no way to jump."""
    while count > 0:
        torch.rand(min(count, SKIPPED_AT_ONCE), generator=generator, device=device)
        count -= SKIPPED_AT_ONCE


def enhanced_labels(logits_MNV: Tensor, objective: Objective, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Eq. 4: Gumbel-softmax over the codebook, [M, N, V], rows sum to one; as the label, and as what its gradient runs through.

    The two differ where labels are `hard`: the one-hot of the largest, with the soft label's gradient (straight-through).
    """
    noisy = logits_MNV
    if objective.gumbel_noise:
        noisy = logits_MNV + gumbel_noise(logits_MNV.shape, generator, logits_MNV.device)
    soft = F.softmax(noisy / objective.temperature, dim=-1)
    if objective.labels == "soft":
        return soft, soft
    return torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0), soft


def shared_statistics(z_MD: Tensor, share: Share) -> tuple[Tensor, Tensor]:
    """Mean and deviation per dimension over the frames of all shares, in two passes as `standardise` takes them over its own."""
    count = share.total(z_MD.new_full((1,), len(z_MD)))
    mean_D = share.total(z_MD.sum(0)) / count
    return mean_D, (share.total((z_MD - mean_D).square().sum(0)) / count + 1e-5).sqrt()


class Pretrainer(nn.Module):
    """An encoder with its two quantizers and prediction head(s)."""

    def __init__(self, encoder: Encoder, objective: Objective, seed: int):
        super().__init__()
        shape = encoder.shape
        if objective.label_layer > shape.n_layers:
            raise ValueError(f"label_layer {objective.label_layer} of {shape.n_layers}")
        self.encoder, self.objective = encoder, objective
        sizes = (objective.codebook_dim, objective.codebook_size, objective.n_codebooks)
        # quantizers have a seed of their own: the labels are the same for every method of a seed
        # (and not the seed alone: the encoder's first weights would be drawn from the same numbers as the projection)
        generator = torch.Generator().manual_seed(QUANTIZER_SEED + seed)
        self.anchor_quantizer = RandomQuantizer(shape.n_stack * shape.n_mels, *sizes, generator)
        self.quantizer = RandomQuantizer(shape.d_model, *sizes, generator)
        self.quantizer.codebook.copy_(self.anchor_quantizer.codebook)  # the paper's one fixed codebook for both branches
        n_codes = objective.n_codebooks * objective.codebook_size
        self.head = nn.Linear(shape.d_model, n_codes)
        self.enhanced_head = nn.Linear(shape.d_model, n_codes) if objective.heads == "separate" else None

    def anchor_labels(self, feats_BTF: Tensor) -> Tensor:
        """Eq. 2 for every frame: [B, T·n, F] normalised log-mel -> [B, T, N] int64."""
        x_BTS = self.encoder.stack(feats_BTF)
        b, t, s = x_BTS.shape
        return self.anchor_quantizer.nearest(x_BTS.reshape(b * t, s)).view(b, t, -1)

    def label_directions(self, x_BTS: Tensor, lengths_B: Tensor, mask_BT: Tensor, share: Share | None = None) -> Tensor:
        """unit(z P) of the masked frames, z from layer k of the unmasked input: [N, M, h]. Label logits are 2 s · v · C (eq. 4)."""
        o = self.objective
        with torch.set_grad_enabled(torch.is_grad_enabled() and o.label_gradient != 0):
            z_BTD = self.encoder(x_BTS, lengths_B, n_layers=o.label_layer, dropout=False)
            if o.label_norm == "standardise":
                valid_BT = valid_mask(lengths_B, z_BTD.shape[1])
                z_MD = z_BTD[valid_BT].float()
                z_MD = standardise(z_MD, *(shared_statistics(z_MD, share) if share else ()))[mask_BT[valid_BT]]
            else:
                z_MD = layer_norm(z_BTD[mask_BT].float())
            if o.label_gradient not in (0.0, 1.0):
                z_MD = _WeightedGradient.apply(z_MD, o.label_gradient)
            return self.quantizer.directions(z_MD)

    def forward(
        self,
        feats_BTF: Tensor,
        lengths_B: Tensor,
        mask_BT: Tensor,
        generator: torch.Generator,
        share: Share | None = None,
        objective: Objective | None = None,
    ) -> Losses:
        """Losses of a batch, or of a share of it: normalised log-mel, lengths in encoder frames, mask [B, T].

        `generator` on the same device; every share gets one in the same state. `objective`: other weights than the model's own.
        """
        o = objective or self.objective
        x_BTS = self.encoder.stack(feats_BTF)
        y_MN = self.anchor_quantizer.nearest(x_BTS[mask_BT])  # eq. 2
        n_masked, before = (share.n_masked, share.masked_before) if share else (len(y_MN), 0)

        fill_MS = torch.randn(n_masked, x_BTS.shape[-1], generator=generator, device=x_BTS.device)[before : before + len(y_MN)]
        h_MD = self.encoder(x_BTS.masked_scatter(mask_BT[:, :, None], fill_MS * o.mask_fill_std), lengths_B)[mask_BT]
        labels, codes_MN, n_labelled = None, y_MN, 0
        if o.enhanced_weight:
            labelled_M, labels = self._labels(o, x_BTS, lengths_B, mask_BT, generator, share)
            n_labelled = labels.n_labelled
            if labelled_M is not None:  # those with an enhanced label first
                order_M = torch.cat([labelled_M.nonzero()[:, 0], (~labelled_M).nonzero()[:, 0]])
                h_MD, codes_MN = h_MD[order_M], y_MN[order_M]
        found = masked_prediction(h_MD, self.head, codes_MN, o.codebook_size, n_masked, o.anchor_weight, labels)
        return Losses(
            total=found.total,
            anchor=found.anchor,
            enhanced=found.enhanced,
            label_entropy=found.entropy,
            n_masked=n_masked,
            n_labelled=n_labelled,
            n_correct=found.n_correct,
            n_faithful=found.n_faithful,
            n_agreeing=None if found.codes_LN is None else (found.codes_LN == codes_MN[: len(found.codes_LN)]).sum(),
            anchor_codes_MN=y_MN,
            enhanced_codes_MN=found.codes_LN,
        )

    def _labels(
        self,
        o: Objective,
        x_BTS: Tensor,
        lengths_B: Tensor,
        mask_BT: Tensor,
        generator: torch.Generator,
        share: Share | None,
    ) -> tuple[Tensor | None, Labels]:
        """What enhanced labels are made of, and which masked frames get one: [M] bool, None for all."""
        labelled_M = None
        if o.label_share < 1:  # F is a mean over masked frames: over some utterances, drawn at every step, it has the same expectation
            n_utterances, first = (len(share.masked_B), share.first) if share else (len(lengths_B), 0)
            chosen_B = torch.randperm(n_utterances, generator=generator, device=x_BTS.device)
            chosen_B = chosen_B[: max(1, round(o.label_share * n_utterances))].sort().values
            share = share.chosen(chosen_B) if share else None
            chosen_B = chosen_B[(chosen_B >= first) & (chosen_B < first + len(lengths_B))] - first
            labelled_M = torch.isin(mask_BT.nonzero()[:, 0], chosen_B)
            x_BTS, lengths_B, mask_BT = x_BTS[chosen_B], lengths_B[chosen_B], mask_BT[chosen_B]
        v_NLh = self.label_directions(x_BTS, lengths_B, mask_BT, share)
        n_labelled, before = (share.n_masked, share.masked_before) if share else (v_NLh.shape[1], 0)
        if o.gumbel_noise:  # the noise of other shares' frames comes first
            _skip(before * o.n_codebooks * o.codebook_size, generator, v_NLh.device)
        total = share.total if share else (lambda x: x)
        return labelled_M, Labels(
            v_NLh=v_NLh,
            quantizer=self.quantizer,
            scale=o.logit_scale,
            sample=lambda logits_RNV: enhanced_labels(logits_RNV, o, generator),
            temperature=o.temperature,
            mean=lambda sum_NV: total(sum_NV) / n_labelled,
            n_labelled=n_labelled,
            weight=o.enhanced_weight,
            entropy_weight=o.entropy_weight,
            head=self.enhanced_head or self.head,
        )
