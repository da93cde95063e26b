"""The probe stage: what a pre-trained encoder's layers and labels hold of the phones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from threadpoolctl import threadpool_limits

from birq.corpora.manifests import alignments
from birq.errors import BirqError
from birq.evaluate import abx, geometry, linear, quality
from birq.evaluate.layers import Frames, Outputs, choose, codes_of, read
from birq.evaluate.phones import NO_PHONE, PAUSE, Segments, renamed, segments_by_id
from birq.evaluate.probe import DIGITS, Truth, label_row, layer_row, rounded
from birq.pipeline.stage import Job
from birq.progress import Progress
from birq.saved import encoder, snapshots
from birq.saved.encoder import SavedEncoder
from birq.settings.params import Probe, Score
from birq.speech.shards import Split, open_split
from birq.train.runtime.devices import for_inference

TRAIN = "train"


class _Aligned(NamedTuple):
    """Segments by utterance, phone names, and why there are none."""

    segments: dict[str, Segments]
    phones: list[str]
    why_not: str | None


def _aligned(tables: dict[str, pa.Table], corpora: list[str], split: Split, name: str) -> _Aligned:
    wanted = set(split.ids)
    segments, phones = segments_by_id([renamed(t, corpus, wanted) for corpus, t in tables.items()], wanted)
    if segments:
        return _Aligned(segments, phones, None)
    if not tables:
        way = "phone times come with synth corpora, or from the TSV files named in corpora.<name>.alignments"
        return _Aligned({}, [], f"no alignments of {', '.join(corpora)}: {way}")
    return _Aligned({}, [], f"the alignments of {', '.join(corpora)} cover no utterance of the {name} split")


class _Part(NamedTuple):
    """The chosen frames of a split, with their phones' names in place of numbers ("" = none known)."""

    frames: Frames
    phone_M: np.ndarray
    segment_M: np.ndarray
    names: list[str]

    @property
    def name_M(self) -> np.ndarray:
        return np.array([*self.names, ""])[self.phone_M]  # NO_PHONE is -1


def _part(split: Split, index: np.ndarray, aligned: _Aligned, pretrained: SavedEncoder, device: torch.device) -> _Part:
    frames = Frames(split, index, pretrained, device)
    return _Part(frames, *frames.phones(aligned.segments), aligned.phones)


def _training(
    job: Job, section: Probe, tables: dict[str, pa.Table], corpora: list[str], tested: _Part, pretrained: SavedEncoder
) -> tuple[_Part | None, str | None]:
    """The frames that the linear probe is trained on, and why there are none."""
    split = open_split(job.inputs["features"], TRAIN)
    aligned = _aligned(tables, corpora, split, TRAIN)
    if not len(split):
        return None, f"{', '.join(corpora)} has no train split to train the linear probe on"
    if aligned.why_not:
        return None, f"{aligned.why_not}, and the linear probe is trained on some"
    others = set(aligned.segments) - (set(tested.frames.ids) if section.split == TRAIN else set())
    index = choose(split, section.train_minutes, pretrained.front_end.n_stack, others, only=True)
    if not len(index):
        return None, "every aligned utterance of the train split is probed; set probe.split to another one"
    part = _part(split, index, aligned, pretrained, tested.frames.device)
    if len(np.unique(part.phone_M[part.phone_M != NO_PHONE])) < 2:
        return None, "the aligned frames of the train split hold fewer than two phones"
    return part, None


def _seconds(frames: Frames) -> float:
    return float(frames.split.duration_s[frames.index].sum())


def _about_linear(train: _Part | None, tested: _Part, counts: pa.Table, section: Probe, why_not: str | None) -> dict[str, Any]:
    """What the linear probe was trained and tested on. null where it was not."""
    about: dict[str, Any] = {"available": train is not None, "why_not": why_not, "penalty": section.penalty}
    keys = ("train_utterances", "train_minutes", "train_frames", "train_phones", "unknown_frames", "shared_speakers", "speakers")
    about |= dict.fromkeys((*keys, "why_no_speaker_interval"))
    if train is None:
        return about
    known_M, names = train.phone_M != NO_PHONE, np.unique(train.name_M[train.phone_M != NO_PHONE])
    speakers = set(counts["speaker"].to_pylist())
    one = "one speaker: an interval over speakers needs two" if len(speakers) < 2 else None
    return about | {
        "train_utterances": len(train.frames.index),
        "train_minutes": round(_seconds(train.frames) / 60, DIGITS),
        "train_frames": int(known_M.sum()),
        "train_phones": len(names),
        # of phones that training lacks: always wrong
        "unknown_frames": int((~np.isin(tested.name_M[tested.phone_M != NO_PHONE], names)).sum()),
        "shared_speakers": len(speakers & set(train.frames.speakers)),
        "speakers": len(speakers),
        "why_no_speaker_interval": one,
    }


