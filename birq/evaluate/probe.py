"""The probe: phone information in anchoring labels and in the labels of every layer, and how the codes are used.

Shape suffixes: B utterances, T encoder frames, D width, M frames of all probed utterances, N codebooks, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from birq.evaluate import quality
from birq.evaluate.phones import NO_PHONE, Segments, frame_centres_s, phones_at
from birq.model.quantizer import framewise, standardise
from birq.progress import Progress
from birq.saved.encoder import SavedEncoder
from birq.speech.batches import Batch, sequential
from birq.speech.shards import Split

BATCH_SECONDS = 60.0  # all layers of a batch are held at once
SEED = 20  # of the choice of utterances; fixed, so that all methods are probed on the same frames
DIGITS = 6  # further digits depend on the order in which a machine adds


def choose(split: Split, max_minutes: float, n_stack: int, preferred: set[str]) -> np.ndarray:
    """Positions of at most `max_minutes` of utterances (one at least), spread over the split: a fixed shuffle of the sorted ids.

    Where some of the utterances are `preferred` (they have alignments), only those are taken.
    """
    fits = [i for i in range(len(split)) if split.n_frames[i] >= n_stack]
    index = [i for i in fits if split.ids[i] in preferred] or fits
    index = np.array(sorted(index, key=lambda i: split.ids[i]), dtype=np.int64)
    order = index[np.random.Generator(np.random.PCG64(SEED)).permutation(len(index))]
    within = np.cumsum(split.duration_s[order]) <= max_minutes * 60
    return order[: max(1, int(within.sum()))]


class Frames:
    """The frames of the chosen utterances, numbered one utterance after the other in the order of choice, whatever the batches."""

    def __init__(self, split: Split, index: np.ndarray, pretrained: SavedEncoder, device: torch.device):
        self.split, self.index, self.device = split, index, device
        self.model, self.front_end = pretrained.model.to(device).eval(), pretrained.front_end
        # BiRQ's own; an encoder without enhanced labels is read in BiRQ's default way
        self.label_norm = pretrained.config["objective"].get("label_norm", "standardise")
        self.standardised = self.label_norm == "standardise"
        self.lengths = split.n_frames[index] // self.front_end.n_stack
        ends = np.cumsum(self.lengths)
        self.total = int(ends[-1])
        self.begin = dict(zip(index.tolist(), (ends - self.lengths).tolist(), strict=True))

    def batches(self) -> Iterator[Batch]:
        longest = self.front_end.seconds(self.split.n_frames[self.index].max())
        return sequential(self.split, self.index, self.front_end, max(BATCH_SECONDS, longest))

    def rows(self, batch: Batch) -> np.ndarray:
        """Numbers of the batch's valid frames, in the order in which `x_BTD[valid_BT]` yields them."""
        pairs = zip(batch.index.tolist(), batch.lengths_B.tolist(), strict=True)
        return np.concatenate([np.arange(self.begin[i], self.begin[i] + n) for i, n in pairs])

    def phones(self, segments: dict[str, Segments]) -> np.ndarray:
        """Phone number of every frame, int64 [M]; NO_PHONE where none is known."""
        out = np.full(self.total, NO_PHONE, np.int64)
        for i, n in zip(self.index.tolist(), self.lengths.tolist(), strict=True):
            if own_segments := segments.get(self.split.ids[i]):
                centres = frame_centres_s(n, self.front_end.n_stack, self.front_end.frame_shift_ms, self.front_end.about["frame_length_ms"])
                out[self.begin[i] : self.begin[i] + n] = phones_at(own_segments, centres)
        return out


def _layers(frames: Frames, batch: Batch) -> list[torch.Tensor]:
    """Outputs of layers 1 to K at the batch's valid frames, each [M, D] float32."""
    lengths_B = batch.lengths_B.to(frames.device)
    layers = frames.model.encoder.layers_out(batch.feats_BTF.to(frames.device), lengths_B)
    valid_BT = torch.arange(layers[0].shape[1], device=frames.device) < lengths_B[:, None]
    return [x_BTD[valid_BT].float() for x_BTD in layers]


def layer_statistics(frames: Frames, progress: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and deviation per dimension of every layer's output over all frames; they standardise the input of enhanced labels.

    Training uses each batch's statistics; those scatter around these, which cover many more frames.
    """
    sums: list[list[torch.Tensor]] = []
    done = 0
    for batch in frames.batches():
        outputs = [x_MD.double() for x_MD in _layers(frames, batch)]
        fresh = [[x.sum(0), x.square().sum(0)] for x in outputs]
        sums = [[a + b for a, b in zip(s, f, strict=True)] for s, f in zip(sums, fresh, strict=True)] if sums else fresh
        done += len(batch.ids)
        progress.update(done)
    out = []
    for total, square in sums:
        mean = total / frames.total
        var = (square / frames.total - mean.square()).clamp_min(0)
        out.append((mean.float(), (var + 1e-5).sqrt().float()))
    return out


@torch.inference_mode()
def label_frames(frames: Frames, name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Anchoring labels [M, N] and enhanced labels of layers 1 to K, K × [M, N], int32, of all frames.

    Two passes, so that memory does not grow with layers × frames × width: statistics first, labels then.
    """
    model, standard = frames.model, frames.standardised
    n_layers, n_codebooks = model.encoder.shape.n_layers, model.objective.n_codebooks
    progress = Progress(name, len(frames.index) * (2 if standard else 1), "utterance")
    statistics = layer_statistics(frames, progress) if standard else []
    anchor_MN = np.zeros((frames.total, n_codebooks), np.int32)
    enhanced = [np.zeros_like(anchor_MN) for _ in range(n_layers)]
    done = len(frames.index) if standard else 0
    for batch in frames.batches():
        rows = frames.rows(batch)
        codes_BTN = model.anchor_labels(batch.feats_BTF.to(frames.device), batch.lengths_B.to(frames.device)).cpu()
        valid_BT = torch.arange(codes_BTN.shape[1]) < batch.lengths_B[:, None]
        anchor_MN[rows] = codes_BTN[valid_BT].numpy()
        for k, z_MD in enumerate(_layers(frames, batch)):
            z_MD = standardise(z_MD, *statistics[k]) if standard else framewise(z_MD, frames.label_norm)
            enhanced[k][rows] = model.quantizer.nearest(z_MD).cpu().numpy()
        done += len(batch.ids)
        progress.update(done)
    progress.close()
    return anchor_MN, enhanced


def measure(
    anchor_MN: np.ndarray, enhanced: list[np.ndarray], phones_M: np.ndarray, n_phones: int, codebook_size: int
) -> list[dict[str, Any]]:
    """One row per label set: anchors (layer 0), then layers 1 to K. Phone figures are null where no frame has a phone."""
    known_M = phones_M != NO_PHONE
    rows = []
    for layer, codes_MN in enumerate([anchor_MN, *enhanced]):
        row: dict[str, Any] = {"labels": "enhanced" if layer else "anchor", "layer": layer}
        row |= dict.fromkeys(quality.PHONE_KEYS)
        if known_M.any():
            row |= quality.phone_figures(phones_M[known_M], codes_MN[known_M], n_phones, codebook_size)
        row |= quality.code_figures(codes_MN, codebook_size)
        row["agreement"], row["agreement_floor"] = quality.mean_agreement(codes_MN, anchor_MN) if layer else (None, None)
        rows.append({k: round(v, DIGITS) if isinstance(v, float) else v for k, v in row.items()})
    return rows
