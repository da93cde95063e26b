"""Two tiny stages for tests of the contract, and a command line for them: `python toy.py STAGE`, `python toy.py why STAGE`,
`python toy.py verify`, `python toy.py store ls|gc|verify [FOLDER to forget]`.

`first` writes a file from its params, in steps that outlive a kill; `second` reads it.
The environment says what goes wrong: TOY_DIE_AT (step), TOY_SLEEP (s per step), TOY_UNDECLARED, TOY_FILL (disk).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 5


def compute(job) -> None:
    """Comments and docstrings are not code."""
    if os.environ.get("TOY_UNDECLARED"):
        job.read("pretrain.steps")
    done = job.scratch / "done"
    for step in range(int(done.read_text()) if done.exists() else 0, STEPS):
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        if os.environ.get("TOY_DIE_AT") == str(step):
            os.kill(os.getpid(), signal.SIGKILL)
        with open("steps.log", "a") as f:
            f.write(f"{job.name} {step}\n")
        done.write_text(str(step + 1))
    before = "".join((p / "deep" / "text").read_text() for paths in job.inputs.values() for p in paths)
    (job.out / "deep").mkdir()
    (job.out / "deep" / "text").write_text(before + str(job.read({"first": "decode", "second": "score"}[job.node.stage.name])))
    (job.out / "timing.jsonl").write_text(str(time.time_ns()))
    if os.environ.get("TOY_FILL") == "computing":
        fill(job.out / "big")
    if os.environ.get("TOY_FILL") == "publishing":
        fill(Path("ballast"))


def fill(path: Path) -> None:
    """Write until the disk is full. Errors: OSError where the file is the stage's own; a neighbour's is not our error."""
    try:
        with open(path, "wb", buffering=0) as f:
            while f.write(bytes(4096)):
                pass
    except OSError:
        if path.name == "big":
            raise


def provenance(project: Path, stage: str) -> dict:
    """Of an artifact of a toy project."""
    return json.loads((project / "data" / stage / "provenance.json").read_text())


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that occurs once."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))


def check_sources(folder: Path) -> int:
    """`first` reads no recordings."""
    return 0


def call(command: list[str], loaded) -> None:
    from birq.pipeline import dag, references, stage, store, verify, why

    match command:
        case ["why", name]:
            print(why.explain(name, loaded))
        case ["verify"]:
            print(verify.everything(loaded))
        case ["store", "ls"]:
            print(store.ls())
        case ["store", "gc", *forget]:
            print(store.gc(loaded, dry_run=False, forget=forget))
        case ["store", "verify"]:
            print(store.check())
        case [name]:
            references.register()
            stage.run(dag.node(name, {}, loaded))


def main() -> int:
    from birq.errors import BirqError
    from birq.pipeline import dag, sharing
    from birq.settings import params

    dag.STAGES.clear()
    dag.STAGES["first"] = dag.Stage("first", ("decode",), (), elsewhere="toy")
    dag.STAGES["second"] = dag.Stage("second", ("score",), ("first",), elsewhere="toy")
    loaded = params.load()
    try:
        with sharing.explained():
            call(sys.argv[1:], loaded)
    except BirqError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
