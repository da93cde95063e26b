"""Mistakes that were made elsewhere, one test each: where it was made, what must hold here."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gang
import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tiny import (
    LETTERS,
    N_MELS,
    ROOT,
    SETTINGS,
    batch,
    curve,
    every_other,
    job,
    noise,
    objective,
    params,
    pretrainer,
    rows,
    run_pretrain,
    sentences,
    write_features,
)
from torch.overrides import TorchFunctionMode

from birq.model.encoder import valid_mask
from birq.model.masking import batch_masks, places, span_frames
from birq.model.quantizer import RandomQuantizer, standardise
from birq.saved import encoder as encoders
from birq.saved.recogniser import Recogniser
from birq.settings import params as params_module
from birq.speech.batches import Feed, collate
from birq.speech.fbank import fbank
from birq.speech.shards import open_split, read_front_end, read_stats
from birq.stages import finetune, pretrain
from birq.stages.features import statistics
from birq.text import tokenizer
from birq.train import pretraining


def test_projection_normalised_over_time() -> None:
    """Open-BEST-RQ, SpeechBrain before PR #2822 (`normalize` with the default dim=1): half of all labels wrong.

    Here: each frame's label is the code nearest to that frame's own unit projection, whatever the other frames are.
    """
    p, b = pretrainer(), batch([40])
    x_TS, q = p.encoder.stack(b.feats_BTF)[0], p.anchor_quantizer
    labels = p.anchor_labels(b.feats_BTF)[0]
    for t in (0, 13, 39):
        v_Nh = torch.nn.functional.normalize(torch.einsum("s,nsh->nh", x_TS[t], q.projection), dim=-1)
        assert torch.equal(labels[t], (v_Nh[:, None] - q.codebook).square().sum(-1).argmin(-1))
        assert torch.equal(p.anchor_labels(b.feats_BTF[:, 4 * t : 4 * t + 4])[0, 0], labels[t])


def test_zero_frames_in_front_of_an_utterance_depending_on_its_batch(features: Path) -> None:
    """SpeechBrain's recipe (`pad_feats`): the frames shift against the stacking, 80 to 93 % of the labels change.

    Here: an utterance begins with its first frame in every batch, padding stands behind it, and its labels are those it has alone.
    """
    split, p = open_split([features], "train"), pretrainer()
    front_end = read_front_end([features], split, n_stack=4)
    longest, shortest = int(split.n_frames.argmax()), int(split.n_frames.argmin())
    alone, together = (collate(split, np.array(i), front_end) for i in ([shortest], [longest, shortest]))
    n = int(alone.lengths_B[0])
    assert together.feats_BTF.shape[1] > alone.feats_BTF.shape[1] == 4 * n
    assert torch.equal(together.feats_BTF[1, : 4 * n], alone.feats_BTF[0])
    assert not together.feats_BTF[1, 4 * n :].any()
    first = (split.logmel(shortest)[0] - front_end.mean_F) / front_end.std_F
    torch.testing.assert_close(together.feats_BTF[1, 0], torch.from_numpy(first), atol=1e-4, rtol=1e-4)
    assert torch.equal(p.anchor_labels(together.feats_BTF)[1, :n], p.anchor_labels(alone.feats_BTF)[0])


def test_one_mask_per_batch_from_the_shortest_utterance_with_40_ms_spans() -> None:
    """SpeechBrain, Open-BEST-RQ: tails of long utterances are never masked, and spans are a tenth of the length meant.

    Here: every utterance has a mask of its own over its own length, and a span lasts 400 ms of audio.
    """
    span = span_frames(400.0, 10.0, 4)
    assert span * 4 * 10 == 400
    lengths = [200, 20] * 50
    mask = batch_masks([f"u{i}" for i in range(100)], lengths, 200, 0.02, span, 0, 0)
    assert mask[0::2, 150:].float().mean() == pytest.approx(mask[0::2, 50:100].float().mean().item(), abs=0.08)
    assert len({tuple(row.tolist()) for row in mask[0::2]}) == 50


def test_statistics_over_padded_frames() -> None:
    """WeNet: 50 to 57 % of the labels change with the padding.

    Here: the corpus' mean and variance count every real frame once, and z is standardised over valid frames only.
    """
    rng = np.random.default_rng(0)
    parts = [rng.normal(-9, 2, (n, N_MELS)) for n in (7, 90, 30)]
    facts = [{"frames": len(f), "total": f.sum(0).tolist(), "square": np.square(f).sum(0).tolist()} for f in parts]
    stats, frames = statistics(facts), np.concatenate(parts)
    np.testing.assert_allclose(stats["mean"], frames.mean(0))
    np.testing.assert_allclose(stats["var"], frames.var(0))

    p, b = pretrainer(label_norm="standardise"), batch([20, 6])
    mask = every_other(b.lengths_B)
    padded_BTF = torch.nn.functional.pad(b.feats_BTF, (0, 0, 0, 160))
    few = p.label_vectors(p.encoder.stack(b.feats_BTF), b.lengths_B, places(mask, b.lengths_B))
    more = p.label_vectors(p.encoder.stack(padded_BTF), b.lengths_B, places(torch.nn.functional.pad(mask, (0, 40)), b.lengths_B))
    torch.testing.assert_close(few, more, atol=1e-4, rtol=0)
    z = p.encoder(p.encoder.stack(b.feats_BTF), b.lengths_B, n_layers=1)
    valid = valid_mask(b.lengths_B, 20)
    torch.testing.assert_close(few, p.quantizer.vectors(standardise(z[valid])[mask[valid]]), atol=1e-4, rtol=0)


def test_labels_under_autocast_bf16() -> None:
    """SpeechBrain, NeMo's cosine, WeNet: 0.7 to 3 % of the labels change.

    Here: inside autocast the anchoring labels, and the codes for a given z, are those of float32, and so is the loss' arithmetic.
    """
    p, b = pretrainer(codebook_size=2048, n_codebooks=1), batch([300, 200])
    z = torch.randn(500, 16, generator=noise())
    labels, codes = p.anchor_labels(b.feats_BTF), p.quantizer.logits(p.quantizer.vectors(z)).argmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(p.anchor_labels(b.feats_BTF), labels)
        assert torch.equal(p.quantizer.logits(p.quantizer.vectors(z)).argmax(-1), codes)
        here = p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise())
    assert torch.equal(here.anchor_codes_MN, labels[every_other(b.lengths_B)])
    assert here.anchor.dtype == here.enhanced.dtype == here.total.dtype == torch.float32
    x_half = (p.encoder.stack(b.feats_BTF).bfloat16() @ p.anchor_quantizer.projection[0].bfloat16()) @ p.anchor_quantizer.codebook[
        0
    ].bfloat16().T
    assert not torch.equal(x_half.argmax(-1), labels[:, :, 0]), "in bf16 labels would differ, so the test can fail"


class RowsOf(TorchFunctionMode):
    """Rows that are multiplied with a weight."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        self.weight, self.rows = weight, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear and args[1].data_ptr() == self.weight.data_ptr():
            self.rows.append(args[0].numel() // args[0].shape[-1])
        return func(*args, **(kwargs or {}))


def test_logits_for_all_frames_then_masked() -> None:
    """SpeechBrain: the head does 1.6 to 2.2 times the work, and its logits fill the memory.

    Here: the head sees the masked frames and no other, once.
    """
    p, b = pretrainer(), batch([50, 30])
    mask = every_other(b.lengths_B)
    with RowsOf(p.head.weight) as seen:
        p(b.feats_BTF, b.lengths_B, mask, noise())
    assert sum(seen.rows) == int(mask.sum())


class Largest(TorchFunctionMode):
    """The most values in a tensor that an operation made, and the types made."""

    def __init__(self):
        super().__init__()
        self.values, self.dtypes = 0, set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.values = max(self.values, t.numel())
                self.dtypes.add(t.dtype)
        return out


def test_a_distance_tensor_of_frames_by_codes_by_dimensions_and_float64_codebooks() -> None:
    """SpeechBrain (B, V, T, h) and NeMo (float64): 66 and 120 times slower, 0.5 to 1 GiB per 1000 labels.

    Here: labels come from one product of frames and codes, in float32, and not even that is whole for many frames.
    """
    m, v, h = 3000, 2048, 16
    q = RandomQuantizer(80, h, v, 1, noise())
    x = torch.randn(m, 80, generator=noise())
    with Largest() as seen:
        q.nearest(x)
    assert seen.values <= min(m * v, 1 << 22), "no tensor with a code dimension beside frames and codes"
    assert seen.dtypes <= {torch.float32, torch.int64}
    assert q.codebook.dtype == q.projection.dtype == torch.float32
    with Largest() as seen:
        q.logits(q.vectors(x))
    assert seen.values == m * v and torch.float64 not in seen.dtypes


def test_schedule_in_the_config_that_is_never_stepped(tmp_path: Path, features: Path) -> None:
    """SpeechBrain PR #2309: the rate was constant.

    Here: the rate of every step follows warm-up and decay (test_train.py has the exact values), and it is the optimiser's: a second step
    at the rate 0 leaves the weights as one step made them.
    """
    j = run_pretrain(tmp_path, features, pretrain__log_every_steps=1)
    rates = [line["learning_rate"] for line in curve(j.out)]
    assert rates[:4] == pytest.approx([0.0005, 0.001, 0.0015, 0.002]) and rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.05 * 0.002)
    settings = {"pretrain__warmup_steps": 0, "pretrain__final_rate_share": 0.0}
    one, two = (run_pretrain(tmp_path / str(n), features, pretrain__steps=n, **settings) for n in (1, 2))
    assert [line["learning_rate"] for line in curve(two.out)] == [0.002, 0.0]
    assert (one.out / "encoder.safetensors").read_bytes() == (two.out / "encoder.safetensors").read_bytes()


