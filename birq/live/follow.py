"""Training curves in other tools while they grow: `python -m birq live`.

Training writes its curve as JSON lines and does not know this module, which reads it as it grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birq.live import sinks, trainings
from birq.live.sinks import Sink
from birq.live.trainings import Training
from birq.settings.params import Params


class Follower:
    """One training: hands the lines that are new since the last look to sinks of its own."""

    def __init__(self, training: Training, opened: Sequence[Sink]):
        self.key, self.sinks = training.key, opened
        self.seen = [sink.step for sink in opened]  # a tool that keeps a run by its key has some steps already

    @property
    def step(self) -> int:
        return max(self.seen)

    def take(self, training: Training) -> int:
        """Log the lines of steps that were not logged yet. How many."""
        fresh = set()
        for line in trainings.lines(training.curve):
            values = {name: value for name, value in line.items() if value is not None and name != "step"}
            for i, sink in enumerate(self.sinks):
                if line["step"] > self.seen[i]:
                    sink.log(line["step"], values)
                    self.seen[i] = line["step"]
                    fresh.add(line["step"])
        return len(fresh)


def follow(
    params: Params, tools: Sequence[str], folder: Path | None, say: Callable[[str], Any], *, once: bool, every_seconds: float = 3.0
) -> None:
    """Hand the curves to tools until every training of these params is done; `once`: only the lines that are there now.

    tools: of `sinks.TOOLS`. folder: of what a tool writes, for each STAGE/RUN (default: the tool's name).
    Errors: BirqError for a tool that birq does not know, or whose package is not installed, or that refuses a run.
    """
    openers = [sinks.opener(tool, folder or Path(tool)) for tool in tools]
    left = trainings.nodes(params)
    followers: dict[str, Follower] = {}
    try:
        while True:
            for node in list(left):
                if (training := trainings.training(node)) is None:
                    continue
                follower = followers.get(training.name)
                if training.curve.exists() and (follower is None or follower.key != training.key):
                    follower = followers[training.name] = Follower(training, [opened(training) for opened in openers])
                if follower and (count := follower.take(training)):
                    say(f"{training.name}: {count} more lines, step {follower.step}")
                if training.finished:
                    left.remove(node)
            if once or not left:
                break
            time.sleep(every_seconds)
    finally:
        for follower in followers.values():
            for sink in follower.sinks:
                sink.end()
