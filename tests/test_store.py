"""The store from outside, and why something would be made again: on the toy stages, as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from toy import edit, provenance

from birq.pipeline import artifact, dag, hashes, locations, snakemake, store
from birq.settings import params

FIRST = ("batch_seconds: 240.0", "batch_seconds: 120.0")  # a change of the params of `first`


def stored(project: Path) -> set[str]:
    return {f"{p.parent.name}/{p.name}" for p in (project / "data" / ".store").glob("[a-z]*/*/")}


def test_gc_spares_the_workspace_and_removes_the_rest(toy_project: Path, toy) -> None:
    """What lies in data/ is needed, what an earlier params.yaml made is not; the text of code goes with its last artifact."""
    toy("first"), toy("second")
    old = provenance(toy_project, "first")["key"]
    edit(toy_project / "params.yaml", *FIRST)
    toy("first"), toy("second")
    listed = toy("store", "ls").stdout
    assert listed.count("workspace") == 2 and old[:12] in listed
    assert "2 artifacts" in toy("store", "gc").stdout
    assert stored(toy_project) == {f"{s}/{provenance(toy_project, s)['key']}" for s in ("first", "second")}
    assert "0 artifacts" in toy("store", "gc").stdout
    assert "every hash holds" in toy("store", "verify").stdout
    assert "up to date" in toy("second").stderr
    code = toy_project / "data" / ".store" / ".code"
    assert {p.stem for p in code.iterdir()} == set(provenance(toy_project, "first")["parts"]["code"].values())


def test_gc_removes_half_copies(toy_project: Path, toy) -> None:
    """A killed run leaves them in a store on another disk; they are no artifacts, and nobody would end them once the params are others."""
    toy("first")
    half = toy_project / "data" / ".store" / "first" / f".{'0' * 32}.new"
    half.mkdir()
    (half / "text").write_text("x")
    assert "every hash holds" in toy("store", "verify").stdout
    toy("store", "gc")
    assert not half.exists()


def test_gc_spares_what_dvc_lock_refers_to(toy_project: Path, toy) -> None:
    """A lock file, in the folder or at the tip of a branch, stands for a result that somebody may check out."""
    toy("first")
    folder = toy_project / "data" / "first"
    lock = {"schema": "2.0", "stages": {"first": {"outs": [{"path": "data/first", "md5": store.dvc_digest(folder)}]}}}
    (toy_project / "dvc.lock").write_text(json.dumps(lock))
    key = provenance(toy_project, "first")["key"]
    edit(toy_project / "params.yaml", *FIRST)
    toy("first")
    assert "0 artifacts" in toy("store", "gc").stdout
    git = ["git", "-c", "user.name=birq", "-c", "user.email=birq@example.org"]
    for command in (["init", "-q", "."], ["add", "dvc.lock"], ["commit", "-qm", "result"], ["rm", "-q", "dvc.lock"]):
        subprocess.run([*git, *command], cwd=toy_project, check=True)
    assert "0 artifacts" in toy("store", "gc").stdout and f"first/{key}" in stored(toy_project)
    subprocess.run([*git, "commit", "-qm", "gone"], cwd=toy_project, check=True)
    assert "1 artifacts" in toy("store", "gc").stdout and f"first/{key}" not in stored(toy_project)


def test_the_digest_of_a_folder_is_dvcs(tmp_path: Path, environment: dict[str, str]) -> None:
    """Only so can an entry of dvc.lock be found in the store; order and nesting of names must not matter."""
    folder = tmp_path / "out"
    for name in ("b", "a/z", "a/b/c", "a-b", "provenance.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", "out"]):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert f"md5: {store.dvc_digest(folder)}" in (tmp_path / "out.dvc").read_text()


def test_gc_removes_killed_runs_of_other_params_only(toy_project: Path, toy) -> None:
    """A run of the present params would be resumed; one of other params never."""
    toy("first", TOY_DIE_AT="3")
    assert "0 work folders" in toy("store", "gc").stdout
    edit(toy_project / "params.yaml", *FIRST)
    assert "1 work folders" in toy("store", "gc").stdout
    edit(toy_project / "params.yaml", *FIRST[::-1])
    toy("first")
    assert (toy_project / "steps.log").read_text().count("first 0") == 2, "begun anew"


def test_gc_of_a_shared_store_spares_other_clones(toy_project: Path, tmp_path_factory: pytest.TempPathFactory, toy) -> None:
    """A clone whose workspace cannot be seen may need anything, so nothing is removed until it is declared gone."""
    shared = str(tmp_path_factory.mktemp("shared") / "store")
    other = tmp_path_factory.mktemp("other") / "clone"
    toy("first", BIRQ_STORE=shared)
    shutil.copytree(toy_project, other)
    (Path(shared) / ".users" / "other").write_text(str(other))
    edit(toy_project / "params.yaml", *FIRST)
    toy("first", BIRQ_STORE=shared)
    assert str(other) in toy("store", "ls", BIRQ_STORE=shared).stdout
    assert "0 artifacts" in toy("store", "gc", BIRQ_STORE=shared).stdout
    shutil.rmtree(other)
    said = toy("store", "gc", BIRQ_STORE=shared)
    assert said.returncode == 2 and f"--forget {other}" in said.stderr
    assert "1 artifacts" in toy("store", "gc", str(other), BIRQ_STORE=shared).stdout


def test_store_verify_names_what_is_damaged(toy_project: Path, toy) -> None:
    toy("first"), toy("second")
    key = provenance(toy_project, "first")["key"]
    path = toy_project / "data" / ".store" / "first" / key / "deep" / "text"
    os.chmod(path, 0o644)
    path.write_text("x" * path.stat().st_size)
    said = toy("store", "verify")
    assert said.returncode == 2 and "1 of 2 artifacts" in said.stderr and str(path.relative_to(toy_project)) in said.stderr


def test_why_names_param_input_and_line(toy_project: Path, toy) -> None:
    """The three things that a key is made of, each named so that it can be found and undone."""
    toy("first"), toy("second")
    assert "data/second is up to date" in toy("why", "second").stdout
    edit(toy_project / "params.yaml", *FIRST)
    said = toy("why", "second").stdout
    assert "data/first would be computed:\n  decode.batch_seconds was 240.0 when it was made, is 120.0 now" in said
    assert "data/second would be made again if one of these comes out different: data/first" in said
    toy("first")
    edit(toy_project / "params.yaml", *FIRST[::-1])
    assert "data/first would be restored from the store:" in toy("why", "first").stdout
    toy("first")
    edit(toy_project / "toy.py", "STEPS = 5", "STEPS = 6  # more")
    said = toy("why", "first").stdout
    number = (toy_project / "toy.py").read_text().splitlines().index("STEPS = 6  # more") + 1
    assert "toy.py has changed since it was made:" in said
    assert f"{number} - STEPS = 5" in said and f"{number} + STEPS = 6" in said
    assert toy("why", "thrid").returncode == 2
    shutil.rmtree(toy_project / "data" / "first")
    assert "data/first is not there" in toy("why", "second").stdout


def test_what_a_pull_brought_is_taken_into_the_store(toy_project: Path, toy) -> None:
    """A fresh clone after `dvc pull` has artifacts and no store: what has the right key and content is not computed again."""
    toy("first"), toy("second")
    shutil.rmtree(toy_project / "data" / ".store")
    text = toy_project / "data" / "first" / "deep" / "text"
    content = text.read_bytes()
    text.unlink()
    (toy_project / "cache").write_bytes(content)
    text.symlink_to(toy_project / "cache")  # cache.type symlink
    assert "up to date" in toy("first").stderr and "up to date" in toy("second").stderr
    assert (toy_project / "steps.log").read_text().count("\n") == 10, "each stage once"
    text.unlink()
    text.write_bytes(b"?" * len(content))
    assert "restored" in toy("first").stderr and text.read_bytes() == content


def test_an_artifact_of_a_later_birq_is_left_alone(toy_project: Path, toy) -> None:
    """It cannot be judged here, so it is neither used nor removed."""
    toy("first")
    for path in (toy_project / "data").rglob("provenance.json"):
        record = json.loads(path.read_text()) | {"format": artifact.FORMAT + 1, "birq": "99.0"}
        path.write_text(json.dumps(record))
    for stage in ("first", "second"):
        said = toy(stage)
        assert said.returncode == 2 and "made by birq 99.0" in said.stderr and "update birq" in said.stderr
    assert len(stored(toy_project)) == 1


def test_a_read_only_store_still_restores(toy_project: Path, toy, environment: dict[str, str]) -> None:
    """What is there can be used; what is not gives one error that says where to write instead."""
    toy("first")
    shutil.rmtree(toy_project / "data" / "first")
    script = "mount --bind data/.store data/.store && mount -o remount,ro,bind data/.store && python toy.py first; python toy.py second"
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespace of one's own here, so no read-only mount")
    command = ["unshare", "-rm", "bash", "-c", script]
    done = subprocess.run(command, cwd=toy_project, env=environment, capture_output=True, text=True, check=False)
    assert "first: restored from the store" in done.stderr
    assert done.returncode == 2 and "is read-only" in done.stderr and "BIRQ_STORE" in done.stderr and "Traceback" not in done.stderr


def test_hashes_are_taken_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of a thousand hours is not read at every start, and a changed file is never taken for the old one."""
    files, memo = [tmp_path / n for n in "ab"], tmp_path / "memo.json"
    for path in files:
        path.write_text(path.name)
        os.utime(path, (1e9, 1e9))
    read: list[str] = []
    real = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda p: read.append(p.name) or real(p))
    first = hashes.sha256_files(files, memo)
    assert hashes.sha256_files(files, memo) == first and sorted(read) == ["a", "b"]
    files[0].write_text("A")  # same size, new time
    second = hashes.sha256_files(files, memo)
    assert second == [real(p) for p in files] and second[0] != first[0] and second[1] == first[1]
    assert read.count("a") == 2 and read.count("b") == 1
    assert hashes.sha256_files(files, memo) == second and read.count("a") == 3, "too young to be trusted"
    memo.write_text("{")
    assert hashes.sha256_files(files, memo) == second


def test_a_temporary_experiment_uses_the_projects_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc exp run --temp` works in .dvc/tmp/exps/NAME of the project; what is known there need not be computed again."""
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    inside = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert locations.store_root() == tmp_path / "data" / ".store"
    assert locations.data_root().resolve() == inside / "data"
    monkeypatch.chdir(tmp_path)
    assert locations.store_root().resolve() == tmp_path / "data" / ".store"


def test_an_artifact_is_not_older_than_what_it_was_made_from(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake goes by time; a machine whose clock is behind would make the same artifact again and again."""
    monkeypatch.chdir(tmp_path)
    ahead = time.time() + 3600
    stamp = tmp_path / "stamp"
    stamp.touch()
    os.utime(stamp, (ahead, ahead))
    loaded = params.load(root / "params.yaml")
    for name, declared in (("tokenizer", ["provenance.json"]), ("report", ["provenance.json", "page"])):
        node = dag.find(name, loaded)
        node.folder.mkdir(parents=True)
        for file in ("provenance.json", "page"):
            (node.folder / file).touch()
        snakemake.after_verb(node, stamp)
        assert sorted(p.name for p in node.folder.iterdir() if p.stat().st_mtime >= stamp.stat().st_mtime) == sorted(declared)
