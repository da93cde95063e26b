"""The stage contract, with toy stages that run as processes of their own, as Snakemake and DVC run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy import edit, provenance

from birq.errors import BirqError
from birq.pipeline import artifact, code, stage


def test_one_key_is_computed_once_and_restored_ever_after(toy_project: Path, toy) -> None:
    """The key names everything that decides the result, so a stored artifact with that key is the result."""
    assert "computing" in toy("first").stderr
    made = provenance(toy_project, "first")
    assert "up to date" in toy("first").stderr
    shutil.rmtree(toy_project / "data" / "first")
    assert "restored" in toy("first").stderr
    assert provenance(toy_project, "first") == made
    assert (toy_project / "steps.log").read_text().count("\n") == 5


def test_the_key_follows_params_inputs_and_code(toy_project: Path, toy) -> None:
    """A change of what a stage reads is a new key; a change elsewhere in params.yaml, a comment or a docstring is none."""
    toy("first"), toy("second")
    first, second = provenance(toy_project, "first")["key"], provenance(toy_project, "second")["key"]

    edit(toy_project / "params.yaml", "bootstrap_samples: 2000", "bootstrap_samples: 3000  # more")
    edit(toy_project / "toy.py", "Comments and docstrings are not code.", "Another docstring.")
    with open(toy_project / "toy.py", "a") as f:
        f.write("\n# a comment\n")
    assert "up to date" in toy("first").stderr
    assert "computing" in toy("second").stderr
    assert provenance(toy_project, "second")["key"] != second

    edit(toy_project / "params.yaml", "batch_seconds: 240.0", "batch_seconds: 120.0")
    assert "computing" in toy("first").stderr
    assert provenance(toy_project, "first")["key"] != first
    assert "computing" in toy("second").stderr, "its input has other content"

    edit(toy_project / "toy.py", "STEPS = 5", "STEPS = 6")
    assert "computing" in toy("first").stderr


def test_a_change_back_restores(toy_project: Path, toy) -> None:
    """An old key's artifact is still in the store: going back costs nothing."""
    toy("first")
    before = provenance(toy_project, "first")
    edit(toy_project / "params.yaml", "batch_seconds: 240.0", "batch_seconds: 120.0")
    assert "computing" in toy("first").stderr
    edit(toy_project / "params.yaml", "batch_seconds: 120.0", "batch_seconds: 240.0")
    assert "restored" in toy("first").stderr
    assert provenance(toy_project, "first") == before
    texts = list((toy_project / "data" / ".store" / "first").glob("*/deep/text"))
    assert len(texts) == 2 and not any(t.stat().st_mode & 0o222 for t in texts), "to compare with other bytes is no damage"


def test_timing_is_not_content(toy_project: Path, toy) -> None:
    """An input that was made again and says the same must not make what comes after it stale."""
    toy("first"), toy("second")
    digest = provenance(toy_project, "first")["digest"]
    shutil.rmtree(toy_project / "data" / ".store" / "first")
    shutil.rmtree(toy_project / "data" / "first")
    assert "computing" in toy("first").stderr
    assert provenance(toy_project, "first")["digest"] == digest
    assert "up to date" in toy("second").stderr


def test_two_at_once_compute_once(toy_project: Path, environment: dict[str, str]) -> None:
    """The second run waits for the lock, says so, and finds the work done. The first one stands still until then: a machine may be slow."""
    run = [sys.executable, "toy.py", "first"]
    logs = [toy_project / f"{n}.txt" for n in ("first", "second")]

    def start(log: Path) -> subprocess.Popen[str]:
        with open(log, "w") as f:
            return subprocess.Popen(run, cwd=toy_project, env=environment | {"TOY_SLEEP": "0.2"}, stderr=f, text=True)

    def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        ends = time.monotonic() + 60
        while not there() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)

    first = start(logs[0])
    until((toy_project / "steps.log").exists, first)  # it holds the lock
    first.send_signal(signal.SIGSTOP)
    second = start(logs[1])
    until(lambda: "waiting" in logs[1].read_text(), second)
    first.send_signal(signal.SIGCONT)
    assert [p.wait(timeout=60) for p in (first, second)] == [0, 0]
    said = [log.read_text() for log in logs]
    assert ["computing" in s for s in said] == [True, False]
    assert f"waiting: process {first.pid} on " in said[1]
    assert (toy_project / "steps.log").read_text().count("\n") == 5


