"""Queries to git about a project."""

from __future__ import annotations

import subprocess
from pathlib import Path

from birq.errors import BirqError


def git(*args: str, cwd: Path | None = None) -> str:
    """The answer of a git command. Errors: BirqError where git is missing or says no."""
    try:
        return subprocess.run(["git", *args], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        raise BirqError("git is not installed; records and their reproduction need it") from None
    except subprocess.CalledProcessError as e:
        raise BirqError(f"git {' '.join(args)}: {e.stderr.strip() or 'failed'}") from None


def answer(*args: str, cwd: Path | None = None) -> str | None:
    """The answer of a git command; None where git is missing or says no."""
    try:
        return git(*args, cwd=cwd)
    except BirqError:
        return None
