"""F, G and H of masked frames, with their gradients, a few frames at a time.

Logits over all codes of all masked frames, M × N × V, would be the largest tensor of a step, and plain autograd holds about ten of them:
logits, log-probabilities, noise, labels, their gradients. Here they exist for a chunk of frames, small enough for a CPU's cache or a small
part of a GPU's memory, and the gradient is taken while the chunk is there, so only the products with the small codes are computed twice.

Shape suffixes: M masked frames, the first L of them with an enhanced label, R of a chunk, D width, N codebooks, V codes, h code width.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq.model.quantizer import CHUNK_VALUES, RandomQuantizer

SMALLEST = 1e-12  # probability, inside a logarithm


@dataclass
class Labels:
    """What enhanced labels are made of (eq. 4), and how F and H are weighed."""

    v_NLh: Tensor  # unit vectors of the first L frames
    quantizer: RandomQuantizer
    scale: float  # s
    sample: Callable[[Tensor], tuple[Tensor, Tensor]]  # logits of a chunk -> labels, and the soft ones that their gradient runs through
    temperature: float
    mean: Callable[[Tensor], Tensor]  # sum of noise-free labels over the L frames here -> their mean over the batch
    n_labelled: int  # labelled frames of the batch
    weight: float  # w1
    entropy_weight: float  # β
    head: nn.Linear  # may be the one that predicts anchoring labels


@dataclass
class Found:
    """Losses, and counts over frames × codebooks. Only `total` has a gradient."""

    total: Tensor
    anchor: Tensor
    n_correct: Tensor
    enhanced: Tensor | None = None
    entropy: Tensor | None = None  # of the mean label, nats, mean over codebooks
    n_faithful: Tensor | None = None
    codes_LN: Tensor | None = None  # nearest, noise-free


def entropy(p_NV: Tensor) -> Tensor:
    """In nats, mean over codebooks."""
    return -(p_NV * p_NV.clamp_min(SMALLEST).log()).sum(-1).mean()


class _WithGradient(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx, value: Tensor, grads: list[Tensor | None], *inputs: Tensor | None) -> Tensor:
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, None, *(None if g is None else g * grad for g in ctx.grads)


@contextlib.contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """TF32 for the products with a head's weights: bf16's speed is not needed here, its 8 bits would be seen in the loss."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class _Head:
    """A head's weights and the gradients that chunks add to."""

    def __init__(self, head: nn.Linear, n_codebooks: int):
        self.weight_KD, self.bias_K, self.n_codebooks = head.weight.float(), head.bias.float(), n_codebooks
        self.grads = [torch.zeros_like(self.weight_KD), torch.zeros_like(self.bias_K)]

    def log_probabilities(self, h_RD: Tensor) -> Tensor:
        with _tensor_cores(h_RD.device):
            logits = F.linear(h_RD, self.weight_KD, self.bias_K)
        return F.log_softmax(logits.view(len(h_RD), self.n_codebooks, -1), dim=-1)

    def backward(self, grad_RNV: Tensor, h_RD: Tensor, grad_h_RD: Tensor) -> None:
        """Add what a gradient at the logits means for the weights and for h."""
        grad_RK = grad_RNV.flatten(1)
        with _tensor_cores(h_RD.device):
            self.grads[0].addmm_(grad_RK.T, h_RD)
            grad_h_RD.addmm_(grad_RK, self.weight_KD)
        self.grads[1].add_(grad_RK.sum(0))


class _Enhanced:
    """Enhanced labels chunk by chunk: the sums of F, H, and the gradient at v."""

    def __init__(self, labels: Labels, rows: int):
        self.labels, (n, self.n_frames, _) = labels, labels.v_NLh.shape
        self.w1 = labels.weight / (labels.n_labelled * n)
        self.sum, self.n_faithful = labels.v_NLh.new_zeros(()), 0
        self.grad_v_NLh = torch.zeros_like(labels.v_NLh)
        codes, mean_NV = [], labels.v_NLh.new_zeros(labels.quantizer.codebook.shape[:2])
        for begin in range(0, self.n_frames, rows):
            logits_RNV = self._logits(begin, min(begin + rows, self.n_frames))
            codes.append(logits_RNV.argmax(-1))
            mean_NV += F.softmax(logits_RNV, dim=-1).sum(0)
        self.codes_LN = torch.cat(codes) if codes else labels.v_NLh.new_zeros(0, n, dtype=torch.int64)
        mean_NV = labels.mean(mean_NV)
        self.entropy = entropy(mean_NV)
        # of −w1 β H at one frame's label, but for a constant, which a softmax takes away
        self.entropy_grad_NV = self.w1 * labels.entropy_weight * mean_NV.clamp_min(SMALLEST).log()

    def _logits(self, begin: int, end: int) -> Tensor:
        return self.labels.quantizer.logits(self.labels.v_NLh[:, begin:end]).mul_(self.labels.scale)

    def chunk(self, begin: int, end: int, logp_RNV: Tensor) -> Tensor:
        """Labels of a chunk; adds its part of F and, where v has a gradient, that of F and H."""
        logits_RNV = self._logits(begin, end)
        label_RNV, soft_RNV = self.labels.sample(logits_RNV)
        self.sum -= torch.dot(label_RNV.flatten(), logp_RNV.flatten())
        self.n_faithful += (label_RNV.argmax(-1) == self.codes_LN[begin:end]).sum()
        if self.labels.v_NLh.requires_grad:
            grad_RNV = _softmax_backward(soft_RNV, logp_RNV * (-self.w1 / self.labels.temperature))
            if self.labels.entropy_weight:
                grad_RNV += _softmax_backward(F.softmax(logits_RNV, dim=-1), self.entropy_grad_NV.expand_as(logits_RNV).clone())
            grad_NRV = grad_RNV.mul_(2 * self.labels.scale).transpose(0, 1)
            self.grad_v_NLh[:, begin:end] = torch.matmul(grad_NRV, self.labels.quantizer.codebook)
        return label_RNV


