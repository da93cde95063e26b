"""The frames that labels are made of: those of a view of the input, or of a layer of an encoder, batch by batch.

Shape suffixes: B utterances, T encoder frames, F mel bins, M frames of a batch, D values of a frame, N codebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birq.errors import BirqError
from birq.model import views
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.speech.batches import sequential
from birq.speech.choice import spread
from birq.speech.frontend import FrontEnd
from birq.speech.shards import Split, read_front_end
from birq.train.runtime.devices import for_inference

BATCH_SECONDS = 60.0  # of audio, all layers below the one that is wanted are passed
Coded = Iterator[tuple[int, np.ndarray]]  # an utterance's position in the split, and its codes [T, N]


@dataclass
class Making:
    """Labels that are about to be made."""

    n_stack: int
    n_codebooks: int
    codebook_size: int
    codes: Coded  # utterances in any order
    about: dict[str, Any]  # for labels.json: how they are made; complete when `codes` has ended


@dataclass(frozen=True)
class Source:
    """Where frames come from."""

    split: Split
    front_end: FrontEnd
    read: Callable[[Tensor, Tensor], Tensor]  # normalised log-mel [B, T·n, F] and lengths in encoder frames -> [B, T, D]
    named: str  # for messages
    device: torch.device

    @property
    def usable(self) -> np.ndarray:
        """Positions of the utterances that have a frame."""
        return np.flatnonzero(self.split.n_frames >= self.front_end.n_stack)

    @torch.inference_mode()
    def batches(self, index: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Utterances, their numbers of frames, and the frames [M, D] float32 of all of them, one utterance after the other.

        Errors: BirqError for values that are not finite numbers.
        """
        longest = self.front_end.seconds(self.split.n_frames[index].max())
        for batch in sequential(self.split, index, self.front_end, max(BATCH_SECONDS, longest)):
            lengths_B = batch.lengths_B.to(self.device)
            x_BTD = self.read(batch.feats_BTF.to(self.device), lengths_B)
            x_MD = x_BTD[torch.arange(x_BTD.shape[1], device=self.device) < lengths_B[:, None]].float()
            if not torch.isfinite(x_MD).all():
                raise BirqError(f"{self.named}: frames of {batch.ids[0]} and its neighbours hold values that are not finite numbers")
            yield batch.index, batch.lengths_B.numpy(), x_MD

    def coded(self, code: Callable[[Tensor], np.ndarray]) -> Coded:
        """The codes [T, N] of every utterance."""
        for index, lengths, x_MD in self.batches(self.usable):
            yield from zip(index.tolist(), np.split(code(x_MD), np.cumsum(lengths)[:-1]), strict=True)


def of_view(job: Job, split: Split, view: str, n_stack: int) -> Source:
    """A view of the input, in frames of n_stack log-mel frames."""
    front_end = read_front_end(job.inputs["features"], split, n_stack)

    def read(feats_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        return views.stacked(view, feats_BTF, lengths_B, n_stack)

    return Source(split, front_end, read, f"{view} of {', '.join(f.name for f in job.inputs['features'])}", for_inference(job.notes))


def of_layer(job: Job, split: Split, layer: int) -> Source:
    """A layer of the encoder that the job has as input, with its own front end. Errors: BirqError if it has no such layer."""
    folder: Path = job.input("pretrain")
    device, saved = for_inference(job.notes), encoder.load(folder)
    if layer > (depth := saved.encoder.shape.n_layers):
        raise BirqError(f"{folder}: labels of layer {layer} were asked for, but its encoder has {depth} layers")
    model = saved.encoder.to(device).eval()

    def read(feats_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        return model(model.stack(feats_BTF), lengths_B, layer)

    return Source(split, saved.front_end, read, f"layer {layer} of {folder.name}", device)


def chosen(source: Source, minutes: float, seed: int) -> np.ndarray:
    """Positions of at most `minutes` of utterances (one at least), spread over the split: a seeded shuffle of the sorted ids."""
    return spread(source.split, source.usable, minutes, np.random.SeedSequence([seed, 0x1ABE1]))
