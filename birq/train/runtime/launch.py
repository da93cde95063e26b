"""Start the ranks of a training: `python -m birq pretrain ...` runs itself once per GPU, over all nodes of a Slurm job.

This uses torchrun's own interface, so that the verb keeps its exit status and its signals. The number of ranks is a setting, not a
param: results are equal up to float rounding. BIRQ_RANKS says how many a node runs; without it, as many as it has visible GPUs.
BIRQ_NODES says how many nodes of the Slurm job take part, where the verb runs in a step on one of them; without it, all.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from birq import ranks
from birq.errors import BirqError, Stopped
from birq.progress import say

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
DEVICES = Path("/dev")
LINGER_SECONDS = 3  # one launcher holds the rendezvous of the others: it stays until they have seen their own ranks end
SHUTDOWN_SECONDS = 120  # for a checkpoint, before ranks that were asked to stop are killed


def needed(argv: list[str]) -> Callable[[], None] | None:
    """A function that starts `python -m birq ARGV` as several ranks, or None where this process is enough."""
    if ranks.launched():
        return None
    nodes, each = _nodes(), _per_node()
    if nodes * each < 2:
        return None
    return lambda: _finish(_over_nodes(nodes, each, argv) if nodes > 1 else run_node(1, each, "localhost:0", uuid.uuid4().hex, argv))


def _asked(name: str, counted: str) -> int | None:
    """A count from the environment. Errors: BirqError where it is none."""
    text = os.environ.get(name, "")
    if text and (not text.isdecimal() or int(text) < 1):
        raise BirqError(f"{name}={text}: must be the number of {counted}, 1 or more")
    return int(text) if text else None


def _per_node() -> int:
    """Errors: BirqError where BIRQ_RANKS asks for more than there are GPUs."""
    asked = _asked("BIRQ_RANKS", "processes that train on a node")
    # a container may have GPUs 4 to 7 of its machine alone
    if asked == 1 or not (any(DEVICES.glob("nvidia[0-9]*")) or "CUDA_VISIBLE_DEVICES" in os.environ):
        return asked or 1  # torch need not be asked
    import torch

    from birq.train.runtime.devices import check_count

    check_count(asked or 1, torch.cuda.device_count())
    return asked or max(1, torch.cuda.device_count())


def _nodes() -> int:
    """Nodes of the Slurm job that this process runs in, 1 outside of Slurm."""
    if "SLURM_JOB_ID" not in os.environ or not shutil.which("srun"):
        return 1
    return _asked("BIRQ_NODES", "nodes of the Slurm job that train") or int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def _finish(status: int) -> None:
    """Errors: BirqError that carries the ranks' exit status; they have said why."""
    if status:
        error = Stopped() if status == Stopped.status else BirqError()
        error.status = status
        raise error


def run_node(nodes: int, each: int, endpoint: str, run_id: str, argv: list[str]) -> int:
    """Run this node's ranks and wait for them. Returns their exit status: 0, 75 after a stop at a checkpoint, else an error's."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [n for n in logging.root.manager.loggerDict if n.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # ranks report their own errors
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=each,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        max_restarts=0,  # the program that started the verb tries again
        local_addr="localhost" if nodes == 1 else None,
        signals_to_handle=",".join(s.name for s in SIGNALS),
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    handlers = {s: signal.getsignal(s) for s in SIGNALS}
    try:
        elastic_launch(config, sys.executable)("-m", "birq", *argv)
    except ChildFailedError as e:
        status = _status({rank: failure.exitcode for rank, failure in e.failures.items()})
        time.sleep(LINGER_SECONDS if nodes > 1 else 0)
        return status
    except RendezvousError as e:
        say(f"error: the launcher of another node is gone ({e}); the same command goes on from the last checkpoint")
        return 1
    except SignalException as e:
        if e.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return Stopped.status  # ranks got the signal too, and left a checkpoint if they had come so far
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _status(codes: dict[int, int]) -> int:
    """One exit status for those of several ranks."""
    for known in (Stopped.status, BirqError.status):
        if known in codes.values():
            return known
    for rank, code in sorted(codes.items()):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        say(f"error: rank {rank} {how}; the same command goes on from the last checkpoint")
    return 1


def _over_nodes(nodes: int, each: int, argv: list[str]) -> int:
    """One launcher per node of this Slurm job; they meet at this one."""
    with socket.socket() as s:  # a port that is free now
        s.bind(("", 0))
        port = s.getsockname()[1]
    endpoint = f"{socket.gethostname()}:{port}"
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap", "--kill-on-bad-exit=0"]
    if threads := os.environ.get("SLURM_CPUS_PER_TASK"):  # srun does not take it from the job by itself
        srun.append(f"--cpus-per-task={threads}")
    node = [sys.executable, "-m", "birq.train.runtime.launch", str(nodes), str(each), endpoint, os.environ["SLURM_JOB_ID"]]
    # else Slurm's variables of a step on one node (its tasks, its node) would hold for the new step too
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k in ("SLURM_CONF", "SLURM_JOB_ID")}
    child = subprocess.Popen([*srun, *node, "--", *argv], env=inherited)
    # srun hands SIGUSR1, which means nothing to itself, on to every launcher, and that to its ranks
    handlers = {s: signal.signal(s, lambda *_: child.send_signal(signal.SIGUSR1)) for s in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        return child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def main() -> int:
    """The launcher of one node."""
    p = argparse.ArgumentParser(
        prog="python -m birq.train.runtime.launch", description="Run one node's ranks of a training; birq calls it by srun."
    )
    p.add_argument("nodes", type=int)
    p.add_argument("ranks", type=int)
    p.add_argument("endpoint")
    p.add_argument("run_id")
    p.add_argument("argv", nargs="+")
    a = p.parse_args()
    return run_node(a.nodes, a.ranks, a.endpoint, a.run_id, a.argv)


if __name__ == "__main__":
    sys.exit(main())
