"""A key holds the code and the params that make an artifact's bytes, and nothing else: edits, and the stages that each computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import edits
import pytest
import scenario
from edits import EDITS, Edit

from birq.pipeline import dag
from birq.settings import presets

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "corpora.spoken={kind: local, root: speech}",
    f"run={{methods: [{', '.join(edits.METHODS)}], seeds: [0], pretrain_corpora: [spoken, synth], finetune_corpora: [spoken, synth]}}",
)


Stamps = dict[str, str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, forked: dict[str, str]) -> tuple[Path, Stamps]:
    """Code and params of two kinds of corpora and of methods of every kind, and their stamps."""
    folder = tmp_path_factory.mktemp("edits")
    shutil.copytree(ROOT / "birq", folder / "birq", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "speech").mkdir()
    (folder / "speech" / "a.wav").write_bytes(b"sound")
    presets.apply(None, list(SETTINGS), folder / "params.yaml")
    return folder, stamps(folder, forked)


def stamps(folder: Path, forked: dict[str, str]) -> Stamps:
    """The stamps under the present code and params: name -> content."""
    env = forked | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["python", "-m", "birq", "stamp"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {p.stem: p.read_text() for p in (folder / "data" / ".stamps").glob("*.json")}


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.title)
def test_an_edit_computes_just_these_stages(edit: Edit, project: tuple[Path, Stamps], forked: dict[str, str]) -> None:
    """The user's sentence: each step reruns only when its params or inputs change."""
    folder, before = project
    path = folder / (edit.file or "params.yaml")
    text = path.read_text() if path.exists() else None
    if edit.setting:
        presets.apply(None, [edit.setting], path)
    else:
        assert text is None or text.count(edit.old) == 1, f"{edit.old!r} stands {text.count(edit.old)} times in {edit.file}"
        path.write_text(edit.new if text is None else text.replace(edit.old, edit.new))
    try:
        after = stamps(folder, forked)
    finally:
        path.unlink() if text is None else path.write_text(text)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == set(edit.computes.split())


def test_every_stage_and_section_has_a_row() -> None:
    """A stage or a section that no edit reaches would be a hole in the table."""
    stages = {s for s, spec in dag.STAGES.items() if not spec.asked}  # these params have no study
    assert set(edits.ORDER) == stages
    assert {s for e in EDITS for s in e.computes.replace("-", " ").split()} >= stages
    keys = {e.setting.partition("=")[0].partition(".")[0] for e in EDITS if e.setting}
    assert keys == {"run", "variants", "corpora", "features", "tokenizer", "model", "pretrain", "random_projection", "birq"} | {
        "kmeans",
        "relabel",
        "finetune",
        "decode",
        "lm",
        "search",
        "score",
        "probe",
        "report",
    }


def test_the_page_lists_the_edits() -> None:
    """`pytest tests/pipeline --write-docs` writes the table."""
    assert edits.table() in scenario.PAGE.read_text(encoding="utf-8")
