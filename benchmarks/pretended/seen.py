"""What was seen on the pretended device."""

from __future__ import annotations

import os
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor

import birq
from benchmarks.bounds import Work

BIRQ = f"{os.path.dirname(os.path.abspath(birq.__file__))}/"


@dataclass
class Seen:
    """Since the last `clear`. `live` and `peak`: bytes of tensors on the device, as without an allocator."""

    waits: list[str] = field(default_factory=list)  # what, and the line of birq that asked for it
    attention: Counter[str] = field(default_factory=Counter)
    float32: Counter[str] = field(default_factory=Counter)  # products in float32, by line
    work: Work = field(default_factory=Work)
    live: int = 0
    peak: int = 0
    sizes_only: bool = False  # floats have no data

    def clear(self) -> None:
        """Begin anew; what is on the device stays there."""
        self.__init__(live=self.live, peak=self.live, sizes_only=self.sizes_only)  # type: ignore[misc]


SEEN = Seen()


def where() -> str:
    """The innermost line of birq on the stack; of a gradient, that of the backward pass."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(BIRQ):
            return f"{file.removeprefix(BIRQ)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def waits(what: str) -> None:
    """The CPU waits for the device here."""
    SEEN.waits.append(f"{what} at {where()}")


def track(x: Tensor) -> None:
    """Count a tensor's memory as long as it lives."""
    storage = x.untyped_storage()
    if getattr(storage, "_seen", False):
        return
    storage._seen = True
    n = storage.nbytes()
    weakref.finalize(storage, _forget, n)
    SEEN.live += n
    SEEN.peak = max(SEEN.peak, SEEN.live)


def _forget(n: int) -> None:
    SEEN.live -= n
