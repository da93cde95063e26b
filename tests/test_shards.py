"""Shards: what is written is what any reader sees, and what is not whole is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from birq.errors import BirqError
from birq.evaluate.phones import renamed
from birq.speech import shards


def make_rows(n, prefix="u", seed=0, longest=60, n_mels=80):
    rng = np.random.default_rng(seed)
    for i in range(n):
        logmel = rng.uniform(-15.9, 9.0, (int(rng.integers(5, longest)), n_mels)).astype(np.float32)
        text = None if i % 3 == 0 else f"words {i}"
        yield {"id": f"{prefix}-{i}", "speaker": f"s{i % 4}", "text": text, "duration_s": len(logmel) / 100, "fbank": logmel}


def write(folder, rows, number=0, split="train", **about):
    path = folder / split / f"{number:05d}.parquet"
    shards.write_shard(path, rows, shards.metadata(**about))
    return path


@pytest.mark.parametrize("storage", ["int16", "float32"])
def test_memory_map_equals_any_parquet_reader(tmp_path, storage):
    """The offsets are arithmetic on the file; a standard reader that knows nothing of it must find the same bytes."""
    rows = list(make_rows(150))
    path = write(tmp_path / "c", rows, storage=storage)
    table, split = pq.read_table(path), shards.open_split([tmp_path / "c"], "train")
    assert split.ids == table["id"].to_pylist() == [r["id"] for r in rows]
    assert split.texts == table["text"].to_pylist() and split.speakers == table["speaker"].to_pylist()
    for i, stored in enumerate(table["fbank"].to_pylist()):
        assert split.raw(i).tobytes() == stored and len(split.raw(i)) == table["n_frames"][i].as_py()
    np.testing.assert_array_equal(split.duration_s, table["duration_s"].to_numpy())


def test_layout_is_what_the_map_needs(tmp_path):
    """One plain, uncompressed page per row group of 64: else a value would not lie in one piece."""
    path = write(tmp_path / "c", make_rows(130))
    meta = pq.ParquetFile(path).metadata
    assert [meta.row_group(g).num_rows for g in range(meta.num_row_groups)] == [64, 64, 2]
    column = meta.row_group(0).column(5)
    assert (column.path_in_schema, column.compression, column.has_dictionary_page) == ("fbank", "UNCOMPRESSED", False)


def test_long_row_groups_close_early_and_read_back(tmp_path, monkeypatch):
    """Very long utterances must not need 64 of them in memory; the map does not depend on how many rows a group has."""
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 20_000)
    rows = list(make_rows(20))
    path = write(tmp_path / "c", rows)
    assert pq.ParquetFile(path).metadata.num_row_groups > 5
    split = shards.open_split([tmp_path / "c"], "train")
    assert all(len(split.logmel(i)) == len(r["fbank"]) for i, r in enumerate(rows))


def test_storage_error_is_half_a_step(tmp_path):
    """Rounding to a grid cannot err by more than half its step, and float32 storage does not err."""
    rows = list(make_rows(20))
    for storage, bound in (("int16", shards.STEP_NAT / 2 + 1e-6), ("float32", 0.0)):
        write(tmp_path / storage, rows, storage=storage)
        split = shards.open_split([tmp_path / storage], "train")
        assert max(np.abs(split.logmel(i) - r["fbank"]).max() for i, r in enumerate(rows)) <= bound


def test_int16_saturates_rather_than_wraps():
    """A value out of range must stay the largest one, not turn into silence."""
    stored = shards.encode(np.array([[1e3, -1e3]], np.float32), shards.metadata())
    assert stored.tolist() == [[32767, -32768]]


def test_metadata_says_what_the_numbers_mean(tmp_path):
    """A reader without birq needs rate, bins, shift, step and type to turn bytes into nats."""
    path = write(tmp_path / "c", make_rows(2))
    about = {k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items()}
    assert json.loads(about["birq.sample_rate_hz"]) == 16000 and json.loads(about["birq.n_mels"]) == 80
    assert json.loads(about["birq.frame_shift_ms"]) == 10.0 and json.loads(about["birq.step_nat"]) == 1 / 1024
    assert json.loads(about["birq.dtype"]) == "int16" and json.loads(about["birq.log_base"]) == "e" and about["birq.version"]


def test_same_rows_same_bytes(tmp_path):
    """Artifacts are compared by hash, so a shard may hold nothing but its rows."""
    a, b = (write(tmp_path / name, make_rows(70)) for name in "ab")
    assert a.read_bytes() == b.read_bytes()


def test_several_corpora_are_one_split(tmp_path):
    """Utterances of all shards of all corpora, in the order given; a corpus without the split adds none."""
    write(tmp_path / "a", make_rows(10, "a"))
    write(tmp_path / "a", make_rows(5, "b"), number=1)
    write(tmp_path / "c", make_rows(7, "c", seed=1))
    write(tmp_path / "d", make_rows(3, "d"), split="dev")
    split = shards.open_split([tmp_path / n for n in "acd"], "train")
    assert len(split) == 22 and split.ids[10] == "b-0" and split.ids[15] == "c-0"
    np.testing.assert_array_equal(split.logmel(15), shards.open_split([tmp_path / "c"], "train").logmel(0))
    assert len(shards.open_split([tmp_path / "a"], "test")) == 0


def test_few_open_files_however_many_shards(tmp_path, monkeypatch):
    """A corpus has more shards than a process may hold files; a map that was let go is made again, and views of it stay valid."""
    monkeypatch.setattr(shards, "OPEN_MAPS", 2)
    for number in range(6):
        write(tmp_path / "c", make_rows(2, f"n{number}", seed=number), number=number)
    split = shards.open_split([tmp_path / "c"], "train")
    views = [split.raw(i) for i in range(len(split))]
    assert len(split._maps) == 2
    again = pickle.loads(pickle.dumps(split))
    assert all(np.array_equal(v, again.raw(i)) for i, v in enumerate(views))


def test_views_cannot_be_written(tmp_path):
    """A write through the map would change the artifact behind its hash."""
    write(tmp_path / "c", make_rows(1))
    with pytest.raises(ValueError, match="read-only"):
        shards.open_split([tmp_path / "c"], "train").raw(0)[:] = 0


def test_like_ids_of_two_corpora_are_told_apart(tmp_path):
    """Folders of two people both begin with 001: these are two recordings, and a hypothesis must belong to one of them."""
    write(tmp_path / "a", [*make_rows(3), *make_rows(1, "a")])
    write(tmp_path / "b", make_rows(3))
    split = shards.open_split([tmp_path / "a", tmp_path / "b"], "train")
    assert split.ids == ["a/u-0", "a/u-1", "a/u-2", "a-0", "b/u-0", "b/u-1", "b/u-2"]
    assert shards.open_split([tmp_path / "a"], "train").ids == ["u-0", "u-1", "u-2", "a-0"]
    table = pa.table({"id": ["u-1", "a-0"], "start_s": [0.0, 0.0]})
    assert renamed(table, "a", set(split.ids))["id"].to_pylist() == ["a/u-1", "a-0"]


def test_an_id_that_occurs_twice_in_a_corpus_is_refused(tmp_path):
    """Hypotheses and references would be ambiguous."""
    write(tmp_path / "a", [*make_rows(3), *make_rows(3)])
    with pytest.raises(BirqError, match=r"a: utterance id 'u-0' occurs 2 times"):
        shards.open_split([tmp_path / "a"], "train")


def test_different_features_do_not_mix(tmp_path):
    """Numbers of another step or shift mean something else."""
    write(tmp_path / "a", make_rows(3, "a"))
    write(tmp_path / "b", make_rows(3, "b"), storage="float32")
    with pytest.raises(BirqError, match="dtype is float32, but int16"):
        shards.open_split([tmp_path / "a", tmp_path / "b"], "train")


def test_truncated_shard_is_named(tmp_path):
    """At whatever byte a copy was cut off, the file is refused when it is opened, with the way out."""
    path = write(tmp_path / "c", make_rows(100))
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BirqError, match=r"c/train/00000.parquet: corrupt or truncated .*delete the folder .*c and run again"):
            shards.open_split([tmp_path / "c"], "train")


def test_shifted_bytes_are_noticed(tmp_path):
    """A length prefix that is not the one of n_frames means that the bytes are not the utterance's."""
    path = write(tmp_path / "c", make_rows(100))
    split = shards.open_split([tmp_path / "c"], "train")
    broken = bytearray(path.read_bytes())
    for row in (0, 30):  # the first is looked at when the file is opened, the other when it is read
        at = int(split._offset[row]) - 4
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(BirqError, match=r"00000.parquet: corrupt or truncated"):
            shards.open_split([tmp_path / "c"], "train").raw(row)
        broken[at] ^= 0xFF


