"""Where things lie: the workspace's artifacts, the store, the folders of running jobs, remembered hashes."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from birq.errors import BirqError


def data_root() -> Path:
    """The workspace's artifacts."""
    return Path("data")


def project() -> Path:
    """The project whose store is used: this folder, or the project that a temporary workspace of `dvc exp run --temp` belongs to."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.parts[-4:-1] == (".dvc", "tmp", "exps"):
            return folder.parents[3]
    return Path()


def require_plain_name() -> None:
    """Errors: BirqError for a project folder whose path Snakemake and DVC take for a pattern to fill in."""
    here = str(Path.cwd())
    if "{" in here or "}" in here:
        raise BirqError(f"{here}: Snakemake and DVC cannot work in a folder with braces in its path; rename it")


def store_root() -> Path:
    """Where finished artifacts are kept: `data/.store`, or BIRQ_STORE for one store shared by several clones."""
    return Path(os.environ.get("BIRQ_STORE") or project() / data_root() / ".store")


def store_path(stage: str, key: str) -> Path:
    return store_root() / stage / key


def work_root() -> Path:
    """Jobs that run or were killed; an experiment in a temporary workspace resumes after the workspace is gone."""
    return project() / data_root() / ".work"


def transit(name: str) -> Path:
    """For an artifact on its way into the workspace, on the same file system."""
    return data_root() / ".work" / "restoring" / name


def memo(name: str) -> Path:
    """Hashes that were taken earlier; see `birq.pipeline.hashes`."""
    return data_root() / ".memo" / f"{name}.json"


def code_root() -> Path:
    """Source text of the modules that made the stored artifacts, by digest."""
    return store_root() / ".code"


def shared() -> bool:
    """Whether the store may have other users than this clone."""
    return bool(os.environ.get("BIRQ_STORE"))


def lend_home() -> None:
    """Give libraries a home folder and a user name where there are none: in a container under a number that nobody has.

    They keep caches there, and some fail without: lhotse asks for the home, torch's compiler for the name. A home that can be read stays.
    """
    try:
        missing = not os.access(Path.home(), os.R_OK | os.X_OK)
    except RuntimeError:  # HOME is not set and nobody has this number
        missing = True
    if missing:
        os.environ["HOME"] = str((project() / data_root() / ".home").resolve())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 raises the latter
        os.environ["USER"] = f"uid{os.getuid()}"
