"""Phones of a corpus' alignments as labels, one class a phone: the ceiling of what labels can teach, no method of self-supervision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from birq.corpora.manifests import alignments
from birq.errors import BirqError
from birq.evaluate.phones import NO_PHONE, Segments, frame_centres_s, phones_at, renamed, segments_by_id
from birq.labels.frames import Coded, Making
from birq.pipeline.stage import Job
from birq.progress import say
from birq.speech.shards import Split

Change = Callable[[np.ndarray], np.ndarray]


def _segments(job: Job, split: Split) -> tuple[dict[str, Segments], list[str]]:
    """Segments by utterance, and phone names. Errors: BirqError where no utterance has any."""
    wanted, tables = set(split.ids), {Path(f).name: alignments(Path(f)) for f in job.inputs["corpus"]}
    segments, phones = segments_by_id([renamed(t, name, wanted) for name, t in tables.items() if t is not None], wanted)
    if not segments:
        without = ", ".join(name for name, t in tables.items() if t is None)
        why = f"{without} has no alignments" if without else f"the alignments of {', '.join(tables)} cover no utterance of the train split"
        raise BirqError(
            f"{job.name}: phone times are wanted as labels, but {why}. They come with synth corpora, or from the TSV files named in "
            "corpora.<name>.alignments; else take this method out of run.methods"
        )
    return segments, phones


def make(job: Job, split: Split, changed: Change = lambda codes_T: codes_T) -> Making:
    """The phone at the middle of each frame. Frames outside all segments get no label. `changed`: applied to an utterance's codes.

    Errors: BirqError where no utterance has phone times, or no frame lies inside them.
    """
    segments, phones = _segments(job, split)
    n_stack, shift_ms, length_ms = job.read("model.n_stack"), split.about["frame_shift_ms"], split.about["frame_length_ms"]
    frames = split.n_frames // n_stack
    codes_of = {}
    for i, id in enumerate(split.ids):
        if id in segments:
            numbers_T = phones_at(segments[id], frame_centres_s(int(frames[i]), n_stack, shift_ms, length_ms))
            codes_of[i] = np.where(numbers_T == NO_PHONE, len(phones), numbers_T).astype(np.uint16)
    known = sum(int((codes_T != len(phones)).sum()) for codes_T in codes_of.values())
    if not known:
        raise BirqError(f"{job.name}: no frame of the train split lies inside its alignments: their times do not fit the audio")
    say(
        f"{job.name}: {len(phones)} phones; {len(segments)} of {len(split)} utterances have phone times, and "
        f"{100 * known / frames.sum():.1f} % of all frames a label; the others have no loss"
    )

    def codes() -> Coded:
        for i, codes_T in codes_of.items():
            yield i, changed(codes_T)[:, None]

    about = {
        "made": "phones of " + ", ".join(Path(f).name for f in job.inputs["corpus"]),
        "phones": phones,
        "aligned_utterances": len(segments),
    }
    return Making(n_stack, 1, len(phones), codes(), about)
