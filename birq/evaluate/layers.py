"""What the probe looks at: frames of chosen utterances, their phones, and the outputs of every layer at them.

Layer 0 is the encoder's input, the stacked normalised log-mel. Layers 1 to K are the blocks' outputs.
Shape suffixes: B utterances, T encoder frames, D width, M frames of all chosen utterances, N codebooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from birq.evaluate.phones import NO_PHONE, NO_SEGMENT, Segments, frame_centres_s, phones_at, segments_at
from birq.model import moments as running
from birq.model.quantizer import framewise, standardise
from birq.progress import Progress
from birq.saved.encoder import SavedEncoder
from birq.speech.batches import Batch, sequential
from birq.speech.choice import spread
from birq.speech.shards import Split

BATCH_SECONDS = 60.0  # all layers of a batch are held at once
CHUNK_FRAMES = 8192  # of one layer that are looked at together
SEED = 20  # of the choice of utterances; fixed, so that all methods are probed on the same frames


def choose(split: Split, max_minutes: float, n_stack: int, preferred: set[str], only: bool = False) -> np.ndarray:
    """Positions of at most `max_minutes` of utterances (one at least), spread over the split: a fixed shuffle of the sorted ids.

    Where some of the utterances are `preferred` (they have alignments), only those are taken. only: no others, if there are none.
    """
    fits = [i for i in range(len(split)) if split.n_frames[i] >= n_stack]
    index = [i for i in fits if split.ids[i] in preferred] or ([] if only else fits)
    return spread(split, np.array(index, dtype=np.int64), max_minutes, SEED)


class Frames:
    """The frames of the chosen utterances, numbered one utterance after the other in the order of choice, whatever the batches."""

    def __init__(self, split: Split, index: np.ndarray, pretrained: SavedEncoder, device: torch.device):
        self.split, self.index, self.device = split, index, device
        self.model, self.front_end = pretrained.model.to(device).eval(), pretrained.front_end
        # BiRQ's own; an encoder without enhanced labels is read in BiRQ's default way
        self.label_norm = pretrained.config["objective"].get("label_norm", "standardise")
        self.lengths = split.n_frames[index] // self.front_end.n_stack
        ends = np.cumsum(self.lengths)
        self.total = int(ends[-1])
        self.begin = dict(zip(index.tolist(), (ends - self.lengths).tolist(), strict=True))

    @property
    def utterance_M(self) -> np.ndarray:
        """Number of every frame's utterance in the order of choice, int64."""
        return np.repeat(np.arange(len(self.index)), self.lengths)

    @property
    def ids(self) -> list[str]:
        return [self.split.ids[i] for i in self.index]

    @property
    def speakers(self) -> list[str]:
        """Of each utterance."""
        return [self.split.speakers[i] for i in self.index]

    def batches(self) -> Iterator[Batch]:
        longest = self.front_end.seconds(self.split.n_frames[self.index].max())
        return sequential(self.split, self.index, self.front_end, max(BATCH_SECONDS, longest))

    def rows(self, batch: Batch) -> np.ndarray:
        """Numbers of the batch's valid frames, in the order in which `x_BTD[valid_BT]` yields them."""
        pairs = zip(batch.index.tolist(), batch.lengths_B.tolist(), strict=True)
        return np.concatenate([np.arange(self.begin[i], self.begin[i] + n) for i, n in pairs])

    def phones(self, segments: dict[str, Segments]) -> tuple[np.ndarray, np.ndarray]:
        """Phone number and number of the utterance's segment of every frame, int64 [M] each; NO_PHONE, NO_SEGMENT outside all segments."""
        phone_M, segment_M = np.full(self.total, NO_PHONE, np.int64), np.full(self.total, NO_SEGMENT, np.int64)
        for i, n in zip(self.index.tolist(), self.lengths.tolist(), strict=True):
            if own_segments := segments.get(self.split.ids[i]):
                centres = frame_centres_s(n, self.front_end.n_stack, self.front_end.frame_shift_ms, self.front_end.about["frame_length_ms"])
                own = slice(self.begin[i], self.begin[i] + n)
                phone_M[own], segment_M[own] = phones_at(own_segments, centres), segments_at(own_segments, centres)
        return phone_M, segment_M


class Outputs(NamedTuple):
    """Of all frames: layers 0 to K, each [M, D] float32, and the anchoring labels [M, N] int32."""

    layers: list[np.ndarray]
    anchor_MN: np.ndarray


@torch.inference_mode()
def read(frames: Frames, folder: Path, progress: Progress, done: int = 0) -> Outputs:
    """Run the encoder over the frames. The outputs lie in files in `folder`: memory does not grow with layers × frames × width."""
    model, shape = frames.model, frames.model.encoder.shape
    widths = [shape.n_stack * shape.n_mels] + [shape.d_model] * shape.n_layers
    folder.mkdir(parents=True, exist_ok=True)
    layers = [np.lib.format.open_memmap(folder / f"{k}.npy", "w+", np.float32, (frames.total, width)) for k, width in enumerate(widths)]
    anchor_MN = np.zeros((frames.total, model.objective.n_codebooks), np.int32)
    for batch in frames.batches():
        rows = frames.rows(batch)
        feats_BTF, lengths_B = batch.feats_BTF.to(frames.device), batch.lengths_B.to(frames.device)
        outputs = [model.encoder.stack(feats_BTF), *model.encoder.layers_out(feats_BTF, lengths_B)]
        valid_BT = torch.arange(outputs[0].shape[1], device=frames.device) < lengths_B[:, None]
        for layer, x_BTD in zip(layers, outputs, strict=True):
            layer[rows] = x_BTD[valid_BT].float().cpu().numpy()
        label_feats_BTF = feats_BTF if batch.label_feats_BTF is None else batch.label_feats_BTF.to(frames.device)
        anchor_MN[rows] = model.anchor_labels(label_feats_BTF, lengths_B)[valid_BT].cpu().numpy()
        done += len(batch.ids)
        progress.update(done)
    return Outputs(layers, anchor_MN)


def _chunks(x_MD: np.ndarray) -> Iterator[torch.Tensor]:
    """Of a file, which is not held as a whole."""
    return (torch.from_numpy(np.array(x_MD[a : a + CHUNK_FRAMES])) for a in range(0, len(x_MD), CHUNK_FRAMES))


def moments(x_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation per dimension over all frames, float32 [D] each; they standardise a layer."""
    mean_D, std_D = running.moments([x_RD] for x_RD in _chunks(x_MD))[0]
    return mean_D.numpy(), std_D.numpy()


@torch.inference_mode()
def codes_of(frames: Frames, x_MD: np.ndarray) -> np.ndarray:
    """The labels that the layer quantizer makes of a layer's outputs, [M, N] int32.

    Training standardises with each batch's statistics; those scatter around these of all frames.
    """
    about = [torch.from_numpy(s).to(frames.device) for s in moments(x_MD)] if frames.label_norm == "standardise" else []
    codes = []
    for z_RD in (x_RD.to(frames.device) for x_RD in _chunks(x_MD)):
        z_RD = standardise(z_RD, *about) if about else framewise(z_RD, frames.label_norm)
        codes.append(frames.model.quantizer.nearest(z_RD).cpu().numpy().astype(np.int32))
    return np.concatenate(codes)
