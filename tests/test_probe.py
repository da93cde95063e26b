"""Label quality against joint counts whose answer is known, phones at frame centres, the probe stage."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from birq.corpora.manifests import write_alignments
from birq.errors import BirqError
from birq.evaluate import layers, phones, quality
from birq.model import objectives
from birq.model.quantized import build, constants
from birq.model.quantizer import standardise
from birq.pipeline.stage import Job
from birq.progress import Progress
from birq.saved import encoder
from birq.saved.weights import shape_of
from birq.settings.methods import METHODS
from birq.settings.params import load, numbers
from birq.speech import shards
from birq.stages import probe as stage

# ---- quality


def test_independent_labels_say_nothing() -> None:
    """p(phone, code) = p(phone) p(code): no information, and the best guess is the commonest phone."""
    joint = np.outer([2, 1, 1], [1, 1, 1, 1])
    assert quality.pnmi(joint) == pytest.approx(0, abs=1e-12)
    assert quality.phone_purity(joint) == 0.5
    assert quality.cluster_purity(joint) == 0.25


def test_identical_labels_say_all() -> None:
    """One code per phone: nothing is left uncertain in either direction, whatever the phones' frequencies."""
    joint = np.diag([5, 3, 1])[:, [2, 0, 1]]
    assert quality.pnmi(joint) == pytest.approx(1)
    assert quality.phone_purity(joint) == quality.cluster_purity(joint) == 1


def test_split_phones_keep_pnmi_and_lose_cluster_purity() -> None:
    """Two codes for each phone still tell the phone, but no code stands for a whole phone."""
    joint = np.array([[2, 2, 0, 0], [0, 0, 2, 2]])
    assert quality.pnmi(joint) == pytest.approx(1)
    assert quality.phone_purity(joint) == 1
    assert quality.cluster_purity(joint) == 0.5


def test_merged_phones_halve_pnmi() -> None:
    """Four equal phones, codes that tell pairs apart only: one of two bits."""
    assert quality.pnmi(np.array([[1, 0], [1, 0], [0, 1], [0, 1]])) == pytest.approx(0.5)


def test_a_constant_code_or_phone_gives_zero() -> None:
    """No entropy, no information; a division by zero must not come out of it."""
    assert quality.pnmi(np.array([[3], [4]])) == pytest.approx(0)
    assert quality.pnmi(np.array([[3, 4]])) == 0
    assert quality.label_agreement(np.zeros(5, int), np.arange(5)) == 0


def test_against_scikit_learn() -> None:
    """Mutual information from another program, on streams with every degree of dependence."""
    rng = np.random.default_rng(0)
    phone = rng.integers(0, 7, 3000)
    code = (phone * 3 + rng.integers(0, 5, 3000)) % 16
    joint = quality.joint_counts(phone, code, 7, 16)
    assert joint.sum() == 3000
    assert quality.pnmi(joint) == pytest.approx(mutual_info_score(phone, code) / quality.entropy(np.bincount(phone)))
    theirs = normalized_mutual_info_score(phone, code, average_method="geometric")
    assert quality.label_agreement(phone, code) == pytest.approx(theirs)


