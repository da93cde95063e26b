"""Error rates of the parts of a split: test-clean and test-other of LibriSpeech, or what else lies in folders of its own.

A part is what the cut says (`part`, such as a microphone of AMI), else the first folder in the path of its recording, below the corpus'
root; of several corpora, with the corpus' name before it.
Read from artifacts as they are in place, so no artifact is made again for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.bootstrap import interval, ratio, resampled_sums
from birq.pipeline import dag
from birq.report import tables
from birq.settings.params import Params, Score

ERRORS = {"greedy": "errors", "LM": "lm_errors"}  # decoding -> the column of utterances.parquet that counts its word errors


def made(path: Path) -> Path:
    """A file of an artifact. Errors: BirqError where there is none."""
    if not path.is_file():
        raise BirqError(f"{path}: not made yet; `snakemake --cores all` or `dvc repro` makes it")
    return path


def parts_of(project: Params, split: str) -> dict[str, str]:
    """Utterance -> part, of a split of the corpora that are scored; an utterance without a folder has its corpus' name."""
    out = {}
    several = len(project.run.finetune_corpora) > 1
    for corpus in project.run.finetune_corpora:
        node = dag.node("corpus", {"corpus": corpus}, project)
        manifest = made(node.folder / "corpus.json").with_name(f"{split}.jsonl")
        for line in manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []:
            cut = json.loads(line)
            folder, slash, _ = cut["recording"]["sources"][0]["source"].partition("/")
            part = (cut.get("custom") or {}).get("part") or (folder if slash else "")
            out[cut["id"]] = "/".join([corpus] * (several or not part) + [part] * bool(part))
    return out


def word_errors(utterances: pa.Table, column: str, how: Score) -> str:
    """`7.1 [6.9, 7.3]` in per cent, with the interval by utterance; `-` where no reference holds a word."""
    counts_N2 = np.stack([utterances[c].to_numpy().astype(np.int64) for c in (column, "words")], axis=1)
    errors, words = counts_N2.sum(0)
    if not words:
        return "-"
    drawn_R2 = resampled_sums(counts_N2, how.bootstrap_samples, how.seed)
    low, high = interval(ratio(drawn_R2[:, 0], drawn_R2[:, 1]), how.confidence)
    return tables.interval({"wer": errors / words, "wer_low": low, "wer_high": high}, "wer")


def _rows(project: Params, split: str, part_of: dict[str, str], parts: Sequence[str]) -> list[list[str]]:
    rows = []
    for node in dag.nodes(project, "score"):
        utterances = pq.read_table(made(node.folder / "utterances.parquet"), filters=[("split", "==", split)])
        of = pa.array([part_of.get(id) for id in utterances["id"].to_pylist()])
        for decoding, column in ERRORS.items():
            if utterances[column].null_count:  # there is no language model
                continue
            rates = [word_errors(utterances.filter(pc.equal(of, part)), column, project.score) for part in parts]
            rows.append([node.wildcards["method"], node.wildcards["seed"], decoding, *rates])
    return rows


def table(project: Params, *, markdown: bool = False) -> str:
    """WER of every run on each part of each split that was decoded. Errors: BirqError for what is not made yet."""
    blocks = []
    for split in project.decode.splits:
        part_of = parts_of(project, split)
        parts = sorted(set(part_of.values()))
        head = ["method", "seed", "decoding", *parts]
        title = f"{split}: WER % [{round(100 * project.score.confidence)} %] by part"
        lines = (tables.pipes if markdown else tables.grid)(head, _rows(project, split, part_of, parts), 3)
        blocks.append("\n".join([title, "", *lines]))
    return "\n\n".join(blocks)