def test_feature_normalisation_differs_between_pretraining_and_finetuning(tmp_path: Path, features: Path) -> None:
    """SpeechBrain PR #2822: the encoder then hears another input than it was trained on.

    Here: statistics travel in the model. A fine-tuning corpus that is much louder is normalised by the pre-training corpus', and decoding
    uses the same ones.
    """
    loud = [r | {"id": "loud" + r["id"], "fbank": r["fbank"] + 5} for r in rows(sentences(4, 7), "train", seed=7)]
    other = write_features(tmp_path / "loud", {"train": loud, "dev": [r | {"id": "dev" + r["id"]} for r in loud]})
    tokenizer.characters(LETTERS + " ").save(tmp_path)
    encoder = run_pretrain(tmp_path / "pretrain", features, pretrain__steps=2).out
    j = job(
        "finetune", tmp_path / "finetune", {"pretrain": [encoder], "tokenizer": [tmp_path], "features": [other]}, params(finetune__steps=2)
    )
    finetune.compute(j)
    mean_F, std_F = read_stats([features])
    assert not np.allclose(mean_F, read_stats([other])[0], atol=1)
    for made in (encoders.load(encoder), Recogniser.load(j.out)):
        np.testing.assert_array_equal(made.front_end.mean_F, mean_F)
        np.testing.assert_array_equal(made.front_end.std_F, std_F)


