"""Training curves in DVCLive while they grow: `python -m birq live`.

Training writes its curve as JSON lines and does not know this module, which reads it as it grows. No key and no result depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from birq.errors import BirqError
from birq.pipeline import artifact, dag, keys, locations
from birq.pipeline.dag import Node
from birq.settings.params import Params


class Follower:
    """One training of the present params: hands the lines that are new since the last look to a sink of its own."""

    def __init__(self, folder: Path, key: str):
        from dvclive import Live

        # its dvc.yaml lies beside the curves: the project's own is not touched, and no experiment is saved
        self.sink = Live(dir=str(folder / "curves"), dvcyaml=str(folder / "dvc.yaml"), save_dvc_exp=False)
        self.key, self.step = key, 0

    def take(self, curve: Path) -> int:
        """Log the finished lines of steps that were not logged yet; a training that was resumed writes some steps twice. How many."""
        try:
            text = curve.read_text(encoding="utf-8")
        except FileNotFoundError:  # published just now; the next look finds it in the store
            return 0
        count = 0
        for line in map(json.loads, text[: text.rfind("\n") + 1].splitlines()):
            if line["step"] <= self.step:
                continue
            self.step = self.sink.step = line["step"]
            for name, value in line.items():
                if value is not None and name != "step":
                    self.sink.log_metric(name, value)
            self.sink.next_step()
            count += 1
        return count


def _key(node: Node) -> str | None:
    """The key of a training, or None while its inputs are not there or are those of other params."""
    key = keys.current_key(node)
    for before in (n for n in node.before if n.method) if key else ():
        if artifact.of(before)["key"] != _key(before):
            return None
    return key


def follow(params: Params, folder: Path, say: Callable[[str], Any], *, once: bool, every_seconds: float = 3.0) -> None:
    """Write `folder`/STAGE/RUN until every training of these params is done; `once`: only the lines that are there now.

    Errors: BirqError if the package dvclive is not installed.
    """
    try:
        import dvclive  # noqa: F401
    except ImportError:
        raise BirqError("the package dvclive is not installed: pip install 'birq[dvclive]', or pip install dvclive") from None
    runs = {n.name: n for n in dag.nodes(params) if n.stage.ranks}
    followers: dict[str, Follower] = {}
    done: set[str] = set()
    while True:
        for run, node in runs.items():
            if run in done or (key := _key(node)) is None:
                continue
            stored = locations.store_path(node.stage.name, key)
            finished = stored.exists()
            curve = (stored if finished else locations.work_root() / node.stage.name / key / "scratch") / "curve.jsonl"
            if curve.exists() and (run not in followers or followers[run].key != key):
                followers[run] = Follower(folder / run, key)
            if run in followers and (count := followers[run].take(curve)):
                say(f"{run}: {count} more lines, step {followers[run].step}")
            if finished:
                done.add(run)
        if once or len(done) == len(runs):
            break
        time.sleep(every_seconds)
    for follower in followers.values():
        follower.sink.end()
