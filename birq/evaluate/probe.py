"""The probe stage: what anchoring labels and enhanced labels of every layer say about phones, and how the codes are used.

Shape suffixes: B utterances, T encoder frames, D width, M frames of all probed utterances, N codebooks, V codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from birq.batches import Batch, sequential
from birq.corpora.manifests import alignments
from birq.errors import BirqError
from birq.evaluate import quality
from birq.evaluate.decode import inference_device
from birq.evaluate.phones import NO_PHONE, Segments, frame_centres_s, phones_at, segments_by_id
from birq.model.quantizer import layer_norm, standardise
from birq.params import Probe
from birq.progress import Progress
from birq.shards import Split, open_split
from birq.stage import Job
from birq.train.state import Pretrained, load_pretrained

BATCH_SECONDS = 60.0  # all layers of a batch are held at once
SEED = 20  # of the choice of utterances; fixed, so that all methods are probed on the same frames
DIGITS = 6  # more would only show in which order a machine adds


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

    def __init__(self, split: Split, index: np.ndarray, pretrained: Pretrained, device: torch.device):
        config = pretrained.config
        self.split, self.index, self.pretrained, self.device = split, index, pretrained, device
        self.n_stack: int = config["model"]["n_stack"]
        self.frame_shift_ms: float = config["features"]["frame_shift_ms"]
        self.frame_length_ms: float = config["features"]["frame_length_ms"]
        self.lengths = split.n_frames[index] // self.n_stack
        ends = np.cumsum(self.lengths)
        self.total = int(ends[-1])
        self.begin = dict(zip(index.tolist(), (ends - self.lengths).tolist(), strict=True))

    def batches(self) -> Iterator[Batch]:
        p = self.pretrained
        longest = float(self.split.n_frames[self.index].max()) * self.frame_shift_ms / 1000
        seconds = max(BATCH_SECONDS, longest)
        return sequential(self.split, self.index, p.mean_F, p.std_F, seconds, self.n_stack, self.frame_shift_ms)

    def place(self, batch: Batch) -> np.ndarray:
        """Numbers of the batch's valid frames, in the order in which `x_BTD[valid_BT]` yields them."""
        pairs = zip(batch.index.tolist(), batch.lengths_B.tolist(), strict=True)
        return np.concatenate([np.arange(self.begin[i], self.begin[i] + n) for i, n in pairs])

    def phones(self, segments: dict[str, Segments]) -> np.ndarray:
        """Phone number of every frame, int64 [M]; NO_PHONE where none is known."""
        out = np.full(self.total, NO_PHONE, np.int64)
        for i, n in zip(self.index.tolist(), self.lengths.tolist(), strict=True):
            if found := segments.get(self.split.ids[i]):
                centres = frame_centres_s(n, self.n_stack, self.frame_shift_ms, self.frame_length_ms)
                out[self.begin[i] : self.begin[i] + n] = phones_at(found, centres)
        return out


def _layers(frames: Frames, batch: Batch) -> list[torch.Tensor]:
    """Outputs of layers 1 to K at the batch's valid frames, each [M, D] float32."""
    lengths_B = batch.lengths_B.to(frames.device)
    layers = frames.pretrained.pretrainer.encoder.layers_out(batch.feats_BTF.to(frames.device), lengths_B)
    valid_BT = torch.arange(layers[0].shape[1], device=frames.device) < lengths_B[:, None]
    return [x_BTD[valid_BT].float() for x_BTD in layers]


