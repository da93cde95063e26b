"""A result in use: samples in memory give the text that the stages give for the same recording."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import tiny
from recognisers import made, untrained

from birq.settings.params import Params, parse
from birq.speech import shards
from birq.speech.frontend import INPUT_MEANS, FrontEnd
from birq.use.recogniser import BATCH_SECONDS, Recogniser

# seconds of each recording and its rate: one encoder frame, parts of a log-mel frame over, other rates, longer than a short batch
RECORDED = [(0.06, 16000), (0.501, 16000), (1.0, 16000), (1.777, 22050), (2.3, 44100), (2.51, 8000), (4.003, 16000)]


def project(root: Path, storage: str) -> Params:
    tree = tiny.tree(features__storage=storage, features__min_seconds=0.05, decode__splits=["dev"], report__main_split="dev")
    tree["corpora"] = {"tones": {"kind": "local", "root": str(root), "test_share": 0.0}}
    return parse(tree)


def recordings(root: Path) -> dict[str, tuple[np.ndarray, int]]:
    """Audio files with a table that puts all of them into dev; by id, the samples that a user reads from them."""
    rng = np.random.default_rng(0)
    lines, heard = ["path\ttext\tspeaker\tsplit"], {}
    root.mkdir()
    for i, (seconds, rate) in enumerate(RECORDED):
        time_s = np.arange(round(seconds * rate)) / rate
        wave = 0.3 * np.sin(2 * np.pi * (300 + 900 * rng.random() * time_s) * time_s) + 0.02 * rng.standard_normal(len(time_s))
        name = f"r{i}.{('wav', 'flac')[i % 2]}"
        soundfile.write(root / name, wave, rate, subtype="PCM_16")
        lines.append(f"{name}\ta\ts\tdev")
        heard[f"r{i}"] = soundfile.read(root / name)
    (root / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return heard


@pytest.fixture(scope="module", params=[(storage, mean) for storage in ("int16", "float32") for mean in INPUT_MEANS], ids="-".join)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Recordings, the texts that corpus, features and decode make of their files, and the recogniser that decode read.

    params.yaml says `corpus` of the encoder's input, whatever the model was trained with.
    """
    home, (storage, input_mean) = tmp_path_factory.mktemp("use"), request.param
    heard, params = recordings(home / "audio"), project(home / "audio", storage)
    one = {"corpus": "tones"}
    cuts = made("corpus", home, params, one, {})
    shards_folder = made("features", home, params, one, {"corpus": [cuts]})
    split = shards.open_split([shards_folder], "dev")
    frames_TF = np.concatenate([split.logmel(i) for i in range(len(split))])
    statistics = FrontEnd(split.about, frames_TF.mean(0), frames_TF.std(0), params.model.n_stack, input_mean)
    model = untrained(home / "finetune", statistics)
    run = {"method": "birq", "seed": "0"}
    decoded = made("decode", home, params, run, {"finetune": [model], "features": [shards_folder]})
    texts = {row["id"]: row["hypothesis"] for row in pq.read_table(decoded / "dev.parquet").to_pylist()}
    return SimpleNamespace(heard=heard, texts=texts, loaded=Recogniser.load(model))


def texts(pipeline: SimpleNamespace, recordings: list[tuple[np.ndarray, int]], batch_seconds: float = BATCH_SECONDS) -> list[str]:
    return [t.text for t in pipeline.loaded.transcribe(recordings, batch_seconds=batch_seconds)]


@pytest.mark.parametrize("batch_seconds", [240.0, 3.0])
def test_samples_give_the_text_of_the_decode_stage(pipeline: SimpleNamespace, batch_seconds: float) -> None:
    """Reading, resampling, log-mel, rounding, statistics, stacking and decoding are the pipeline's own: every character is the same, for
    whole encoder frames and parts of one, for other rates, and whatever is heard together."""
    assert len(pipeline.texts) == len(RECORDED) and len(set(pipeline.texts.values())) == len(RECORDED)
    assert texts(pipeline, list(pipeline.heard.values()), batch_seconds) == [pipeline.texts[i] for i in pipeline.heard]
    for name, recording in pipeline.heard.items():
        assert texts(pipeline, [recording], batch_seconds) == [pipeline.texts[name]]


def test_less_than_an_encoder_frame_has_an_empty_text(pipeline: SimpleNamespace) -> None:
    """No samples, less than a log-mel frame, and fewer of them than are stacked: no error, and the others keep their texts and places."""
    short = [(np.zeros(n), 16000) for n in (0, 399, 400 + 2 * 160)]
    assert texts(pipeline, short) == ["", "", ""] and texts(pipeline, []) == []
    recording, text = pipeline.heard["r2"], pipeline.texts["r2"]
    assert texts(pipeline, [short[0], recording, short[2], recording, short[1]]) == ["", text, "", text, ""]
