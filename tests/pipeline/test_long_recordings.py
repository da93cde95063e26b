"""The tones as lhotse's manifests of long recordings with a speaker on each channel: the same corpus, so nothing is trained again."""

from __future__ import annotations

import csv
import json
import wave
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tones
from tinyproject import Project

pytestmark = pytest.mark.pipeline

UTTERANCE_SECONDS = 7 * tones.LETTER_SECONDS


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def _samples(path: Path) -> bytes:
    with wave.open(str(path), "rb") as f:
        return f.readframes(f.getnframes())


def _supervision(row: dict[str, str], times: list[dict[str, str]], recording: str, number: int) -> dict:
    begin = number // 2 * UTTERANCE_SECONDS
    said = {
        kind: [[t[kind], begin + float(t["start_s"]), float(t["end_s"]) - float(t["start_s"]), None] for t in times if t[kind] != "<sil>"]
        for kind in ("phone", "word")
    }
    about = {"id": row["path"].removesuffix(".wav"), "recording_id": recording, "start": begin, "duration": UTTERANCE_SECONDS}
    return about | {"channel": number % 2, "text": row["text"], "speaker": row["speaker"], "alignment": said}


def write(speech: Path, folder: Path) -> None:
    """One recording a split; its first channel is what one speaker says, its second channel what the other one does."""
    folder.mkdir()
    times = defaultdict(list)
    for row in _rows(speech / "alignments.tsv"):
        times[row["utt"] + ".wav"].append(row)
    for split in tones.UTTERANCES:
        rows = [r for r in _rows(speech / "transcripts.tsv") if r["split"] == split]
        said = [_samples(speech / r["path"]) for r in rows]
        channels_CN = np.stack([np.frombuffer(b"".join(said[c::2]), "<i2") for c in (0, 1)])
        with wave.open(str(folder / f"{split}.wav"), "wb") as f:
            f.setnchannels(2)
            f.setsampwidth(2)
            f.setframerate(tones.RATE_HZ)
            f.writeframes(channels_CN.T.tobytes())
        n = channels_CN.shape[1]
        source = {"type": "file", "channels": [0, 1], "source": f"{split}.wav"}
        about = {"id": split, "sources": [source], "sampling_rate": tones.RATE_HZ, "num_samples": n, "duration": n / tones.RATE_HZ}
        (folder / f"tones_recordings_{split}.jsonl").write_text(json.dumps(about | {"channel_ids": [0, 1]}) + "\n")
        spoken = [_supervision(r, times[r["path"]], split, i) for i, r in enumerate(rows)]
        (folder / f"tones_supervisions_{split}.jsonl").write_text("".join(json.dumps(s) + "\n" for s in spoken))


def test_a_corpus_of_long_recordings_is_that_of_its_utterances(project: Project) -> None:
    """Samples, texts, speakers, splits and phone times are the same, so are the features' bytes; only what reads the cuts is made again."""
    before = project.digests()
    times = (project.root / "data" / "corpus" / "tones" / "alignments.parquet").read_bytes()
    write(project.root / "speech", project.root / "talks")
    project.set("corpora={tones: {kind: lhotse, root: talks}}")
    assert {s.stage for s in project.snakemake().said() if s.what == "computing"} == {"corpus", "features", "probe", "report"}
    assert (project.root / "data" / "corpus" / "tones" / "alignments.parquet").read_bytes() == times
    after = project.digests()
    changed = {name for name in after if after[name] != before[name]}
    assert not {n for n in changed if n.startswith(("data/features", "data/pretrain", "data/finetune", "data/score"))}, changed
    project.nothing_to_do()
    project.dvc()
    project.up_to_date()
    project.verify()
    talk = project.root / "talks" / "tones_supervisions_dev.jsonl"
    talk.write_text(talk.read_text().replace('"speaker": "dev1"', '"speaker": "dev9"'))
    assert {s.stage for s in project.snakemake().said() if s.what == "computing"} >= {"corpus", "features"}
