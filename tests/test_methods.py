"""The Methods paragraph of the Snakemake report: filled in from params, with no number kept by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from birq.report import methods
from birq.settings import params, presets

ROOT = Path(__file__).resolve().parent.parent


def paragraph(*settings: str) -> str:
    tree = presets.plain(params.load(ROOT / "params.yaml").model_dump(mode="json"))
    for setting in settings:
        presets.assign(tree, setting)
    return methods.paragraph(params.parse(tree, "params.yaml"))


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory):
    """No artifacts: versions are those that are installed."""
    with pytest.MonkeyPatch.context() as m:
        m.chdir(tmp_path_factory.mktemp("empty"))
        yield


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("corpora.synth.train_hours=7.25", "7.25 h to train on"),
        ("features.n_mels=64", "64 log-mel bins"),
        ("model.d_model=192", "width 192"),
        ("model.n_stack=2", "at 50 frames per second"),
        ("model.input_mean=utterance", "the encoder's input had each utterance's mean removed"),
        ("pretrain.steps=54321", "54,321 steps of 30 s"),
        ("pretrain.steps=100 epochs", "for 100 epochs in steps of 30 s of speech"),
        ("pretrain.warmup_steps=2.5 epochs", "2.5 epochs of warm-up, cosine"),
        ("finetune.steps=30 epochs", "for 30 epochs in steps of 30 s"),
        ("random_projection.codebook_size=8192", "codes of 16 dimensions"),
        ("birq.label_layer=2", "labels of layer 2"),
        ("birq.enhanced_weight=0.3", "weights 0.3 (enhanced)"),
        ("pretrain.mask_span_ms=400.0", "spans of 400 ms"),
        ("finetune.labelled_minutes=12.5", "12.5 min of transcribed speech"),
        ("finetune.learning_rate=0.0007", "peak rate 0.0007"),
        ("tokenizer.kind=bpe", "256 bpe pieces"),
        ("run.seeds=[3, 5]", "2 seeds (3 and 5)"),
        ("score.bootstrap_samples=5000", "5,000 bootstrap samples"),
    ],
)
def test_every_number_follows_params(setting: str, text: str) -> None:
    """A paragraph that keeps a number while params change would lie about the run."""
    before, after = paragraph(), paragraph(setting)
    assert text in after and after != before


@pytest.mark.parametrize(
    ("method", "setting", "text"),
    [
        ("hubert1", "kmeans.clusters=100", "100 k-means clusters of cepstra of the input"),
        ("cmvn_kmeans", "kmeans.clusters=100", "100 k-means clusters of mean and variance normalised cepstra of the input"),
        ("hubert", "kmeans.view=mean_removed", "clusters of mean removed log-mel of the input, then of layer 2"),
        ("hubert", "kmeans.layer=3", "then of layer 3 of that encoder"),
        ("relabel", "relabel.layer=1", "random codes of layer 1 of a finished BEST-RQ encoder"),
        ("relabel_birq", "relabel.layer=1", "random codes of layer 1 of a finished BiRQ encoder"),
        ("relabel2", "relabel.layer=1", "random codes of layer 1 of a BEST-RQ encoder that was relabelled so once"),
    ],
)
def test_labels_from_a_file_follow_params(method: str, setting: str, text: str) -> None:
    """The same for methods that learn labels of another stage."""
    before, after = paragraph(f"run.methods=[{method}]"), paragraph(f"run.methods=[{method}]", setting)
    assert text in after and after != before


def test_a_start_from_another_encoder_is_told() -> None:
    """In the paragraph for all methods, and among the changes of a variant."""
    first = "variants={first: {method: best_rq, pretrain.starts_from: none}}"
    assert "It began with the encoder of first." in paragraph(first, "pretrain.starts_from=first") and "began" not in paragraph()
    more = "variants={more: {method: best_rq, pretrain.starts_from: best_rq}}"
    assert "more, a variant of BEST-RQ (pretrain.starts_from best_rq)" in paragraph(more, "run.methods=[more]")


def test_what_was_not_run_is_not_told() -> None:
    """Papers are cited for the methods that the run compares, and for no others."""
    assert "2509.15430" in paragraph() and "2202.01855" in paragraph()
    alone = paragraph("run.methods=[best_rq]")
    assert "2509.15430" not in alone and "2202.01855" in alone and "reference" not in alone
    none = paragraph("run.methods=[scratch]")
    assert "Nothing was pre-trained." in none and "codebook" not in none.replace("codebooks.", "")
    assert "entropy" not in paragraph("birq.entropy_weight=0.0")
