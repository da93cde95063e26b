"""Memory and time of every stage on a corpus with as many utterances as a large one, and what a run with nothing to do costs there.

    python -m benchmarks.scale [--times 1] [--only-idle] [--folder FOLDER]

The corpus is a copy of LibriSpeech's 960 hours in number: its parts, speakers, chapters, names and utterances, `--times` over.
Its recordings are short, a twelfth of the true lengths, and so are its transcripts: what is asked for here grows with the number of
utterances, not with their seconds. The model is tiny and takes three steps. Lengths are drawn like LibriSpeech's.
Peak memory is that of a verb's largest process. Opened and looked-at files of the idle tools are counted by strace, where it is installed.
Writes benchmarks/results/scale.json, prints a table.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.harness import ROOT
from benchmarks.inputs import librispeech_like_frames
from birq.progress import Progress
from birq.settings import presets

sys.path.insert(0, str(ROOT / "tests" / "pipeline"))

import tinyproject
from tinyproject import Project

# part: speakers, utterances (Panayotov et al. 2015, and the corpus' own SPEAKERS.TXT)
PARTS = {
    "train-clean-100": (251, 28539),
    "train-clean-360": (921, 104014),
    "train-other-500": (1166, 148688),
    "dev-clean": (40, 2703),
    "dev-other": (33, 2864),
    "test-clean": (40, 2620),
    "test-other": (33, 2939),
}
CHAPTER = 50  # utterances, about as in the corpus
SHORTER = 12  # times
RATE_HZ = 16000
LETTERS = list("etaoinshrdlu")
RECORDINGS = 64  # distinct ones
STAGES = ("corpus", "features", "tokenizer", "lm", "pretrain", "probe", "finetune", "decode", "search", "score", "report")
FILE_CALLS = "%file,read,getdents64"
SETTINGS = (
    "features.n_mels=20",
    "model.d_model=16",
    "model.n_layers=2",
    "model.n_heads=2",
    "pretrain.steps=3",
    "pretrain.warmup_steps=1",
    "random_projection.n_codebooks=2",
    "random_projection.codebook_size=8",
    "birq.label_layer=1",
    "birq.min_perplexity=1.0",
    "finetune.steps=3",
    "finetune.evaluations=1",
    "kmeans.layer=1",
    "relabel.layer=1",
    "search.weights=[0.5]",  # an untrained model's search is the slowest there is
    "search.bonuses=[0.0]",
    "score.bootstrap_samples=100",
    "run.methods=[best_rq]",
    "run.pretrain_corpora=[many]",
    "run.finetune_corpora=[many]",
)


@dataclass(frozen=True)
class Spent:
    """What a command took; `rss_gib` is the peak of its largest process."""

    seconds: float
    cpu_seconds: float
    rss_gib: float


def recordings() -> list[tuple[float, bytes]]:
    """(seconds, FLAC) of some recordings of a soft noise, lengths as a corpus' divided by SHORTER."""
    rng, made = np.random.default_rng(0), []
    for n_frames in librispeech_like_frames(RECORDINGS) / SHORTER:
        duration_s = max(float(n_frames) / 100, 0.35)
        wave, buffer = np.round(20 * rng.standard_normal(round(duration_s * RATE_HZ))).astype(np.int16), io.BytesIO()
        soundfile.write(buffer, wave, RATE_HZ, format="FLAC", subtype="PCM_16")
        made.append((duration_s, buffer.getvalue()))
    return made


def corpus(root: Path, times: float) -> int:
    """Write the parts; returns the number of utterances."""
    audio, rng, n, total = recordings(), np.random.default_rng(1), 0, round(sum(count for _, count in PARTS.values()) * times)
    progress, first = Progress("corpus copy", total, "utterance"), 1
    for part, (n_speakers, count) in PARTS.items():
        n_speakers, count = max(1, round(n_speakers * times)), round(count * times)
        for speaker, some in enumerate(np.array_split(np.arange(count), n_speakers), first):
            for chapter, begin in enumerate(range(0, len(some), CHAPTER), 1000):
                name, lines = f"{speaker}-{speaker * 10 + chapter}", []
                folder = root / part / str(speaker) / str(speaker * 10 + chapter)
                folder.mkdir(parents=True)
                for i in range(min(CHAPTER, len(some) - begin)):
                    duration_s, flac = audio[int(rng.integers(len(audio)))]
                    (folder / f"{name}-{i:04d}.flac").write_bytes(flac)
                    words = "".join(rng.choice(LETTERS, max(2, round(15 * duration_s))))  # as many characters a second as in the corpus
                    lines.append(f"{name}-{i:04d} {words.upper()}\n")
                    n += 1
                (folder / f"{name}.trans.txt").write_text("".join(lines))
            progress.update(n)
        first += n_speakers
    progress.close()
    return n


