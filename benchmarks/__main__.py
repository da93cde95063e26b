"""Benchmarks against named opponents, on one machine, in one run.

python -m benchmarks                             list them
python -m benchmarks setup                       make .venv-bench with birq and the opponents
python -m benchmarks fbank labels ... [--quick]  run some, or `all`; write benchmarks/results/NAME.json
python -m benchmarks report                      write the tables and charts of docs/performance.md from the results
python -m benchmarks EXPERIMENT [--help]         an experiment without opponents, in this Python; also python -m benchmarks.EXPERIMENT
"""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness

BENCHMARKS = {
    "fbank": "the log-mel kernel",
    "features": "feature stage, FLAC on disk to features on disk; two workers; memory",
    "feed": "an epoch of padded batches from features on disk; plan of a large epoch",
    "labels": "nearest codes of a random-projection quantizer",
    "step": "a training step of BEST-RQ and of BiRQ; memory",
    "decode": "greedy CTC and scoring",
    "gpu": "steps of BEST-RQ and BiRQ on one GPU (not part of `all`)",
}
EXPERIMENTS = {
    "same_steps": "are a step's numbers those of an earlier commit?",
    "emulated": "waits, kernels, bytes and memory of a step on a pretended GPU, of an earlier commit too",
    "compiled": "kernels and bytes of compiled blocks, as Inductor writes them for a GPU",
    "profile": "a step's time by kind of operation, of an earlier commit too",
    "equal_time": "word error rates at equal time of pre-training",
    "collapse": "which forms of BiRQ keep their labels alive",
    "contract": "the cost of keys, store and tools with nothing to do",
    "transcribe": "texts, word times, seams and memory of `birq transcribe`, beside the pipeline",
    "scale": "memory and time of every stage with as many utterances as LibriSpeech has",
    "pack": "a folder for a GPU machine without a network: checks, and as many of a study's runs as fit its minutes",
    "house": "modules, lines, layers, of an earlier commit too",
}
VENV = harness.ROOT / ".venv-bench"


def listing() -> str:
    lines = [f"  {name:10s} {title}" for name, title in BENCHMARKS.items()]
    others = [f"  {name:10s} {title}" for name, title in EXPERIMENTS.items()]
    run = "python -m benchmarks NAME ... [--quick] runs benchmarks, python -m benchmarks EXPERIMENT [--help] one experiment"
    return "\n".join(["benchmarks:", *lines, "experiments:", *others, "", f"{run}; --help lists the rest"])


def setup() -> None:
    """Make .venv-bench with birq's dependencies and the opponents."""
    if not (VENV / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    constraints = [] if shutil.which("nvidia-smi") else ["-c", "constraints-cpu.txt"]
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", *constraints]
    subprocess.run([*pip, "-e", ".", "-r", "benchmarks/opponents.txt"], cwd=harness.ROOT, check=True)
    print(f"{VENV} is ready")


def in_venv(arguments: list[str]) -> None:
    """Go on in .venv-bench, so that the command works with any `python`."""
    python = VENV / "bin" / "python"
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not python.exists():
        sys.exit("error: .venv-bench is missing, which holds the opponents; make it with `python -m benchmarks setup`")
    os.chdir(harness.ROOT)
    os.execv(python, [str(python), "-m", "benchmarks", *arguments])


def run(name: str, quick: bool) -> None:
    print(f"{name}: {BENCHMARKS[name]}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"birq-{name}-") as scratch:
        parts = importlib.import_module(f"benchmarks.{name}").run(Path(scratch), quick)
    for part in parts:
        part.show()
    command = f"python -m benchmarks {name}" + (" --quick" if quick else "")
    path = harness.write(name, parts, quick=quick, seconds=time.monotonic() - begun, command=command)
    print(f"{path.relative_to(harness.ROOT)} is written", flush=True)


def experiment(name: str, arguments: list[str]) -> None:
    """As python -m benchmarks.NAME."""
    sys.argv[:] = [name, *arguments]
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in EXPERIMENTS:
        return experiment(arguments[0], arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, "all", "setup", "report", []], metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few rounds and small inputs: to see that it works, not for figures")
    parser.add_argument("--corpora", type=Path, help="folder that holds LibriSpeech as FLAC (default: BIRQ_CORPORA)")
    options = parser.parse_args(arguments)
    if options.corpora:
        os.environ["BIRQ_CORPORA"] = str(options.corpora.resolve())
    if not options.names:
        print(listing())
    elif options.names == ["setup"]:
        setup()
    elif options.names == ["report"]:
        from benchmarks import report

        report.write()
    else:
        if {"setup", "report"} & set(options.names):
            parser.error("setup and report stand alone")
        in_venv(arguments)
        for name in [n for n in BENCHMARKS if n != "gpu"] if "all" in options.names else options.names:
            run(name, options.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
