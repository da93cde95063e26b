"""The `birq` of an earlier commit under this repository's benchmarks: its code in a folder, a process that imports it, its training.

Modules that run in such a process import only parts of birq that exist at every commit; the rest they take from `training()`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import birq
from benchmarks.harness import ROOT


@contextlib.contextmanager
def code_of(commit: str) -> Iterator[Path]:
    """A folder with the `birq` of a commit, while it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "birq"], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def in_a_process(module: str, code: Path, options: list[str]) -> Any:
    """The last line that a benchmark prints, as JSON. It runs in a process that imports birq from a folder."""
    command = [sys.executable, "-P", "-m", module, *options]
    path = os.pathsep.join([str(code), str(ROOT)])
    out = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def training() -> ModuleType:
    """`load`, `Training` and `feed` for the birq that this process imports: benchmarks.training, or the same for older code."""
    # by file: an editable installation of another checkout would answer for a module that this birq lacks
    rooms = (Path(birq.__file__).parent / "settings").is_dir()
    return importlib.import_module("benchmarks.training" if rooms else "benchmarks.training_before_rooms")
