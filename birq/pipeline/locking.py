"""The lock of a key: one process makes an artifact, the others wait for it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from birq.pipeline import sharing


@contextlib.contextmanager
def lock(stored: Path, say: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a key; another holder is named and waited for. The kernel frees it when its holder dies.

    It lies in the store, which several clones may share. Where the store refuses even a lock, nothing can be made, and stored artifacts
    need none. Errors: RefusedError for an artifact that such a store does not hold.
    """
    path, kind = stored.with_suffix(".lock"), fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        f = open(sharing.open_lock(path), "rb+", buffering=0)  # noqa: SIM115
    except OSError as e:
        if e.errno not in sharing.REFUSED:
            raise
        with sharing.explained(reading=True):
            if not stored.exists():
                raise sharing.not_held(e) from None
        yield
        return
    with f:
        try:
            fcntl.flock(f, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f.read().decode(errors="replace").strip()
            say(f"waiting: {holder or 'another run'} is making this artifact (lock {path})")
            fcntl.flock(f, kind)
        except OSError as e:
            if e.errno != errno.EBADF or not stored.exists():
                raise
            yield  # NFS locks nothing for one who may only read
            return
        # a note for waiting processes; a full disk must not prevent a restore, nor a lock of another user that may only be read
        with contextlib.suppress(OSError):
            f.seek(0)
            f.truncate()
            f.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
