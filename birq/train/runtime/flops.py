"""Floating-point operations of the work that an objective asks for, by formula: 2 per multiply-add, matrix products and convolutions only.

Other operations (norms, activations, recomputed activations) are not counted. So the share of peak (MFU, Chowdhery et al. 2022) is that of
the useful work. A test holds the formula against the products that run.
"""

from __future__ import annotations

from math import prod

from birq.model.encoder import RELATIVE_REACH, Shape
from birq.model.quantized import Quantization

TRAINING = 3  # forward, gradient to the input, gradient to the weights


def encoder_per_frame(shape: Shape, n_layers: int, n_frames: float) -> float:
    """One forward pass of `n_layers` layers, per encoder frame of an utterance of `n_frames`."""
    d, inner = shape.d_model, shape.conv_expansion * shape.d_model
    attended = min(n_frames, shape.attention_window or n_frames)
    relative = 2 * (2 * RELATIVE_REACH + 1) * d if shape.positions == "relative" else 0
    feed_forward = 2 * 4 * shape.ff_expansion * d * d
    attention = 8 * d * d + 4 * attended * d + relative
    convolution = 6 * d * inner + 2 * shape.conv_kernel * inner
    return 2 * shape.n_stack * shape.n_mels * d + n_layers * (feed_forward + attention + convolution)


def pretraining_per_frame(shape: Shape, objective: Quantization, n_frames: float, masked_share: float) -> float:
    """One step of pre-training, forward and backward, per encoder frame: BEST-RQ's part, and with w1 the label path of eq. 4.

    Mean over the steps of a run: those before the enhanced labels begin have no label path.
    """
    o, d = objective, shape.d_model
    codes = prod(o.label_sizes)
    # labels from a file cost nothing here
    made = not hasattr(o, "label_codebooks")
    quantizer = made * 2 * o.codebook_dim * (o.n_codebooks * shape.n_stack * shape.n_mels + codes)
    head = TRAINING * 2 * d * codes
    total = TRAINING * encoder_per_frame(shape, shape.n_layers, n_frames) + masked_share * (quantizer + head)
    if getattr(o, "similarity_weight", 0):
        total += masked_share * 2 * o.codebook_dim * codes
    if getattr(o, "distil_weight", 0):
        further = masked_share * TRAINING * 2 * d * o.distil_codes
        further += 2 * o.codebook_dim * (shape.n_stack * shape.n_mels + o.distil_codes)
        further += 2 * n_frames * (TRAINING * o.codebook_dim + len(o.distil_layers) * d)
        total += (1 - o.distil_begins_share) * further
    if getattr(o, "enhanced_weight", 0):
        passes = TRAINING if o.label_gradient else 1
        labels = passes * encoder_per_frame(shape, o.label_layer, n_frames)
        labels += masked_share * passes * 2 * o.codebook_dim * (o.n_codebooks * d + codes)
        if o.heads == "separate":
            labels += masked_share * head
        total += (1 - o.begins_share) * o.label_share * labels
    return total
