"""Paths in params.yaml."""

from __future__ import annotations

import os
import re
from pathlib import Path

from birq.errors import BirqError


def expanded(text: str) -> Path:
    """A path from params.yaml. Errors: BirqError for an environment variable that is not set."""
    path = Path(text) if Path(text).exists() else Path(os.path.expandvars(os.path.expanduser(text)))
    if (unset := re.search(r"\$(\w+|\{\w+\})", str(path))) and not path.exists():
        raise BirqError(f"params.yaml: {text!r} names {unset[0]}, which is not set; set it, or write the path out")
    return path