def test_agreement_does_not_see_the_numbering() -> None:
    """Two quantizers number their codes independently: a permutation of the codes is the same labelling."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 50, 2000)
    assert quality.label_agreement(a, rng.permutation(50)[a]) == pytest.approx(1)


def test_floor_of_random_labels_equals_their_pnmi() -> None:
    """Random labels carry nothing, so all their PNMI is bias, and shifting them cannot change its size."""
    rng = np.random.default_rng(0)
    phone, codes = rng.integers(0, 40, 4000), rng.integers(0, 256, (4000, 2))
    f = quality.phone_figures(phone, codes, 40, 256)
    assert f["pnmi"] > 0.2  # 4000 frames in 10,240 cells: the bias is large
    assert f["pnmi"] == pytest.approx(f["pnmi_floor"], abs=0.02)


def test_floor_of_true_labels_is_far_below() -> None:
    """Shifted labels keep their frequencies and durations, not their meaning: the floor falls to about (P − 1)(V − 1) / 2M nats."""
    rng = np.random.default_rng(0)
    phone = np.repeat(rng.integers(0, 10, 8000), rng.integers(1, 4, 8000))
    f = quality.phone_figures(phone, phone[:, None], 10, 10)
    assert f["pnmi"] == pytest.approx(1)
    assert f["pnmi_floor"] < 0.01


def test_code_figures() -> None:
    """k codes used equally have perplexity k; figures are means over codebooks."""
    codes = np.stack([np.arange(8) % 4, np.zeros(8, int)], axis=1)
    f = quality.code_figures(codes, 8)
    assert f["perplexity"] == pytest.approx((4 + 1) / 2)
    assert f["used_share"] == pytest.approx((4 / 8 + 1 / 8) / 2)
    shares = quality.usage(codes[:, 0], 8)
    assert shares.tolist() == [0.25] * 4 + [0.0] * 4


def test_repeats_are_counted_within_utterances() -> None:
    """Two utterances of 3 and 2 frames have 2 + 1 pairs of neighbours; the pair across them is none."""
    codes = np.array([[5, 1], [5, 2], [4, 2], [4, 7], [4, 8]])
    assert quality.repeat_share(codes, np.array([0, 0, 0, 1, 1])) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert quality.repeat_share(codes[:2], np.array([0, 1])) == 0


# ---- phones


def alignment(rows: list[tuple[str, float, float, str]]) -> pa.Table:
    u, s, e, p = zip(*rows, strict=True)
    return pa.table({"id": u, "start_s": s, "end_s": e, "phone": p, "word": ["w"] * len(rows)})


def test_frame_centres() -> None:
    """Four frames of 25 ms every 10 ms span 55 ms, so the first stack's middle is at 27.5 ms and stacks follow every 40 ms."""
    assert phones.frame_centres_s(3, 4, 10.0, 25.0) == pytest.approx([0.0275, 0.0675, 0.1075])
    assert phones.frame_centres_s(2, 1, 10.0, 25.0) == pytest.approx([0.0125, 0.0225])


def test_phone_at_the_centre() -> None:
    """The segment that holds the time gives the phone; outside all segments there is none."""
    table = alignment([("b", 0.1, 0.2, "T"), ("a", 0.2, 0.3, "SIL"), ("a", 0.0, 0.1, "AH"), ("a", 0.1, 0.2, "T"), ("c", 0, 1, "Z")])
    segments, names = phones.segments_by_id([table], {"a", "b", "none"})
    assert sorted(segments) == ["a", "b"] and names == ["AH", "SIL", "T"]
    at = phones.phones_at(segments["a"], np.array([0.0, 0.05, 0.1, 0.25, 0.3, 0.9]))
    assert at.tolist() == [0, 0, 2, 1, phones.NO_PHONE, phones.NO_PHONE]
    assert phones.phones_at(segments["b"], np.array([0.05, 0.15])).tolist() == [phones.NO_PHONE, 2]


def test_phones_of_several_corpora_are_one_inventory() -> None:
    """The same phone in two tables is one phone, or PNMI would reward telling corpora apart."""
    one, two = alignment([("a", 0, 1, "T")]), alignment([("b", 0, 1, "T"), ("b", 1, 2, "S")])
    segments, names = phones.segments_by_id([one, two], {"a", "b"})
    assert names == ["S", "T"] and segments["a"][2].tolist() == [1] and segments["b"][2].tolist() == [1, 0]
    assert phones.segments_by_id([], {"a"}) == ({}, [])


# ---- the stage


