"""How fast several downloads go together, and how far they are."""

from __future__ import annotations

import threading
import time

from birq.progress import Progress

BLOCK_BYTES = 1 << 18
SLOWEST_BYTES_PER_SECOND = 100.0  # below it, a server counts as stalled


class Pace:
    """A limit of bandwidth that several threads share, and their common end."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second  # 0: no limit
        self.block_bytes = min(BLOCK_BYTES, max(1024, int(bytes_per_second / 10))) if bytes_per_second else BLOCK_BYTES
        self.slowest = min(SLOWEST_BYTES_PER_SECOND, bytes_per_second / 100) if bytes_per_second else SLOWEST_BYTES_PER_SECOND
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._free = 0.0  # when the bytes taken so far are paid for

    def take(self, n_bytes: int) -> None:
        """Wait as long as `n_bytes` take at the limit. Errors: StoppedError."""
        if self.bytes_per_second:
            with self._lock:
                self._free = max(self._free, time.monotonic()) + n_bytes / self.bytes_per_second
                until = self._free
            self.wait(until - time.monotonic())
        else:
            self.wait(0)

    def wait(self, seconds: float) -> None:
        """Errors: StoppedError, as soon as all shall end."""
        if self.stopped.wait(seconds) if seconds > 0 else self.stopped.is_set():
            raise StoppedError


class StoppedError(Exception):
    """Another thread was interrupted: this one ends too, its bytes are kept."""


class Slow:
    """Whether bytes come so slowly that waiting for the rest is of no use."""

    def __init__(self, window_seconds: float, slowest: float) -> None:
        self.window_seconds, self.slowest = window_seconds, slowest
        self.begun, self.n_bytes = time.monotonic(), 0

    def slow(self, n_bytes: int) -> str:
        """Count bytes; a sentence at the end of a window in which too few came."""
        self.n_bytes += n_bytes
        seconds = time.monotonic() - self.begun
        if seconds < self.window_seconds:
            return ""
        few = self.n_bytes < self.slowest * seconds
        self.begun, self.n_bytes = time.monotonic(), 0
        return f"the server stalled: fewer than {self.slowest:g} bytes a second for {self.window_seconds:g} s" if few else ""


class Meter:
    """One progress line for several files: bytes, speed and time left."""

    def __init__(self, title: str, there: dict[str, int], n_bytes: dict[str, int | None]) -> None:
        self._there, self._n_bytes = dict(there), dict(n_bytes)
        self._lock = threading.Lock()
        self._begun, self._start = time.monotonic(), sum(there.values())
        self._unit, self._name = ("MB", 1e6), title
        self._progress: Progress | None = None

    def at(self, name: str, there: int, n_bytes: int | None) -> None:
        """File `name` has `there` of `n_bytes` bytes."""
        with self._lock:
            self._there[name] = there
            self._n_bytes[name] = n_bytes or self._n_bytes.get(name)
            total, done = sum(n or 0 for n in self._n_bytes.values()), sum(self._there.values())
            if not total:
                return
            if self._progress is None:
                self._unit = ("MB", 1e6) if total >= 1e7 else ("kB", 1e3)
                self._progress = Progress(self._name, 0, self._unit[0], start=self._scaled(self._start))
            self._progress.total = self._scaled(total)
            fresh, seconds = done - self._start, time.monotonic() - self._begun
            speed = f"{fresh / seconds / 1e6:.3g} MB/s" if fresh > 0 and seconds > 0 else None
            self._progress.update(self._scaled(done), speed=speed)

    def _scaled(self, n_bytes: int) -> int:
        return int(n_bytes / self._unit[1])

    def close(self) -> None:
        with self._lock:
            if self._progress:
                self._progress.close()
