"""A finished project's model in use: transcripts equal to the pipeline's, and an export that tells where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from tinyproject import Project


def test_files_have_the_pipelines_text(made: Project) -> None:
    """Without an option, the project's own model and language model; greedily, as decode."""
    for stage, options in (("search", ()), ("decode", ("--greedy",))):
        rows = pq.read_table(made.root / "data" / stage / "best_rq-0" / "test.parquet").to_pylist()
        files = {row["id"]: next((made.root / "speech").rglob(f"{row['id'].rpartition('-')[2]}.*")) for row in rows}
        said = made.birq("transcribe", *map(str, files.values()), *options).text
        lines = dict(line.split("\t") for line in said.splitlines() if "\t" in line)
        assert {row["id"]: row["hypothesis"] for row in rows} == {id: lines[str(path)] for id, path in files.items()}


def test_an_export_tells_where_it_comes_from(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "model"
    project.birq("export", str(out))
    card, about = (out / "README.md").read_text(), json.loads((out / "made_from.json").read_text())
    key = json.loads((project.root / "data/finetune/best_rq-0/provenance.json").read_text())["key"]
    assert about["finetune"]["key"] == key and f"`{key}`" in card
    scores = json.loads((project.root / "data/score/best_rq-0/scores.json").read_text())
    assert (
        f"| test | greedy | {100 * scores['test']['wer']:.1f} |" in card
        and f"| test | language model | {100 * scores['test']['lm']['wer']:.1f} |" in card
    )
    assert "pre-trained by `best_rq`" in card and about["corpora"]["tones"]["licence"] in card
    recording = str(next((project.root / "speech").rglob("*.wav")))
    here = project.birq("transcribe", recording).text.splitlines()[-1]
    there = (
        project.at(tmp_path / "elsewhere").run("python", "-m", "birq", "transcribe", recording, "--model", str(out)).text.splitlines()[-1]
    )
    assert here == there
