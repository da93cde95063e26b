"""Features and recordings open in other tools, by the lines of docs/use.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from recognisers import made, sweep

from birq.settings.params import parse
from birq.speech import shards

ROOT = Path(__file__).resolve().parent.parent
SECONDS = (1.0, 2.5, 2.2, 3.1, 2.9)


@pytest.fixture(scope="module")
def lines() -> str:
    """The section's code."""
    section = (ROOT / "docs" / "use.md").read_text().partition("## Features and recordings in other tools")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus `synth` of training recordings, and its features."""
    home = tmp_path_factory.mktemp("readers")
    audio = home / "audio"
    audio.mkdir()
    for i, seconds in enumerate(SECONDS):
        soundfile.write(audio / f"r{i}.flac", sweep(seconds, i), 16000)
    listed = "".join(f"r{i}.flac\ta\ts\ttrain\n" for i in range(len(SECONDS)))
    (audio / "transcripts.tsv").write_text("path\ttext\tspeaker\tsplit\n" + listed)
    tree = tiny.tree(features__shard_utterances=2, features__n_mels=80)
    tree["corpora"] = {"synth": {"kind": "local", "root": str(audio), "dev_share": 0.0, "test_share": 0.0}}
    tree["run"] |= {"pretrain_corpora": ["synth"], "finetune_corpora": ["synth"]}
    params = parse(tree)
    cuts = made("corpus", home, params, {"corpus": "synth"}, {})
    for stage, folder in (("corpus", cuts), ("features", made("features", home, params, {"corpus": "synth"}, {"corpus": [cuts]}))):
        (home / "data" / stage).mkdir(parents=True)
        (home / "data" / stage / "synth").symlink_to(folder)
    return home


def test_the_lines_of_the_page_read_what_birq_reads(lines: str, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("polars", "duckdb", "datasets"):
        pytest.importorskip(name)
    monkeypatch.chdir(project)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found: dict = {}
    exec(compile(lines, "docs/use.md", "exec"), found)
    split = shards.open_split([Path("data/features/synth")], "train")
    wanted = {id: split.logmel(i) for i, id in enumerate(split.ids) if split.duration_s[i] > 2}
    assert len(wanted) == 4
    for tool in ("of_polars", "of_duckdb", "of_datasets"):
        assert found[tool].keys() == wanted.keys()
        for id, logmel_TF in wanted.items():
            np.testing.assert_array_equal(found[tool][id], logmel_TF)
    assert list(found["of_polars"]) == list(found["of_duckdb"]) == sorted(wanted, key=lambda id: split.duration_s[split.ids.index(id)])
    for id, samples in found["samples"].items():
        np.testing.assert_allclose(samples, soundfile.read(f"audio/{id.rpartition('-')[2]}.flac", dtype="float32")[0], atol=1e-6)
    assert found["samples"].keys() == wanted.keys()
