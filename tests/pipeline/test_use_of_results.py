"""A finished project's model in use: transcripts equal to the pipeline's, and an export that tells where it comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tinyproject import Project

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_python_of_the_page(project: Project) -> None:
    """The lines of docs/transcribe.md, one block after the other, on a finished project; but for a push to the hub.

    tests/test_onnx.py has those of sherpa-onnx, which hears 80 bins only.
    """
    for name in ("onnx", "transformers"):
        pytest.importorskip(name, reason=f"{name} is missing: pip install -e '.[dev]'")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "transcribe.md").read_text(encoding="utf-8"), re.DOTALL)
    text = "\n".join(b for b in blocks if "sherpa_onnx" not in b).replace("birq-0", "best_rq-0").replace("layer=3", "layer=2")
    kept = [line for line in text.splitlines() if "push_to_hub" not in line]
    assert len(blocks) == 5 and len(kept) == len(text.splitlines()) - 1
    project.birq("export", "model", "--onnx", "--hf", "--model", "data/finetune/best_rq-0")
    recording = str(next((project.root / "speech").rglob("*.wav")))
    script = ["import soundfile", f"samples, rate = soundfile.read({recording!r}, dtype='float32')", "others = samples"]
    script += [*kept, "print('ALL', len(many), vectors.shape, units.shape, type(model).__name__)"]
    said = project.run("python", "-c", "\n".join(script)).text
    assert re.search(r"^ALL 2 \(\d+, \d+\) \(\d+, \d+\) BirqForCTC$", said, re.MULTILINE), said[-3000:]
