"""The front end: one value, the same after it travelled with a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from birq.saved import encoder
from birq.speech import shards
from birq.speech.frontend import KERNEL, FrontEnd, from_config
from birq.speech.utterances import InMemory


def assert_same(a: FrontEnd, b: FrontEnd) -> None:
    assert (a.kernel, a.about["dtype"], a.n_stack, a.n_mels) == (b.kernel, b.about["dtype"], b.n_stack, b.n_mels)
    for mine, other in ((a.mean_F, b.mean_F), (a.std_F, b.std_F)):
        assert mine.dtype == other.dtype == np.float32 and np.array_equal(mine, other)


@pytest.mark.parametrize("storage", ["int16", "float32"])
@pytest.mark.parametrize("n_stack", [1, 4])
def test_a_front_end_survives_its_config(storage: str, n_stack: int) -> None:
    """A model's config.json holds all of it: the filterbank, how values are rounded, statistics to the bit, stacking."""
    rng = np.random.default_rng(0)
    kernel = {"sample_rate_hz": 8000, "n_mels": 23, "frame_length_ms": 20.0, "frame_shift_ms": 12.5, "low_hz": 60.0, "high_hz": -200.0}
    assert set(kernel) == set(KERNEL)
    mean_F, std_F = rng.normal(-7, 3, 23).astype(np.float32), rng.uniform(0.1, 4, 23).astype(np.float32)
    before = FrontEnd(shards.metadata(storage=storage, **kernel), mean_F, std_F, n_stack)
    after = from_config(json.loads(json.dumps(before.config() | {"model": {"n_stack": n_stack}})))
    assert_same(before, after)
    assert after.kernel == kernel and after.config() == before.config()
    recording = [(rng.normal(0, 0.1, 9000), 11025)]
    assert np.array_equal(InMemory(recording, before).raw(0), InMemory(recording, after).raw(0))


def test_a_model_carries_the_front_end_of_its_training(tmp_path: Path, features: Path) -> None:
    """What a pretrain artifact loads is what its features were read with."""
    loaded = encoder.load(tiny.pretrained(tmp_path, features, method="scratch"))
    assert_same(loaded.front_end, shards.read_front_end([features], shards.open_split([features], "train"), n_stack=4))


def test_frames_and_seconds() -> None:
    """A budget in seconds holds the frames that last so long, rounding errors aside; an encoder frame lasts as long as its stack."""
    front_end = FrontEnd(shards.metadata(), np.zeros(80, np.float32), np.ones(80, np.float32), 4)
    assert [front_end.n_frames(s) for s in (0.0, 0.0099, 0.01, 0.29, 1.1, 2.3)] == [0, 0, 1, 29, 110, 230]
    assert all(front_end.n_frames(front_end.seconds(n)) == n for n in range(3000))
    assert (front_end.frame_shift_ms, front_end.encoder_shift_ms) == (10.0, 40.0)
