"""Worker processes: results as they are done, few tasks under way, a killed worker is an error with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import process
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from birq.errors import BirqError
from birq.pipeline import pool

TESTS = Path(__file__).resolve().parent


def square(x: int) -> tuple[int, int, int]:
    return x * x, os.getpid(), torch.get_num_threads()


def refuse(x: int) -> int:
    if x == 3:
        raise BirqError("the third")
    return x


def die(x: int) -> int:
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_has_its_result_computed_with_one_thread(workers: int):
    # the number of threads may change a sum's last bits, so a worker and this process must use the same
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = dict(pool.results(square, range(7), workers, "killed"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert {x: y for x, (y, _, _) in made.items()} == {x: x * x for x in range(7)}
    assert {n for _, _, n in made.values()} == {1}
    assert (os.getpid() in {process for _, process, _ in made.values()}) == (workers == 1)


def test_few_tasks_are_under_way():
    # the list of a thousand hours' shards must never lie in memory as a whole
    begun = 0

    def tasks() -> Iterator[int]:
        nonlocal begun
        for x in range(20):
            begun += 1
            yield x

    for done, _ in enumerate(pool.results(square, tasks(), 2, "killed"), 1):
        assert begun <= done + 4


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_is_raised_here(workers: int):
    with pytest.raises(BirqError, match="the third"):
        list(pool.results(refuse, range(6), workers, "killed"))


def test_a_killed_worker_is_an_error_with_its_sentence():
    with pytest.raises(BirqError, match="a worker was killed; run again"):
        list(pool.results(die, range(6), 2, "a worker was killed; run again"))


def test_a_worker_that_nobody_told_to_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    """As one that began while the pool broke down."""
    monkeypatch.setattr(BaseProcess, "terminate", lambda self: None)
    monkeypatch.setattr(process._ExecutorManagerThread, "shutdown_workers", lambda self: None)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still waiting"))
    signal.alarm(60)
    try:
        with pytest.raises(BirqError, match="killed"):
            list(pool.results(die, range(6), 2, "killed"))
    finally:
        signal.alarm(0)


LINGER = """
import sys, time
sys.path.insert(0, {tests!r})
import test_pool
if __name__ == "__main__":
    for _ in test_pool.pool.results(test_pool.linger, range(4), 2, "killed"):
        print("begun", flush=True)
"""


def linger(x: int) -> int:
    time.sleep(600 * (x > 0))
    return x


def test_workers_end_with_the_run_that_started_them(tmp_path: Path, environment: dict[str, str]):
    # after kill -9 of the run, a worker that goes on would write beside the next run
    script = tmp_path / "run.py"
    script.write_text(LINGER.format(tests=str(TESTS)))
    child = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None and child.stdout.readline() == b"begun\n"
    child.kill()
    child.wait()
    child.stdout.close()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive the run that was killed")
