"""The peak rate of a device, the memory that a process holds, and two options of an encoder for training."""

from __future__ import annotations

import os
import re
import resource

import torch

from birq.errors import BirqError
from birq.model.encoder import Encoder

# dense bf16, by the makers' data sheets
PEAK_TFLOPS = {
    "GH200": 989.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
    "H100": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A40": 149.7,
    "A10": 125.0,
    "A10G": 70.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
FORM = r"(?:[- ](?:SXM\d*|PCIe|\d+GB?|HBM\d\w*))*"  # what torch adds to a name without naming another card


def card(name: str) -> str | None:
    """The key of PEAK_TFLOPS for a card's name as torch gives it; None where it is not known. L40 is not L4, H100 NVL is not H100."""
    for key in sorted(PEAK_TFLOPS, key=len, reverse=True):  # H100 PCIe has a key of its own
        if re.fullmatch(rf"(?:NVIDIA )?(?:GeForce |Tesla )?{re.escape(key)}{FORM}", name, re.IGNORECASE):
            return key
    return None


def peak_tflops(name: str) -> float | None:
    """Dense bf16 peak of a card, TFLOP/s; None where it is not known, as for CPUs."""
    key = card(name)
    return PEAK_TFLOPS[key] if key else None


def _asked(name: str) -> bool:
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        raise BirqError(f"{name}={value}: must be 0 or 1")
    return value == "1"


def prepare(encoder: Encoder) -> list[str]:
    """Make an encoder ready for training as the environment asks; returns the names of the variables that are on.

    BIRQ_COMPILE=1: see `compile_blocks`. BIRQ_RECOMPUTE=1: activations of a block are computed again in the backward pass instead of being
    kept; a third more work, memory of one block.
    Errors: BirqError for other values.
    """
    asked = [name for name in ("BIRQ_COMPILE", "BIRQ_RECOMPUTE") if _asked(name)]
    encoder.recompute = "BIRQ_RECOMPUTE" in asked
    if "BIRQ_COMPILE" in asked:
        compile_blocks(encoder)
    return asked


def compile_blocks(encoder: Encoder) -> None:
    """torch.compile of an encoder's blocks, once for all numbers and lengths of utterances.

    The first step is slow, and results are equal up to float rounding. The convolution over time is a sum of shifted copies there
    (birq/model/kernels.py): of torch's own, Inductor fixes the length for the backward pass (torch 2.13), would compile anew for every
    other length, and give up after eight.
    """
    # each kind of call is compiled by itself (dropout or none, gradient or none, one utterance or more); torch's limit is eight
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    encoder.always_masks = True
    for block in encoder.blocks:
        block.compile(dynamic=True)


def peak_gib(device: torch.device) -> float:
    """Peak memory of this process: of the card, or of the machine where there is no card."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
