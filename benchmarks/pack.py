"""A folder with all that a GPU machine without a network needs for the study's trainings; `sh run.sh` there runs benchmarks/slot.py.

    python -m benchmarks pack PACK --preset study-screen               # then copy PACK to the machine, and there:
    sh PACK/run.sh --minutes 7 --out RESULTS                           # RESULTS/results.json grows with every run

In it: the code, params.yaml, and the wheels of what such a machine lacks beside PyTorch, in the versions that are installed here. The
speech is made there, from the same seed: features of the demo's 5.2 hours are 284 MiB, all wheels, espeak-ng's among them, 18 MiB.
So a preset may ask for more hours at no more bytes to copy. Another processor rounds the speech's last bits otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.harness import ROOT
from benchmarks.slot import wanted
from birq.errors import BirqError
from birq.settings import params, presets

CODE = ("birq", "benchmarks", "presets", "params.yaml", ":!benchmarks/results", ":!benchmarks/pretended")
# of birq's dependencies, what verbs up to the probe import; urllib3: lhotse imports it and does not say so
READ = ("pydantic", "ruamel.yaml", "lhotse", "urllib3", "soundfile", "miniaudio", "espeakng-loader")
# what machines with PyTorch for GPUs have, beside those: their images hold much more. --lacks NAME packs one all the same
PRESENT = ("torch", "torchaudio", "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors", "sentencepiece", "threadpoolctl")
PRESENT += ("packaging", "pyyaml", "click", "tqdm", "sortedcontainers", "joblib")
GLIBC = (39, 34, 31, 28, 27, 24, 17, 12, 5)  # pip takes a wheel for the version that is named, and for no older one
RUN = """#!/bin/sh
# in the pack's own folder, with nothing of any other birq
here=$(cd "$(dirname "$0")" && pwd) && out=$(pwd) && cd "$here" || exit 1
[ -d site ] || python3 -c 'import glob, zipfile; [zipfile.ZipFile(w).extractall("site") for w in glob.glob("wheels/*.whl")]' || exit 1
unset BIRQ_STORE
PYTHONPATH="$here:$here/site" exec python3 -P -m benchmarks.slot --started-in "$out" "$@"
"""


def wheels(lacks: tuple[str, ...] = ()) -> list[str]:
    """NAME==VERSION of what has to be carried: those of READ and what they need, but for what is present."""
    present = {canonicalize_name(n) for n in PRESENT} - {canonicalize_name(n) for n in lacks}
    todo, seen = [*READ, *lacks], {}
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen or name in present:
            continue
        seen[name] = metadata.version(name)
        needs = (Requirement(r) for r in metadata.requires(name) or ())
        todo += [r.name for r in needs if not r.marker or r.marker.evaluate({"extra": ""})]
    return [f"{name}=={version}" for name, version in sorted(seen.items())]


def download(folder: Path, python: str, named: list[str]) -> None:
    """Wheels for Linux on x86-64. Errors: BirqError with pip's words."""
    platforms = [f"manylinux_2_{n}_x86_64" for n in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--only-binary=:all:"]
    pip += ["--python-version", python, "--implementation", "cp", "-d", str(folder)]
    done = subprocess.run([*pip, *(x for p in platforms for x in ("--platform", p)), *named], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BirqError(f"pip found no wheels of {', '.join(named)} for Python {python}:\n{done.stderr.strip()}")


def copy_code(folder: Path) -> None:
    """The tracked files, as they lie here."""
    listed = subprocess.run(["git", "ls-files", "-z", *CODE], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def mib(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


def pack(folder: Path, preset: str | None, settings: list[str], python: str, lacks: tuple[str, ...], most_mib: float) -> str:
    """Fill a folder; what it holds, in words. `python`: the machine's version; empty for a machine that lacks nothing.

    Errors: BirqError for a folder that is not empty, params that are not legal, wheels that are not to be had, a pack that is too large.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BirqError(f"{folder}: is not empty; name a new folder")
    copy_code(folder)
    presets.apply(preset, settings, folder / "params.yaml")
    loaded = params.load(folder / "params.yaml")
    if foreign := [name for name, corpus in loaded.corpora.items() if corpus.kind != "synth"]:
        raise BirqError(f"corpora: {', '.join(foreign)} cannot be made on a machine without a network; pack a preset of synthetic speech")
    if python:
        download(folder / "wheels", python, wheels(lacks))
    (folder / "run.sh").write_text(RUN, encoding="utf-8")
    if (size := mib(folder)) > most_mib:
        raise BirqError(f"{folder}: {size:.1f} MiB are more than --most-mib {most_mib:g}")
    hours = sum(c.train_hours + c.dev_hours + c.test_hours for c in loaded.corpora.values())
    runs = len(wanted(loaded))
    return (
        f"{folder}: {size:.1f} MiB, {runs} runs on {hours:.1f} h of speech that is made there; there: sh run.sh --minutes 7 --out RESULTS"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pack", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", help="of presets/; the runs of its study, or without one of run.methods, are made")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="as of `birq preset`; repeatable")
    parser.add_argument("--python", default="3.12", help="of that machine (default: 3.12); '' = it has all of birq's dependencies")
    parser.add_argument("--lacks", action="append", default=[], metavar="NAME", help="a package to carry besides; repeatable")
    parser.add_argument("--most-mib", type=float, default=60.0, help="largest size of the folder (default: 60)")
    o = parser.parse_args()
    try:
        print(pack(o.folder, o.preset, o.settings, o.python, tuple(o.lacks), o.most_mib))
    except BirqError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