def tone_corpus(
    home: Path, *, splits: dict[str, int], aligned: str = "", n_speakers: int = 3, n_phones: int = 6, pause: str = ""
) -> tuple[Path, Path]:
    """Features and a corpus folder where every phone has a log-mel shape of its own: what a probe must find again.

    aligned: the splits that have alignments, or `dev:4`, its first four utterances. pause: the phone that is called SIL.
    """
    covered = {name: int(n or 1 << 30) for name, _, n in (part.partition(":") for part in aligned.split())}
    rng = np.random.default_rng(0)
    shapes_PF = rng.normal(0, 3, (6, 80)).astype(np.float32)
    features, corpus = home / "features", home / "corpus"
    corpus.mkdir(parents=True)
    rows, counts = [], {}
    for split, n in splits.items():
        for begin in range(0, n, 8):
            shard = []
            for i in range(begin, min(n, begin + 8)):
                phone = np.repeat(rng.integers(0, n_phones, 12), rng.integers(8, 20, 12))
                name = f"{split}-{i:03d}"
                noise = rng.normal(0, 0.5, (len(phone), 80)).astype(np.float32)
                seconds = len(phone) / 100 + 0.015
                shard.append(
                    {
                        "id": name,
                        "speaker": f"{split}-s{i % n_speakers}",
                        "text": "a",
                        "duration_s": seconds,
                        "fbank": shapes_PF[phone] + noise,
                    }
                )
                edges = np.flatnonzero(np.diff(phone, prepend=-1, append=-1))
                if i < covered.get(split, 0):
                    called = {p: "SIL" if f"P{p}" == pause else f"P{p}" for p in range(n_phones)}
                    # 7.5 ms: a frame's middle lies 12.5 ms after its beginning
                    rows += [(name, a / 100 + 0.0075, b / 100 + 0.0075, called[phone[a]], "w") for a, b in itertools.pairwise(edges)]
            shards.write_shard(features / split / f"{begin // 8:05d}.parquet", shard, shards.metadata())
        counts[split] = {"shards": -(-n // 8)}
    (features / "splits.json").write_text(json.dumps(counts))
    if aligned:
        write_alignments(corpus / "alignments.parquet", rows)
    return features, corpus


def pretrained(folder: Path, *, n_stack: int = 2, **changes: Any) -> Path:
    """An untrained pretrain artifact, with the tracked params but a small model."""
    params = load()
    sizes = {"label_layer": 2, "n_codebooks": 2, "codebook_size": 16}
    objective = constants(objectives, numbers(params, METHODS["birq"]) | sizes | changes)
    config = {
        "method": "birq",
        "seed": 0,
        "model": params.model.shape | {"d_model": 32, "n_layers": 2, "n_heads": 2, "n_stack": n_stack},
        "objective": dataclasses.asdict(objective),
        "features": shards.metadata(),
        "mean": [0.0] * 80,
        "std": [3.0] * 80,
        "hours_unlabelled": 0.0,
    }
    folder.mkdir(parents=True)
    encoder.save(folder, build(objectives, shape_of(config), objective, 0), config)
    return folder


def probe_job(home: Path, name: str, features: Path, corpus: Path, model: Path, **section: Any) -> Job:
    params = load()
    params = params.model_copy(update={"probe": params.probe.model_copy(update=section)})
    return tiny.job("probe", home / name, {"pretrain": [model], "features": [features], "corpus": [corpus]}, params)


def run(job: Job) -> dict[str, Any]:
    stage.compute(job)
    return json.loads((job.out / "probe.json").read_text())


def test_stage_finds_the_phones_it_was_given(tmp_path: Path) -> None:
    """Each phone has one spectrum, so anchoring labels tell it and shifted ones do not; phones count only if times meet frames."""
    features, corpus = tone_corpus(tmp_path, splits={"dev": 20}, aligned="dev")
    r = run(probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model", n_stack=1)))
    assert r["available"] and r["why_not"] is None and r["phones"] == 6
    assert r["phone_frames"] == r["frames"]
    rows = {(x["labels"], x["layer"]): x for x in r["rows"]}
    assert list(rows) == [("anchor", 0), ("enhanced", 1), ("enhanced", 2)]
    anchor = rows["anchor", 0]
    assert anchor["pnmi"] > 0.7 and anchor["phone_purity"] > 0.7  # six shapes share 16 codes
    assert anchor["agreement"] is None
    for row in rows.values():
        assert row["pnmi"] > row["pnmi_floor"] + 0.2 and 1 <= row["perplexity"] <= 16 and 0 < row["used_share"] <= 1
    for row in (rows["enhanced", 1], rows["enhanced", 2]):
        assert row["agreement_floor"] < row["agreement"] <= 1
    for shares in r["usage"].values():
        assert len(shares) == 16 and sum(shares) == pytest.approx(1, abs=1e-4) and shares == sorted(shares, reverse=True)


def test_labels_do_not_depend_on_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are numbered by utterance, and labels do not see padding or batch mates: small batches give the same file."""
    features, corpus = tone_corpus(tmp_path, splits={"dev": 12}, aligned="dev")
    model = pretrained(tmp_path / "model", n_stack=4)
    whole = run(probe_job(tmp_path, "whole", features, corpus, model))
    monkeypatch.setattr(layers, "BATCH_SECONDS", 1.0)
    parts = run(probe_job(tmp_path, "parts", features, corpus, model))
    for a, b in zip(whole["rows"], parts["rows"], strict=True):
        assert a == pytest.approx(b, abs=0.02)  # a rounding may turn a frame's code
    assert whole["rows"][0] == parts["rows"][0]  # anchoring labels come from the input alone


def test_standardised_labels_are_those_of_all_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers that lie in files and are looked at in pieces must give what one standardisation over all frames at once gives."""
    monkeypatch.setattr(layers, "CHUNK_FRAMES", 100)
    features, _ = tone_corpus(tmp_path, splits={"dev": 6})
    loaded = encoder.load(pretrained(tmp_path / "model", n_stack=2))
    split = shards.open_split([features], "dev")
    frames = layers.Frames(split, np.arange(6), loaded, torch.device("cpu"))
    found = layers.read(frames, tmp_path / "scratch", Progress("probe", 6))
    with torch.inference_mode():
        outputs = [[] for _ in range(2)]
        for i in range(6):
            x = torch.from_numpy(split.logmel(i) / 3)[None, : frames.lengths[i] * 2]
            for k, z in enumerate(loaded.model.encoder.layers_out(x, torch.tensor([frames.lengths[i]]))):
                outputs[k].append(z[0])
        for k, z in enumerate(outputs):
            assert np.allclose(found.layers[k + 1], torch.cat(z), atol=1e-4)
            want = loaded.model.quantizer.nearest(standardise(torch.cat(z)))
            assert (layers.codes_of(frames, found.layers[k + 1]) == want.numpy()).mean() > 0.995


def test_layer_norm_is_read_from_the_model(tmp_path: Path) -> None:
    """The probe makes labels as the model's own objective makes them."""
    features, corpus = tone_corpus(tmp_path, splits={"dev": 6}, aligned="dev")
    a, b = (
        run(probe_job(tmp_path, norm, features, corpus, pretrained(tmp_path / f"m-{norm}", label_norm=norm)))
        for norm in ("standardise", "layer_norm")
    )
    assert a["rows"][0] == b["rows"][0] and a["rows"][1] != b["rows"][1]


def test_without_alignments_code_usage_is_left(tmp_path: Path) -> None:
    """Phones are unknown, codes are not: the table says why and keeps what it can."""
    features, corpus = tone_corpus(tmp_path, splits={"dev": 6, "test": 6}, aligned="test")
    model = pretrained(tmp_path / "model")
    elsewhere = run(probe_job(tmp_path, "elsewhere", features, corpus, model))
    assert not elsewhere["available"] and "cover no utterance of the dev split" in elsewhere["why_not"]
    (corpus / "alignments.parquet").unlink()
    none = run(probe_job(tmp_path, "none", features, corpus, model))
    assert not none["available"] and "no alignments of synth" in none["why_not"]
    assert none["phones"] == 0
    for row in none["rows"]:
        assert row["pnmi"] is None and row["phone_purity"] is None and row["perplexity"] >= 1
    assert none["rows"][1]["agreement"] is not None


def test_choice_is_bounded_and_the_same_for_all(tmp_path: Path) -> None:
    """Methods are compared on the same frames, at most so many; utterances with phones go first."""
    features, _ = tone_corpus(tmp_path, splits={"dev": 30})
    split = shards.open_split([features], "dev")
    half = layers.choose(split, 0.4, 4, set())
    assert 0 < split.duration_s[half].sum() <= 24 and len(half) < 30
    assert layers.choose(split, 0.4, 4, set()).tolist() == half.tolist()
    assert sorted(layers.choose(split, 99, 4, set()).tolist()) == list(range(30))
    assert len(layers.choose(split, 1e-6, 4, set())) == 1
    assert {split.ids[i] for i in layers.choose(split, 99, 4, {"dev-003", "dev-007"})} == {"dev-003", "dev-007"}
    assert not len(layers.choose(split, 99, 4, set(), only=True))


def test_missing_split_is_named(tmp_path: Path) -> None:
    """The way out stands in the message."""
    features, corpus = tone_corpus(tmp_path, splits={"test": 3})
    with pytest.raises(BirqError, match=r"dev split of synth.*probe\.split"):
        run(probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model")))


def rows_of(result: dict[str, Any], key: str) -> list[Any]:
    return [row[key] for row in result["rows"]]


def test_the_linear_probe_finds_phones_of_unseen_voices(tmp_path: Path) -> None:
    """Each phone has one spectrum, the same for all voices, so a linear map of the input tells it; correct frames add up."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 20, "dev": 12}, aligned="train dev")
    job = probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model", n_stack=1))
    r = run(job)
    assert r["linear"]["available"] and r["linear"]["why_not"] is None
    assert (
        r["linear"] | {"train_utterances": 20, "train_phones": 6, "unknown_frames": 0, "shared_speakers": 0, "speakers": 3} == r["linear"]
    )
    assert rows_of(r, "linear")[0] > 0.95
    counts = pq.read_table(job.out / "utterances.parquet").to_pylist()
    assert len(counts) == 3 * 12
    for row in r["rows"]:
        here = [c for c in counts if c["layer"] == row["layer"]]
        assert sum(c["frames"] for c in here) == r["phone_frames"]
        assert row["linear"] == pytest.approx(sum(c["correct"] for c in here) / r["phone_frames"], abs=1e-6)
        assert row["linear_low"] <= row["linear"] <= row["linear_high"]
        assert row["linear_speaker_low"] <= row["linear"] <= row["linear_speaker_high"]
        assert 1 <= row["effective_rank"] <= 80 and row["kmeans_pnmi"] > row["kmeans_pnmi_floor"] + 0.2
        assert 0 <= row["abx_within"] < 0.4 and 0 <= row["abx_across"] < 0.4
    # a phone lasts 8 to 20 frames, and so do the codes of frames that hardly differ
    assert r["phone_repeat_share"] == pytest.approx(1 - 1 / 14, abs=0.02)


def test_alignments_of_a_part_of_a_split_are_used_and_counted(tmp_path: Path) -> None:
    """The utterances without phone times are left out, of the tested ones and of those that train the probe."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 20, "dev": 12}, aligned="train:7 dev:4")
    r = run(probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model", n_stack=1)))
    assert (r["split_utterances"], r["aligned_utterances"], r["utterances"]) == (12, 4, 4)
    assert r["linear"]["train_utterances"] == 7


@pytest.mark.parametrize(
    ("splits", "aligned", "why"),
    [
        ({"train": 8, "dev": 6}, "dev", "cover no utterance of the train split"),
        ({"dev": 6}, "dev", "has no train split to train the linear probe on"),
    ],
)
def test_nothing_to_train_the_linear_probe_on(tmp_path: Path, splits: dict[str, int], aligned: str, why: str) -> None:
    """The other figures do not need it; the reason stands in its place."""
    features, corpus = tone_corpus(tmp_path, splits=splits, aligned=aligned)
    job = probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model"))
    r = run(job)
    assert r["available"] and not r["linear"]["available"] and why in r["linear"]["why_not"]
    assert rows_of(r, "linear") == rows_of(r, "linear_low") == [None] * 3 and None not in rows_of(r, "abx_within")
    assert len(pq.read_table(job.out / "utterances.parquet")) == 0


def test_tested_speech_never_trains_the_linear_probe(tmp_path: Path) -> None:
    """Of the train split, probed for once, the probe is trained on the utterances that are left; a shared voice is said."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 12}, aligned="train")
    model = pretrained(tmp_path / "model")
    r = run(probe_job(tmp_path, "part", features, corpus, model, split="train", max_minutes=0.15))
    assert r["linear"]["train_utterances"] == 12 - r["utterances"] > 0 and r["linear"]["shared_speakers"] > 0
    whole = run(probe_job(tmp_path, "whole", features, corpus, model, split="train"))
    assert "every aligned utterance of the train split is probed" in whole["linear"]["why_not"]


def test_one_speaker_has_no_figures_across_speakers(tmp_path: Path) -> None:
    """An interval over one speaker would have width 0, and ABX across speakers needs two; the rest is there."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 8, "dev": 6}, aligned="train dev", n_speakers=1)
    r = run(probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model")))
    assert "needs two" in r["linear"]["why_no_speaker_interval"] and rows_of(r, "linear_speaker_low") == [None] * 3
    assert None not in rows_of(r, "linear_low")
    assert r["abx"]["why_not_within"] is None and "the tokens have one" in r["abx"]["why_not_across"]
    assert rows_of(r, "abx_across") == [None] * 3 and None not in rows_of(r, "abx_within")


def test_one_phone_has_nothing_to_tell_apart(tmp_path: Path) -> None:
    """No error and no figure that would need two phones."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 8, "dev": 6}, aligned="train dev", n_phones=1)
    r = run(probe_job(tmp_path, "probe", features, corpus, pretrained(tmp_path / "model")))
    assert "fewer than two phones" in r["linear"]["why_not"] and "compares two phones" in r["abx"]["why_not_within"]
    assert rows_of(r, "abx_within") == rows_of(r, "linear") == [None] * 3 and rows_of(r, "kmeans_pnmi") == [0.0] * 3


def test_pauses_are_no_tokens_and_abx_can_be_left_out(tmp_path: Path) -> None:
    """A pause is no phone to be told apart from others; without ABX the file says why, and all other figures are the same."""
    features, corpus = tone_corpus(tmp_path, splits={"train": 6, "dev": 6}, aligned="train dev", pause="P2")
    model = pretrained(tmp_path / "model")
    r = run(probe_job(tmp_path, "on", features, corpus, model))
    assert r["phones"] == 6 and r["abx"]["phones"] == 5
    off = run(probe_job(tmp_path, "off", features, corpus, model, abx_tokens=0))
    assert "abx_tokens" in off["abx"]["why_not_within"] and rows_of(off, "abx_within") == [None] * 3
    assert rows_of(off, "linear") == rows_of(r, "linear")