def _tokens(tested: _Part, most: int) -> tuple[abx.Tokens | None, dict[str, Any]]:
    """The tokens of ABX, and what they are."""
    about: dict[str, Any] = {"tokens": 0, "phones": 0, "speakers": 0, "why_not_within": None, "why_not_across": None}
    if not most:
        off = "probe.abx_tokens is 0"
        return None, about | {"why_not_within": off, "why_not_across": off}
    utterance_M = tested.frames.utterance_M
    _, speaker_U = np.unique(tested.frames.speakers, return_inverse=True)
    pauses = {tested.names.index(PAUSE)} if PAUSE in tested.names else set()
    tokens = abx.tokens_of(tested.segment_M, tested.phone_M, utterance_M, speaker_U[utterance_M], pauses).capped(most)
    within, across = abx.why_not(tokens)
    about |= {"tokens": len(tokens), "phones": len(np.unique(tokens.phone_N)), "speakers": len(np.unique(tokens.speaker_N))}
    return (None if within else tokens), about | {"why_not_within": within, "why_not_across": across}


def _found(train: _Part, heard: Outputs, tested: _Part, outputs: Outputs, layer: int, penalty: float) -> np.ndarray:
    """The phone that the linear probe finds in a layer for each frame of `tested` that has one."""
    of_train_M, known_M = train.phone_M != NO_PHONE, tested.phone_M != NO_PHONE
    return linear.found_phones(heard.layers[layer][of_train_M], train.name_M[of_train_M], outputs.layers[layer][known_M], penalty)


def _by_step(job: Job, section: Probe, how: Score, train: _Part, tested: _Part) -> list[dict[str, Any]]:
    """The linear probe of every snapshot, layers 1 to K, on the same frames; layer 0 is the input, which is the same at every step.

    The outputs take the place of the finished encoder's in the work folder.
    """
    folder, found = job.input("pretrain"), []
    known_M = tested.phone_M != NO_PHONE
    phone_M = tested.name_M[known_M]
    for step in snapshots.steps(folder):
        name, snapshot = f"{job.name}, step {step}", snapshots.load(folder, step)
        of_test, of_train = (
            part._replace(frames=Frames(part.frames.split, part.frames.index, snapshot, part.frames.device)) for part in (tested, train)
        )
        n_test = len(of_test.frames.index)
        progress = Progress(name, n_test + len(of_train.frames.index), "utterance")
        outputs = read(of_test.frames, job.scratch / "tested", progress)
        heard = read(of_train.frames, job.scratch / "train", progress, n_test)
        progress.close()
        progress, correct = Progress(name, len(outputs.layers) - 1, "layer"), []
        for layer in range(1, len(outputs.layers)):
            correct.append(_found(of_train, heard, of_test, outputs, layer, section.penalty) == phone_M)
            progress.update(layer)
        progress.close()
        counts = linear.table(correct, tested.frames.utterance_M[known_M], tested.frames.ids, tested.frames.speakers)
        found.append({"step": step, "rows": [rounded({"layer": k} | row) for k, row in enumerate(linear.figures(counts, how), 1)]})
    return found


def compute(job: Job) -> None:
    """Probe a pretrain artifact: probe.json; of the linear probe, its correct frames per layer and utterance, and which phones it confuses.

    Errors: BirqError if the probed split holds no speech.
    """
    # one thread: figures must not depend on how many a machine has
    with threadpool_limits(1):
        _compute(job)