def test_a_trainable_norm_in_front_of_the_quantizer_lets_labels_drift(tmp_path: Path, features: Path) -> None:
    """A small BEST-RQ repository: the targets move while they are learned.

    Here: nothing trainable lies between features and anchoring label, so training leaves every label as it was.
    """
    trained = encoders.load(run_pretrain(tmp_path / "a", features, pretrain__steps=6, pretrain__learning_rate=0.05).out).model
    fresh = encoders.load(run_pretrain(tmp_path / "b", features, "scratch").out).model
    assert not torch.equal(trained.encoder.project.weight, fresh.encoder.project.weight)
    feats = batch([60]).feats_BTF
    assert torch.equal(trained.anchor_labels(feats), fresh.anchor_labels(feats))
    assert not list(trained.anchor_quantizer.parameters()) and not list(trained.quantizer.parameters())


def test_encoder_fed_with_labels_instead_of_features() -> None:
    """best-rq-pytorch: labels went into the encoder.

    Here: the encoder takes n_stack log-mel frames; the loss has a gradient to what is unmasked, which a label has not, and none to what
    is masked: an input that gave its own label away would make the task empty.
    """
    p, b = pretrainer(enhanced_weight=0.0), batch([40])
    assert p.encoder.project.in_features == 4 * N_MELS
    mask, feats = every_other(b.lengths_B), b.feats_BTF.requires_grad_()
    p(feats, b.lengths_B, mask, noise()).total.backward()
    size_BT = p.encoder.stack(feats.grad).abs().amax(-1)
    assert (size_BT[~mask] > 0).all() and (size_BT[mask] == 0).all()


