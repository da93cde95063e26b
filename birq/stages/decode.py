"""The decode stage: a recogniser and the corpora's held-out splits in, one hypothesis per transcribed utterance out.

The network's log probabilities are kept beside the hypotheses where they are small enough, so that a search does not run it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.pipeline.stage import Job
from birq.recognise.greedy import greedy
from birq.saved import outputs
from birq.saved.kept import BYTES, LOGP, SCHEMA, Kept
from birq.saved.recogniser import Recogniser
from birq.settings.params import Decode
from birq.speech.shards import Split, open_split
from birq.train.runtime.devices import for_inference


def transcribed(split: Split, name: str, corpora: list[str], key: str) -> np.ndarray:
    """Positions of utterances that have a reference. Errors: BirqError if there are none; `key` is the parameter that asked for them."""
    index = np.array([i for i, text in enumerate(split.texts) if text is not None], dtype=np.int64)
    if len(index):
        return index
    content = f"{len(split)} utterances, none with a transcript" if len(split) else "no utterances"
    way = "" if name == "train" else f"give one of them speech for it (corpora.<name>.{name}_hours, {name}_parts or {name}_share), "
    raise BirqError(
        f"the {name} split of {', '.join(corpora)} (run.finetune_corpora) has {content}: {way}"
        f"add a corpus that has a transcribed {name} split, or take {name!r} out of {key}"
    )


def write_hypotheses(path: Path, split: Split, order: list[int], hypotheses: dict[int, str], n_frames: np.ndarray) -> None:
    """One row per hypothesis. order: positions in the split; n_frames: of each row."""
    columns = [
        [split.ids[i] for i in order],
        [split.speakers[i] for i in order],
        split.duration_s[order],
        [split.texts[i] for i in order],
        [hypotheses[i] for i in order],
        n_frames,
    ]
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA), path)


def compute(job: Job) -> None:
    """Decode every split in decode.splits; utterances without a transcript are left out."""
    section: Decode = job.read("decode")
    corpora = list(job.read("run.finetune_corpora"))
    recogniser = Recogniser.load(job.input("finetune"))
    device = for_inference(job.notes)
    # all splits are checked before the first is decoded: a missing one should not cost an hour
    todo = []
    for name in section.splits:
        split = open_split(job.inputs["features"], name)
        todo.append((name, split, transcribed(split, name, corpora, "decode.splits")))
    units = recogniser.tokenizer.size + 1
    frames = sum(int(split.n_frames[index].sum()) for _, split, index in todo) // recogniser.front_end.n_stack
    keep = frames * units * BYTES <= section.keep_mb * 1e6
    for name, split, index in todo:
        order = sorted(index.tolist(), key=lambda i: split.ids[i])
        n_frames = split.n_frames[order] // recogniser.front_end.n_stack
        kept = Kept.empty(n_frames, units) if keep else None
        found = outputs.batches(recogniser, split, index, section.batch_seconds, device, f"{job.name}  {name}")
        hypotheses = _greedily(recogniser, found, order, kept)
        if kept:
            kept.save(job.out / f"{name}{LOGP}")
        write_hypotheses(job.out / f"{name}.parquet", split, order, hypotheses, n_frames)
        job.notes[f"{name}_utterances"] = len(index)
        job.notes[f"{name}_hours"] = round(float(split.duration_s[index].sum()) / 3600, 6)
    job.notes["log_probabilities"] = "kept" if keep else "not kept"


def _greedily(recogniser: Recogniser, found: Iterable[outputs.Outputs], order: list[int], kept: Kept | None) -> dict[int, str]:
    """Hypotheses by position in the split; `kept` is filled, in this order, with the log probabilities."""
    rows, hypotheses = {i: row for row, i in enumerate(order)}, dict[int, str]()
    for batch in found:
        for i, ids in zip(batch[0], greedy(*batch[1:], recogniser.model.blank), strict=True):
            hypotheses[i] = " ".join(recogniser.tokenizer.decode(ids).split())  # a recogniser over characters may double a space
        if kept:
            for i, logp_TV in outputs.each(batch):
                kept[rows[i]] = logp_TV
    return hypotheses
