"""The labels stage: log-mel, and what a method's labels come from, in; a code for every frame of the train split out."""

from __future__ import annotations

import importlib

from birq.errors import BirqError
from birq.pipeline.stage import Job
from birq.progress import Progress, say
from birq.saved.labels import Writer
from birq.speech.shards import open_split


def compute(job: Job) -> None:
    """Make a method's labels. The method's maker is imported by name, so that each method's labels are keyed by their own code.

    A killed run begins anew: one pass over the speech is short beside a training. Errors: BirqError for a corpus without a train split,
    and those of the maker.
    """
    assert job.method.labeller is not None
    folders = job.inputs["features"]
    split = open_split(folders, "train")
    if not len(split):
        raise BirqError(f"{', '.join(map(str, folders))}: no train split to label; add a corpus that has one to run.pretrain_corpora")
    making = importlib.import_module(job.method.labeller).make(job, split)
    writer = Writer(job.out, split, making.n_stack, making.n_codebooks, making.codebook_size)
    progress = Progress(job.name, len(split), "utterance")
    for done, (i, codes) in enumerate(making.codes, 1):
        writer.write(i, codes)
        progress.update(done)
    progress.close()
    facts = writer.close(making.about)
    dead = sum(facts["dead_codes"])
    job.notes.update(frames=facts["frames"], labelled_frames=facts["labelled_frames"], dead_codes=dead, perplexity=facts["perplexity"])
    unused = f", {dead} codes are not used" if dead else ""
    say(f"{job.name}: {facts['labelled_frames']} of {facts['frames']} frames labelled, perplexity {facts['perplexity']:.1f}{unused}")
