"""A model exported: in a folder of its own it says what it is and hears what it heard before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recognisers import add_language_model, front_end, sweep, untrained

import birq
from birq.__main__ import main
from birq.errors import BirqError
from birq.use import export, models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("finetune") / "birq-0", front_end())


def heard(folder: Path) -> str:
    return birq.load(folder).transcribe(sweep(4.0, 1), 16000).text


def test_an_exported_model_hears_the_same(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ctc_beam_decoder")
    with_lm = tmp_path / "with_lm"
    shutil.copytree(model, with_lm)
    add_language_model(with_lm, tmp_path)
    out = tmp_path / "out" / "model"
    assert main(["export", str(out), "--model", str(with_lm)]) == 0
    names = capsys.readouterr().out.split()
    assert names == sorted(str(p) for p in out.rglob("*") if p.is_file())
    assert {Path(n).name for n in names} == {
        *("README.md", "config.json", "made_from.json", "model.safetensors", "tokenizer.json"),
        *("lm.arpa", "words.txt", "search.json"),
    }
    text = heard(with_lm)
    shutil.rmtree(with_lm)
    assert heard(out) == text and text
    again = tmp_path / "again"
    export.export(again, str(out))
    assert {p.name: p.read_bytes() for p in again.rglob("*") if p.is_file()} == {
        p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()
    }
    export.export(tmp_path / "greedy", str(out), with_lm=False)
    assert not (tmp_path / "greedy" / "lm").exists() and models.load(tmp_path / "greedy").beam is None


def test_what_is_there_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    for place in (out, out / "mine"):
        with pytest.raises(BirqError, match="not empty"):
            export.export(place, str(model))
    with pytest.raises(BirqError, match="cannot be written"):
        export.export(out / "mine" / "below", str(model))
    assert (out / "mine").read_text() == "kept" and [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    export.export(tmp_path / "empty", str(model))
    assert (tmp_path / "empty" / "README.md").is_file()


def test_a_model_without_its_project_says_so(model: Path, tmp_path: Path) -> None:
    export.export(tmp_path / "out", str(model))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Its project was not there" in card and "Not scored." in card and "layers of width" in card
    assert json.loads((tmp_path / "out" / "made_from.json").read_text())["scores"] == {}


def test_a_damaged_model_is_not_exported(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "bad")
    weights = tmp_path / "bad" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(BirqError, match="not a readable model"):
        export.export(tmp_path / "out", str(tmp_path / "bad"))
    assert not (tmp_path / "out").exists()
