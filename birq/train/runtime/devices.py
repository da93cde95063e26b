"""Where a stage computes: the first GPU or the CPU. Noted in the provenance."""

from __future__ import annotations

from typing import Any

import torch

from birq import ranks
from birq.errors import BirqError


def name_of(device: torch.device) -> str:
    """The card's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_attention() -> None:
    """No attention by cuDNN, in this process. birq's attention has a mask, so torch then takes the memory-efficient kernel.

    torch 2.13 prefers cuDNN's on Hopper and Blackwell. That one builds a graph for each new shape, 0.4 to 1 s (FunASR issue 3704, sglang
    issue 4650), and nearly every batch has a new one. With a mask it may give NaN gradients where length % 128 = 64 (pytorch issue 196678).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def check_count(n_ranks: int, n_gpus: int) -> None:
    """Errors: BirqError for more ranks than GPUs on a node; without GPUs, any number may train on its CPUs."""
    if 0 < n_gpus < n_ranks:
        raise BirqError(
            f"{n_ranks} ranks on a node on which {n_gpus} GPU(s) are visible: each needs its own. Set BIRQ_RANKS (or torchrun's "
            f"--nproc-per-node) to {n_gpus} at most, CUDA_VISIBLE_DEVICES to more of them, or to nothing for training on the CPU"
        )


def for_training(cpu_threads: int, notes: dict[str, Any]) -> torch.device:
    """CUDA where there is one, for each rank of a node its own, else the CPU with so many threads. Errors: as `check_count`."""
    torch.set_num_threads(cpu_threads)
    choose_attention()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        check_count(ranks.local_rank() + 1, torch.cuda.device_count())
        torch.cuda.set_device(ranks.local_rank())
        device = torch.device("cuda", ranks.local_rank())
    notes.update(ranks=ranks.world_size(), device=name_of(device), threads=cpu_threads)
    return device


def for_inference(notes: dict[str, Any]) -> torch.device:
    """CUDA where there is one, else one CPU thread. Both in float32: figures must not depend on the machine."""
    choose_attention()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    notes["device"] = name_of(device)
    return device
