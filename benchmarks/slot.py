"""What runs from a pack (benchmarks/pack.py) on a GPU machine that is lent for minutes: speech, checks of a step on the GPU against the
CPU's, then pre-trainings with their probes, as many as fit.

    sh run.sh --minutes 7 --out RESULTS

RESULTS/results.json is written anew after every part, whole, and RESULTS/log.txt has what the verbs said: what was done is there whenever
the machine goes. Runs are those of the study, or without one of run.methods. All of the first seed come first, several at once, each by
birq's own verbs: a model as small as the demo's leaves most of a GPU idle. None is begun that would not end in time by the longest so
far, and one that the end of the slot finds at work stops at a checkpoint. The same command again goes on from there, if the machine still
has the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birq import files
from birq.settings.params import Params, load

STOPPING_SECONDS = 20.0  # from the signal to the end of a verb that writes a checkpoint
CHECKED = {
    "BEST-RQ": ("best_rq", {}),
    "BEST-RQ, refined codes": ("best_rq", {"random_projection.codebook": "refined"}),
    "BiRQ": ("birq", {}),
    "BiRQ, printed": ("birq", {"random_projection.distance": "raw", "birq.logit_scale": 1.0, "birq.noise": "reversed"}),
}
TOLERANCE = 0.05  # of a loss in bf16 with other draws of masks' noise, of Gumbel noise and of the utterances that get labels
CHECK_AUDIO_SECONDS = 60.0
IMPORTED = ("birq.stages.pretrain", "birq.stages.labels", "birq.stages.probe", "birq.labels.kmeans", "birq.model.objectives")
IMPORTED += ("lhotse", "soundfile", "miniaudio", "espeakng_loader")  # birq imports these late


@dataclass
class Slot:
    """The time that is left, and what was found. `ends`: by time.monotonic()."""

    out: Path
    ends: float
    record: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    longest: float = 0.0  # seconds of a run so far

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def write(self, **facts: Any) -> None:
        """Add facts, and write all that is known."""
        with self.lock:
            self.record |= facts
            files.write_text(self.out / "results.json", json.dumps(self.record, indent=1) + "\n")

    def verb(self, *arguments: str) -> tuple[int, float]:
        """A verb of birq in a process of its own: exit status and seconds. At the end of the slot it is asked to stop, then killed."""
        begun = time.monotonic()
        with open(self.out / "log.txt", "a") as log:
            child = subprocess.Popen([sys.executable, "-P", "-m", "birq", *arguments], stdout=log, stderr=log)
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, self.left) if signal_number == signal.SIGTERM else STOPPING_SECONDS)
                    break
                child.send_signal(signal_number)
        return child.wait(), round(time.monotonic() - begun, 2)


def machine() -> dict[str, Any]:
    """The software and the device that runs are made with."""
    import torch

    from birq import __version__
    from birq.pipeline import environment
    from birq.train.runtime.devices import name_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return environment.environment() | {"birq": __version__, "device": name_of(device)}


def lacking() -> list[str]:
    """What cannot be imported, and why: asked first, so that no minute is spent before it is known."""
    from birq.errors import BirqError
    from birq.speech.resampling import torchaudio

    found = []
    try:
        torchaudio()  # birq's guarded import of it
    except BirqError as e:
        found.append(str(e))
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as e:  # OSError: a library that does not load
            found.append(f"{name}: {e}")
    return found


def check(params: Params, method: str, change: dict[str, Any], device: str) -> dict[str, Any]:
    """One step on noise: the losses and the gradient's norm."""
    import torch

    from benchmarks.training import changed, model_of
    from birq.settings.methods import METHODS
    from birq.settings.params import numbers
    from birq.study.measure import random_batch
    from birq.train.pretraining import PretrainTask, Refining, from_params
    from birq.train.runtime.ahead import pinned
    from birq.train.runtime.devices import choose_attention

    choose_attention()
    p = changed(params, change)
    model = model_of(p, method).to(device)
    refining = from_params(Refining, numbers(p, METHODS[method]))
    task = PretrainTask(model, p.pretrain, method, torch.device(device), 0, p.features.frame_shift_ms, refining=refining)
    batch = random_batch(CHECK_AUDIO_SECONDS, 6.0, p.features.frame_shift_ms, p.model.n_stack, p.features.n_mels)
    ready = task.ready([batch], p.pretrain.steps - 1, 0)
    task.backward(pinned(ready) if device == "cuda" else ready, p.pretrain.steps - 1, 0)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    figures = task.figures(1)
    return {key: figures[key] for key in ("anchor_loss", "enhanced_loss")} | {"gradient_norm": float(norm)}


