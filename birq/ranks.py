"""Several processes that train one model: the number of this one, and the message from rank 0 to the others. Starts without torch.

The variables are those that torchrun sets. Only rank 0 locks, looks into the store, writes and publishes (birq/pipeline/stage.py).
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache
from typing import Any

FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(days=30)  # rank 0 may wait for another run's lock


def launched() -> bool:
    """True in a process that torchrun has started."""
    return all(name in os.environ for name in FROM_TORCHRUN)


def rank() -> int:
    """This process' number, 0 where it is alone."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """This process' number on its node: its GPU."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


@cache
def store() -> Any:
    """The key-value store that the ranks share before they form a group."""
    from torch.distributed import rendezvous

    shared, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return shared


def announce(key: str) -> None:
    """Rank 0 announces the key to compute ("" for none), once. A single process announces nothing."""
    if world_size() > 1:
        store().set("birq/key", key)


def receive() -> str:
    """Wait for the key that rank 0 announces."""
    return store().get("birq/key").decode()
