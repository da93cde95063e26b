"""Memory of a training on one GPU: what a step holds when it is largest, by formula. A test holds it against a pretended GPU.

That is between the forward and the backward pass: weights, AdamW's moments, what autograd keeps, and the tensors of one chunk of frames
and codes. The allocator's own loss is not in it.
"""

from __future__ import annotations

from math import prod
from typing import Any

from birq.model.encoder import Shape
from birq.model.kernels import aligned
from birq.model.quantizer import CHUNK_VALUES

WEIGHT_BYTES = 14  # of a weight: itself and AdamW's two moments in float32, and its copy in bf16
GRADIENT_BYTES = 4  # of a weight; there before the activations are only where micro-batches follow each other
CHUNKS, LABEL_CHUNKS = 3.25, 3.25  # tensors as large as frames and codes of a chunk: of the prediction, and more for enhanced labels
LABEL_STATISTICS = 12  # bytes of a frame and a unit of width, where z is standardised
GIB = 2**30


def kept_values(shape: Shape, n_frames: float) -> tuple[float, float]:
    """Numbers that autograd keeps of a Conformer block for one encoder frame: those in bf16 on a GPU, and those in float32.

    In units of the width d, e and c for the expansions: bf16 are the inputs of all products (feed-forwards 2 (1 + 2 e), attention 5,
    convolution 1 + 4 c), rotated queries and keys 2, or scaled queries 1. Float32 are the inputs of norms 5 + c and of the SiLU behind the
    convolution c; they are in bf16 too where `model.norms` says so. Relative positions keep the scores' bias, heads · frames attended to;
    attention's probabilities are not kept.
    """
    e, c, relative = shape.ff_expansion, shape.conv_expansion, shape.positions == "relative"
    low = shape.d_model * (2 * (1 + 2 * e) + 5 + (1 if relative else 2) + 1 + 4 * c)
    attended = min(round(n_frames), shape.attention_window or round(n_frames))
    low, norms = low + relative * shape.n_heads * aligned(attended), shape.d_model * (5 + 2 * c)
    return (low + norms, 0) if shape.norms == "bf16" else (low, norms)


def activation_bytes_per_frame(shape: Shape, n_frames: float, dropout: float = 0.0) -> float:
    """Of one block on a GPU; dropout's masks take a byte a number."""
    low, full = kept_values(shape, n_frames)
    return 2 * low + 4 * full + (shape.d_model * (2 * shape.ff_expansion + 4) if dropout else 0)


def weights_gib(n_weights: int, micro_batches: int) -> float:
    """Weights, their copies, the optimiser, and gradients where several micro-batches add to them."""
    return n_weights * (WEIGHT_BYTES + (GRADIENT_BYTES if micro_batches > 1 else 0)) / GIB


def activations_gib(shape: Shape, frames: float, n_frames: float, dropout: float, objective: Any, masked_share: float) -> float:
    """Of a micro-batch of `frames` encoder frames in utterances of `n_frames`. `objective`: of a method; None for fine-tuning."""
    held = shape.n_layers * activation_bytes_per_frame(shape, n_frames, dropout)
    chunks = 0.0
    if objective is not None:
        chunks = CHUNKS
        if getattr(objective, "enhanced_weight", 0):
            chunks += LABEL_CHUNKS
            layers = objective.label_layer * activation_bytes_per_frame(shape, n_frames) if objective.label_gradient else 0.0
            held += objective.label_share * (layers + LABEL_STATISTICS * shape.d_model)
        codes = prod(objective.label_sizes)
        chunks *= 4 * min(CHUNK_VALUES["cuda"], frames * masked_share * codes)
    return (held * frames + chunks) / GIB
