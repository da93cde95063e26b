"""Contenders run in turn (A B C A B C …), ratios taken within a round, medians and quartiles over the rounds.

A machine that slows down for a while slows all contenders of a round, so ratios keep their meaning where times do not.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    *("birq", "torch", "torchaudio", "numpy", "pyarrow", "soundfile", "lhotse", "lilcom", "speechbrain"),
    *("vector-quantize-pytorch", "transformers", "kaldi-native-fbank", "jiwer", "rapidfuzz"),
)


@dataclass(frozen=True)
class Contender:
    """Something that does the work of a part once per call. `untimed` runs before every call, outside the clock."""

    name: str
    run: Callable[[], Any]
    untimed: Callable[[], Any] | None = None


@dataclass
class Part:
    """Contenders that do the same work, timed together. All times are in seconds, one per round."""

    title: str
    work: str  # of one call
    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # measured beside the times: differences, megabytes, shares

    def ratio(self, above: str, below: str, clock: str = "wall") -> dict[str, float]:
        """Time of `above` over time of `below`, round by round: median and quartiles. `clock`: wall, or cpu for a busy machine."""
        times = getattr(self, clock)
        return spread([a / b for a, b in zip(times[above], times[below], strict=True)])

    def show(self) -> None:
        """The part as a table, times relative to the last contender that is not a floor."""
        print(f"  {self.title}: {self.work}")
        base = ([c for c in self.wall if not c.startswith("floor")] or [""])[-1]
        for name, times in self.wall.items():
            cells = []
            for clock in ("wall", "cpu"):
                r, seconds = self.ratio(name, base, clock), statistics.median(getattr(self, clock)[name])
                cells.append(f"{clock} {seconds:8.4f} s  x {r['median']:6.2f} [{r['low']:.2f}, {r['high']:.2f}]")
            print(f"    {name:40s} {cells[0]}   {cells[1]}   ({len(times)} rounds)")
        for name, value in self.facts.items():
            print(f"    {name}: {value}")

    def to_json(self) -> dict[str, Any]:
        return self.__dict__


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles; of fewer than two values, the value itself."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def race(
    title: str, work: str, contenders: list[Contender], rounds: int, clock: Callable[[], tuple[float, float]] | None = None, warmup: int = 1
) -> Part:
    """Run every contender once per round, in the order given; `warmup` rounds before that are not counted."""
    clock = clock or _clock
    part = Part(title, work, {c.name: [] for c in contenders}, {c.name: [] for c in contenders})
    for number in range(-warmup, rounds):
        for c in contenders:
            if c.untimed is not None:
                c.untimed()
            gc.collect()
            wall, cpu = clock()
            c.run()
            wall, cpu = (after - before for after, before in zip(clock(), (wall, cpu), strict=True))
            if number >= 0:
                part.wall[c.name].append(wall)
                part.cpu[c.name].append(cpu)
    return part


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


# ---- memory: the high-water mark of a process that does nothing else


def peak_mib(target: str, *args: Any) -> dict[str, float]:
    """MiB that `target` ("module:function") takes at most, in a process of its own.

    The function sets up with `*args` and returns a callable. `before` is the memory that the process holds then, `peak` the most on top
    of it while the callable runs.
    """
    command = [sys.executable, "-m", "benchmarks.harness", target, json.dumps(args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _memory_mib(field_name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field_name}")


def _peak_in_this_process(target: str, args: list[Any]) -> None:
    import importlib

    module, function = target.split(":")
    run = getattr(importlib.import_module(module), function)(*args)
    gc.collect()
    before = _memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    run()
    print(json.dumps({"before": round(before, 1), "peak": round(_memory_mib("VmHWM") - before, 1)}))


# ---- results


def machine() -> dict[str, Any]:
    cpu = next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "unknown")
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(ram, 1),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return versions


def write(name: str, parts: list[Part], *, quick: bool, seconds: float, command: str) -> Path:
    """benchmarks/results/NAME.json: all raw times, the facts measured beside them, and the machine."""
    about = {"benchmark": name, "date": date.today().isoformat(), "command": command, "quick": quick}
    about |= {"seconds": round(seconds, 1), "machine": machine(), "versions": versions()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(about | {"parts": [p.to_json() for p in parts]}, indent=1) + "\n")
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, Part]]:
    """A results file: its facts about the run, and its parts by title."""
    about = json.loads(path.read_text())
    return about, {p["title"]: Part(**p) for p in about.pop("parts")}


if __name__ == "__main__":
    _peak_in_this_process(sys.argv[1], json.loads(sys.argv[2]))