def test_a_killed_run_resumes_and_shows_nothing_half_done(toy_project: Path, toy) -> None:
    """Scratch outlives the kill, the artifact appears only when it is whole."""
    assert toy("first", TOY_DIE_AT="3").returncode == -9
    assert not (toy_project / "data" / "first").exists()
    assert toy("first").returncode == 0
    assert (toy_project / "steps.log").read_text().split("\n")[:-1] == [f"first {i}" for i in range(5)], "no step twice"
    assert not any((toy_project / "data" / ".work" / "first").glob("*/")), "the work folder is gone"


def test_scratch_of_other_params_is_not_resumed(toy_project: Path, toy) -> None:
    """The work folder carries the key: a run with new params starts from nothing."""
    toy("first", TOY_DIE_AT="3")
    edit(toy_project / "params.yaml", "batch_seconds: 240.0", "batch_seconds: 120.0")
    assert toy("first").returncode == 0
    assert (toy_project / "steps.log").read_text().count("first 0") == 2


def test_damage_is_found_and_mended(toy_project: Path, toy) -> None:
    """Content is hashed before use, so a changed file is never used: it is restored, or made again if the store is hurt as well."""
    toy("first")
    text = toy_project / "data" / "first" / "deep" / "text"
    copy = text.read_bytes()
    text.unlink()  # a file of its own, not a link to the store's
    text.write_bytes(b"x" * len(copy))
    said = toy("second")
    assert said.returncode == 2 and "SHA-256" in said.stderr and str(text.relative_to(toy_project)) in said.stderr
    assert "restored" in toy("first").stderr
    assert text.read_bytes() == copy

    os.chmod(text, 0o644)
    text.write_bytes(b"y" * len(copy))  # through the link: the store's file too
    said = toy("first")
    assert "the store is damaged" in said.stderr and "computing" in said.stderr
    assert text.read_bytes() == copy


def test_a_missing_input_says_how_to_make_it(toy) -> None:
    said = toy("second")
    assert said.returncode == 2 and "data/first: not made yet" in said.stderr and "snakemake" in said.stderr


def test_an_input_that_is_gone_is_taken_from_the_store(toy, toy_project: Path) -> None:
    """DVC removes an artifact before it calls its verb; a tool beside it may ask for the next one just then."""
    toy("first")
    shutil.rmtree(toy_project / "data" / "first")
    said = toy("second")
    assert said.returncode == 0 and "first: was gone, taken from the store" in said.stderr and "second: computing" in said.stderr


