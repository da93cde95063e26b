"""Odd files beside good ones: docs/inputs.md says what comes of them, and every good recording reaches the features."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import inputs_page
import odd_files
import pytest

from birq.corpora import local, manifests
from birq.corpora.items import Limits
from birq.pipeline import dag, stage
from birq.settings import params
from birq.settings.corpora import LocalCorpus
from birq.speech import shards
from birq.stages import features

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["audio", "tables"])
def test_the_page_says_what_the_code_does(name: str):
    """A reader trusts the table; `python tests/inputs_page.py` writes it."""
    assert inputs_page.on_page(name) == inputs_page.made(name)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[stage.Job]:
    """The features stage on a corpus of every odd file at once, each with a speaker of its own, and 40 good recordings."""
    root, corpus = tmp_path / "mine", tmp_path / "data" / "corpus" / "mine"
    for n in range(40):
        (root / "good").mkdir(parents=True, exist_ok=True)
        (root / "good" / f"{n}.wav").write_bytes(odd_files.riff())
    for n, (_, _, make) in enumerate(odd_files.ROWS):
        (root / f"odd{n:02d}").mkdir()
        make(root / f"odd{n:02d}")
    for folder in (corpus, tmp_path / "scratch", tmp_path / "out", tmp_path / "work"):
        folder.mkdir(parents=True)
    made = LocalCorpus(kind="local", root=str(root), dev_share=0.0, test_share=0.0)
    limits = Limits(0.3, 35.0, odd_files.RATE, 1.0)
    local.prepare("mine", made, corpus, tmp_path / "scratch", alphabet="abc ", limits=limits)
    tracked = params.load(ROOT / "params.yaml").model_copy(update={"corpora": {"mine": made}})
    here = Path.cwd()
    os.chdir(tmp_path)
    yield stage.Job(dag.Node(dag.STAGES["features"], {"corpus": "mine"}, tracked), "key", tmp_path / "out", tmp_path / "work")
    os.chdir(here)


def test_what_passes_the_check_becomes_features_and_nothing_else_is_lost(job: stage.Job):
    """One bad file may cost itself. Features are finite, and as long as the check said."""
    features.compute(job)
    split = shards.open_split([job.out], "train")
    assert {f"good-{n}" for n in range(40)} <= set(split.ids)
    cuts = {c.id: c.duration for c in manifests.iter_cuts(job.input("corpus"), "train")}
    assert set(split.ids) == set(cuts) and len(split) > 40
    assert {i: round(s, 3) for i, s in zip(split.ids, split.duration_s.tolist(), strict=True)} == {i: round(s, 3) for i, s in cuts.items()}
    loud = {i: float(split.logmel(n).max()) for n, i in enumerate(split.ids)}
    assert max(loud.values()) - loud["good-0"] < 1, "floats at the scale of integers are as loud as the others"