def _compute(job: Job) -> None:
    section: Probe = job.read("probe")
    corpora = list(job.read("run.finetune_corpora"))
    pretrained = encoder.load(job.input("pretrain"))
    n_stack, codebook_size = pretrained.front_end.n_stack, pretrained.model.objective.codebook_size
    split = open_split(job.inputs["features"], section.split)
    if not len(split) or int(split.n_frames.max()) < n_stack:
        raise BirqError(
            f"the {section.split} split of {', '.join(corpora)} (run.finetune_corpora) holds no speech to probe; "
            "set probe.split to a split that data/corpus/<name>/corpus.json lists, or add a corpus that has one"
        )
    found = {Path(f).name: alignments(Path(f)) for f in job.inputs["corpus"]}
    tables = {name: t for name, t in found.items() if t is not None}
    aligned = _aligned(tables, corpora, split, section.split)
    index = choose(split, section.max_minutes, n_stack, set(aligned.segments))
    tested = _part(split, index, aligned, pretrained, for_inference(job.notes))
    known_M, why_not = tested.phone_M != NO_PHONE, aligned.why_not
    if aligned.segments and not known_M.any():
        why_not = f"no frame of the {section.split} split lies inside its alignments: their times do not fit the audio"
    train, why_no_linear = None, why_not
    if not why_not:
        train, why_no_linear = _training(job, section, tables, corpora, tested, pretrained)

    progress = Progress(job.name, len(index) + (len(train.frames.index) if train else 0), "utterance")
    outputs = read(tested.frames, job.scratch / "tested", progress)
    heard = read(train.frames, job.scratch / "train", progress, len(index)) if train else None
    progress.close()

    utterance_M = tested.frames.utterance_M
    tokens, about_abx = _tokens(tested, section.abx_tokens) if known_M.any() else (None, None)
    truth = Truth(tested.phone_M, utterance_M, len(aligned.phones), codebook_size, tokens)
    labels, rows, found_phones = [], [], []
    progress = Progress(job.name, len(outputs.layers), "layer")
    for layer, x_MD in enumerate(outputs.layers):
        labels.append(codes_of(tested.frames, x_MD) if layer else outputs.anchor_MN)
        rows.append(label_row(labels[-1], outputs.anchor_MN, layer, truth) | layer_row(x_MD, truth))
        if train and heard:
            found_phones.append(_found(train, heard, tested, outputs, layer, section.penalty))
        progress.update(layer + 1)
    progress.close()

    phone_M = tested.name_M[known_M]
    correct = [found_M == phone_M for found_M in found_phones]
    counts = linear.table(correct, utterance_M[known_M], tested.frames.ids, tested.frames.speakers)
    pq.write_table(counts, job.out / "utterances.parquet")
    pq.write_table(linear.confusions(found_phones, phone_M), job.out / "confusions.parquet")
    accuracies = linear.figures(counts, job.read("score")) if correct else [dict.fromkeys(linear.KEYS)] * len(rows)
    label_layer = pretrained.config["objective"].get("label_layer")  # of BiRQ only
    used = {"anchor": labels[0]} | ({"enhanced": labels[label_layer]} if label_layer else {})
    result = {
        "available": bool(known_M.any()),
        "why_not": why_not,
        "split": section.split,
        "split_utterances": len(split),
        "aligned_utterances": len(aligned.segments),
        "utterances": len(index),
        "minutes": round(_seconds(tested.frames) / 60, DIGITS),
        "frames": tested.frames.total,
        "phone_frames": int(known_M.sum()),
        "phones": len(np.unique(tested.phone_M[known_M])),
        "phone_repeat_share": round(quality.repeat_share(tested.segment_M[:, None], utterance_M), DIGITS) if known_M.any() else None,
        "codebook_size": codebook_size,
        "n_codebooks": pretrained.model.objective.n_codebooks,
        "clusters": geometry.clusters(tested.frames.total, codebook_size),
        "label_layer": label_layer,
        "linear": _about_linear(train, tested, counts, section, why_no_linear),
        "abx": about_abx,
        "rows": [rounded(row | accuracy) for row, accuracy in zip(rows, accuracies, strict=True)],
        "usage": {name: quality.usage(codes_MN[:, 0], codebook_size).round(DIGITS).tolist() for name, codes_MN in used.items()},
    }
    if train and (by_step := _by_step(job, section, job.read("score"), train, tested)):
        result["snapshots"] = by_step
    (job.out / "probe.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    job.notes.update(utterances=len(index), minutes=result["minutes"], frames=tested.frames.total)
