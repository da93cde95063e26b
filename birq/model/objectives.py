"""BiRQ (Jiang et al. 2025, arXiv 2509.15430): the paper in one file. Its lower level G alone is BEST-RQ, in prediction.py.

    u = P x,  y = argmin over n of ‖u − C_n‖²                 eq. 1, 2: anchoring labels, fixed
    u⁽ᵏ⁾ = P′ z⁽ᵏ⁾,  label = softmax of (noise − ‖u⁽ᵏ⁾ − C‖²)/τ  eq. 3, 4: enhanced labels, by the model's layer k from the unmasked input
    G, F: cross-entropy of masked frames against either        eq. 5, 6, 7
    min F(θ)  subject to  G(θ) − min G ≤ δ                    eq. 8, the same θ on both levels
    min w1 F(θ) + w2 (G(θ) − min G)                           eq. 9, its penalty form; min G is a constant
    θ ← θ − η (w1 ∇F + w2 ∇G)                                 algorithm 1: one loop, one step

∇F runs through the prediction and through the labels. docs/method.md derives two additions: the entropy H of the mean label,
w1 (F − β H) + w2 G, and a weight on the label path's gradient.

Shape suffixes: B utterances, T encoder frames, S stacked bins, D width, M masked frames, L of them with an enhanced label, R of a chunk,
N codebooks, V codes, h code width, K = N · V outputs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.encoder import Encoder
from birq.model.masking import Labelled, Masked, Places, labelled, masked
from birq.model.prediction import AnchorObjective, BestRq, Forward, Share, frames_at_once, log_probabilities, sum_over_chunks
from birq.model.quantizer import framewise, standardise

SKIPPED_AT_ONCE = 1 << 20  # random numbers: 4 MiB
OFFSETS = 4  # by which a GPU's generator moves for a number, at most
SMALLEST = 1e-12  # probability, inside a logarithm


@dataclass(frozen=True, kw_only=True)
class Objective(AnchorObjective):
    """Constants of w1 (F − β H) + w2 G; defaults that hold and the paper's values stand in params.yaml."""

    enhanced_weight: float  # w1; 0 is BEST-RQ
    label_layer: int  # k
    temperature: float  # τ
    logit_scale: float  # s
    label_share: float  # share of a batch's utterances that get enhanced labels; 1 = the paper
    label_gradient: float  # weight on the gradient through the label path
    entropy_weight: float  # β, weight of H(mean label) inside F
    labels: str  # soft or hard
    noise: str  # gumbel, reversed (the printed sign) or none
    label_norm: str  # standardise, layer_norm or none
    heads: str  # shared or separate
    begins_share: float  # share of the steps before there are enhanced labels

    def at(self, done_share: float) -> Objective:
        """BEST-RQ's until the enhanced labels begin."""
        o = super().at(done_share)
        return o if done_share >= self.begins_share else replace(o, enhanced_weight=0.0)


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
    """Leave a generator where `count` uniform numbers would leave it.

    A CPU's has no way to jump. A GPU's has; how far the numbers would lead it depends on the card, so it goes far enough not to repeat any.
    """
    if device.type == "cuda":
        generator.set_offset(generator.get_offset() + OFFSETS * count)
        return
    while count > 0:
        torch.rand(min(count, SKIPPED_AT_ONCE), generator=generator, device=device)
        count -= SKIPPED_AT_ONCE


def enhanced_labels(logits_MNV: Tensor, objective: Objective, generator: torch.Generator) -> Tensor:
    """Eq. 4: softmax of noisy logits over the codebook, [M, N, V], rows sum to one.

    Noise `gumbel` is added, so that the largest is a draw from softmax(logits). As printed, the same noise enters with a minus sign:
    `reversed`. `hard`: the one-hot of the largest, with the soft label's gradient (straight-through).
    """
    noisy = logits_MNV
    if objective.noise != "none":
        noise_MNV = gumbel_noise(logits_MNV.shape, generator, logits_MNV.device)
        noisy = logits_MNV + noise_MNV if objective.noise == "gumbel" else logits_MNV - noise_MNV
    soft = F.softmax(noisy / objective.temperature, dim=-1)
    if objective.labels == "soft":
        return soft
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return soft + (hard - soft).detach()


def mean_label_entropy(sum_NV: Tensor, log_mean_NV: Tensor) -> Tensor:
    """−Σ p ln(mean p), mean over codebooks, of labels' sum over frames. Over all frames of a batch it is their number times H.

    H's gradient equals this one's with ln(mean p) held constant, up to a constant that the softmax cancels. So H adds up over chunks.
    """
    return -(sum_NV * log_mean_NV).sum(-1).mean()


def shared_statistics(z_MD: Tensor, share: Share) -> tuple[Tensor, Tensor]:
    """Mean and deviation per dimension over the frames of all shares, in two passes as `standardise` takes them over its own."""
    count = share.total(z_MD.new_full((1,), len(z_MD)))
    mean_D = share.total(z_MD.sum(0)) / count
    return mean_D, (share.total((z_MD - mean_D).square().sum(0)) / count + 1e-5).sqrt()


