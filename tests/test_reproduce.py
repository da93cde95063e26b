"""A recorded result is run again and compared: same, within the interval, or different and where it began."""

from __future__ import annotations

import copy
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from birq.errors import BirqError
from birq.pipeline import environment, reproduce
from birq.settings import presets

ROOT = Path(__file__).resolve().parent.parent
# one method that is not pre-trained: every stage runs, in half a minute
ONE = ["run.methods=[scratch]", "finetune.steps=2", "finetune.evaluations=1", "probe.max_minutes=0.1"]
EVERY_STAGE = """
from birq.pipeline import dag, stage
from birq.settings import params
loaded = params.load("params.yaml")
for node in dag.nodes(loaded):
    stage.run(node)
"""
Birq = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A git clone in which every stage has run on a few seconds of speech, with the result recorded as `tiny`."""
    folder = tmp_path_factory.mktemp("reproduce")
    for name in ("Snakefile", "params.yaml", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("birq", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "presets").mkdir()
    shutil.copy(ROOT / "tests" / "tiny.yaml", folder / "presets")
    (folder / "data").mkdir()
    shutil.copy(ROOT / "data" / ".gitignore", folder / "data")
    presets.apply("tiny", ONE, folder / "params.yaml")
    git = ["git", "-c", "user.name=birq", "-c", "user.email=birq@example.org"]
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "tiny"], ["tag", "v0"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    subprocess.run(["python", "-c", EVERY_STAGE], cwd=folder, env=environment | {"PYTHONPATH": str(folder)}, check=True)
    return folder


@pytest.fixture(scope="module")
def birq_there(project: Path, forked: dict[str, str]) -> Birq:
    """Runs `python -m birq ARGS` in the project, with the project's code."""

    def call(*args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = ["python", "-m", "birq", *args]
        env = forked | {"PYTHONPATH": str(project)}
        done = subprocess.run(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == status, done.stdout[-6000:]
        return done

    return call


@pytest.fixture(scope="module")
def record(project: Path, birq_there: Birq) -> dict[str, Any]:
    birq_there("record", "tiny")
    return reproduce.read(str(project / "benchmarks" / "results" / "tiny.json"))


def test_a_record_says_what_the_run_was(project: Path, record: dict[str, Any]) -> None:
    """Whoever has the record and the repository needs nothing else."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True).stdout.strip()
    assert (record["commit"], record["tag"]) == (head, "v0")
    assert record["params"]["finetune"]["steps"] == 2 and record["params"]["corpora"]["synth"]["kind"] == "synth"
    assert list(record["artifacts"])[:2] == ["corpus/synth", "features/synth"] and "score/scratch-0" in record["artifacts"]
    assert record["artifacts"]["finetune/scratch-0"]["device"]
    assert {"torch", "numpy", "snakemake", "lhotse"} <= record["software"]["packages"].keys()
    assert all(m["wer_low"] <= m["wer"] <= m["wer_high"] for m in record["metrics"])


def test_the_same_result_from_nothing(project: Path, birq_there: Birq, record: dict[str, Any]) -> None:
    """On one machine, all that a record names comes out equal to the bit, and nothing is taken from the project's store."""
    done = birq_there("reproduce", "tiny", "--cores", "2")
    assert f"all {len(record['artifacts'])} artifacts are equal to the bit" in done.stdout and done.stdout.endswith("tiny: same\n")
    assert "software: as recorded" in done.stdout and "v0" in done.stdout
    again = project / "data" / ".reproduce" / "tiny"
    made = json.loads((again / "data" / "score" / "scratch-0" / "provenance.json").read_text())
    assert made["key"] == record["artifacts"]["score/scratch-0"]["key"]
    assert (again / "data" / ".store" / "finetune").is_dir() and made["environment"]["git"]["commit"] == record["commit"]


def test_the_first_stage_that_differs_is_named_with_the_reason(project: Path, birq_there: Birq, record: dict[str, Any]) -> None:
    """Another param: stages before it are equal, the first one that reads it is named, and those after it are counted only.

    The verdict follows from the recorded interval: drawn around the new figure it is `within the interval`, beside it `different`.
    """
    changed = copy.deepcopy(record)
    for m in changed["metrics"]:
        for rate in reproduce.RATES:
            m |= {f"{rate}_low": 0.0, f"{rate}_high": 100.0}
    (project / "wide.json").write_text(json.dumps(changed | {"name": "wide"}))
    arguments = ("--set", "finetune.steps=3", "--use-store", "--present-code", "--cores", "2")
    said = birq_there("reproduce", "wide.json", *arguments).stdout
    assert "first: finetune/scratch-0\n    finetune.steps was 2 when it was made, is 3 now\n" in said
    assert said.endswith("wide.json: within the interval\n") and "OUTSIDE" not in said
    narrow = copy.deepcopy(record)
    for m in narrow["metrics"]:
        m |= {"wer_low": 0.0, "wer_high": 0.0}
    found = reproduce.compare(narrow, project / "data" / ".reproduce" / "wide" / "data")
    assert found.verdict == "different" and not found.good and "OUTSIDE" in found.lines[0]


def test_reasons_of_a_difference(project: Path, record: dict[str, Any]) -> None:
    """Code and software are told apart: equal params, inputs and code leave only the machine."""
    other = copy.deepcopy(record)
    other["artifacts"]["features/synth"]["digest"] = "0" * 64
    other["code"]["birq.speech.fbank"] = "0" * 64
    assert "birq.speech.fbank has changed" in " ".join(reproduce.divergence(other, project / "data"))
    other["code"] = record["code"]
    other["artifacts"]["features/synth"]["device"] = "cuda"
    here = environment.processor()
    said = reproduce.divergence(other, project / "data")
    assert said[1:] == [
        "first: features/synth",
        f"    params, inputs and code are the recorded ones: software or machine must differ (processor {here}, recorded {here})",
        "    made on cpu, recorded on cuda",
    ]
    assert not reproduce.divergence(record, project / "data")


def test_software_that_differs_is_named() -> None:
    """A package that is newer, missing or new may all change bits."""
    old = {"python": "3.11.1", "machine": "x86_64", "packages": {"a": "1", "b": "2"}}
    new = {"python": "3.11.1", "machine": "x86_64", "packages": {"a": "1.1", "c": "3"}}
    assert reproduce.software_differences(old, old) == []
    assert reproduce.software_differences(old, new) == [
        "a: recorded with 1, here 1.1",
        "b: recorded with 2, here none",
        "c: recorded with none, here 3",
    ]


def test_another_kind_of_processor_is_a_reason(project: Path, record: dict[str, Any]) -> None:
    """Wider vector instructions round sums in another order. A record of before processors were recorded says so."""
    there = {"python": "3.11.1", "machine": "x86_64", "packages": {}}
    assert reproduce.software_differences(there | {"processor": "AMD EPYC, AVX2"}, there | {"processor": "AMD EPYC, AVX-512"}) == [
        "processor: recorded with AMD EPYC, AVX2, here AMD EPYC, AVX-512"
    ]
    assert reproduce.software_differences(there, there | {"processor": "AMD EPYC, AVX-512"}) == []
    assert record["software"]["processor"] == environment.processor()
    other = json.loads(json.dumps(record))
    other["artifacts"]["corpus/synth"]["digest"] = "0" * 64
    other["software"]["processor"] = "a slide rule"
    said = reproduce.divergence(other, project / "data")
    assert said[2].endswith("recorded a slide rule); on another kind of processor sums are rounded in another order, and bits differ")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model name\t: AMD  EPYC\nflags\t\t: fpu avx avx2 avx512f\n", "AMD EPYC, AVX-512"),
        ("model name\t: Intel(R) Xeon(R)\nflags\t\t: fpu sse2 avx2\n", "Intel(R) Xeon(R), AVX2"),
        ("processor\t: 0\nFeatures\t: fp asimd sve\n", "{machine}, SVE"),
        ("model name\t: Old\nflags\t\t: fpu sse\n", "Old"),
    ],
)
def test_a_processor_is_model_and_vector_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    assert environment.processor.__wrapped__() == named.format(machine=platform.machine())


