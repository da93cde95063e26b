"""A small copy of every corpus, in its own layout, through the whole DAG: from the user's folder to a word error rate, under both tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import LAYOUTS
from tinyproject import Project

from birq.settings import presets

pytestmark = pytest.mark.pipeline

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
KINDS = sorted(set(LAYOUTS) - {"synth"})  # test_pipeline.py runs that one


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_from_its_folder_to_a_word_error_rate(fresh: Project, tmp_path: Path, kind: str) -> None:
    section = LAYOUTS[kind](tmp_path / "raw").model_dump(exclude_unset=True)
    project = fresh.copy(tmp_path / "project")
    settings = {
        "corpora": {"mine": section},
        "run": {"pretrain_corpora": ["mine"], "finetune_corpora": ["mine"]},
        "features": {"min_seconds": 0.1, "max_quarantined_share": 0.9},
        "tokenizer": {"alphabet": ALPHABET},
    }
    (project.root / "presets" / "layout.yaml").write_text(json.dumps(settings))
    presets.apply("layout", [], project.root / "params.yaml")
    project.snakemake()
    rows = json.loads((project.root / "data" / "report" / "metrics.json").read_text())
    assert {row["split"] for row in rows} >= {"test"} and all(row["wer"] >= 0 for row in rows)
    project.nothing_to_do()
    assert "computing" not in {said.what for said in project.dvc().said()}
    project.nothing_to_do()
    project.up_to_date()
    project.verify()
