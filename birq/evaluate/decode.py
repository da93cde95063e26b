"""The decode stage: a recogniser and the corpora's held-out splits in, one hypothesis per transcribed utterance out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from birq.batches import sequential
from birq.errors import BirqError
from birq.model.ctc import greedy
from birq.params import Decode
from birq.progress import Progress
from birq.shards import Split, open_split
from birq.stage import Job
from birq.train.state import CtcBundle, load_ctc

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("hypothesis", pa.string()),
    ]
)


def inference_device(job: Job) -> torch.device:
    """CUDA where there is one, else one CPU thread; noted in the provenance. Both in float32: figures must not hang on the machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    job.notes["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return device


def transcribed(split: Split, name: str, corpora: list[str], key: str) -> np.ndarray:
    """Positions of utterances that have a reference. Errors: BirqError if there are none; `key` is the parameter that asked for them."""
    index = np.array([i for i, text in enumerate(split.texts) if text is not None], dtype=np.int64)
    if len(index):
        return index
    what = f"{len(split)} utterances, none with a transcript" if len(split) else "no utterances"
    way = "" if name == "train" else f"give one of them speech for it (corpora.<name>.{name}_hours, {name}_parts or {name}_share), "
    raise BirqError(
        f"the {name} split of {', '.join(corpora)} (run.finetune_corpora) has {what}: {way}"
        f"add a corpus that has a transcribed {name} split, or take {name!r} out of {key}"
    )


@torch.inference_mode()
def transcribe(bundle: CtcBundle, split: Split, index: np.ndarray, batch_seconds: float, device: torch.device, name: str) -> dict[int, str]:
    """Greedy CTC hypotheses by position in the split. Errors: BirqError for an utterance longer than `batch_seconds`."""
    model = bundle.model.to(device).eval()
    n_stack, frame_shift_ms = bundle.config["model"]["n_stack"], bundle.config["features"]["frame_shift_ms"]
    progress, seconds = Progress(name, len(index), "utterance"), 0.0
    hypotheses: dict[int, str] = {}
    for batch in sequential(split, index, bundle.mean_F, bundle.std_F, batch_seconds, n_stack, frame_shift_ms):
        logp_BTV, lengths_B = model(batch.feats_BTF.to(device), batch.lengths_B.to(device))
        for i, ids in zip(batch.index.tolist(), greedy(logp_BTV, lengths_B, model.blank), strict=True):
            hypotheses[i] = " ".join(bundle.tokenizer.decode(ids).split())  # a recogniser over characters may double a space
        seconds += batch.seconds
        progress.update(len(hypotheses), minutes_of_speech=seconds / 60)
    progress.close()
    return hypotheses


def write_hypotheses(path: Path, split: Split, hypotheses: dict[int, str]) -> None:
    """One row per hypothesis, sorted by id."""
    order = sorted(hypotheses, key=lambda i: split.ids[i])
    columns = [
        [split.ids[i] for i in order],
        [split.speakers[i] for i in order],
        split.duration_s[order],
        [split.texts[i] for i in order],
        [hypotheses[i] for i in order],
    ]
    pq.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA), path)


def compute(job: Job) -> None:
    """Decode every split in decode.splits; utterances without a transcript are left out."""
    section: Decode = job.read("decode")
    corpora = list(job.read("run.finetune_corpora"))
    bundle = load_ctc(job.input("finetune"))
    device = inference_device(job)
    # all splits are looked at before the first is decoded: a missing one should not cost an hour
    todo = []
    for name in section.splits:
        split = open_split(job.inputs["features"], name)
        todo.append((name, split, transcribed(split, name, corpora, "decode.splits")))
    for name, split, index in todo:
        label = f"decode/{'/'.join(job.wildcards.values())}  {name}"
        hypotheses = transcribe(bundle, split, index, section.batch_seconds, device, label)
        write_hypotheses(job.out / f"{name}.parquet", split, hypotheses)
        job.notes[f"{name}_utterances"] = len(index)
        job.notes[f"{name}_hours"] = round(float(split.duration_s[index].sum()) / 3600, 6)
