"""A recogniser as ONNX: the numbers of torch for any length and batch, in onnxruntime and, from samples, in sherpa-onnx."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recognisers import front_end, sweep, untrained

from birq.errors import BirqError
from birq.speech.batches import sequential
from birq.speech.utterances import InMemory
from birq.use import export
from birq.use import onnx as exporting
from birq.use.recogniser import Recogniser

SECONDS = (0.3, 1.0, 2.51, 7.0)
FORMS = [
    {"positions": "rotary", "attention_window": 0},
    {"positions": "rotary", "attention_window": 16},
    {"positions": "relative", "attention_window": 0},
    {"positions": "relative", "attention_window": 16},
]


def log_mel(recogniser: Recogniser, seconds: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, InMemory]:
    """Padded log-mel [B, T, F], lengths [B], and the utterances."""
    utterances = InMemory([(sweep(s, i), 16000) for i, s in enumerate(seconds)], recogniser.front_end)
    feats_BTF = np.full((len(seconds), int(utterances.n_frames.max()), 80), -23.0, np.float32)  # sherpa-onnx pads so
    for i in range(len(seconds)):
        feats_BTF[i, : utterances.n_frames[i]] = utterances.raw(i) * np.float32(utterances.step)
    return feats_BTF, utterances.n_frames, utterances


def by_birq(recogniser: Recogniser, utterances: InMemory) -> dict[int, np.ndarray]:
    """Log probabilities [N, V] by position, by the pipeline's own batches and model."""
    found: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for batch in sequential(utterances, np.arange(len(utterances)), recogniser.front_end, 5.0 if len(utterances) == 1 else 8.0):
            logp_BNV, lengths_B = recogniser.model(batch.feats_BTF, batch.lengths_B)
            for i, row, n in zip(batch.index.tolist(), logp_BNV.numpy(), lengths_B.tolist(), strict=True):
                found[i] = row[:n]
    return found


@pytest.mark.parametrize("mean", ["corpus", "utterance"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f['positions']}-{f['attention_window']}")
def test_the_exported_form_is_the_model(tmp_path: Path, form: dict[str, str | int], mean: str) -> None:
    """Every position, window and mean: what is exported gives the log probabilities of the pipeline, in one padded batch."""
    recogniser = Recogniser.load(untrained(tmp_path / "m", replace(front_end(), input_mean=mean), **form))
    feats_BTF, lengths_B, utterances = log_mel(recogniser, SECONDS)
    with torch.inference_mode():
        logp_BNV, n_B = exporting.Exported(recogniser)(torch.from_numpy(feats_BTF), torch.from_numpy(lengths_B))
    for i, wanted in by_birq(recogniser, utterances).items():
        assert n_B[i] == len(wanted) and np.abs(logp_BNV[i, : len(wanted)].numpy() - wanted).max() < 1e-4


@pytest.mark.parametrize("form", [FORMS[0], FORMS[3]], ids=["rotary", "relative-window"])
def test_onnxruntime_gives_the_same(tmp_path: Path, form: dict[str, str | int]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = untrained(tmp_path / "m", front_end(), **form)
    export.export(tmp_path / "out", str(folder), with_onnx=True)
    recogniser = Recogniser.load(tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / exporting.FILE))
    for seconds in (SECONDS[:1], SECONDS[2:3], SECONDS):
        feats_BTF, lengths_B, utterances = log_mel(recogniser, seconds)
        logp_BNV, n_B = session.run(None, {"log_mel": feats_BTF, "log_mel_lengths": lengths_B})
        for i, wanted in by_birq(recogniser, utterances).items():
            assert n_B[i] == len(wanted) and np.abs(logp_BNV[i, : len(wanted)] - wanted).max() < exporting.TOLERANCE


def test_sherpa_onnx_hears_the_same_from_samples(tmp_path: Path) -> None:
    """Text and times, one by one and in a batch, and where there is no sound. Log-mel is not rounded here, as sherpa-onnx's is not."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnxscript")
    made = front_end()
    folder = untrained(tmp_path / "m", replace(made, about=made.about | {"dtype": "float32"}))
    export.export(tmp_path / "out", str(folder), with_onnx=True)
    files = {"model": str(tmp_path / "out" / exporting.FILE), "tokens": str(tmp_path / "out" / exporting.TOKENS)}
    there = sherpa_onnx.OfflineRecognizer.from_fire_red_asr_ctc(**files, num_threads=1)
    sounds = [sweep(s, i).astype(np.float32) for i, s in enumerate(SECONDS)]
    sounds.append(np.concatenate([np.zeros(8000, np.float32), sounds[1]]))
    heard = Recogniser.load(tmp_path / "out").transcribe([(s, 16000) for s in sounds])
    assert len({h.text for h in heard}) > 3
    for together in (False, True):
        streams = [there.create_stream() for _ in sounds]
        for stream, sound in zip(streams, sounds, strict=True):
            stream.accept_waveform(16000, sound)
        if together:
            there.decode_streams(streams)
        else:
            for stream in streams:
                there.decode_stream(stream)
        for stream, h in zip(streams, heard, strict=True):
            assert " ".join(stream.result.text.split()) == h.text
            starts = [t for i, t in enumerate(stream.result.timestamps) if stream.result.tokens[i] != " "]
            firsts = [s for i, s in enumerate(starts) if i in np.cumsum([0, *(len(w.text) for w in h.words)])[:-1]]
            assert firsts == pytest.approx([w.start_s - 0.0075 for w in h.words], abs=1e-3)  # the middle of a window of 25 ms


def test_the_lines_of_the_page_run_in_sherpa_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnxscript")
    made = front_end()
    folder = untrained(tmp_path / "m", replace(made, about=made.about | {"dtype": "float32"}))
    export.export(tmp_path / "model", str(folder), with_onnx=True)
    page = (Path(__file__).parent.parent / "docs" / "transcribe.md").read_text(encoding="utf-8")
    (lines,) = (b for b in page.split("```python\n")[1:] if "sherpa_onnx" in b.partition("```")[0])
    found = {"sherpa_onnx": sherpa_onnx, "samples": sweep(1.5).astype(np.float32)}
    monkeypatch.chdir(tmp_path)
    exec(compile(lines.partition("```")[0], "docs/transcribe.md", "exec"), found)
    assert found["stream"].result.text == Recogniser.load(tmp_path / "model").transcribe(sweep(1.5), 16000).text != ""


def test_other_features_are_not_for_sherpa_onnx(tmp_path: Path) -> None:
    made = front_end()
    loaded = Recogniser.load(untrained(tmp_path / "m", replace(made, about=made.about | {"low_hz": 64.0})))
    assert not exporting.sherpa(loaded) and "model_type" not in exporting._metadata(loaded)
    loaded.front_end = made
    assert exporting._metadata(loaded)["model_type"] == "fire-red-asr-2-ctc"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BirqError, match=r"birq\[onnx\]"):
        export.export(tmp_path / "out", str(untrained(tmp_path / "m", front_end())), with_onnx=True)
    assert not (tmp_path / "out").exists()
