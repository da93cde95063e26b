"""Worker processes for stages that compute many independent pieces: results as they are done, few pieces under way."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver, get_context, parent_process
from typing import TypeVar

from birq.errors import BirqError

Task = TypeVar("Task")
Result = TypeVar("Result")


def results(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int, killed: str) -> Iterator[tuple[Task, Result]]:
    """(task, function(task)) in the order of completion, computed by `workers` processes with one torch thread each; 1: in this process.

    `function` is a module's own, so that workers can import it. At most 2 · `workers` tasks are under way, so `tasks` may be a long
    generator. `killed`: the sentence of the BirqError for a worker that was killed. An error of `function` is raised here.
    """
    if workers == 1:
        yield from _here(function, tasks)
        return
    context = get_context("forkserver")  # a fork of a process with threads may hang
    context.set_forkserver_preload([function.__module__, "torch"])
    forkserver.ensure_running()  # its imports and those of the first tasks, here, take seconds each: side by side
    under_way: dict[Future[Result], Task] = {}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            for task in tasks:
                under_way[pool.submit(function, task)] = task
                while len(under_way) >= 2 * workers:
                    yield from _done(under_way)
            while under_way:
                yield from _done(under_way)
        except BrokenProcessPool:
            # a worker that began while the pool broke down is not told to end, and would be waited for without end
            for process in list(pool._processes.values()):
                process.kill()
            raise BirqError(killed) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _done(under_way: dict[Future[Result], Task]) -> Iterator[tuple[Task, Result]]:
    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
        yield under_way.pop(future), future.result()


def _here(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the number of threads may change a result by float rounding
    try:
        for task in tasks:
            yield task, function(task)
    finally:
        torch.set_num_threads(threads)


# ---- in a worker


def _start_worker() -> None:
    """A worker has one thread, and ends when the run that started it is killed."""
    import torch

    torch.set_num_threads(1)
    _keep_freed_memory()
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _keep_freed_memory() -> None:
    """Else glibc gives a shard's memory back to the system and takes it again: a worker has seven times the page faults."""
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 512 << 20)
        mallopt(mmap_threshold, 32 << 20)
