"""What a run is doing now, as plain data: the state of every artifact of the present params, and the curves of its trainings."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birq.errors import BirqError
from birq.live import trainings
from birq.live.trainings import Training
from birq.pipeline import artifact, dag, keys, locations
from birq.pipeline.dag import Node
from birq.settings import params

POINTS = 300  # of a curve; of more lines, every n-th
RECENT_LINES = 10  # from which the time that is left is taken
SILENT_SECONDS = 600.0  # a job of another machine that has written nothing for so long may be dead
FIGURES = {
    "pretrain": ("loss", "masked_accuracy", "enhanced_perplexity", "anchor_perplexity", "label_fidelity"),
    "finetune": ("loss", "dev_loss", "dev_wer"),
}


def _thin(rows: Sequence[Any]) -> list[Any]:
    step = -(-len(rows) // POINTS) or 1
    return [row for i, row in enumerate(rows) if i % step == 0 or i == len(rows) - 1]


def _holder(node: Node, key: str) -> str:
    """The process that holds the lock of a key, as it wrote it; empty where nobody has."""
    try:
        return locations.store_path(node.stage.name, key).with_suffix(".lock").read_text(errors="replace").strip()
    except OSError:
        return ""


def _alive(holder: str, work: Path) -> bool:
    """Whether the process that wrote a lock is at work. Of another machine: whether its files changed lately."""
    _, _, rest = holder.partition("process ")
    number, _, host = rest.partition(" on ")
    if host == socket.gethostname() and number.isdigit():
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
    newest = max((p.stat().st_mtime for p in (work, *work.glob("*"), *work.glob("scratch/*")) if p.exists()), default=0.0)
    return time.time() - newest < SILENT_SECONDS


def _job(node: Node) -> dict[str, Any]:
    """state: done, stale (made under other params, inputs or code), running, stopped (a kill left a part), or waiting."""
    out: dict[str, Any] = {"name": node.name, "stage": node.stage.name, "wildcards": node.wildcards, "seconds": None, "detail": ""}
    key = keys.current_key(node)
    try:
        record = artifact.of(node)
    except BirqError:
        record = None
    if record and record["key"] == key:
        return out | {"state": "done", "seconds": artifact.own_seconds(record)}
    if key and (work := locations.work_root() / node.stage.name / key).is_dir():
        holder = _holder(node, key)
        # the reserve lies there while a stage computes, and after a kill
        if (work / "reserve").exists() and _alive(holder, work):
            return out | {"state": "running", "detail": holder}
        if (work / "scratch").is_dir():
            return out | {"state": "stopped", "detail": "the same command goes on"}
    return out | ({"state": "stale", "detail": f"birq why {node.name}"} if record else {"state": "waiting"})


def _curve(training: Training) -> dict[str, Any] | None:
    rows = list(trainings.lines(training.curve))
    if not rows:
        return None
    timing = list(trainings.lines(training.folder / "timing.jsonl"))
    stage = training.node.stage.name
    steps = params.section(training.node.params, stage)["steps"]
    total = steps if isinstance(steps, int) else None  # of epochs, the run itself says how many
    done, left_s = rows[-1]["step"], None
    if total and len(timing) > 1 and not training.finished:
        first, last = timing[-min(RECENT_LINES, len(timing))], timing[-1]
        left_s = (last["seconds"] - first["seconds"]) / max(last["step"] - first["step"], 1) * max(total - done, 0)
    curves = {}
    for name in FIGURES[stage]:
        points = [[row["step"], row[name]] for row in rows if row.get(name) is not None]
        if points:
            curves[name] = _thin(points)
    speed = timing[-1].get("audio_hours_per_hour") if timing else None
    about = {"stage": stage, "run": training.name.partition("/")[2], "step": done, "steps": total}
    return about | {"left_s": left_s, "speed_h_per_h": speed, "curves": curves}


def state(project: params.Params) -> dict[str, Any]:
    """jobs: of all artifacts, inputs first. trainings: those that have begun. pages: reports that are made."""
    found = [t for t in map(trainings.training, trainings.nodes(project)) if t]
    begun = [curve for curve in map(_curve, found) if curve]
    return {
        "project": Path.cwd().name,
        "jobs": [_job(node) for node in dag.every(project)],
        "trainings": begun,
        "pages": [name for name, path in PAGES.items() if path().is_file()],
        "at": time.strftime("%H:%M:%S"),
    }


# the pages that may be shown beside this one
PAGES = {
    "report": lambda: locations.data_root() / "report" / "index.html",
    "study": lambda: locations.data_root() / "study" / "index.html",
}