def _softmax_backward(y: Tensor, grad: Tensor) -> Tensor:
    """Gradient at the logits of a softmax y; overwrites the gradient at y."""
    grad.mul_(y)
    return grad.sub_(y * grad.sum(-1, keepdim=True))


def masked_prediction(
    h_MD: Tensor, head: nn.Linear, y_MN: Tensor, codebook_size: int, n_masked: int, anchor_weight: float, labels: Labels | None
) -> Found:
    """w2 G, or with labels w1 (F − β H) + w2 G, of M masked frames of a batch that has `n_masked`; the first L have enhanced labels.

    h_MD: the encoder's output; y_MN: anchoring labels.
    """
    h_MD = h_MD.float()
    inputs = [h_MD, head.weight, head.bias]
    if labels:
        inputs += [labels.v_NLh, labels.head.weight, labels.head.bias]
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    with torch.no_grad(), torch.autocast(h_MD.device.type, enabled=False):
        found, grads = _by_chunks(h_MD, head, y_MN, codebook_size, n_masked, anchor_weight, labels, wanted)
    if wanted:
        found.total = _WithGradient.apply(found.total, grads, *inputs)
    return found


def _by_chunks(
    h_MD: Tensor,
    head: nn.Linear,
    y_MN: Tensor,
    codebook_size: int,
    n_masked: int,
    anchor_weight: float,
    labels: Labels | None,
    wanted: bool,
) -> tuple[Found, list[Tensor | None]]:
    m, n = y_MN.shape
    rows = max(1, CHUNK_VALUES[h_MD.device.type] // (n * codebook_size))
    w2 = anchor_weight / (n_masked * n)
    anchor_head = _Head(head, n)
    enhanced_head = _Head(labels.head, n) if labels and labels.head is not head else anchor_head
    enhanced = _Enhanced(labels, rows) if labels else None
    n_labelled = enhanced.n_frames if enhanced else 0
    grad_h_MD = torch.zeros_like(h_MD)
    anchor_sum, n_correct = h_MD.new_zeros(()), 0

    starts = [*range(0, n_labelled, rows), *range(n_labelled, m, rows)]
    for begin, end in itertools.pairwise([*starts, m]):
        h_RD, y_RN1, grad_h_RD = h_MD[begin:end], y_MN[begin:end, :, None], grad_h_MD[begin:end]
        logp_RNV = anchor_head.log_probabilities(h_RD)
        anchor_sum -= logp_RNV.gather(-1, y_RN1).sum()
        n_correct += (logp_RNV.argmax(-1, keepdim=True) == y_RN1).sum()
        weight, label_RNV = w2, None
        if enhanced and begin < n_labelled:
            shared = enhanced_head is anchor_head
            logq_RNV = logp_RNV if shared else enhanced_head.log_probabilities(h_RD)
            label_RNV = enhanced.chunk(begin, end, logq_RNV)
            if shared:
                weight += enhanced.w1
            elif wanted:
                enhanced_head.backward(logq_RNV.exp_().sub_(label_RNV).mul_(enhanced.w1), h_RD, grad_h_RD)
                label_RNV = None
        if wanted:  # at the logits: (w1 + w2) p − w2 [v = y] − w1 label
            grad_RNV = logp_RNV.exp_().mul_(weight)
            grad_RNV.scatter_add_(-1, y_RN1, grad_RNV.new_full((), -w2).expand_as(y_RN1))
            if label_RNV is not None:
                grad_RNV.sub_(label_RNV, alpha=enhanced.w1)
            anchor_head.backward(grad_RNV, h_RD, grad_h_RD)

    anchor = anchor_sum / (n_masked * n)
    found = Found(total=anchor_weight * anchor, anchor=anchor, n_correct=n_correct)
    grads = [grad_h_MD, *anchor_head.grads]
    if enhanced:
        found.enhanced = enhanced.sum / (labels.n_labelled * n)
        found.entropy = enhanced.entropy * (n_labelled / labels.n_labelled)  # a share of the batch's
        found.total = labels.weight * (found.enhanced - labels.entropy_weight * found.entropy) + found.total
        found.n_faithful, found.codes_LN = enhanced.n_faithful, enhanced.codes_LN
        grads += [enhanced.grad_v_NLh, *([None, None] if enhanced_head is anchor_head else enhanced_head.grads)]
    return found, grads
