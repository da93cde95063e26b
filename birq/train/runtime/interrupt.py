"""Asked to stop: by a signal, or because the time of a Slurm job is nearly over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import datetime
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
MARGIN_SECONDS = 60.0  # before the end of a Slurm job: the time that a checkpoint of a large model needs
MARGIN_SHARE = 0.05  # of the job's time, where that is less


class StopRequest:
    """While it is open, SIGTERM and SIGUSR1 do not kill; a call says whether to stop, and `reason` why.

    `watch_time`: stop by itself before a Slurm job ends; of several ranks, one has to.
    """

    def __init__(self, watch_time: bool = True) -> None:
        self.reason: str | None = None
        self._end = last_moment(dict(os.environ), time.time()) if watch_time else None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        try:
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        except ValueError:  # not the main thread: signals go elsewhere
            self._before = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def __call__(self) -> bool:
        if self.reason is None and self._end is not None and time.time() >= self._end:
            self.reason = "the Slurm job's time is nearly over"
        return self.reason is not None


def last_moment(environment: dict[str, str], now: float) -> float | None:
    """Unix time at which a job must begin to stop, from the end that Slurm gives it; None where Slurm gives no end in the future."""
    try:
        begin, end = _limits(environment)
    except (KeyError, ValueError, OSError, subprocess.SubprocessError):  # no job, no limit, or Slurm does not answer
        return None
    if end <= now:  # left over from another job, or past its limit already: stopping at every start would never end
        return None
    return end - min(MARGIN_SECONDS, MARGIN_SHARE * max(0.0, end - begin))


def _limits(environment: dict[str, str]) -> tuple[float, float]:
    """Begin and end of the Slurm job, Unix times. Before Slurm 23.02 they are not in the environment, and squeue is asked."""
    if "SLURM_JOB_END_TIME" in environment:
        return float(environment["SLURM_JOB_START_TIME"]), float(environment["SLURM_JOB_END_TIME"])
    command = ["squeue", "--noheader", "--job", environment["SLURM_JOB_ID"], "--format", "%S %e"]
    times = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=True).stdout
    begin, end = (datetime.fromisoformat(t).timestamp() for t in times.split())
    return begin, end
