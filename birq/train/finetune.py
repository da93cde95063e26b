"""The finetune stage: an encoder and a little transcribed speech in, a CTC recogniser out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jiwer
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from birq.audio import torchaudio
from birq.batches import Batch, Feed, labelled_subset, sequential
from birq.errors import BirqError
from birq.model.ctc import CtcModel, ctc_loss, frames_needed, greedy
from birq.model.encoder import Block
from birq.model.flops import TRAINING, encoder_per_frame
from birq.params import Finetune
from birq.progress import say
from birq.shards import Split, open_split
from birq.stage import Job
from birq.tokenizer import Tokenizer
from birq.tokenizer import load as load_tokenizer
from birq.train.distributed import Group, join, leave
from birq.train.hardware import prepare
from birq.train.loop import adamw, device_and_threads, precision, train
from birq.train.schedule import tri_stage
from birq.train.state import load_pretrained, save_model

BEST = "best.safetensors"


def spec_augment(feats_BTF: torch.Tensor, section: Finetune, frame_shift_ms: float) -> torch.Tensor:
    """SpecAugment (Park et al. 2019) without warping: masks are drawn per utterance, masked values are 0 = the corpus mean."""
    mask = torchaudio().functional.mask_along_axis_iid
    widest_frames = round(section.time_mask_ms / frame_shift_ms)
    x_B1FT = feats_BTF.transpose(1, 2).unsqueeze(1)
    for count, widest, axis in ((section.time_masks, widest_frames, 3), (section.freq_masks, section.freq_mask_bins, 2)):
        if widest > 0:
            for _ in range(count):
                x_B1FT = mask(x_B1FT, widest, 0.0, axis)
    return x_B1FT.squeeze(1).transpose(1, 2)


class FinetuneTask:
    """CTC loss, SpecAugment, dev WER."""

    KEPT = ("best_wer", "best_step", "loss_sum", "tokens")  # over a kill

    def __init__(
        self,
        model: CtcModel,
        tokenizer: Tokenizer,
        section: Finetune,
        job: Job,
        device: torch.device,
        frame_shift_ms: float,
        dev: Split,
        dev_feed: dict[str, Any],
        group: Group,
    ):
        self.group = group
        self.model, self.tokenizer, self.section, self.job, self.device = model, tokenizer, section, job, device
        self.frame_shift_ms, self.dev, self.dev_feed = frame_shift_ms, dev, dev_feed
        shape = model.encoder.shape
        mean_frames = float(dev.n_frames.mean()) / shape.n_stack if len(dev) else 0.0
        per_frame = TRAINING * encoder_per_frame(shape, shape.n_layers, mean_frames)
        self.flops_per_audio_second = per_frame * 1000 / (frame_shift_ms * shape.n_stack)
        self.dev_index = np.array([i for i, t in enumerate(dev.texts) if t], dtype=np.int64)
        self.best_wer, self.best_step = float("inf"), 0
        self.loss_sum, self.tokens = 0.0, 0

    def backward(self, batches: list[Batch], step: int, epoch: int) -> None:
        frozen = step < self.section.frozen_steps
        for p in self.model.encoder.parameters():
            p.requires_grad_(not frozen)
        targets = [[self.tokenizer.encode(t) for t in b.texts] for b in batches]
        n_tokens = max(1, int(self.group.add(torch.tensor(sum(len(row) for rows in targets for row in rows)))))
        for batch, rows in zip(batches, targets, strict=True):
            feats = spec_augment(batch.feats_BTF.to(self.device, non_blocking=True), self.section, self.frame_shift_ms)
            with precision(self.device):
                logp, lengths = self.model(feats, batch.lengths_B.to(self.device))
            # of a share without utterances, the sum is 0 and so is every gradient
            loss = ctc_loss(logp, lengths, rows, self.model.blank) if rows else logp.sum()
            (loss / n_tokens).backward()
            self.loss_sum += float(loss.detach())
        self.tokens += n_tokens

    def figures(self, step: int) -> dict[str, float | None]:
        self._add_ranks()
        line: dict[str, float | None] = {"loss": self.loss_sum / max(1, self.tokens), "dev_wer": None}
        self.loss_sum, self.tokens = 0.0, 0
        return line

    def _add_ranks(self) -> None:
        self.loss_sum = float(self.group.add(torch.tensor(self.loss_sum, dtype=torch.float64)))

    def due(self, step: int) -> bool:
        n = self.section.evaluations
        return any(step == round(self.section.steps * (i + 1) / n) for i in range(n))

    def after_step(self, step: int, stop: Callable[[], bool]) -> dict[str, Any] | None:
        if not self.due(step) or not len(self.dev_index):
            return {}
        wer = self._dev_wer(stop)
        if wer is None:
            return None
        if wer < self.best_wer:
            self.best_wer, self.best_step = wer, step
            if self.group.writes:
                fresh = self.job.scratch / (BEST + ".new")
                save_file({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, fresh)
                fresh.replace(self.job.scratch / f"{step}-{BEST}")
        return {"dev_wer": wer}

    @torch.inference_mode()
    def _dev_wer(self, stop: Callable[[], bool]) -> float | None:
        self.model.eval()
        references, hypotheses = [], []
        for batch in sequential(self.dev, self.dev_index, **self.dev_feed, rank=self.group.rank, ranks=self.group.size):
            if stop():
                self.model.train()
                return None
            with precision(self.device):
                logp, lengths = self.model(batch.feats_BTF.to(self.device), batch.lengths_B.to(self.device))
            hypotheses += [self.tokenizer.decode(ids) for ids in greedy(logp, lengths, self.model.blank)]
            references += batch.texts
        self.model.train()
        parts = self.group.gathered((references, hypotheses))
        references, hypotheses = ([text for part in parts for text in part[i]] for i in (0, 1))
        return float(jiwer.wer(references, hypotheses))

    def state(self) -> dict[str, Any]:
        self._add_ranks()
        state = {name: getattr(self, name) for name in self.KEPT}
        self.restore(state)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        for name in self.KEPT:
            setattr(self, name, state[name])
        if not self.group.writes:
            self.loss_sum = 0.0

    def take_best(self) -> None:
        if self.best_step:
            self.model.load_state_dict(load_file(self.job.scratch / f"{self.best_step}-{BEST}"))


def _labelled(split: Split, section: Finetune, tokenizer: Tokenizer, n_stack: int, seed: int, group: Group) -> np.ndarray:
    """The labelled subset, without utterances too fast for CTC at this frame rate."""
    index = labelled_subset(split, section.labelled_minutes, seed)
    fits = np.array([frames_needed(tokenizer.encode(split.texts[i])) <= split.n_frames[i] // n_stack for i in index])
    if not fits.all() and group.writes:
        say(f"finetune: {int((~fits).sum())} of {len(index)} utterances have more tokens than encoder frames: left out")
    if fits.mean() < 0.9:
        raise BirqError(
            f"finetune: {int((~fits).sum())} of {len(index)} labelled utterances have more tokens than encoder frames; "
            f"use a smaller model.n_stack (now {n_stack}) or tokenizer.kind: unigram with a larger vocab_size"
        )
    return index[fits]


def compute(job: Job) -> None:
    """Fine-tune one method's encoder with one seed; the checkpoint with the best dev WER is published."""
    method, seed, section = job.wildcards["method"], int(job.wildcards["seed"]), job.read("finetune")
    pretrained = load_pretrained(job.input("pretrain"))
    tokenizer = load_tokenizer(job.input("tokenizer"))
    shape = pretrained.pretrainer.encoder.shape
    frame_shift_ms = pretrained.config["features"]["frame_shift_ms"]
    split = open_split(job.inputs["features"], "train")
    # the labelled subset is the same for every method and seed: methods are compared on the same speech
    device = device_and_threads(section, job)
    group = join(device)
    index = _labelled(split, section, tokenizer, shape.n_stack, seed=0, group=group)
    torch.manual_seed(seed)
    encoder = pretrained.pretrainer.encoder
    encoder.dropout = section.dropout
    for i in range(shape.n_layers - section.reset_layers, shape.n_layers):
        encoder.blocks[i] = Block(shape)
    model = CtcModel(encoder, tokenizer.size).to(device)
    job.notes["settings"] = prepare(model.encoder)
    shared = {"n_stack": shape.n_stack, "frame_shift_ms": frame_shift_ms}
    feed = Feed(
        split,
        index,
        pretrained.mean_F,
        pretrained.std_F,
        batch_seconds=section.batch_seconds,
        micro_batch_seconds=section.micro_batch_seconds,
        seed=seed,
        rank=group.rank,
        ranks=group.size,
        **shared,
    )
    dev_feed = {"mean_F": pretrained.mean_F, "std_F": pretrained.std_F, "batch_seconds": max(240.0, section.batch_seconds), **shared}
    dev = open_split(job.inputs["features"], "dev")
    task = FinetuneTask(model, tokenizer, section, job, device, frame_shift_ms, dev, dev_feed, group)
    optimiser = adamw(
        [{"params": list(encoder.parameters())}, {"params": list(model.head.parameters()), "rate_factor": section.head_rate_factor}],
        section,
    )
    schedule = tri_stage(section.steps, section.warmup_share, section.hold_share, section.final_rate_share)
    position = train(job, model, optimiser, schedule, feed, task, section, seed)
    leave()
    if not group.writes:
        return
    task.take_best()
    labelled_hours = float(split.duration_s[index].sum()) / 3600
    config = {k: pretrained.config[k] for k in ("method", "seed", "model", "features", "mean", "std", "hours_unlabelled")}
    config |= {"labelled_hours": round(labelled_hours, 4), "best_step": task.best_step}
    save_model(job.out, "model.safetensors", model, config)
    tokenizer.save(job.out)
    job.notes.update(
        {
            "labelled_hours": labelled_hours,
            "labelled_utterances": len(index),
            "best_step": task.best_step,
            "train_seconds": position.seconds,
            "method": method,
        }
    )
