"""Fine-tuning on speech of tones: CTC learns, the best checkpoint is published, options do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import curve, finetune_job, noise, params, pretrained, rows, sentences, write_features

from birq.recognise.greedy import greedy
from birq.saved.recogniser import Recogniser
from birq.speech.batches import sequential
from birq.speech.shards import open_split
from birq.stages import finetune
from birq.train import finetuning

PLAIN = {"finetune__time_masks": 0, "finetune__freq_masks": 0, "finetune__dropout": 0.0, "finetune__checkpoint_seconds": 60.0}


def dev_wer(out: Path, features: Path, split: str) -> float:
    """WER of a published model, decoded here."""
    recogniser, speech = Recogniser.load(out), open_split([features], split)
    references, hypotheses = [], []
    with torch.inference_mode():
        for b in sequential(speech, np.arange(len(speech)), recogniser.front_end, 240.0):
            ids = greedy(*recogniser.model(b.feats_BTF, b.lengths_B), recogniser.model.blank)
            hypotheses += [recogniser.tokenizer.decode(row) for row in ids]
            references += b.texts
    return jiwer.wer(references, hypotheses)


def test_ctc_learns_four_utterances_by_heart(tmp_path: Path, letters: Path) -> None:
    """Features, encoder, loss, tokenizer and decoding agree with each other only if a small model can reach WER 0 on four utterances."""
    texts = sentences(4, seed=3, shortest=5, longest=8)
    four = write_features(tmp_path / "features", {"train": rows(texts, "train"), "dev": rows(texts, "dev")})
    encoder = pretrained(tmp_path / "encoder", four, "scratch")
    settings = {"finetune__steps": 250, "finetune__learning_rate": 0.01, "finetune__evaluations": 5, "finetune__log_every_steps": 50}
    j = finetune_job(tmp_path / "run", encoder, letters, four, **settings, **PLAIN)
    finetune.compute(j)
    assert dev_wer(j.out, four, "train") == 0
    assert curve(j.out)[-1]["loss"] < 0.1 < curve(j.out)[0]["loss"]


def test_the_checkpoint_with_the_best_dev_wer_is_published(tmp_path: Path, letters: Path) -> None:
    """Dev transcripts that are one short word while the audio says many: the more is learned the worse, so the best is not the last."""
    train = rows(sentences(6, seed=3), "train")
    heard = ["ab cd ef gh ab cd"] * 3
    odd = write_features(tmp_path / "features", {"train": train, "dev": rows(["h"] * 3, "dev", heard=heard)})
    encoder = pretrained(tmp_path / "encoder", odd, "scratch")
    settings = {"finetune__steps": 150, "finetune__learning_rate": 0.01, "finetune__evaluations": 5}
    j = finetune_job(tmp_path / "run", encoder, letters, odd, **settings, **PLAIN)
    finetune.compute(j)
    wers = {line["step"]: line["dev_wer"] for line in curve(j.out) if line["dev_wer"] is not None}
    assert sorted(wers) == [30, 60, 90, 120, 150]
    best = json.loads((j.out / "config.json").read_text())["best_step"]
    assert wers[best] == min(wers.values()) < wers[150]
    assert dev_wer(j.out, odd, "dev") == pytest.approx(wers[best], rel=1e-5)


def test_dev_loss_is_in_nats_per_character(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """The sum of −ln p(transcript | audio) over dev, utterance by utterance, over its characters, spaces included."""
    j = finetune_job(tmp_path / "run", scratch_encoder, letters, features, finetune__evaluations=1, **PLAIN)
    finetune.compute(j)
    published, dev = Recogniser.load(j.out), open_split([features], "dev")
    nats = 0.0
    with torch.inference_mode():
        for i in range(len(dev)):
            batch = next(iter(sequential(dev, np.array([i]), published.front_end, 240.0)))
            logp, _ = published.model(batch.feats_BTF, batch.lengths_B)
            target = torch.tensor([published.tokenizer.encode(dev.texts[i])])
            nats += float(torch.nn.functional.ctc_loss(logp[0], target[0], *(torch.tensor(len(x)) for x in (logp[0], target[0])),
                                                       blank=published.model.blank, reduction="sum"))  # fmt: skip
    assert curve(j.out)[-1]["dev_loss"] == pytest.approx(nats / sum(map(len, dev.texts)), rel=1e-4)
    assert [line["dev_loss"] is None for line in curve(j.out)] == [line["dev_wer"] is None for line in curve(j.out)]


def test_dev_loss_leaves_out_what_no_path_can_say(tmp_path: Path, letters: Path) -> None:
    """A transcript of more tokens than frames has probability 0. Its infinite loss would hide all others; its words count as errors."""
    said = [r["text"] for r in rows(sentences(2, seed=5), "dev")]
    heard = [*said, "a"]
    train = rows(sentences(4, seed=3), "train")
    losses = []
    for name, texts in (("all", [*said, "abcdefgh" * 4]), ("two", said)):
        speech = write_features(tmp_path / name, {"train": train, "dev": rows(texts, "dev", heard=heard[: len(texts)])})
        encoder = pretrained(tmp_path / f"encoder-{name}", speech, "scratch")
        j = finetune_job(tmp_path / f"run-{name}", encoder, letters, speech, finetune__evaluations=1, **PLAIN)
        finetune.compute(j)
        losses.append(curve(j.out)[-1]["dev_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_frozen_steps_leave_the_encoder_unchanged(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """Neither gradient nor weight decay may touch it until they are over; the CTC layer learns from the first step."""
    before = load_file(scratch_encoder / "encoder.safetensors")
    for frozen, moved in ((12, False), (6, True)):
        j = finetune_job(tmp_path / str(frozen), scratch_encoder, letters, features, finetune__frozen_steps=frozen, finetune__evaluations=1)
        finetune.compute(j)
        after = load_file(j.out / "model.safetensors")
        same = [torch.equal(after[n], before[n]) for n in after if n.startswith("encoder.")]
        assert all(same) != moved and len(same) > 10
        assert after["head.bias"].abs().max() > 0


def test_rate_factor_of_the_head_is_used(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """One AdamW step moves a weight by about the rate: ten times the factor, ten times the way."""
    start, moves = {}, []
    for factor in (1.0, 10.0):
        settings = {"finetune__steps": 1, "finetune__evaluations": 1, "finetune__weight_decay": 0.0, "finetune__frozen_steps": 1}
        j = finetune_job(tmp_path / str(factor), scratch_encoder, letters, features, finetune__head_rate_factor=factor, **settings)
        finetune.compute(j)
        moves.append(load_file(j.out / "model.safetensors")["head.weight"])
        torch.manual_seed(0)
        start = torch.nn.Linear(16, 10).weight.detach()
    assert float((moves[1] - start).abs().median() / (moves[0] - start).abs().median()) == pytest.approx(10, rel=0.05)


def test_reset_layers_begin_anew_from_the_top(tmp_path: Path, features: Path, letters: Path, scratch_encoder: Path) -> None:
    """The named number of top layers loses what pre-training gave them, the layers below keep it."""
    before = load_file(scratch_encoder / "encoder.safetensors")
    settings = {"finetune__frozen_steps": 1, "finetune__steps": 1, "finetune__evaluations": 1}
    for n in (0, 1, 2):
        j = finetune_job(tmp_path / str(n), scratch_encoder, letters, features, finetune__reset_layers=n, **settings)
        finetune.compute(j)
        after = load_file(j.out / "model.safetensors")
        kept = [torch.equal(after[name], before[name]) for name in (f"encoder.blocks.{i}.attention.qkv.weight" for i in range(2))]
        assert kept == [True] * (2 - n) + [False] * n
        assert torch.equal(after["encoder.project.weight"], before["encoder.project.weight"])


@pytest.mark.parametrize("n_masks", [0, 1, 2])
def test_spec_augment_masks_no_more_than_the_widest_allowed(n_masks: int) -> None:
    """torchaudio's masks are at most `widest` long, drawn per utterance, and set values to 0, the corpus mean."""
    section = params(finetune__time_masks=n_masks, finetune__freq_masks=0, finetune__time_mask_ms=100.0).finetune
    widest, seen = 0, set()
    for seed in range(40):
        torch.manual_seed(seed)
        masked_BT = (finetuning.spec_augment(torch.ones(5, 60, 20), section, 10.0) == 0).all(-1)
        seen |= {tuple(row.nonzero().flatten().tolist()) for row in masked_BT}
        widest = max(widest, int(masked_BT.sum(1).max()))
    assert widest <= n_masks * 10
    assert (widest > 5 * n_masks and len(seen) > 20) if n_masks else seen == {()}


def test_spec_augment_masks_bins_and_keeps_the_rest(tmp_path: Path) -> None:
    """Frequency masks cover whole bins of one utterance, no more than allowed; every other value is as it was."""
    section = params(finetune__time_masks=0, finetune__freq_masks=2, finetune__freq_mask_bins=6).finetune
    feats = torch.randn(8, 50, 20, generator=noise())
    torch.manual_seed(0)
    out = finetuning.spec_augment(feats, section, 10.0)
    gone_BF = (out == 0).all(1)
    assert 0 < gone_BF.sum(1).max() <= 12 and len({tuple(r.tolist()) for r in gone_BF}) > 3
    assert torch.equal(out, feats * ~gone_BF[:, None, :])
