"""`birq table --parts`: rates of test-clean and test-other, each as jiwer counts them alone."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_artifacts as artifacts

from birq.errors import BirqError
from birq.evaluate.rates import beside, score_split
from birq.report import parts
from birq.settings.params import Params, Score

HEARD = {  # path of a recording -> what was said, and what birq and scratch heard
    "test-clean/61/7/61-7-0000.flac": ("one two three four", "one two three four", "one two tree for"),
    "test-clean/61/7/61-7-0001.flac": ("five six", "five sick", "fife six"),
    "test-other/62/7/62-7-0000.flac": ("seven eight nine", "seven ate", "heaven ate nein"),
}


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A corpus of two test parts, and what two methods made of it."""
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "data" / "corpus" / "synth"
    corpus.mkdir(parents=True)
    (corpus / "corpus.json").write_text("{}")
    cuts = [{"id": Path(path).stem, "recording": {"sources": [{"source": path}]}} for path in HEARD]
    (corpus / "test.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    for i, method in enumerate(("birq", "scratch")):
        columns = {
            "id": [cut["id"] for cut in cuts],
            "speaker": [cut["id"][:2] for cut in cuts],
            "duration_s": [1.0] * len(cuts),
            "text": [said for said, *_ in HEARD.values()],
            "hypothesis": [heard[i] for _, *heard in HEARD.values()],
        }
        _, table = score_split("test", pa.table(columns), Score(**artifacts.SCORE))
        folder = tmp_path / "data" / "score" / f"{method}-0"
        folder.mkdir(parents=True)
        searched = score_split("test", pa.table(columns | {"hypothesis": columns["text"]}), Score(**artifacts.SCORE))[1]
        pq.write_table(beside(table, searched if method == "birq" else None), folder / "utterances.parquet")
    p = artifacts.params(methods=["birq", "scratch"], seeds=[0])
    return p.model_copy(update={"decode": p.decode.model_copy(update={"splits": ["test"]})})


def test_each_part_has_the_rate_that_it_has_alone(scored: Params) -> None:
    """jiwer, over the utterances of one part only, is the reference; of a run with a language model both decodings have a row."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in parts.table(scored, markdown=True).splitlines()[2:]]
    assert [line[:3] for line in lines[2:]] == [["birq", "0", "greedy"], ["birq", "0", "LM"], ["scratch", "0", "greedy"]]
    assert all(cell.startswith("0.0 ") for cell in lines[3][3:])
    rows = {method: rates for method, _, decoding, *rates in lines if decoding != "LM"}
    assert rows["method"] == ["test-clean", "test-other"]
    for i, method in enumerate(("birq", "scratch")):
        for cell, part in zip(rows[method], ("test-clean", "test-other"), strict=True):
            said, heard = zip(*((row[0], row[1 + i]) for path, row in HEARD.items() if path.startswith(part)), strict=True)
            assert float(cell.split()[0]) == round(100 * jiwer.wer(list(said), list(heard)), 1)


def test_several_corpora_are_parts_too(scored: Params, tmp_path: Path) -> None:
    """A corpus whose recordings lie in no folder is one part, by its name."""
    (tmp_path / "data" / "corpus" / "other").mkdir()
    (tmp_path / "data" / "corpus" / "other" / "corpus.json").write_text("{}")
    cut = {"id": "x", "recording": {"sources": [{"source": "x.wav"}]}}
    (tmp_path / "data" / "corpus" / "other" / "test.jsonl").write_text(json.dumps(cut) + "\n")
    run = scored.run.model_copy(update={"finetune_corpora": ["synth", "other"]})
    both = scored.model_copy(update={"run": run, "corpora": scored.corpora | {"other": scored.corpora["synth"]}})
    assert sorted(set(parts.parts_of(both, "test").values())) == ["other", "synth/test-clean", "synth/test-other"]
    assert "-" in parts.table(both).splitlines()[-1].split()  # nothing of it was decoded


def test_a_part_that_the_cut_names_goes_before_its_folder(scored: Params, tmp_path: Path) -> None:
    """AMI's recordings lie in a folder for each meeting, whichever microphone they are of."""
    cuts = [
        {"id": f"x-{part}", "recording": {"sources": [{"source": "amicorpus/x/audio/x.wav"}]}, "custom": {"part": part}}
        for part in ("ihm", "sdm")
    ]
    (tmp_path / "data" / "corpus" / "synth" / "test.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    assert parts.parts_of(scored, "test") == {"x-ihm": "ihm", "x-sdm": "sdm"}


def test_what_is_not_made_is_named(scored: Params, tmp_path: Path) -> None:
    (tmp_path / "data" / "score" / "scratch-0" / "utterances.parquet").unlink()
    with pytest.raises(BirqError, match=r"score/scratch-0/utterances\.parquet: not made yet"):
        parts.table(scored)
