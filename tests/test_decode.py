"""The decode stage: hypotheses of a recogniser, one row per transcribed utterance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from birq.errors import BirqError
from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder
from birq.pipeline.stage import Job
from birq.saved.recogniser import Recogniser
from birq.saved.weights import shape_of
from birq.settings.params import load
from birq.speech import frontend, shards
from birq.stages import decode
from birq.text import tokenizer

TEXTS = ["a b", "b", None, "", "ab ba"]


def features(folder: Path, **splits: int) -> Path:
    """Random log-mel; every fifth utterance has no transcript."""
    rng = np.random.default_rng(0)
    for split, n in splits.items():
        rows = []
        for i in range(n):
            t = int(rng.integers(40, 300))
            frames = rng.normal(0, 2, (t, 80)).astype(np.float32)
            rows.append(
                {"id": f"{split}-{(i * 7) % 100:03d}", "speaker": f"s{i % 2}", "text": TEXTS[i % 5], "duration_s": t / 100, "fbank": frames}
            )
        shards.write_shard(folder / split / "00000.parquet", rows, shards.metadata())
    (folder / "splits.json").write_text(json.dumps({s: {"shards": 1} for s in splits}))
    return folder


def recogniser(folder: Path) -> Path:
    """An untrained recogniser with a head so sharp that its hypotheses are not empty."""
    params = load()
    tok = tokenizer.characters("ab ")
    model = params.model.shape | {"d_model": 32, "n_layers": 2, "n_heads": 2}
    config = {"method": "birq", "seed": 0, "model": model, "features": shards.metadata(), "mean": [0.0] * 80, "std": [2.0] * 80}
    torch.manual_seed(0)
    ctc = CtcModel(Encoder(shape_of(config)), tok.size)
    torch.nn.init.normal_(ctc.head.weight, std=1.0)
    folder.mkdir()
    Recogniser(ctc, tok, frontend.from_config(config), config).save(folder)
    return folder


def job(home: Path, name: str, feats: Path, **section: Any) -> Job:
    params = load()
    params = params.model_copy(update={"decode": params.decode.model_copy(update=section)})
    return tiny.job("decode", home / name, {"finetune": [home / "finetune"], "features": [feats]}, params)


def test_every_transcribed_utterance_once(tmp_path: Path) -> None:
    """References and durations pass through, no utterance is lost, doubled or mixed up; no transcript, no row."""
    feats = features(tmp_path / "features", dev=9, test=13)
    recogniser(tmp_path / "finetune")
    j = job(tmp_path, "decode", feats)
    decode.compute(j)
    for name in ("dev", "test"):
        split = shards.open_split([feats], name)
        rows = pq.read_table(j.out / f"{name}.parquet").to_pylist()
        want = {i: (s, t, d) for i, s, t, d in zip(split.ids, split.speakers, split.texts, split.duration_s, strict=True) if t is not None}
        assert [r["id"] for r in rows] == sorted(want)
        assert {r["id"]: (r["speaker"], r["text"], r["duration_s"]) for r in rows} == want
        assert any(r["hypothesis"] for r in rows)


def test_hypothesis_is_of_its_own_utterance(tmp_path: Path) -> None:
    """Length-sorted batches must not change who said what: each utterance decoded alone gives its row."""
    feats = features(tmp_path / "features", dev=9)
    recogniser(tmp_path / "finetune")
    j = job(tmp_path, "decode", feats, splits=["dev"])
    decode.compute(j)
    rows = {r["id"]: r["hypothesis"] for r in pq.read_table(j.out / "dev.parquet").to_pylist()}
    loaded, split = Recogniser.load(tmp_path / "finetune"), shards.open_split([feats], "dev")
    for i, name in enumerate(split.ids):
        if split.texts[i] is not None:
            n = int(split.n_frames[i]) // 4
            with torch.inference_mode():
                logp, _ = loaded.model(torch.from_numpy(split.logmel(i) / 2)[None, : n * 4], torch.tensor([n]))
            best = torch.unique_consecutive(logp[0].argmax(-1)).tolist()
            assert rows[name] == " ".join(loaded.tokenizer.decode([u for u in best if u != loaded.model.blank]).split())


def test_batches_do_not_change_the_file(tmp_path: Path) -> None:
    """Padding and batch mates do not reach an utterance, so the batch size is a matter of speed only."""
    feats = features(tmp_path / "features", dev=9)
    recogniser(tmp_path / "finetune")
    files = []
    for seconds in (3.0, 240.0):
        j = job(tmp_path, f"d{seconds}", feats, splits=["dev"], batch_seconds=seconds)
        decode.compute(j)
        files.append((j.out / "dev.parquet").read_bytes())
    assert files[0] == files[1]


def test_a_split_without_references_is_named(tmp_path: Path) -> None:
    """Nothing to compare with means no error rate; the message says which corpora and which parameter."""
    recogniser(tmp_path / "finetune")
    feats = features(tmp_path / "features", dev=3)
    with pytest.raises(BirqError, match=r"test split of synth.*no utterances.*decode\.splits"):
        decode.compute(job(tmp_path, "none", feats))
    rows = [{"id": "u", "speaker": "s", "text": None, "duration_s": 1.0, "fbank": np.zeros((98, 80), np.float32)}]
    shards.write_shard(tmp_path / "silent" / "test" / "00000.parquet", rows, shards.metadata())
    with pytest.raises(BirqError, match="1 utterances, none with a transcript"):
        decode.compute(job(tmp_path, "silent-out", tmp_path / "silent", splits=["test"]))


def test_utterance_longer_than_a_batch_is_named(tmp_path: Path) -> None:
    """No silent cropping: the utterance and the parameter to raise stand in the message."""
    recogniser(tmp_path / "finetune")
    feats = features(tmp_path / "features", dev=9)
    with pytest.raises(BirqError, match=r"utterance dev-\d+ lasts .* batch_seconds is 0\.5"):
        decode.compute(job(tmp_path, "short", feats, splits=["dev"], batch_seconds=0.5))
