"""Slices of AN4 and of LibriSpeech through the whole DAG by one command, decoded in both ways. The numbers mean nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tinyproject import ROOT, Project

from birq.settings import presets

pytestmark = pytest.mark.pipeline

REAL = Path(os.environ.get("BIRQ_CORPORA", ROOT.parent / "shared" / "corpora"))
SMALL = [
    "run.methods=[scratch]",
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "birq.label_layer=1",
    "relabel.layer=1",
    "kmeans.layer=1",
    "finetune.steps=6",
    "finetune.evaluations=1",
    "search.beam=4",
    "search.weights=[0.5]",
    "search.bonuses=[1.5]",
    "score.bootstrap_samples=100",
]
AN4 = {"corpora.an4.root": "an4", "corpora.an4.download": "false"}
BOOKS = {
    "corpora.librispeech.root": "LibriSpeech",
    "corpora.untranscribed.root": "librivox-untranscribed",
    "corpora.mp3.root": "librivox-mp3",
}


@pytest.mark.parametrize(("preset", "settings"), [("an4", AN4), ("real-speech", BOOKS)])
def test_a_slice_is_decoded_greedily_and_with_a_language_model(
    fresh: Project, tmp_path: Path, preset: str, settings: dict[str, str]
) -> None:
    folders = {key: REAL / name for key, name in settings.items() if key.endswith("root")}
    if missing := [str(f) for f in folders.values() if not f.is_dir()]:
        pytest.skip(f"no recorded speech at {', '.join(missing)}; set BIRQ_CORPORA to a folder that holds it")
    project = fresh.copy(tmp_path / "project")
    shutil.copy(ROOT / "params.yaml", project.root)
    values = [f"{key}={folders.get(key, value)}" for key, value in settings.items()]
    presets.apply(preset, [*values, *SMALL], project.root / "params.yaml")
    project.snakemake()
    project.verify()
    (record,) = (r for r in json.loads((project.root / "data" / "report" / "metrics.json").read_text()) if r["split"] == "test")
    assert record["wer"] > 0 and record["lm_wer"] > 0 and record["lm_source"] == "transcripts" and record["lm_words"] > 50
    assert record["utterances"] > 100
    assert "WER % LM [95 %]" in project.birq("table").text
