"""The probe stage: phone information in the labels of a pre-trained encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from birq.corpora.manifests import alignments
from birq.errors import BirqError
from birq.evaluate import quality
from birq.evaluate.phones import NO_PHONE, Segments, renamed, segments_by_id
from birq.evaluate.probe import DIGITS, Frames, choose, label_frames, measure
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.settings.params import Probe
from birq.speech.shards import Split, open_split
from birq.train.runtime.devices import for_inference


def _aligned(job: Job, corpora: list[str], split: Split, name: str) -> tuple[dict[str, Segments], list[str], str | None]:
    """Segments by utterance, phone names, and why there are none."""
    wanted = set(split.ids)
    found = {Path(f).name: alignments(Path(f)) for f in job.inputs["corpus"]}
    tables = [renamed(t, name, wanted) for name, t in found.items() if t is not None]
    segments, phones = segments_by_id(tables, wanted)
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
    pretrained = encoder.load(job.input("pretrain"))
    n_stack, codebook_size = pretrained.front_end.n_stack, pretrained.model.objective.codebook_size
    split = open_split(job.inputs["features"], section.split)
    if not len(split) or int(split.n_frames.max()) < n_stack:
        raise BirqError(
            f"the {section.split} split of {', '.join(corpora)} (run.finetune_corpora) holds no speech to probe; "
            "set probe.split to a split that data/corpus/<name>/corpus.json lists, or add a corpus that has one"
        )
    segments, phone_names, why_not = _aligned(job, corpora, split, section.split)
    index = choose(split, section.max_minutes, n_stack, set(segments))
    frames = Frames(split, index, pretrained, for_inference(job.notes))
    anchor_MN, enhanced = label_frames(frames, job.name)
    phones_M = frames.phones(segments)
    known = int((phones_M != NO_PHONE).sum())
    if segments and not known:
        why_not = f"no frame of the {section.split} split lies inside its alignments: their times do not fit the audio"
    rows = measure(anchor_MN, enhanced, phones_M, len(phone_names), codebook_size)
    label_layer = pretrained.config["objective"].get("label_layer")  # of BiRQ only
    used = {"anchor": anchor_MN} | ({"enhanced": enhanced[label_layer - 1]} if label_layer else {})
    result = {
        "available": known > 0,
        "why_not": why_not,
        "split": section.split,
        "utterances": len(index),
        "minutes": round(float(split.duration_s[index].sum()) / 60, DIGITS),
        "frames": frames.total,
        "phone_frames": known,
        "phones": len(np.unique(phones_M[phones_M != NO_PHONE])),
        "codebook_size": codebook_size,
        "n_codebooks": pretrained.model.objective.n_codebooks,
        "label_layer": label_layer,
        "rows": rows,
        "usage": {name: quality.usage(codes_MN[:, 0], codebook_size).round(DIGITS).tolist() for name, codes_MN in used.items()},
    }
    (job.out / "probe.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    job.notes.update(utterances=len(index), minutes=result["minutes"], frames=frames.total)
