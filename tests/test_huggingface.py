"""A recogniser in transformers: the Auto classes and the pipeline give birq's texts, it can be trained there, saved and loaded again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from recognisers import front_end, sweep, untrained

pytest.importorskip("transformers", minversion="5")

import torch
import transformers

import birq.use
from birq.errors import BirqError
from birq.model.ctc import Targets, ctc_loss
from birq.saved import recogniser as saved
from birq.text import tokenizer
from birq.use import export, huggingface
from birq.use.recogniser import Recogniser

SECONDS = (0.5, 1.0, 2.51, 4.0)


@pytest.fixture(scope="module", params=["characters", "pieces"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported; its units are characters, or pieces of words."""
    home = tmp_path_factory.mktemp("hf")
    folder = untrained(home / "m", front_end())
    if request.param == "pieces":
        loaded = Recogniser.load(folder)
        units = tokenizer.pieces("unigram", ["abab cdef ghab", "efgh abcd", "cdcd ab"] * 9, 12, loaded.tokenizer.alphabet)
        torch.manual_seed(1)
        other = saved.CtcModel(loaded.model.encoder, units.size)
        torch.nn.init.normal_(other.head.weight, std=1.0)
        saved.Recogniser(other, units, loaded.front_end, loaded.config).save(folder)
    export.export(home / "out", str(folder), with_hf=True)
    return home / "out"


@pytest.fixture
def auto(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Model and processor by the Auto classes, with the folder's custom code, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = str(model / huggingface.FOLDER)
    loaded = transformers.AutoModelForCTC.from_pretrained(folder, trust_remote_code=True).eval()
    return loaded, transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)


def sounds() -> list[np.ndarray]:
    return [sweep(s, i).astype(np.float32) for i, s in enumerate(SECONDS)]


def texts(model: Path) -> list[str]:
    return [h.text for h in Recogniser.load(model).transcribe([(s, 16000) for s in sounds()])]


def test_the_auto_classes_give_the_same_text(model: Path, auto) -> None:
    """One by one, and in a batch with padding."""
    loaded, processor = auto
    assert isinstance(loaded, huggingface.BirqForCTC) and len(set(texts(model))) > 2
    for heard in (sounds(), *([s] for s in sounds())):
        inputs = processor(heard, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            logits_BNV = loaded(**inputs).logits
        wanted = texts(model) if len(heard) > 1 else [texts(model)[[len(s) for s in sounds()].index(len(heard[0]))]]
        assert processor.batch_decode(logits_BNV.argmax(-1)) == wanted


def test_the_pipeline_runs_with_times(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recognise = transformers.pipeline("automatic-speech-recognition", model=str(model / huggingface.FOLDER), trust_remote_code=True)
    for sound, heard in zip(sounds(), Recogniser.load(model).transcribe([(s, 16000) for s in sounds()]), strict=True):
        made = recognise({"raw": sound, "sampling_rate": 16000}, return_timestamps="word")
        assert made["text"] == heard.text
        assert [c["text"].strip() for c in made["chunks"]] == [w.text for w in heard.words]
        ends = [w.end_s - 0.0075 for w in heard.words]  # the middle of a window of 25 ms
        assert [c["timestamp"][1] for c in made["chunks"]] == pytest.approx(ends, abs=0.011)


def test_it_is_saved_and_loaded_again(model: Path, auto, tmp_path: Path) -> None:
    loaded, processor = auto
    huggingface.register()
    loaded.save_pretrained(tmp_path)
    again = huggingface.BirqForCTC.from_pretrained(tmp_path).eval()
    inputs = processor(sounds(), return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(again(**inputs).logits, loaded(**inputs).logits)


def test_it_learns(auto) -> None:
    """The loss is birq's, per utterance, and moves the weights."""
    loaded, processor = auto
    batch = processor(sounds()[1:3], return_tensors="pt")
    rows = processor(text=["ab", "cd ef"])["labels"]
    width = max(map(len, rows))
    labels = torch.tensor([row + [huggingface.NO_LABEL] * (width - len(row)) for row in rows])
    loss = loaded(**batch, labels=labels).loss
    lengths_B = batch["attention_mask"].sum(-1) // loaded.model.encoder.shape.n_stack
    logp_BNV, _ = loaded.model(batch["input_features"], lengths_B)
    assert loss.item() == pytest.approx(ctc_loss(logp_BNV, lengths_B, Targets.of(rows), loaded.model.blank).item() / 2)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loaded.model.head.parameters())
    loaded.zero_grad()


def test_another_rate_is_refused(auto) -> None:
    with pytest.raises(ValueError, match="16000 Hz, not 8000"):
        auto[1](sounds()[0], sampling_rate=8000)


def test_what_is_pushed_is_whole(model: Path, auto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the push itself, which needs a network."""
    pushed: list[str] = []

    def instead(self, working_dir, *args, **kwargs) -> None:
        pushed.extend(p.name for p in Path(working_dir).iterdir())

    made = SimpleNamespace(create_repo=lambda *_, **__: SimpleNamespace(repo_id="me/birq"))
    monkeypatch.setattr(transformers.utils.hub.PushToHubMixin, "_upload_modified_files", instead)
    monkeypatch.setattr(transformers.utils.hub, "hf_api", lambda: made)
    card = SimpleNamespace(save=lambda path: Path(path).write_text("a card"))
    monkeypatch.setattr(transformers.utils.hub, "create_and_tag_model_card", lambda *_, **__: card)  # it asks the network
    loaded, processor = auto
    loaded.push_to_hub("me/birq")
    processor.push_to_hub("me/birq")
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer_config.json"} <= set(pushed)


def test_the_folder_says_what_it_is(model: Path) -> None:
    folder = model / huggingface.FOLDER
    assert "custom code" in (folder / huggingface.CODE).read_text().lower()
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card and "trust_remote_code=True" in card and "birq transcribe" not in card
    assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModelForCTC"].endswith("BirqForCTC")


def test_without_transformers_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = untrained(tmp_path / "m", front_end())
    monkeypatch.setitem(sys.modules, "birq.use.huggingface", None)
    monkeypatch.delattr(birq.use, "huggingface")
    with pytest.raises(BirqError, match=r"birq\[hf\]"):
        export.export(tmp_path / "out", str(folder), with_hf=True)
    assert not (tmp_path / "out").exists()
