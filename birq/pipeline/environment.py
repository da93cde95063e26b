"""Where an artifact was made: machine, processor, software and commit, for its provenance."""

from __future__ import annotations

import os
import platform
import re
import socket
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from birq.pipeline import git

PACKAGES = (
    "torch",
    "torchaudio",
    "lhotse",
    "sentencepiece",
    "jiwer",
    "pyarrow",
    "numpy",
    "safetensors",
    "espeakng-loader",
    "soundfile",
    "scikit-learn",
    "ctc-beam-decoder",
)
# vector instructions by which numpy and torch choose their loops, so that sums are rounded in another order; the widest first
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}
CPUINFO = Path("/proc/cpuinfo")  # Linux


@cache
def processor() -> str:
    """Model and widest vector instructions, such as `AMD EPYC, AVX2`; on one kind of processor, bits are equal."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.M)).split())
    model = re.search(r"^model name\s*: *(.+)$", text, flags=re.M)
    parts = [" ".join(model[1].split()) if model else platform.machine(), *(name for flag, name in VECTORS.items() if flag in flags)]
    return ", ".join(parts[:2])


def environment() -> dict[str, Any]:
    """The machine, software and commit of a run, for its provenance."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "packages": {p: v for p in PACKAGES if (v := _version(p))},
        "git": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    commit, changes = git.answer("rev-parse", "HEAD"), git.answer("status", "--porcelain")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}
