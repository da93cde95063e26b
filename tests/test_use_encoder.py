"""Vectors and units of samples: those of the model that the stages saved, whatever the rate and the length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from recognisers import front_end, sweep, untrained

import birq
from birq.errors import BirqError
from birq.model import quantized
from birq.model.quantizer import standardise
from birq.saved import encoder as saved
from birq.settings.params import parse
from birq.speech.batches import collate
from birq.speech.utterances import InMemory
from birq.use import s3prl


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pre-trained encoder, but for the training."""
    params = parse(tiny.tree())
    objective = quantized.Quantization(n_codebooks=3, codebook_size=16, codebook_dim=4)
    statistics = front_end()
    config = {"method": "birq", "seed": 7, "model": params.model.shape, "objective": vars(objective)} | statistics.config()
    made = quantized.build(quantized, saved.weights.shape_of(config), objective, 7)
    (tmp_path / "pretrained").mkdir()
    saved.save(tmp_path / "pretrained", made, config)
    return tmp_path / "pretrained"


def test_vectors_and_units_are_the_models(folder: Path) -> None:
    loaded, kept = birq.load(folder), saved.load(folder)
    wave = sweep(2.0)
    batch = collate(InMemory([(wave, 16000)], kept.front_end), np.array([0]), kept.front_end)
    with torch.inference_mode():
        outputs = kept.encoder.layers_out(batch.feats_BTF, batch.lengths_B)
        anchors = kept.model.anchor_labels(batch.feats_BTF)[0]
    for layer, x_BND in enumerate(outputs, 1):
        np.testing.assert_array_equal(loaded.encode(wave, 16000, layer), x_BND[0].numpy())
    np.testing.assert_array_equal(loaded.encode(wave, 16000), outputs[-1][0].numpy())
    np.testing.assert_array_equal(loaded.label(wave, 16000), anchors.numpy())
    codes = kept.model.quantizer.nearest(standardise(outputs[1][0])).numpy()
    np.testing.assert_array_equal(loaded.label(wave, 16000, layer=2), codes)
    assert codes.shape == anchors.shape == (len(outputs[0][0]), 3)


def test_a_recogniser_encodes_too(tmp_path: Path) -> None:
    loaded = birq.load(untrained(tmp_path / "m", front_end()))
    shape = loaded.model.encoder.shape
    assert loaded.encode(sweep(1.0), 16000, 1).shape == loaded.encode(sweep(1.0), 16000).shape
    assert loaded.encode(sweep(1.0), 16000).shape == (98 // shape.n_stack, shape.d_model)


def test_too_little_and_too_much(folder: Path) -> None:
    loaded = birq.load(folder)
    for n in (0, 399, 500):
        assert loaded.encode(np.zeros(n), 16000).shape == (0, loaded.model.encoder.shape.d_model)
        assert loaded.label(np.zeros(n), 16000).shape == (0, 3) == loaded.label(np.zeros(n), 16000, layer=1).shape
    for layer in (0, -1, 99):
        with pytest.raises(BirqError, match="layers 1 to"):
            loaded.encode(sweep(1.0), 16000, layer)
    with pytest.raises(BirqError, match="shape"):
        loaded.label(np.zeros((2, 16000)), 16000)


def test_an_upstream_as_s3prl_takes_it(folder: Path, tmp_path: Path) -> None:
    """Waves of several lengths at once give each the vectors that it has alone; shapes are those that s3prl sums over layers and cuts."""
    for model in (folder, untrained(tmp_path / "m", front_end())):
        upstream, alone = s3prl.birq_local(str(model), None, refresh=False).eval(), birq.load(model, False)
        waves = [sweep(s, i).astype(np.float32) for i, s in enumerate((2.0, 0.7, 1.31))]
        with torch.no_grad():
            given = upstream([torch.from_numpy(w) for w in waves])
        hidden, rate = given["hidden_states"], upstream.get_downsample_rates("hidden_states")
        assert torch.equal(given["last_hidden_state"], hidden[-1]) and len({h.shape for h in hidden}) == 1
        assert hidden[0].shape[0] == 3 and abs(hidden[0].shape[1] - round(len(waves[0]) / rate)) < 5  # what s3prl tolerates
        for b, wave in enumerate(waves):
            for layer, x_BND in enumerate(hidden, 1):
                want_ND = alone.encode(wave, 16000, layer)
                np.testing.assert_allclose(x_BND[b, : len(want_ND)].numpy(), want_ND, atol=2e-5)


def test_an_upstream_learns_and_takes_short_waves(folder: Path) -> None:
    upstream = s3prl.UpstreamExpert(folder)
    upstream([torch.from_numpy(sweep(1.0)).float()])["last_hidden_state"].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in upstream.encoder.blocks[0].parameters() if p.requires_grad)
    assert upstream([torch.zeros(800)])["hidden_states"][0].shape[1] == 1
