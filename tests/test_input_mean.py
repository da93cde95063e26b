"""`model.input_mean: utterance`: the encoder's input less the utterance's own mean, in every stage, and labels as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import finetune_job, job, params, pretrained, tree

from birq.errors import BirqError
from birq.evaluate import layers
from birq.labels.frames import of_layer, of_view
from birq.progress import Progress
from birq.saved import encoder
from birq.saved.recogniser import Recogniser
from birq.settings.params import parse
from birq.speech import shards
from birq.speech.batches import Batch, Feed, collate, sequential
from birq.speech.frontend import FrontEnd, from_config
from birq.stages import finetune

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def split(features: Path) -> shards.Split:
    return shards.open_split([features], "train")


@pytest.fixture(scope="module")
def own(features: Path, split: shards.Split) -> FrontEnd:
    return shards.read_front_end([features], split, 4, "utterance")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    """BEST-RQ whose encoder saw the utterance's mean removed."""
    return pretrained(tmp_path_factory.mktemp("own"), features, "best_rq", model__input_mean="utterance")


def written(folder: Path, *utterances: list[float], storage: str = "int16") -> shards.Split:
    """Utterances of such log-mel, nat, in the first bin; all others are 7."""
    rows = []
    for i, values in enumerate(utterances):
        logmel = np.full((len(values), 80), 7, np.float32)
        logmel[:, 0] = values
        rows.append({"id": str(i), "speaker": "s", "text": None, "duration_s": len(values) / 100, "fbank": logmel})
    shards.write_shard(folder / "train" / "00000.parquet", rows, shards.metadata(storage=storage))
    return shards.open_split([folder], "train")


@pytest.mark.parametrize("storage", ["int16", "float32"])
def test_a_worked_out_case(tmp_path: Path, storage: str) -> None:
    """1, 2, 6 less their mean 3, over the deviation 2; of 4, 4 nothing is left. The fourth frame, which no encoder frame holds, counts
    nowhere, nor does padding, nor the corpus' mean 5; labels are of what is above that mean."""
    own = FrontEnd(shards.metadata(), np.full(80, 5, np.float32), np.full(80, 2, np.float32), 1, "utterance")
    b = collate(written(tmp_path, [1, 2, 6], [4, 4], storage=storage), np.array([0, 1]), own)
    assert b.feats_BTF[:, :, 0].tolist() == [[-1, -0.5, 1.5], [0, 0, 0]] and not b.feats_BTF[:, :, 1:].any()
    assert b.label_feats_BTF[:, :, 0].tolist() == [[-2, -1.5, 0.5], [-0.5, -0.5, 0]]
    cropped = collate(written(tmp_path / "four", [1, 2, 6, 30], storage=storage), np.array([0]), replace(own, n_stack=3))
    assert torch.equal(cropped.feats_BTF, b.feats_BTF[:1])


def test_an_utterance_does_not_depend_on_its_mates(split: shards.Split, own: FrontEnd) -> None:
    """To the bit, whether it is alone, in a batch of training or in one of decoding; padding is exact zeros."""
    index = np.arange(len(split))
    feed = Feed(split, index, own, batch_seconds=8.0, micro_batch_seconds=8.0, seed=0)
    found = [b for step in feed.epoch(0) for b in step] + list(sequential(split, index, own, 20.0))
    assert max(len(b.ids) for b in found) > 3
    for b in found:
        for row, (i, n) in enumerate(zip(b.index, 4 * b.lengths_B, strict=True)):
            alone = collate(split, np.array([i]), own)
            assert torch.equal(b.feats_BTF[row, :n], alone.feats_BTF[0]) and not b.feats_BTF[row, n:].any()
            assert alone.feats_BTF[0].mean(0).abs().max() < 1e-6 and alone.feats_BTF.std() > 0.1


def test_what_labels_are_made_from_is_unchanged(split: shards.Split, own: FrontEnd) -> None:
    """To the bit what an encoder of `corpus` sees, which then has nothing beside it."""
    index = np.arange(len(split))
    theirs, ours = (collate(split, index, replace(own, input_mean=mean)) for mean in ("corpus", "utterance"))
    assert torch.equal(ours.label_feats_BTF, theirs.feats_BTF) and theirs.label_feats_BTF is None
    assert not torch.equal(ours.feats_BTF, theirs.feats_BTF)


