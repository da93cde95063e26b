"""Batches: every utterance once an epoch, the same ones on every run, little padding, and padding that is exactly nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from birq.errors import BirqError
from birq.speech import batches, shards
from birq.speech.frontend import FrontEnd

STACK, SHIFT_MS = 4, 10.0


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        n = int(rng.integers(30, 400))
        logmel = rng.normal(-6, 3, (n, 80)).astype(np.float32)
        text = None if i % 4 == 0 else f"words {i}"
        rows.append({"id": f"u{i:03d}", "speaker": f"s{i % 9}", "text": text, "duration_s": n / 100 + 0.015, "fbank": logmel})
    folder = tmp_path_factory.mktemp("features")
    shards.write_shard(folder / "train" / "00000.parquet", rows, shards.metadata())
    return shards.open_split([folder], "train")


def front_end(split):
    mean_F, std_F = np.linspace(-7, -5, 80).astype(np.float32), np.linspace(2, 4, 80).astype(np.float32)
    return FrontEnd(split.about, mean_F, std_F, STACK)


def feed(split, index=None, batch_seconds=40.0, micro_batch_seconds=15.0, seed=0):
    index = np.arange(len(split)) if index is None else index
    sizes = {"batch_seconds": batch_seconds, "micro_batch_seconds": micro_batch_seconds}
    return batches.Feed(split, index, front_end(split), **sizes, seed=seed)


def lengths(n, seed=0):
    return np.random.default_rng(seed).integers(100, 1700, n)


@pytest.mark.parametrize("n", [1, 2, 50, 1000, 20_000])
@pytest.mark.parametrize("window", [64, 8192])
def test_plan_is_a_partition_within_budget(n, window):
    """No utterance lost or doubled, no batch above the budget, whatever the window."""
    frames = lengths(n)
    plan = batches.plan(frames, 6000, seed=1, epoch=2, window=window)
    np.testing.assert_array_equal(np.sort(np.concatenate(plan)), np.arange(n))
    assert max(frames[b].sum() for b in plan) <= 6000


def test_batches_of_an_epoch_are_near_equal():
    """A step on a few seconds would count as much as a full one: the remainder of a window moves on, the epoch's last is evened out."""
    for seed in range(20):
        frames = lengths(3000 + 17 * seed, seed)
        sizes = np.array([frames[b].sum() for b in batches.plan(frames, 40_000, seed=seed, epoch=0, window=512)])
        assert sizes.min() >= 0.4 * 40_000 and np.sort(sizes)[2] >= 0.9 * 40_000


def test_plan_depends_on_seed_and_epoch_only():
    """A resumed run plans the epoch again and must get the same one; another epoch or seed must not."""
    frames = lengths(500)
    flat = [np.concatenate(batches.plan(frames, 6000, seed=s, epoch=e)).tolist() for s, e in ((3, 1), (3, 1), (3, 2), (4, 1))]
    assert flat[0] == flat[1] and flat[0] != flat[2] and flat[0] != flat[3]


def test_mates_change_between_epochs():
    """Sorting alone would give a small corpus the same batches for ever; the price in padding must stay small."""
    frames = lengths(4000)
    plans = [batches.plan(frames, 6000, seed=0, epoch=e) for e in range(2)]
    seen = [{frozenset(b.tolist()) for b in plan} for plan in plans]
    assert len(seen[0] & seen[1]) <= 0.02 * len(seen[0])
    assert sum(int(frames[b].max()) * len(b) for b in plans[0]) / frames.sum() - 1 <= 0.02


def test_batch_order_is_not_by_length():
    """Sorting serves padding; the order of steps must not run from short to long."""
    frames = lengths(8000)
    mean = np.array([frames[b].mean() for b in batches.plan(frames, 6000, seed=0, epoch=0)])
    assert abs(np.corrcoef(mean, np.arange(len(mean)))[0, 1]) < 0.1


def test_padding_is_small():
    """281,241 utterances, as LibriSpeech has, in 400 s batches: at most 0.5 % of what the encoder sees is padding."""
    frames = np.clip(np.random.default_rng(0).gamma(6, 205, 281_241), 150, 2450).astype(np.int64)
    plan = batches.plan(frames, 40_000, seed=0, epoch=0)
    padded = sum(int(frames[b].max()) * len(b) for b in plan)
    assert padded / frames.sum() - 1 <= 0.005


def test_feed_gives_every_utterance_once(split):
    """Over the micro-batches of an epoch, each chosen utterance occurs once, others never; lists add up to batch_seconds at most."""
    index = np.arange(0, 200, 2)
    made = feed(split, index)
    steps = list(made.epoch(0))
    assert len(steps) == made.n_batches(0)
    assert sorted(np.concatenate([b.index for step in steps for b in step])) == index.tolist()
    assert all(b.seconds <= 15.0 for step in steps for b in step) and all(sum(b.seconds for b in step) <= 40.0 for step in steps)
    total = sum(b.seconds for step in steps for b in step)
    assert total == pytest.approx(split.n_frames[index].sum() * SHIFT_MS / 1000)


