"""The pack for a GPU machine without a network: it runs alone, writes what is done as it goes, and stops in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import SMALL

from benchmarks import pack, slot
from birq.errors import BirqError
from birq.settings import params
from birq.settings.params import parse

SPOKEN = {"train_hours": 0.02, "dev_hours": 0.004, "test_hours": 0.004, "n_voices": 10}


def settings(**changes: Any) -> list[str]:
    """`--set` of everything small: tests must not change with the recipe of the day."""
    sections = {k: SMALL[k] for k in ("model", "random_projection", "birq", "kmeans", "relabel")}
    values = {f"{section}.{key}": value for section, some in sections.items() for key, value in some.items()}
    values |= {f"pretrain.{k}": v for k, v in SMALL["pretrain"].items()} | {
        "pretrain.steps": 4,
        "probe.abx_tokens": 0,
        "birq.label_layer": 1,
    }
    values |= {f"corpora.synth.{k}": v for k, v in SPOKEN.items()} | {"features.n_mels": 20}
    values |= {"variants": {"more": {"method": "birq", "pretrain.starts_from": "best_rq"}}, "run.methods": ["best_rq", "more"]}
    values |= {k.replace("__", "."): v for k, v in changes.items()}
    return [
        f"{key}={yaml.safe_dump(value, default_flow_style=True, width=999).removesuffix('...' + chr(10)).strip()}"
        for key, value in values.items()
    ]


def packed(folder: Path, **changes: Any) -> Path:
    """A pack whose birq has a version of its own, so that no other one can be taken for it."""
    said = pack.pack(folder, None, settings(**changes), "", (), 60.0)
    assert f"{len(changes.get('run__methods', ['best_rq', 'more']))} runs" in said
    (folder / "birq" / "__init__.py").write_text('"""Packed."""\n\n__version__ = "0.0.0+packed"\n')
    return folder


def command(folder: Path, out: Path, minutes: float) -> subprocess.Popen[str]:
    """run.sh as on the other machine: nothing in the environment points to this checkout."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BIRQ_STORE", "PYTEST_CURRENT_TEST")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    run = ["sh", str(folder / "run.sh"), "--minutes", str(minutes), "--out", str(out), "--at-once", "2"]
    return subprocess.Popen(run, cwd=folder.parent, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_pack_has_the_runs_of_its_study(tmp_path: Path) -> None:
    """A preset of the study says in its parts what is compared; a run of two parts is made once."""
    parts = {"one": {"names": ["birq", "best_rq"], "seeds": [0, 1]}, "two": {"names": ["best_rq"], "seeds": [1, 2], "words": True}}
    pack.pack(tmp_path / "pack", None, settings(study__parts=parts), "", (), 60.0)
    loaded = params.load(tmp_path / "pack" / "params.yaml")
    assert slot.wanted(loaded) == [("birq", 0), ("best_rq", 0), ("birq", 1), ("best_rq", 1), ("best_rq", 2)]


def test_a_pack_runs_alone_and_brings_back_probes(tmp_path: Path) -> None:
    """In a fresh process and folder: speech is made, both forms are trained and probed, the encoder that one starts from once."""
    folder = packed(tmp_path / "pack")
    said, _ = command(folder, Path("found"), 20).communicate(timeout=1200)
    found = json.loads((tmp_path / "found" / "results.json").read_text())
    assert found["machine"]["birq"] == "0.0.0+packed", said
    assert {(r["form"], r["state"]) for r in found["runs"]} == {("best_rq", "done"), ("more", "done")} and found["left"] == [], said
    for about in found["runs"]:
        assert len(about["layers"]) == 3 and all(0 < x < 1 for x in about["layers"]) and about["curve"]["step"] == 4
    assert set(found["speech"]) == {"corpus/synth", "features/synth"} and found["params"]["pretrain"]["steps"] == 4
    log = (tmp_path / "found" / "log.txt").read_text()
    assert log.count("pretrain/best_rq-0: computing") == 1 and "more-0" in said
    # the same command again finds all in place
    command(folder, Path("again"), 20).communicate(timeout=1200)
    assert "computing" not in (tmp_path / "again" / "log.txt").read_text()
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    layers, layers_again = ({r["form"]: r["layers"] for r in results["runs"]} for results in (found, again))  # runs end in any order
    assert layers_again == layers


def test_the_end_of_the_slot_stops_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb at work is asked to stop, what is not begun is named, and all of it stands in the results."""
    p = parse(yaml.safe_load((pack.ROOT / "params.yaml").read_text()))
    here = slot.Slot(tmp_path, time.monotonic() + 2)
    monkeypatch.setattr(slot.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    slot.runs(here, p, 2)
    found = json.loads((tmp_path / "results.json").read_text())
    assert {(r["form"], r["state"], r["status"]) for r in found["runs"]} == {(m, "stopped", -signal.SIGTERM) for m in ("birq", "best_rq")}
    assert found["left"] == ["scratch-0"] and "not begun: scratch-0" in slot.table(found)


def test_a_form_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of that machine beforehand: the failure is recorded, and the next form is tried."""
    p = parse(yaml.safe_load((pack.ROOT / "params.yaml").read_text()))
    monkeypatch.setattr(slot.sys, "executable", "/bin/false")
    slot.runs(slot.Slot(tmp_path, time.monotonic() + 60), p, 1)
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(r["form"], r["state"], r["stage"], r["status"]) for r in found["runs"]] == [
        (m, "failed", "pretrain", 1) for m in ("birq", "best_rq", "scratch")
    ]


def test_a_machine_that_lacks_a_package_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any speech is made, with the name to pack."""
    monkeypatch.setattr(slot, "IMPORTED", ("json", "no_such_package"))
    monkeypatch.setattr(slot.sys, "argv", ["slot", "--minutes", "5", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="no_such_package: No module named 'no_such_package'; pack it with --lacks NAME"):
        slot.main()
    assert "no_such_package" in json.loads((tmp_path / "out" / "results.json").read_text())["error"]


def test_what_is_carried_is_what_the_machine_lacks() -> None:
    """In the versions that are installed here; what lhotse and pydantic need comes along, PyTorch and what its images hold does not."""
    named = {w.partition("==")[0] for w in pack.wheels()}
    assert {"pydantic", "pydantic-core", "annotated-types", "lhotse", "cytoolz", "espeakng-loader", "cffi"} <= named
    assert not named & {"torch", "numpy", "click", "tqdm", "pyyaml", "scikit-learn", "snakemake", "dvc"}
    assert "tqdm" in {w.partition("==")[0] for w in pack.wheels(("tqdm",))}


@pytest.mark.parametrize(
    ("preset", "most_mib", "reason"),
    [
        (None, 0.5, r"MiB are more than --most-mib 0\.5"),
        ("an4", 60.0, "an4 cannot be made on a machine without a network"),
        ("study-scren", 60.0, "did you mean 'study-screen'"),
    ],
)
def test_a_pack_that_cannot_serve_is_refused(tmp_path: Path, preset: str | None, most_mib: float, reason: str) -> None:
    with pytest.raises(BirqError, match=reason):
        pack.pack(tmp_path / "pack", preset, [], "", (), most_mib)
    with pytest.raises(BirqError, match="is not empty"):
        pack.pack(tmp_path / "pack", None, [], "", (), 60.0)