@pytest.mark.parametrize("changes", [{}, {"distil_weight": 0.5, "view": "cepstra"}], ids=["log-mel", "cepstra, distilled"])
@pytest.mark.parametrize("method", ["best_rq", "birq"])
def test_anchoring_labels_of_a_training_are_unchanged(tmp_path: Path, features: Path, method: str, changes: dict) -> None:
    """Axes and codes that follow the labels' frames end in the same bits, and labels are used as much; the encoder learns otherwise."""
    options = {f"random_projection__{k}": v for k, v in {"projection": "pca", "codebook": "refined", **changes}.items()}
    theirs, ours = (pretrained(tmp_path / mean, features, method, **options, model__input_mean=mean) for mean in ("corpus", "utterance"))
    one, other = (load_file(folder / encoder.FILE) for folder in (theirs, ours))
    for name in one:
        assert torch.equal(one[name], other[name]) == ("quantizer" in name), name
    assert not torch.equal(one["anchor_quantizer.codebook"], one["quantizer.codebook"])  # the one has followed, the other is as drawn
    curves = [[json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()] for folder in (theirs, ours)]
    assert [a["anchor_perplexity"] for a in curves[0]] == [b["anchor_perplexity"] for b in curves[1]]
    assert curves[0][-1]["anchor_loss"] != curves[1][-1]["anchor_loss"]


def test_the_probe_reads_the_input_and_the_labels_of_the_training(tmp_path: Path, split: shards.Split, trained: Path) -> None:
    """Layer 0 is what the encoder sees, layers 1 to K follow from it, and anchoring labels are those of `corpus`."""
    loaded, index = encoder.load(trained), np.arange(len(split))
    frames = layers.Frames(split, index, loaded, CPU)
    found = layers.read(frames, tmp_path / "own", Progress("probe", len(split)))
    b = collate(split, index[:1], loaded.front_end)
    n = int(b.lengths_B)
    x_BTS = loaded.encoder.stack(b.feats_BTF)
    assert np.array_equal(found.layers[0][:n], x_BTS[0].numpy())
    np.testing.assert_allclose(found.layers[2][:n], loaded.encoder(x_BTS, b.lengths_B)[0].detach().numpy(), atol=1e-5)
    theirs = layers.Frames(split, index, replace(loaded, front_end=replace(loaded.front_end, input_mean="corpus")), CPU)
    assert np.array_equal(found.anchor_MN, layers.read(theirs, tmp_path / "corpus", Progress("probe", len(split))).anchor_MN)


def test_labels_of_a_layer_are_of_the_encoder_s_own_input(tmp_path: Path, features: Path, split: shards.Split, trained: Path) -> None:
    """And those of a view of the input are of log-mel less the corpus' mean, whatever params say of the encoder."""
    settings = params(model__input_mean="utterance")
    made = job("labels", tmp_path, {"features": [features], "pretrain": [trained]}, settings, "relabel")
    loaded, theirs = encoder.load(trained), shards.read_front_end([features], split, 4)
    for source, expected in (
        (of_layer(made, split, 1), lambda i: first_layer(loaded, collate(split, i, loaded.front_end))),
        (of_view(made, split, "log_mel", 4), lambda i: loaded.encoder.stack(collate(split, i, theirs).feats_BTF)[0]),
    ):
        (found,) = [x_MD for index, _, x_MD in source.batches(np.array([3]))]
        torch.testing.assert_close(found, expected(np.array([3])), atol=1e-5, rtol=1e-5)


def first_layer(saved: encoder.SavedEncoder, b: Batch) -> torch.Tensor:
    with torch.inference_mode():
        return saved.encoder(saved.encoder.stack(b.feats_BTF), b.lengths_B, 1)[0]


def test_it_travels_from_pre_training_to_the_recogniser(tmp_path: Path, features: Path, letters: Path, trained: Path) -> None:
    """Params of fine-tuning say `corpus`, and the encoder's own setting is used and saved on. The shape has nothing of it."""
    j = finetune_job(tmp_path, trained, letters, features, model__input_mean="corpus")
    finetune.compute(j)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (trained, j.out)]
    assert [c["input_mean"] for c in configs] == ["utterance"] * 2 and all("input_mean" not in c["model"] for c in configs)
    assert Recogniser.load(j.out).front_end.input_mean == "utterance"


def test_models_from_before_the_option_are_of_corpus(own: FrontEnd) -> None:
    """Their config.json has no such field, and one of `corpus` is written as it was. A mean of a later birq is refused."""
    shape = {"model": {"n_stack": 4}}
    config = replace(own, input_mean="corpus").config() | shape
    assert "input_mean" not in config and from_config(config).input_mean == "corpus"
    assert from_config(own.config() | shape).input_mean == "utterance"
    with pytest.raises(BirqError, match=r"input_mean: 'speaker' is not legal: corpus, utterance; load it with the birq that wrote it"):
        from_config(config | {"input_mean": "speaker"})


def test_params_from_before_the_option_are_of_corpus() -> None:
    """A params.yaml of one's own needs no new line."""
    old = tree()
    del old["model"]["input_mean"]
    assert parse(old) == params()
