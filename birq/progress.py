"""Progress of long work: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line in one piece (print may take two), so that the lines of jobs at work at once stay whole; to stderr."""
    stream = stream or sys.stderr
    stream.write(text + "\n")
    stream.flush()


def _clock(seconds: float) -> str:
    seconds = max(0, round(seconds))
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """`stage  120/2000 step  loss 5.31  speed 812 h/h  left 3:12`, at most once in `every_seconds`."""

    def __init__(
        self,
        name: str,
        total: int,
        unit: str = "step",
        start: int = 0,
        every_seconds: float | None = None,
        stream: TextIO | None = None,
    ):
        self.name, self.total, self.unit, self.start = name, total, unit, start
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every_seconds = every_seconds if every_seconds is not None else (0.2 if self.live else 10.0)
        self.begun = time.monotonic()
        self.shown = -float("inf")

    def update(self, done: int, **figures: float | int | str | None) -> None:
        """Say how far the work is; `figures` are printed in the order given, None is left out."""
        now = time.monotonic()
        if now - self.shown < self.every_seconds and done < self.total:
            return
        self.shown = now
        parts = [self.name, f"{done}/{self.total} {self.unit}"]
        for key, value in figures.items():
            if value is not None:
                parts.append(f"{key.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}")
        fresh = done - self.start
        if fresh > 0 and done < self.total:
            parts.append(f"left {_clock((now - self.begun) / fresh * (self.total - done))}")
        line = "  ".join(parts)
        with contextlib.suppress(BrokenPipeError):  # a signal to the whole job ends the reader first: work goes on to its checkpoint
            self.stream.write(f"\r\x1b[2K{line}" if self.live else line + "\n")
            self.stream.flush()

    def close(self) -> None:
        if self.live:
            self.stream.write("\n")
            self.stream.flush()