@pytest.mark.parametrize("error", [KeyError("dev"), FileNotFoundError("gone"), BirqError("half"), ValueError("no rows")])
def test_any_error_over_a_replaced_input_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A stage may see a part of an input that another tool puts in place just then. Over an input that stays, an error is raised."""
    provenance = tmp_path / "first" / "provenance.json"
    provenance.parent.mkdir()
    provenance.write_text("{}")
    one = SimpleNamespace(provenance=provenance, folder=provenance.parent)
    node = SimpleNamespace(name="second", inputs={"first": [one]})
    replaced: list[bool] = []

    def fails_once(*_: object) -> Path:
        if replaced:
            return tmp_path
        replaced.append(True)
        provenance.unlink()
        provenance.write_text("{}")
        raise error

    monkeypatch.setattr(stage, "_run", fails_once)
    monkeypatch.setattr(stage, "_settled", lambda node: False)
    monkeypatch.setattr(stage, "_bring_inputs", lambda node, say: None)
    said: list[str] = []
    assert stage.run(node, said.append) == tmp_path and said == ["second: an input was removed or replaced meanwhile; tried again"]

    def fails_always(*_: object) -> Path:
        raise error

    monkeypatch.setattr(stage, "_run", fails_always)
    with pytest.raises(type(error)):
        stage.run(node, said.append)
    assert len(said) == 1


@pytest.mark.parametrize("then", ["the rest goes", "it comes back"])
def test_an_input_that_another_tool_removes_or_replaces_is_waited_for(toy, toy_project: Path, then: str) -> None:
    """DVC removes file by file, before its verb, and replaces files by links afterwards: for a moment one of several is missing."""
    toy("first")
    folder, aside = toy_project / "data" / "first", toy_project / "aside"
    (folder / "deep" / "text").rename(aside)

    def go_on() -> None:
        time.sleep(0.7)
        if then == "the rest goes":
            shutil.rmtree(folder)
        else:
            aside.rename(folder / "deep" / "text")

    other = threading.Thread(target=go_on)
    other.start()
    said = toy("second")
    other.join()
    assert said.returncode == 0 and "second: an input was removed or replaced meanwhile; tried again" in said.stderr, said.stderr
    assert "second: computing" in said.stderr


def test_an_input_that_lacks_a_file_is_named_after_a_moment(toy, toy_project: Path) -> None:
    toy("first")
    (toy_project / "data" / "first" / "deep" / "text").unlink()
    said = toy("second")
    assert said.returncode == 2 and "data/first/deep/text is missing; delete data/first and run again" in said.stderr, said.stderr


WHOLE = {"key": "k", "digest": "d", "parts": {}, "files": {"a": {"bytes": 1, "sha256": "s"}}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "\x00\xff",
        "[" * 100_000,
        json.dumps(WHOLE | {"files": ["a"]}),
        json.dumps(WHOLE | {"files": {"a": 1}}),
        json.dumps(WHOLE | {"files": {"../a": WHOLE["files"]["a"]}}),
        json.dumps(WHOLE | {"key": 3}),
        json.dumps(WHOLE | {"parts": {"inputs": 1}}),
        json.dumps({k: v for k, v in WHOLE.items() if k != "parts"}),
        json.dumps(WHOLE | {"wildcards": {"seed": 0}}),
        json.dumps(WHOLE | {"format": "new"}),
    ],
)
def test_a_provenance_that_is_no_record_is_one_error(tmp_path: Path, text: str) -> None:
    """It may be cut off, emptied or written by hand; whoever reads it gets all that he relies on, or a sentence with the way out."""
    (tmp_path / "provenance.json").write_bytes(json.dumps(WHOLE).encode())
    assert artifact.read_provenance(tmp_path) == WHOLE
    (tmp_path / "provenance.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BirqError, match=f"{tmp_path}/provenance.json: not readable .*delete {tmp_path} and run again"):
        artifact.read_provenance(tmp_path)


@pytest.mark.parametrize("lies_there", ["a file", "a link to itself", "a folder as provenance", "the artifact of another stage"])
def test_what_lies_in_an_inputs_place_is_named_and_replaced(toy_project: Path, toy, lies_there: str) -> None:
    """An input is what its own provenance says it is, or it is no input; its own verb puts the right one there."""
    toy("first"), toy("second")
    first = toy_project / "data" / "first"
    if lies_there == "a folder as provenance":
        (first / "provenance.json").unlink()
        (first / "provenance.json").mkdir()
    else:
        shutil.rmtree(first)
    if lies_there == "a file":
        first.write_text("x")
    elif lies_there == "a link to itself":
        first.symlink_to("first")
    elif lies_there == "the artifact of another stage":
        shutil.copytree(toy_project / "data" / "second", first)
    for command in ("second", "verify"):
        said = toy(command)
        assert said.returncode == 2 and "error: data/first" in said.stderr
        assert "Traceback" not in said.stderr
    said = toy("why", "second").stdout
    assert "data/first would be restored from the store:" in said
    assert "first: restored from the store" in toy("first").stderr and "second: up to date" in toy("second").stderr


def test_verify_sees_that_a_key_is_not_that_of_its_parts(toy_project: Path, toy) -> None:
    """Provenance answers how an artifact was made; a record whose parts were edited does not."""
    toy("first")
    path = toy_project / "data" / "first" / "provenance.json"
    record = provenance(toy_project, "first")
    record["parts"]["params"]["decode"]["batch_seconds"] = 1.0
    path.write_text(json.dumps(record))
    toy("second")
    said = toy("verify")
    assert said.returncode == 2 and "its key is not that of its parts" in said.stderr


def test_an_undeclared_param_cannot_be_read(toy) -> None:
    """A stage that read it would not notice a change of it."""
    said = toy("first", TOY_UNDECLARED="1")
    assert said.returncode != 0 and "declares only" in said.stderr


def test_provenance_is_always_writable_and_fresh(toy_project: Path, toy) -> None:
    """Snakemake compares its time, and refuses to replace a read-only output; data files are read-only links to the store."""
    toy("first")
    path = toy_project / "data" / "first" / "provenance.json"
    before = path.stat().st_mtime_ns
    time.sleep(0.02)
    toy("first")
    assert path.stat().st_mtime_ns > before
    assert path.stat().st_mode & 0o200
    data = toy_project / "data" / "first" / "deep" / "text"
    assert not data.stat().st_mode & 0o222 and data.stat().st_nlink == 2


def test_copies_are_writable_and_leave_the_store_alone(tmp_path: Path) -> None:
    """The report's files are declared to Snakemake one by one, so they must not be read-only."""
    out, stored = tmp_path / "out", tmp_path / "store" / "key"
    out.mkdir()
    (out / "page").write_text("a")
    files = artifact.describe(out)
    artifact.store(out, stored, {"key": "key", "digest": artifact.content_digest(files), "files": files, "parts": {}})
    assert artifact.restore(stored, tmp_path / "data", tmp_path / "transit", link=False) is False
    page = tmp_path / "data" / "page"
    page.write_text("b")
    assert (stored / "page").read_text() == "a"
    assert artifact.restore(stored, tmp_path / "data", tmp_path / "transit", link=False) is False
    assert page.read_text() == "a"
    assert artifact.restore(stored, tmp_path / "data", tmp_path / "transit", link=False) is True