def test_feed_starts_anywhere(split):
    """A resumed run goes on at its step: the same batches, to the bit."""
    for a, b in zip(list(feed(split).epoch(3))[2:], feed(split).epoch(3, start=2), strict=True):
        assert [x.ids for x in a] == [x.ids for x in b]
        assert all(torch.equal(x.feats_BTF, y.feats_BTF) for x, y in zip(a, b, strict=True))


def test_values_are_normalised_and_padding_is_zero(split):
    """(log-mel − mean) / deviation inside, exact zeros outside, lengths in stacked frames, T a multiple of the stack."""
    made = feed(split)
    for batch in next(made.epoch(0)):
        assert batch.feats_BTF.dtype == torch.float32 and batch.lengths_B.dtype == torch.int64
        assert batch.feats_BTF.shape == (len(batch.ids), int(batch.lengths_B.max()) * STACK, 80)
        for row, i in enumerate(batch.index):
            n = int(batch.lengths_B[row]) * STACK
            assert n == split.n_frames[i] // STACK * STACK and batch.ids[row] == split.ids[i] and batch.texts[row] == split.texts[i]
            want = (split.logmel(i)[:n] - made.front_end.mean_F) / made.front_end.std_F
            np.testing.assert_allclose(batch.feats_BTF[row, :n].numpy(), want, atol=1e-5)
            assert not batch.feats_BTF[row, n:].any()


def test_an_utterance_does_not_depend_on_its_mates(split):
    """Labels are made from these values, and must not change with the batch (a mistake of others, 80 to 93 % of labels)."""
    seen = {}
    for seconds in (40.0, 12.0):
        for step in feed(split, batch_seconds=seconds, micro_batch_seconds=seconds).epoch(0):
            for batch in step:
                for row, name in enumerate(batch.ids):
                    values = batch.feats_BTF[row, : int(batch.lengths_B[row]) * STACK]
                    assert torch.equal(seen.setdefault(name, values), values)


def test_batches_are_independent_arrays(split):
    """A loop may hold a step's micro-batches and overwrite one (masking in place) without touching the next."""
    steps = feed(split).epoch(0)
    first = next(steps)
    copy = first[0].feats_BTF.clone()
    list(steps)
    assert torch.equal(first[0].feats_BTF, copy)


def test_sequential_is_once_and_sorted(split):
    """Decoding sees each utterance once, longest first, so that a batch that does not fit in memory fails at once."""
    got = list(batches.sequential(split, np.arange(50), front_end(split), 20.0))
    order = np.concatenate([b.index for b in got])
    assert sorted(order) == list(range(50)) and (np.diff(split.n_frames[order]) <= 0).all()
    assert max(b.seconds for b in got) <= 20.0


def test_too_long_an_utterance_is_named(split):
    """batch_seconds below the longest utterance cannot work; say which one, how long, and which number to change."""
    longest = split.ids[int(split.n_frames.argmax())]
    with pytest.raises(BirqError, match=rf"utterance {longest} lasts 3.9\d s, but batch_seconds is 2: raise it"):
        feed(split, batch_seconds=2.0, micro_batch_seconds=2.0)
    with pytest.raises(BirqError, match=rf"utterance {longest} lasts 3.9\d s, but micro_batch_seconds is 2: raise it"):
        feed(split, micro_batch_seconds=2.0)
    with pytest.raises(BirqError, match="raise batch_seconds"):
        batches.plan(np.array([10, 700]), 600, seed=0, epoch=0)


def test_empty_index_is_an_error(split):
    """Zero steps an epoch would loop for ever."""
    with pytest.raises(BirqError, match="split is empty"):
        feed(split, np.empty(0, np.int64))


def test_labelled_subset_takes_speakers_in_turn(split):
    """With few minutes, voices matter more than hours: speakers' shares differ by at most one utterance until one runs out."""
    index = batches.labelled_subset(split, 1.0, seed=0)
    counts = np.unique([split.speakers[i] for i in index], return_counts=True)[1]
    assert len(counts) == 9 and counts.max() - counts.min() <= 1
    assert all(split.texts[i] is not None for i in index) and (np.diff(index) > 0).all()
    assert 60.0 <= split.duration_s[index].sum() < 60.0 + split.duration_s.max()


def test_labelled_subsets_are_nested_and_seeded(split):
    """Runs with less labelled speech must be a part of those with more, or the amount is not the only thing that differs."""
    less, more = (set(batches.labelled_subset(split, m, seed=5).tolist()) for m in (0.5, 2.0))
    assert less < more
    assert less != set(batches.labelled_subset(split, 0.5, seed=6).tolist())
    assert set(batches.labelled_subset(split, 1e6, seed=5).tolist()) == {i for i, t in enumerate(split.texts) if t is not None}


def test_no_labelled_speech_is_an_error(tmp_path):
    """Fine-tuning on an unlabelled corpus fails before it starts."""
    rows = [{"id": "a", "speaker": "s", "text": None, "duration_s": 1.0, "fbank": np.zeros((98, 80), np.float32)}]
    shards.write_shard(tmp_path / "train" / "00000.parquet", rows, shards.metadata())
    with pytest.raises(BirqError, match="no labelled speech in the train split"):
        batches.labelled_subset(shards.open_split([tmp_path], "train"), 10, seed=0)
