"""Several processes train one model: their sums and checks. A single process never calls torch.distributed.

Every rank keeps the whole model and optimiser and takes its share of each micro-batch. Gradients are summed once per optimiser step, by
plain all-reduce in buckets, not by DistributedDataParallel. DDP would send the first buckets while the backward pass still runs. But that
pass makes collective calls of its own (statistics of z and of the mean label). Frozen steps, unused heads and shares without an utterance
give no gradient. So the order of the two streams of calls could differ between ranks. docs/scale.md gives the cost of the missing overlap.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from birq import ranks
from birq.errors import BirqError, Diverged, Stopped

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
BUCKET_NUMBERS = 8 << 20  # 32 MiB of float32 gradients in one call
TIMEOUT = timedelta(minutes=30)  # for one call; longer than any step, checkpoint or evaluation batch


class _Sum(torch.autograd.Function):
    """Sum over the ranks; the gradients of all ranks' results are summed for every rank's summand."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        out = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


@dataclass(frozen=True)
class Group:
    """The processes that train together. Every method but `rank` and `size` must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def total(self, x: Tensor) -> Tensor:
        """Sum over the ranks, with gradient."""
        return _Sum.apply(x) if self.size > 1 else x

    def add(self, x: Tensor) -> Tensor:
        """Sum over the ranks, in place, of a CPU tensor without gradient."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def any(self, here: bool) -> bool:
        """True on every rank if it is true on one."""
        return bool(self.add(torch.tensor(int(here))))

    def gathered(self, value: Any) -> list[Any]:
        """One value of each rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks, in few calls."""
        if self.size == 1:
            return
        under_way = []
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([g.flatten() for g in bucket])
            under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in under_way:
            work.wait()
            for grad, new in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                grad.copy_(new.view_as(grad))

    def wait(self) -> None:
        """Until every rank is here."""
        self.any(False)

    def assert_equal(self, model: nn.Module, step: int) -> None:
        """Every rank must begin with the same weights, quantizers and step. Errors: BirqError if not."""
        if self.size == 1:
            return
        seen = self.gathered((step, digest(model)))
        if odd := [r for r, value in enumerate(seen) if value != seen[0]]:
            raise BirqError(
                f"ranks {odd} begin with other weights or another step than rank 0 (steps {[s for s, _ in seen]}): "
                "do all nodes see the same data/ folder, and run the same software?"
            )


ALONE = Group()


def join(device: torch.device) -> Group:
    """Form the group of the processes that torchrun has started; alone, without any."""
    if ranks.world_size() == 1:
        return ALONE
    _end_with_launcher()
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store = dist.PrefixStore("birq/group", ranks.store())
    dist.init_process_group(backend, store=store, rank=ranks.rank(), world_size=ranks.world_size(), timeout=TIMEOUT)
    return Group(dist.get_rank(), dist.get_world_size())


def _end_with_launcher() -> None:
    """A launcher that is killed cannot tell its ranks: the kernel does, and they stop at a checkpoint instead of going on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def leave() -> None:
    """End the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The group of `join` for a training, and its end.

    It ends after Stopped and Diverged too, which all ranks meet at the same step. After an error of one rank it stays: the others wait in a
    call that never comes, and the launcher ends them.
    """
    group = join(device)
    try:
        yield group
    except (Stopped, Diverged):
        leave()
        raise
    leave()


def digest(model: nn.Module) -> str:
    """Hash of all weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _buckets(grads: list[Tensor]) -> list[list[Tensor]]:
    out: list[list[Tensor]] = []
    room = 0
    for grad in grads:
        if not out or grad.numel() > room:
            out.append([])
            room = BUCKET_NUMBERS
        out[-1].append(grad)
        room -= grad.numel()
    return out
