"""The corpus stage: audio to lhotse cuts per split, a quarantine table and, where known, phone times."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from birq.corpora import manifests
from birq.corpora.items import Limits, read_lines
from birq.errors import BirqError
from birq.pipeline.hashes import sha256_file
from birq.pipeline.stage import Job
from birq.progress import Progress


def compute(job: Job) -> None:
    """Make `data/corpus/<name>` by the reader of the corpus' kind. Bad recordings are quarantined; too many of them stop the stage."""
    name = job.wildcards["corpus"]
    corpus, text = job.read(f"corpora.{name}"), job.read("tokenizer")
    limits = Limits(**vars(job.read("features")), language=getattr(text, "language", Limits.language))
    reader = importlib.import_module(f"birq.corpora.{corpus.kind}")
    reader.prepare(name, corpus, job.out, job.scratch, alphabet=text.alphabet, limits=limits)
    facts = manifests.info(job.out)
    job.notes["synthetic"] = facts["synthetic"]
    job.notes["quarantined"] = facts["quarantined"]
    job.notes["hours"] = {split: s["hours"] for split, s in facts["splits"].items()}


def check_sources(folder: Path) -> int:
    """Hash the user's audio that an artifact refers to; returns how many files. Errors: BirqError names the first that differs."""
    if manifests.info(folder)["synthetic"]:
        return 0  # its audio lies in the artifact and is hashed with it
    root = manifests.audio_root(folder)
    seen: dict[str, str] = {}
    for split in manifests.splits(folder):
        for cut in map(json.loads, read_lines(folder / f"{split}.jsonl")):
            seen[cut["recording"]["sources"][0]["source"]] = cut["custom"]["sha256"]
    progress = Progress(f"hashing {root}", len(seen), "recording")
    for n, (name, want) in enumerate(sorted(seen.items()), 1):
        path = root / name
        if not path.is_file():
            raise BirqError(f"{path} is missing; {folder} was made from it")
        if sha256_file(path) != want:
            raise BirqError(
                f"{path} has changed since {folder} was made from it (SHA-256 differs); run `snakemake --cores all` or `dvc repro`"
            )
        progress.update(n)
    return len(seen)