def checks(slot: Slot, params: Params) -> None:
    """The GPU's losses are the CPU's up to bf16 and to what is drawn on each; skipped where there is no GPU. What fails is recorded."""
    import torch

    if not torch.cuda.is_available():
        return slot.write(checks="skipped: torch sees no GPU")
    found = {}
    for name, (method, change) in CHECKED.items():
        begun = time.monotonic()
        try:
            cpu, gpu = (check(params, method, change, device) for device in ("cpu", "cuda"))
            losses = [k for k in ("anchor_loss", "enhanced_loss") if cpu[k] is not None]
            good = all(abs(gpu[k] - cpu[k]) <= TOLERANCE * abs(cpu[k]) for k in losses)
            found[name] = {"good": good, "cpu": cpu, "gpu": gpu, "seconds": round(time.monotonic() - begun, 2)}
        except Exception as e:  # whatever fails on a machine that nobody has seen, trainings must still be tried
            found[name] = {"good": False, "error": f"{type(e).__name__}: {e}"}
        slot.write(checks=found)


def speech(slot: Slot, params: Params) -> None:
    """Corpora and features, which every run reads."""
    seconds = {}
    for name in params.corpora:
        for stage in ("corpus", "features"):
            status, seconds[f"{stage}/{name}"] = slot.verb(stage, "--corpus", name)
            if status:
                return slot.write(speech=seconds, error=f"{stage}/{name} ended with {status}: log.txt says why")
    return slot.write(speech=seconds)


def last_line(path: Path) -> dict[str, Any] | None:
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else None


def run(slot: Slot, method: str, seed: int) -> dict[str, Any]:
    """Pre-train and probe a form with a seed; what it is made from is made on the way."""
    about: dict[str, Any] = {"form": method, "seed": seed, "state": "done", "seconds": {}}
    for stage in ("pretrain", "probe"):
        status, about["seconds"][stage] = slot.verb(stage, "--method", method, "--seed", str(seed))
        if status:
            return about | {"state": "stopped" if slot.left <= 0 else "failed", "stage": stage, "status": status}
    encoder, probe = (Path("data") / stage / f"{method}-{seed}" for stage in ("pretrain", "probe"))
    curves = {name: last_line(encoder / f"{name}.jsonl") for name in ("curve", "timing")}
    found = files.read_json(probe / "probe.json")
    provenance = files.read_json(encoder / "provenance.json")
    about |= {"key": provenance["key"], "device": provenance["notes"].get("device"), "input_seconds": provenance["input_seconds"]}
    return about | {"layers": [row["linear"] for row in found["rows"]], **curves, "probe": found["rows"]}


def wanted(params: Params) -> list[tuple[str, int]]:
    """The runs of the study, or without one those that the report compares, all of the first seed first."""
    found = params.study.runs() or [(method, seed) for method in params.run.methods for seed in params.run.seeds]
    return sorted(found, key=lambda one: one[1])


def runs(slot: Slot, params: Params, at_once: int) -> None:
    """As many as fit, in turn, `at_once` at a time."""
    todo = wanted(params)
    made: list[dict[str, Any]] = []

    def work() -> None:
        while True:
            with slot.lock:
                if not todo or slot.left < slot.longest:
                    return
                one = todo.pop(0)
            begun = time.monotonic()
            try:
                about = run(slot, *one)
            except Exception as e:  # one form must not end the others
                about = {"form": one[0], "seed": one[1], "state": "failed", "error": f"{type(e).__name__}: {e}"}
            with slot.lock:
                slot.longest = max(slot.longest, time.monotonic() - begun)
                made.append(about)
                now = list(made)
            slot.write(runs=now, left=[f"{m}-{s}" for m, s in todo])
            print(f"{about['form']}-{about['seed']}: {about['state']}, {slot.left:.0f} s left", flush=True)

    workers = [threading.Thread(target=work) for _ in range(at_once)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    slot.write(runs=made, left=[f"{m}-{s}" for m, s in todo])


def table(record: dict[str, Any]) -> str:
    """What was done, by seed and form: the linear probe by layer, per cent."""
    lines = []
    for about in record.get("runs", []):
        cells = [f"{100 * x:6.1f}" if x is not None else "     –" for x in about.get("layers", [])]
        lines.append(f"{about['form'] + '-' + str(about['seed']):32s}{about['state']:8s}{''.join(cells)}")
    return "\n".join([*lines, f"not begun: {', '.join(record.get('left', [])) or 'none'}"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="sh run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="of the slot that are left; 20 s of them are kept for stopping")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json and log.txt")
    parser.add_argument("--at-once", type=int, default=4, help="runs at a time (default: 4)")
    parser.add_argument("--started-in", type=Path, default=Path(), help=argparse.SUPPRESS)
    o = parser.parse_args()
    out = o.started_in / o.out
    out.mkdir(parents=True, exist_ok=True)
    slot = Slot(out, time.monotonic() + 60 * o.minutes - STOPPING_SECONDS)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    params = load()
    if missing := lacking():
        slot.write(error=f"not to be imported: {'; '.join(missing)}")
        sys.exit(f"error: {slot.record['error']}; pack it with --lacks NAME")
    slot.write(machine=machine(), params=params.model_dump(mode="json"))
    making = threading.Thread(target=speech, args=(slot, params))
    making.start()
    checks(slot, params)
    making.join()
    if "error" in slot.record:
        sys.exit(f"error: {slot.record['error']}")
    runs(slot, params, o.at_once)
    print(table(slot.record))


if __name__ == "__main__":
    main()