def test_missing_shard_is_noticed(tmp_path):
    """A split is whole or refused: training on a part of it would be silent."""
    path = write(tmp_path / "c", make_rows(3))
    (tmp_path / "c" / "splits.json").write_text(json.dumps({"train": {"shards": 2}}))
    with pytest.raises(BirqError, match="1 shards, not 2"):
        shards.open_split([tmp_path / "c"], "train")
    assert path.exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    """A reader sees all of a shard or none."""

    def rows():
        yield from make_rows(70)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        write(tmp_path / "c", rows())
    assert list((tmp_path / "c" / "train").iterdir()) == []


def test_pooled_statistics_equal_those_of_all_frames(tmp_path):
    """Mean and deviation over several corpora are those of their frames put together, whatever their sizes."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(-6, 3, (300, 80)), rng.normal(-2, 1, (50, 80))]
    for name, x in zip("ab", parts, strict=True):
        (tmp_path / name).mkdir()
        stats = {"n_frames": len(x), "mean": x.mean(0).tolist(), "var": x.var(0).tolist()}
        (tmp_path / name / "stats.json").write_text(json.dumps(stats))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "stats.json").write_text('{"n_frames": 0}')
    mean, std = shards.read_stats([tmp_path / n for n in "abc"])
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, np.concatenate(parts).mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, np.concatenate(parts).std(0), rtol=1e-5)
    with pytest.raises(BirqError, match="no train split"):
        shards.read_stats([tmp_path / "c"])