def _on_small_disk(toy_project: Path, script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with `data/` on a tmpfs of 8 MiB that only it sees."""
    (toy_project / "data").mkdir()
    mount = "mount -t tmpfs -o size=8m tmpfs data"
    probe = subprocess.run(["unshare", "-rm", "bash", "-c", mount], cwd=toy_project, capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no tmpfs in a namespace of one's own here: {probe.stderr.strip()}")
    script = f"{mount}; ln -s data/ballast ballast; {script}"
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=toy_project, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare for a small disk")
def test_a_disk_that_fills_up_while_computing_costs_no_step(toy_project: Path, environment: dict[str, str]) -> None:
    """The message says what to do, and the next try goes on from scratch's last step."""
    run = f"{sys.executable} toy.py first"
    done = _on_small_disk(toy_project, f"TOY_FILL=computing {run}; echo rc $?; {run} && cat data/first/deep/text", environment)
    assert "rc 2" in done.stdout and "the disk is full" in done.stderr and "free space and run again" in done.stderr
    assert done.returncode == 0, done.stderr
    assert (toy_project / "steps.log").read_text().count("\n") == 5


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare for a small disk")
def test_a_disk_that_fills_up_while_publishing_costs_nothing(toy_project: Path, environment: dict[str, str]) -> None:
    """Space was set aside beforehand for what publishing has to write."""
    run = f"{sys.executable} toy.py first"
    done = _on_small_disk(toy_project, f"TOY_FILL=publishing {run} && cat data/first/provenance.json", environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stage"] == "first"


def test_code_closure_holds_what_a_stage_imports() -> None:
    """Decoding runs the model's code; scoring does not, so a change in the model must not rerun it on equal hypotheses."""
    decode, score = code.modules("birq.stages.decode"), code.modules("birq.stages.score")
    assert "birq.model.encoder" in decode and "birq.model.encoder" not in score
    assert not [m for m in decode if m.startswith(code.OUTSIDE) or m in ("birq", "birq.errors", "birq.progress", "birq.files")]