class BiRq(BestRq):
    """BEST-RQ's model, whose layer k makes labels too."""

    objective: Objective

    def __init__(self, encoder: Encoder, objective: Objective, seed: int):
        if objective.label_layer > encoder.shape.n_layers:
            raise ValueError(f"label_layer {objective.label_layer} of {encoder.shape.n_layers}")
        super().__init__(encoder, objective, seed)
        self.enhanced_head = nn.Linear(self.head.in_features, self.head.out_features) if objective.heads == "separate" else None

    @property
    def enhanced(self) -> bool:
        """Whether there are enhanced labels."""
        return self.objective.enhanced_weight > 0

    def masked(self, mask_BT: Tensor, lengths_B: Tensor, share: tuple[int, int] | None = None, seed: int | None = None) -> Masked:
        """As BestRq's, with the utterances that get enhanced labels where there is no choice, or a seed for it."""
        m, (first, n) = masked(mask_BT, lengths_B), share or (0, len(mask_BT))
        if not self.enhanced or (seed is None and self.objective.label_share < 1):
            return m
        generator = torch.Generator() if seed is None else torch.Generator().manual_seed(seed)
        return replace(m, labelled=labelled(m, self.drawn(n, generator), first))

    def drawn(self, n: int, generator: torch.Generator) -> Tensor:
        """Which of a batch's utterances get enhanced labels, [n] bool on the CPU.

        F is a mean over masked frames: over some utterances, drawn at every step, it has the same expectation.
        """
        if self.objective.label_share == 1:
            return torch.ones(n, dtype=torch.bool)
        drawn_B = torch.zeros(n, dtype=torch.bool)
        count = max(1, round(self.objective.label_share * n))
        drawn_B[torch.randperm(n, generator=generator, device=generator.device)[:count].cpu()] = True
        return drawn_B

    def label_frames(self, x_BTS: Tensor, lengths_B: Tensor, at: Places, share: Share | None = None) -> Tensor:
        """z of the masked frames, from layer k of the unmasked input: [M, D]."""
        o = self.objective
        with torch.set_grad_enabled(torch.is_grad_enabled() and o.label_gradient != 0):
            z_AD = self.encoder(x_BTS, lengths_B, n_layers=o.label_layer, dropout=False).flatten(0, 1)
            if o.label_norm == "standardise":
                z_AD = z_AD.index_select(0, at.valid_A).float()
                z_MD = standardise(z_AD, *(shared_statistics(z_AD, share) if share else ())).index_select(0, at.masked_of_valid_M)
            else:
                z_MD = framewise(z_AD.index_select(0, at.masked_M).float(), o.label_norm)
            if o.label_gradient not in (0.0, 1.0):
                z_MD = _WeightedGradient.apply(z_MD, o.label_gradient)
            return z_MD

    def label_vectors(self, x_BTS: Tensor, lengths_B: Tensor, at: Places, share: Share | None = None) -> Tensor:
        """z P of the masked frames, or unit(z P): [N, M, h] (eq. 3)."""
        return self.quantizer.vectors(self.label_frames(x_BTS, lengths_B, at, share))

    def label_logits(self, v_MNh: Tensor) -> Tensor:
        """−s ‖v − C‖² up to a constant (eq. 4): [M, N, V]."""
        return self.quantizer.logits(v_MNh.transpose(0, 1), self.objective.logit_scale)

    @torch.no_grad()
    def nearest_and_sum(self, v_MNh: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes [M, N], and the sum of the noise-free labels [N, V]."""
        n, v = self.objective.n_codebooks, self.objective.codebook_size
        sum_NV, codes = v_MNh.new_zeros(n, v), []
        for chunk_RNh in v_MNh.split(frames_at_once(v_MNh.device, n * v)):
            logits_RNV = self.label_logits(chunk_RNh)
            sum_NV += F.softmax(logits_RNV, dim=-1).sum(0)
            codes.append(logits_RNV.argmax(-1))
        return torch.cat(codes), sum_NV

    def enhanced_sums(
        self,
        o: Objective,
        frames: tuple[Tensor, Tensor, Tensor, Tensor],
        log_mean_NV: Tensor,
        n_masked: int,
        n_labelled: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        """The contribution of frames with an enhanced label to the total, and their sums of G, correct predictions, F and faithful samples.

        frames: outputs [L, D], anchoring labels [L, N], vectors of layer k [L, N, h], nearest codes [L, N].
        """
        w1, w2 = o.enhanced_weight / n_labelled, o.anchor_weight / (n_masked * o.n_codebooks)

        def loss(h_RD: Tensor, y_RN: Tensor, v_RNh: Tensor, codes_RN: Tensor, *heads: Tensor) -> tuple[Tensor, ...]:
            logp_RNV = log_probabilities(h_RD, *heads[:2], o.n_codebooks)
            lower, anchor, n_correct = self.anchor_terms(o, logp_RNV, y_RN)
            if self.enhanced_head:
                logp_RNV = log_probabilities(h_RD, *heads[2:], o.n_codebooks)
            logits_RNV = self.label_logits(v_RNh)
            label_RNV = enhanced_labels(logits_RNV, o, generator)
            enhanced = -torch.dot(label_RNV.flatten(), logp_RNV.flatten()) / o.n_codebooks
            total = w1 * enhanced + w2 * lower
            if o.entropy_weight:
                total = total - w1 * o.entropy_weight * mean_label_entropy(F.softmax(logits_RNV, dim=-1).sum(0), log_mean_NV)
            return total, anchor, n_correct, enhanced, (label_RNV.argmax(-1) == codes_RN).sum()

        heads = [self.head, self.enhanced_head] if self.enhanced_head else [self.head]
        weights = [w for head in heads for w in (head.weight, head.bias)]
        return sum_over_chunks(loss, [*frames], weights, len(self.head.bias))

    def _labelled(self, m: Masked, generator: torch.Generator, share: Share | None, device: torch.device) -> tuple[Labelled, Share | None]:
        """The labelled utterances here, drawn now unless they were before, and the share of the batch's labelled part."""
        u = m.labelled
        if u is None:
            n, first = (len(share.masked_B), share.first) if share else (len(m.mask_BT), 0)
            u = labelled(m, self.drawn(n, generator), first).to(device)
        return u, share.chosen(u.chosen_B) if share else None

    def forward(
        self,
        feats_BTF: Tensor,
        lengths_B: Tensor,
        mask: Masked | Tensor,
        generator: torch.Generator,
        share: Share | None = None,
        objective: Objective | None = None,
        label_feats_BTF: Tensor | None = None,
    ) -> Forward:
        """As BestRq's, with F and H. Without w1 it is BestRq's."""
        o = objective or self.objective
        if not o.enhanced_weight:
            return super().forward(feats_BTF, lengths_B, mask, generator, share, o, label_feats_BTF)
        m, x_BTS, outputs = self._on_device(mask, lengths_B), self.encoder.stack(feats_BTF), self.kept_outputs(o)
        source_BTS = x_BTS if label_feats_BTF is None else self.encoder.stack(label_feats_BTF)
        h_MD, y_MN, view_MS, n_masked = self.masked_pass(x_BTS, source_BTS, lengths_B, m, generator, share, outputs)

        u, part = self._labelled(m, generator, share, lengths_B.device)
        rows = (x_BTS, lengths_B) if u.rows_U is None else (x.index_select(0, u.rows_U) for x in (x_BTS, lengths_B))
        z_LD = self.label_frames(*rows, u.places, part)
        v_LNh = self.quantizer.vectors(z_LD).transpose(0, 1)
        codes_LN, sum_NV = self.nearest_and_sum(v_LNh)
        n_labelled, before = (part.n_masked, part.masked_before) if part else (len(v_LNh), 0)
        mean_NV = (part.total(sum_NV) if part else sum_NV) / n_labelled
        log_mean_NV = mean_NV.clamp_min(SMALLEST).log()
        if o.noise != "none":  # the noise of other shares' frames comes first
            _skip(before * sum_NV.numel(), generator, v_LNh.device)

        h_LD, y_LN = (h_MD, y_MN) if u.rows_U is None else (x.index_select(0, u.masked_L) for x in (h_MD, y_MN))
        total, anchor, n_correct, enhanced, n_faithful = self.enhanced_sums(
            o, (h_LD, y_LN, v_LNh, codes_LN), log_mean_NV, n_masked, n_labelled, generator
        )
        n = n_masked * o.n_codebooks
        if u.rows_U is not None:
            lower, other_anchor, other_correct = self.anchor_sums(o, *(x.index_select(0, u.other_O) for x in (h_MD, y_MN)))
            total = total + o.anchor_weight / n * lower
            anchor, n_correct = anchor + other_anchor.detach(), n_correct + other_correct
        found = Forward(
            total=total,
            anchor=anchor / n,
            enhanced=enhanced / n_labelled,
            label_entropy=mean_label_entropy(sum_NV, log_mean_NV) / n_labelled,
            n_masked=n_masked,
            n_labelled=n_labelled,
            n_correct=n_correct,
            n_faithful=n_faithful,
            n_agreeing=(codes_LN == y_LN).sum(),
            anchor_codes_MN=y_MN,
            anchor_frames_MS=view_MS,
            enhanced_codes_MN=codes_LN,
            enhanced_frames_MD=z_LD.detach(),
        )
        return self.with_distilled(o, found, source_BTS, lengths_B, m, h_MD, outputs, share)


Model, Constants = BiRq, Objective
