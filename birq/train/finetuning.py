"""Fine-tuning with CTC: loss, SpecAugment, dev WER and dev loss, as a task of the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from safetensors.torch import load_file

from birq.errors import BirqError
from birq.model.ctc import CtcModel, Targets, ctc_loss, frames_needed
from birq.progress import say
from birq.recognise.greedy import greedy
from birq.saved.weights import save_weights
from birq.settings.params import Finetune
from birq.speech.batches import Batch, Utterances, labelled_subset, sequential
from birq.speech.frontend import FrontEnd
from birq.speech.resampling import torchaudio
from birq.text.tokenizer import Tokenizer
from birq.train.distributed import Group
from birq.train.loop import precision
from birq.train.runtime.flops import TRAINING, encoder_per_frame

DEV_BATCH_SECONDS = 240.0
BEST = "best.safetensors"


def spec_augment(feats_BTF: torch.Tensor, section: Finetune, frame_shift_ms: float) -> torch.Tensor:
    """SpecAugment (Park et al. 2019) without warping: masks are drawn per utterance, masked values are 0 = the mean."""
    mask = torchaudio().functional.mask_along_axis_iid
    widest_frames = round(section.time_mask_ms / frame_shift_ms)
    x_B1FT = feats_BTF.transpose(1, 2).unsqueeze(1)
    for count, widest, axis in ((section.time_masks, widest_frames, 3), (section.freq_masks, section.freq_mask_bins, 2)):
        if widest > 0:
            for _ in range(count):
                x_B1FT = mask(x_B1FT, widest, 0.0, axis)
    return x_B1FT.squeeze(1).transpose(1, 2)


@dataclass
class TargetBatch(Batch):
    """A batch whose transcripts are tokens."""

    targets: Targets | None = None


class FinetuneTask:
    """CTC loss, SpecAugment; on dev, WER and CTC loss."""

    KEPT = ("best_wer", "best_step", "tokens")  # over a kill

    def __init__(
        self,
        model: CtcModel,
        tokenizer: Tokenizer,
        front_end: FrontEnd,
        section: Finetune,
        dev: Utterances,
        scratch: Path,
        device: torch.device,
        group: Group,
    ):
        """`scratch`: where the best model so far is kept."""
        self.model, self.tokenizer, self.front_end, self.section = model, tokenizer, front_end, section
        self.dev, self.scratch, self.device, self.group = dev, scratch, device, group
        shape = model.encoder.shape
        mean_frames = float(dev.n_frames.mean()) / shape.n_stack if len(dev) else 0.0
        per_frame = TRAINING * encoder_per_frame(shape, shape.n_layers, mean_frames)
        self.flops_per_audio_second = per_frame * 1000 / front_end.encoder_shift_ms
        self.dev_index = np.array([i for i, t in enumerate(dev.texts) if t], dtype=np.int64)
        self.best_wer, self.best_step = float("inf"), 0
        self.loss_sum: float | torch.Tensor = 0.0  # on the device, float64
        self.tokens = 0

    def ready(self, batches: list[Batch], step: int, epoch: int) -> list[Batch]:
        """With their transcripts as tokens."""
        return [TargetBatch(**vars(b), targets=Targets.of([self.tokenizer.encode(t) for t in b.texts])) for b in batches]

    def backward(self, batches: list[Batch], step: int, epoch: int) -> None:
        frozen = step < self.section.frozen_steps
        for p in self.model.encoder.parameters():
            p.requires_grad_(not frozen)
        if not all(isinstance(b, TargetBatch) for b in batches):
            batches = self.ready(batches, step, epoch)
        targets: list[Targets] = [b.targets for b in batches]  # type: ignore[attr-defined]
        n_tokens = max(1, int(self.group.add(torch.tensor(sum(len(t.tokens_L) for t in targets)))))
        for batch, target in zip(batches, targets, strict=True):
            feats = spec_augment(batch.feats_BTF.to(self.device, non_blocking=True), self.section, self.front_end.frame_shift_ms)
            with precision(self.device):
                logp, _ = self.model(feats, batch.lengths_B.to(self.device, non_blocking=True))
            # of a share without utterances, the sum is 0 and so is every gradient
            loss = ctc_loss(logp, batch.lengths_B, target, self.model.blank) if len(target.sizes_B) else logp.sum()
            (loss / n_tokens).backward()
            self.loss_sum += loss.detach().double()
        self.tokens += n_tokens

    def figures(self, step: int) -> dict[str, float | None]:
        line: dict[str, float | None] = {"loss": self._total_loss() / max(1, self.tokens), "dev_wer": None, "dev_loss": None}
        self.loss_sum, self.tokens = 0.0, 0
        return line

    def _total_loss(self) -> float:
        """Of all ranks; `tokens` counts theirs already."""
        return float(self.group.add(torch.tensor(float(self.loss_sum), dtype=torch.float64)))

    def due(self, step: int) -> bool:
        n = self.section.evaluations
        return any(step == round(self.section.steps * (i + 1) / n) for i in range(n))

    def after_step(self, step: int, stop: Callable[[], bool]) -> dict[str, Any] | None:
        if not self.due(step) or not len(self.dev_index):
            return {}
        found = self._on_dev(stop)
        if found is None:
            return None
        wer = found["dev_wer"]
        if wer < self.best_wer:
            self.best_wer, self.best_step = wer, step
            if self.group.writes:
                fresh = self.scratch / (BEST + ".new")
                save_weights(fresh, self.model)
                fresh.replace(self.scratch / f"{step}-{BEST}")
        return dict(found)

    @torch.inference_mode()
    def _on_dev(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """dev_wer, and dev_loss: the CTC loss in nats per character of the transcripts, whatever the tokens are.

        An utterance with too few frames for its tokens has no finite loss and is left out of it, its characters too.
        """
        self.model.eval()
        references, hypotheses = [], []
        nats, characters = 0.0, 0
        seconds = max(DEV_BATCH_SECONDS, self.section.batch_seconds)
        for batch in sequential(self.dev, self.dev_index, self.front_end, seconds, self.group.rank, self.group.size):
            if stop():
                self.model.train()
                return None
            with precision(self.device):
                logp, lengths = self.model(batch.feats_BTF.to(self.device), batch.lengths_B.to(self.device))
            hypotheses += [self.tokenizer.decode(ids) for ids in greedy(logp, lengths, self.model.blank)]
            references += batch.texts
            more_nats, more_characters = self._loss(batch, logp)
            nats, characters = nats + more_nats, characters + more_characters
        self.model.train()
        parts = self.group.gathered((references, hypotheses, nats, characters))
        references, hypotheses = ([text for part in parts for text in part[i]] for i in (0, 1))
        nats, characters = (sum(part[i] for part in parts) for i in (2, 3))
        return {"dev_wer": float(jiwer.wer(references, hypotheses)), "dev_loss": nats / characters if characters else math.nan}

    def _loss(self, batch: Batch, logp_BTV: torch.Tensor) -> tuple[float, int]:
        """CTC loss of a batch in nats, summed, and the characters of its transcripts."""
        tokens = [self.tokenizer.encode(text) for text in batch.texts]
        rows = [b for b, n in enumerate(batch.lengths_B.tolist()) if frames_needed(tokens[b]) <= n]
        if not rows:
            return 0.0, 0
        logp_BTV = logp_BTV if len(rows) == len(tokens) else logp_BTV[rows]
        loss = ctc_loss(logp_BTV, batch.lengths_B[rows], Targets.of([tokens[b] for b in rows]), self.model.blank)
        return float(loss), sum(len(batch.texts[b]) for b in rows)

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.KEPT} | {"loss_sum": self._total_loss()}

    def restore(self, state: dict[str, Any]) -> None:
        for name in self.KEPT:
            setattr(self, name, state[name])
        self.loss_sum = state["loss_sum"] if self.group.writes else 0.0

    def take_best(self) -> None:
        if self.best_step:
            self.model.load_state_dict(load_file(self.scratch / f"{self.best_step}-{BEST}"))


def labelled(split: Utterances, section: Finetune, tokenizer: Tokenizer, n_stack: int, seed: int, group: Group) -> np.ndarray:
    """The labelled subset, without utterances too fast for CTC at this frame rate.

    Errors: BirqError where more than a tenth of them are.
    """
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