def layer_statistics(frames: Frames, progress: Progress) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and deviation per dimension of every layer's output over all frames: what enhanced labels are standardised with.

    Training uses each batch's statistics; over so many frames these are what those scatter around.
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
    pretrainer = frames.pretrained.pretrainer.to(frames.device).eval()
    o, n_layers = pretrainer.objective, pretrainer.encoder.shape.n_layers
    standard = o.label_norm == "standardise"
    progress = Progress(name, len(frames.index) * (2 if standard else 1), "utterance")
    statistics = layer_statistics(frames, progress) if standard else []
    anchor_MN = np.zeros((frames.total, o.n_codebooks), np.int32)
    enhanced = [np.zeros_like(anchor_MN) for _ in range(n_layers)]
    done = len(frames.index) if standard else 0
    for batch in frames.batches():
        place = frames.place(batch)
        codes_BTN = pretrainer.anchor_labels(batch.feats_BTF.to(frames.device)).cpu()
        valid_BT = torch.arange(codes_BTN.shape[1]) < batch.lengths_B[:, None]
        anchor_MN[place] = codes_BTN[valid_BT].numpy()
        for k, z_MD in enumerate(_layers(frames, batch)):
            z_MD = standardise(z_MD, *statistics[k]) if standard else layer_norm(z_MD)
            enhanced[k][place] = pretrainer.quantizer.nearest(z_MD).cpu().numpy()
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


def _aligned(job: Job, corpora: list[str], split: Split, name: str) -> tuple[dict[str, Segments], list[str], str | None]:
    """Segments by utterance, phone names, and why there are none."""
    tables = [t for t in (alignments(Path(f)) for f in job.inputs["corpus"]) if t is not None]
    segments, phones = segments_by_id(tables, set(split.ids))
    if segments:
        return segments, phones, None
    if not tables:
        way = "phone times come with synth corpora, or from the TSV files named in corpora.<name>.alignments"
        return {}, [], f"no alignments of {', '.join(corpora)}: {way}"
    return {}, [], f"the alignments of {', '.join(corpora)} cover no utterance of the {name} split"


def compute(job: Job) -> None:
    """Probe a pretrain artifact: probe.json. Errors: BirqError if the probed split holds no speech."""
    section: Probe = job.read("probe")
    corpora = list(job.read("run.finetune_corpora"))
    pretrained = load_pretrained(job.input("pretrain"))
    o = pretrained.pretrainer.objective
    split = open_split(job.inputs["features"], section.split)
    if not len(split) or int(split.n_frames.max()) < pretrained.config["model"]["n_stack"]:
        raise BirqError(
            f"the {section.split} split of {', '.join(corpora)} (run.finetune_corpora) holds no speech to probe; "
            "set probe.split to a split that data/corpus/<name>/corpus.json lists, or add a corpus that has one"
        )
    segments, phone_names, why_not = _aligned(job, corpora, split, section.split)
    index = choose(split, section.max_minutes, pretrained.config["model"]["n_stack"], set(segments))
    frames = Frames(split, index, pretrained, inference_device(job))
    anchor_MN, enhanced = label_frames(frames, f"probe/{'/'.join(job.wildcards.values())}")
    phones_M = frames.phones(segments)
    known = int((phones_M != NO_PHONE).sum())
    if segments and not known:
        why_not = f"no frame of the {section.split} split lies inside its alignments: their times do not fit the audio"
    rows = measure(anchor_MN, enhanced, phones_M, len(phone_names), o.codebook_size)
    label_layer = min(o.label_layer, len(enhanced))
    result = {
        "available": known > 0,
        "why_not": why_not,
        "split": section.split,
        "utterances": len(index),
        "minutes": round(float(split.duration_s[index].sum()) / 60, DIGITS),
        "frames": frames.total,
        "phone_frames": known,
        "phones": len(np.unique(phones_M[phones_M != NO_PHONE])),
        "codebook_size": o.codebook_size,
        "n_codebooks": o.n_codebooks,
        "label_layer": label_layer,
        "rows": rows,
        "usage": {
            "anchor": quality.usage(anchor_MN[:, 0], o.codebook_size).round(DIGITS).tolist(),
            "enhanced": quality.usage(enhanced[label_layer - 1][:, 0], o.codebook_size).round(DIGITS).tolist(),
        },
    }
    (job.out / "probe.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    job.notes.update(utterances=len(index), minutes=result["minutes"], frames=frames.total)