def test_a_record_names_a_commit(project: Path, birq_there: Birq, record: dict[str, Any]) -> None:
    """Code that no commit holds cannot be run again, and a commit that is not here is said, with the way out."""
    with open(project / "birq" / "errors.py", "a") as f:
        f.write("# not committed\n")
    assert "birq/errors.py is not as in the last commit" in birq_there("record", "dirty", status=2).stdout
    subprocess.run(["git", "checkout", "-q", "birq"], cwd=project, check=True)
    (project / "gone.json").write_text(json.dumps(record | {"name": "gone", "commit": "1" * 40}))
    assert "fetch it" in birq_there("reproduce", "gone.json", status=2).stdout


def test_files_that_are_no_records(tmp_path: Path) -> None:
    """One sentence each."""
    with pytest.raises(BirqError, match="no such record"):
        reproduce.read("nothing")
    for text, message in (("[]", "holds figures"), ("{", "not readable"), ('{"artifacts": {}, "format": 9, "birq": "9"}', "update birq")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(BirqError, match=message):
            reproduce.read(str(tmp_path / "x.json"))


def test_every_test_that_the_page_names_exists() -> None:
    """The page promises nothing that no test holds: every row of the table of equal bits names one, and all of them are there."""
    page = (ROOT / "docs" / "reproducibility.md").read_text()
    table = page.partition("## Equal to the bit")[2].partition("Everything random")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows and all("::test_" in row for row in rows)
    named = re.findall(r"`(\w+\.py)::(test_\w+)`", page)
    assert len(named) == page.count("::test_")
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {test}"
