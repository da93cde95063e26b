"""DVC's experiments, and its ways of linking outputs to its cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disk import reflinks
from scenario import scenario
from tinyproject import PATIENCE_S, Project, ended

pytestmark = pytest.mark.pipeline

EXPERIMENTS, LINKS = "Experiments of DVC", "`cache.type` of DVC"


def wait_for_end_of_all_in(folder: Path) -> None:
    """DVC's queue workers outlive the command that starts them; none must outlive the test."""

    def there() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.joinpath("cwd").readlink().is_relative_to(folder):
                    found.append(process.name)
        return found

    deadline = time.monotonic() + PATIENCE_S
    while left := there():
        assert time.monotonic() < deadline, f"still running in {folder}: {left}"
        time.sleep(0.1)


def cache_holds(project: Project) -> None:
    """Every file of DVC's cache has the MD5 that its name says."""
    files = [p for p in (project.root / ".dvc" / "cache" / "files" / "md5").rglob("*") if p.is_file()]
    assert files
    for path in files:
        name = path.parent.name + path.name.removesuffix(".dir")
        assert hashlib.md5(path.read_bytes()).hexdigest() == name, f"{path} is damaged"


@scenario(
    EXPERIMENTS,
    "`dvc exp run -S`, then back, then `exp apply`, then Snakemake",
    "computed once",
    computed="score probe report",
    restored="score probe report",
)
def test_experiment_and_apply(project: Project) -> None:
    """An applied experiment brings params and artifacts together, so Snakemake has nothing to compute."""
    before = project.digests()
    project.dvc("exp", "run", "-S", "score.confidence=0.9", "-n", "narrow")
    narrow = project.digests()
    project.git("checkout", "-q", "params.yaml", "dvc.lock")
    project.snakemake()
    assert project.digests() == before
    project.dvc("exp", "apply", "narrow")
    assert project.digests() == narrow
    project.snakemake()
    assert project.digests() == narrow
    project.verify()


@scenario(
    EXPERIMENTS,
    "`dvc exp run --temp -S`",
    "computed once, in the project's store",
    computed="score probe report",
    restored="score probe report",
)
def test_temporary_experiment(project: Project) -> None:
    """The temporary folder uses the project's store, so applying it costs nothing, and the project's own artifacts stay as they are."""
    before = project.digests()
    project.dvc("exp", "run", "--temp", "-S", "score.confidence=0.9", "-n", "apart")
    assert project.digests() == before
    project.set("score.confidence=0.9")
    project.snakemake()
    project.verify()


@scenario(
    EXPERIMENTS, "a sweep, `--queue` and `--run-all -j 2`", "each value once; the project stays as it is", computed="score probe report"
)
def test_sweep(project: Project) -> None:
    """Two workspaces at once share the store, and no experiment sees the other's params."""
    before = project.digests()
    project.dvc("exp", "run", "--queue", "-S", "score.confidence=0.8,0.9")
    try:
        # into a file: of two workers of DVC one may read a message that the other has half written, and then holds the output for ever
        with ended(run := project.start("dvc", "exp", "run", "--run-all", "-j", "2")):
            run.end()
    finally:
        project.dvc("queue", "stop", "--kill")
        wait_for_end_of_all_in(project.root)
    assert sorted(s.artifact for s in project.said() if s.what == "computing") == [
        *["probe/best_rq-0"] * 2,
        *["report"] * 2,
        *["score/best_rq-0"] * 2,
    ]
    assert project.digests() == before
    shown = json.loads(project.dvc("exp", "show", "--json").text)
    text = json.dumps(shown)
    assert '"confidence": 0.8' in text and '"confidence": 0.9' in text


# ---- links


def linked(kind: str) -> Callable[[Project], None]:
    """A test that changes a param and back with DVC linking its cache in one way, while Snakemake runs in between."""

    def test(project: Project) -> None:
        before = project.digests()
        project.dvc("config", "cache.type", kind)
        project.dvc("checkout", "--relink")
        project.snakemake()
        assert project.digests() == before
        project.set("score.confidence=0.9")
        project.dvc()
        changed = project.digests()
        assert changed["data/score/best_rq-0"] != before["data/score/best_rq-0"]
        project.git("checkout", "-q", "params.yaml")
        project.snakemake()
        assert project.digests() == before
        project.verify()
        cache_holds(project)
        assert "every hash holds" in project.birq("store", "verify").text

    test.__name__ = f"test_cache_{kind}"
    test.__doc__ = f"No verb writes through a {kind} of DVC's: cache and store keep the bytes that their names promise."
    expected = "computed once, then restored; cache and store unharmed"
    return scenario(LINKS, kind, expected, computed="score probe report", restored="score probe report")(test)


test_cache_copy, test_cache_hardlink, test_cache_symlink = linked("copy"), linked("hardlink"), linked("symlink")
test_cache_reflink = pytest.mark.skipif(not reflinks(), reason="the file system has no reflinks")(linked("reflink"))
