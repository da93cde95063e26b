"""Batches made ready while the step before them runs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

DEPTH = 2  # batches that wait; their memory is small beside a step's


def pinned(value: Any) -> Any:
    """The same with its tensors, of a dataclass or a list, in memory that a GPU copies from while the CPU goes on."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, list):
        return [pinned(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: pinned(getattr(value, f.name)) for f in fields(value)})
    return value


class Ahead:
    """Iterates over `source` in a thread of its own, `ready` applied to each value there; an error comes out where its value would have.

    `waited_seconds`: how long `next` had to wait in all.
    """

    def __init__(self, source: Iterator[Any], ready: Callable[[Any], Any] = lambda x: x):
        self.waited_seconds = 0.0
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(DEPTH)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(source, ready), daemon=True, name="batches")
        self._thread.start()

    def _fill(self, source: Iterator[Any], ready: Callable[[Any], Any]) -> None:
        try:
            for value in source:
                if not self._put((ready(value), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as e:  # whatever it is belongs to the training
            self._put((None, e))

    def _put(self, item: tuple[Any, BaseException | None]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        begun = time.perf_counter()
        value, error = self._queue.get()
        self.waited_seconds += time.perf_counter() - begun
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """End the thread and drop the values that it has made."""
        self._stopped.set()
        self._thread.join()