def project(folder: Path, root: Path) -> Project:
    """A project over that corpus."""
    folder.mkdir()
    tinyproject.tracked_files(folder)
    parts = {split: [p for p in PARTS if p.startswith(split)] for split in ("train", "dev", "test")}
    many = {"kind": "librispeech", "root": str(root)} | {f"{split}_parts": named for split, named in parts.items()}
    presets.apply(None, [*SETTINGS, f"corpora={json.dumps({'many': many})}"], folder / "params.yaml")
    made = tinyproject.existing(folder, tinyproject.environment(), [])
    for command in (["init", "-q", "-b", "main", "."], ["add", "-A"], ["commit", "-qm", "many"]):
        made.git(*command)
    return made


def spent(made: Project, *command: str) -> Spent:
    """Run a command in the project; its output goes to the terminal's error channel."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=made.root, env=made.env, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return Spent(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)


def file_calls(made: Project, *command: str) -> dict[str, int]:
    """How often a command, with all that it starts, asked the system about files; empty without strace."""
    if not shutil.which("strace"):
        return {}
    with tempfile.NamedTemporaryFile("r") as counted:
        subprocess.run(
            ["strace", "-f", "-c", "-e", f"trace={FILE_CALLS}", "-o", counted.name, *command],
            cwd=made.root,
            env=made.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        lines = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted.read(), flags=re.M)
    return {name: int(count) for count, name in lines if name != "total"}


def measure(made: Project, only_idle: bool) -> dict[str, Any]:
    """Every stage once, then both tools with nothing to do; or what such a run asks of the corpus' folder alone."""
    run, birq = ("--method", "best_rq", "--seed", "0"), (sys.executable, "-m", "birq")
    stages: dict[str, Spent] = {}
    if only_idle:
        stages["birq digests, the first time"] = spent(made, *birq, "digests")
        stages["birq digests"] = spent(made, *birq, "digests")
        return {"stages": stages, "file calls": {"birq digests": file_calls(made, *birq, "digests")}}
    for stage in STAGES:
        options = ("--corpus", "many") if stage in ("corpus", "features") else () if stage in ("tokenizer", "lm", "report") else run
        stages[stage] = spent(made, *birq, stage, *options)
        print(f"{stage}: {stages[stage].seconds:.1f} s, {stages[stage].rss_gib:.2f} GiB", flush=True)
    stages["birq digests"] = spent(made, *birq, "digests")
    idle = {"snakemake": ("snakemake", "--cores", "2"), "dvc repro": ("dvc", "repro")}
    for tool, command in idle.items():
        stages[f"{tool}, the first time"] = spent(made, *command)  # Snakemake and DVC note what they find
        stages[f"{tool}, nothing to do"] = spent(made, *command)
    stages["birq verify"] = spent(made, *birq, "verify")
    return {"stages": stages, "file calls": {tool: file_calls(made, *command) for tool, command in idle.items()}}


def main() -> None:
    """Make the corpus, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=1.0, help="the corpus so many times over; 5.1 has 1.5 million utterances")
    parser.add_argument("--only-idle", action="store_true", help="no stage: what a run with nothing to do asks of the corpus' folder")
    parser.add_argument(
        "--folder", type=Path, help="where the corpus and the project lie, and stay; the corpus is made where it is missing"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scale.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        root = folder / "LibriSpeech"
        n = sum(1 for _ in root.rglob("*.flac")) if root.exists() else corpus(root, args.times)
        shutil.rmtree(folder / "project", ignore_errors=True)
        found = measure(project(folder / "project", root), args.only_idle)
    lines = ["| | seconds | processor seconds | largest process, GiB |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {s.seconds:.1f} | {s.cpu_seconds:.1f} | {s.rss_gib:.2f} |" for name, s in found["stages"].items()]
    print("\n".join(lines))
    for tool, counts in found["file calls"].items():
        print(f"{tool}, nothing to do: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    about = {"what": (__doc__ or "").splitlines()[0], "date": date.today().isoformat(), "commit": commit, "cpus": os.cpu_count()}
    known = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    known[str(n)] = about | found | {"stages": {name: asdict(s) for name, s in found["stages"].items()}}
    args.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
