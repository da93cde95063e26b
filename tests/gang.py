"""Ranks for tests: processes that find each other as under torchrun, forked from one that has torch loaded already."""

from __future__ import annotations

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = mp.get_context("forkserver")
# every optimiser wants torch._dynamo, which takes as long as torch; pyarrow wants pandas where there is one
CONTEXT.set_forkserver_preload(["birq.stages.pretrain", "birq.stages.finetune", "torch._dynamo", "torch.profiler", "pandas", "pytest"])
SECONDS = 300  # a gang that hangs is killed, and the test fails


def _member(rank: int, size: int, port: int, answers: Any, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    torch.set_num_threads(1)
    try:
        answer = function(*args)
    except Exception as e:
        answer = e if type(e).__module__.startswith("birq") else RuntimeError(traceback.format_exc())
    answers.send(answer)


def run(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(*args)` returns, or the error of birq's that it raises, on each of `size` ranks. A function of a module, no lambda."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    gang = [CONTEXT.Process(target=_member, args=(r, size, store.port, pipes[r][1], function, args)) for r in range(size)]
    for p in gang:
        p.start()
    try:
        answers = []
        for rank, (ours, _) in enumerate(pipes):
            assert ours.poll(SECONDS), f"rank {rank} of {size} hangs"
            answers.append(ours.recv())
        for answer in answers:
            if isinstance(answer, RuntimeError):
                raise answer
        return answers
    finally:
        for p in gang:
            p.join(5)
            p.kill()
            p.join()