def names_used(folder: Path) -> tuple[set[str], tuple[str, ...]]:
    """Attributes and strings in the code, without the definitions of params; and ends of f-strings, as in f"{split}_hours"."""
    used: set[str] = set()
    ends: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.name in ("params.py", "presets.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used |= set(node.value.split("."))
            elif isinstance(node, ast.JoinedStr) and len(node.values) == 2 and isinstance(node.values[1], ast.Constant):
                ends.add(node.values[1].value)
    return used, tuple(e for e in ends if e.startswith("_"))


class Recorder:
    """A value, such as a section of params, that remembers which of its fields were read one by one."""

    def __init__(self, value: Any):
        self._value, self.read = value, set()

    def __getattr__(self, key: str):
        self.read.add(key)
        return getattr(self._value, key)


def test_options_that_are_parsed_and_never_used(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchaudio's HuBERT example: flags without effect.

    Here: every key of params.yaml is read by some code, and every key of the training sections by a run of its stage. (test_objectives.py
    shows for each constant of the objective that it changes the loss, or the gradient; dropout is read where the encoder is built.)
    """
    used, ends = names_used(ROOT / "birq")
    sections = [s for s in vars(params_module).values() if isinstance(s, type) and issubclass(s, BaseModel)]
    keys = {f"{s.__name__}.{key}" for s in sections for key in s.model_fields if s not in (params_module.Section, params_module.Params)}
    assert len(keys) > 80
    assert not {k for k in keys if k.split(".")[1] not in used and not k.endswith(ends)}

    p = params(pretrain__steps=2, finetune__steps=2)
    tokenizer.characters(LETTERS + " ").save(tmp_path)
    inputs = {"features": [features], "tokenizer": [tmp_path]}
    sections = {name: Recorder(getattr(p, name)) for name in ("pretrain", "random_projection", "birq", "finetune")}
    watched = Recorder(pretraining.Watched(p.birq.min_perplexity, p.birq.gradient_cosine_every_steps))
    monkeypatch.setattr(pretraining, "Watched", Mock(return_value=watched, __dataclass_fields__={}))
    refining = Recorder(pretraining.Refining())
    monkeypatch.setattr(pretraining, "Refining", Mock(return_value=refining, __dataclass_fields__={}))
    for stage, compute in (("pretrain", pretrain.compute), ("finetune", finetune.compute)):
        j = job(stage, tmp_path / stage, inputs, p.model_copy(update=sections))
        compute(j)
        inputs[stage] = [j.out]
    elsewhere = {f.name for f in dataclasses.fields(objective())} | watched.read | refining.read | {"dropout"}
    for name, section in sections.items():
        unread = set(type(getattr(p, name)).model_fields) - section.read
        assert (unread if name == "finetune" else unread - elsewhere) == set(), name


def steps_of_a_rank(folder: Path, features: Path, changes: dict) -> int:
    rank = os.environ["RANK"]
    return run_pretrain(folder / rank, features, **changes).notes["steps"]


def test_unequal_batches_per_rank_hang(tmp_path: Path, features: Path) -> None:
    """Several toolkits: ranks with another number of batches wait for each other for ever.

    Here: ranks share each step's batch, so every rank makes just the steps that params name, over many epochs of two batches, with a last
    batch that is short, and with more ranks than a micro-batch has utterances.
    """
    split = open_split([features], "train")
    total_s = float(split.n_frames.sum()) / 100
    settings = {"batch_seconds": total_s * 0.7, "micro_batch_seconds": float(split.n_frames.max()) / 100}
    feed = Feed(split, np.arange(len(split)), read_front_end([features], split, n_stack=4), seed=0, **settings)
    assert feed.n_batches(0) == 2
    assert min(len(b.ids) for batches in feed.epoch(0) for b in batches) == 1
    changes = {f"pretrain__{k}": v for k, v in settings.items()} | {"pretrain__steps": 7, "pretrain__log_every_steps": 1}
    assert gang.run(3, steps_of_a_rank, tmp_path, features, changes) == [7, 7, 7]
    lines = curve(tmp_path / "0" / "out0")
    assert [line["epoch"] for line in lines] == [0, 0, 1, 1, 2, 2, 3]
    assert lines[-1]["hours_seen"] * 3600 > 3 * total_s


def test_no_rng_state_in_checkpoints_so_that_a_resume_is_not_exact(tmp_path: Path, features: Path) -> None:
    """All peers: after a resume dropout, masks and noise are drawn anew.

    Here: what is random at a step follows from (seed, step), so a run that goes on from its last checkpoint, in a process whose generator
    stands elsewhere, ends in the same bits.
    """
    changes = {"pretrain__dropout": 0.2, "pretrain__steps": 9}
    first = run_pretrain(tmp_path, features, **changes)
    assert 1 <= json.loads((first.scratch / "curve.jsonl").read_text().splitlines()[0])["step"] < 9
    assert (first.scratch / "checkpoint.pt").exists()
    torch.rand(1234)
    second = run_pretrain(tmp_path, features, **changes)
    assert second.scratch == first.scratch
    assert second.notes["steps"] == 9
    for name in ("encoder.safetensors", "curve.jsonl"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    other = run_pretrain(tmp_path / "other", features, **(changes | {"pretrain__dropout": 0.0}))
    assert (other.out / "encoder.safetensors").read_bytes() != (first.out / "encoder.safetensors").read_bytes(), "dropout was on"


def test_features_of_a_silent_stretch_stay_finite() -> None:
    """A logarithm of zero energy, met in several recipes: NaN in one utterance ends a run.

    Here: log-mel is floored, so digital silence is a finite number.
    """
    assert torch.isfinite(fbank(np.zeros(16000, np.float32), SETTINGS)).all()
