"""The feature stage: FLAC on disk -> features on disk, one core and two, and the memory that it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks import fbank, inputs
from benchmarks.birq_features import birq_stage
from benchmarks.harness import ROOT, Contender, Part, peak_mib, race
from birq.speech import audio, resampling
from birq.speech.shards import open_split

STORAGE = {"lhotse Fbank + lilcom_chunky": "LilcomChunkyWriter", "lhotse Fbank + numpy files": "NumpyFilesWriter"}


def lhotse_stage(corpus: Path, base: Path, writer: str) -> None:
    """CutSet.compute_and_store_features, as its recipes call it."""
    import lhotse

    from birq.corpora import manifests

    cuts = manifests.load_cuts(corpus, "train")
    extractor = lhotse.Fbank(lhotse.FbankConfig(num_mel_bins=80))
    storage = getattr(lhotse, writer)
    (base / "store").mkdir()
    cuts.compute_and_store_features(extractor, base / "store" / "feats", num_jobs=1, storage_type=storage, progress_bar=False).to_file(
        base / "cuts.jsonl.gz"
    )


class SpeechBrain:
    """SpeechBrain's Fbank (its own mel scale, decibels) and one numpy file per utterance."""

    def __init__(self) -> None:
        resampling.torchaudio()  # SpeechBrain imports it unguarded
        from speechbrain.dataio.dataio import read_audio
        from speechbrain.lobes.features import Fbank

        self.read, self.fbank = read_audio, Fbank(n_mels=80)

    @torch.no_grad()
    def __call__(self, files: list[Path], base: Path) -> None:
        (base / "store").mkdir()
        for f in files:
            np.save(base / "store" / f"{f.stem}.npy", self.fbank(self.read(str(f))[None])[0].numpy())


def floor(files: list[Path], kernel: Callable[[int], None]) -> None:
    """Decode with the fastest decoder known here, transform, mel, logarithm: nothing is kept or written."""
    for f in files:
        kernel(len(audio.read(f, inputs.RATE)))


def emptied(base: Path) -> Callable[[], None]:
    def clear() -> None:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)

    return clear


def size_mib(folder: Path) -> float:
    return round(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20, 1)


def one_core(scratch: Path, quick: bool) -> Part:
    source, files = inputs.speech(scratch, 40 if quick else 392)
    corpus = inputs.corpus(scratch / "bench", files)
    kernel, speechbrain = fbank.Floor(), SpeechBrain()
    folders = {name: scratch / name.replace(" ", "-") for name in (*STORAGE, "speechbrain", "birq")}
    contenders = [Contender(n, partial(lhotse_stage, corpus, folders[n], w), emptied(folders[n])) for n, w in STORAGE.items()]
    contenders += [
        Contender("SpeechBrain Fbank + numpy files", lambda: speechbrain(files, folders["speechbrain"]), emptied(folders["speechbrain"])),
        Contender("birq", lambda: birq_stage(corpus, folders["birq"], 1)),
        Contender("floor: decode, rFFT, mel product, log", lambda: floor(files, kernel)),
        Contender("floor: decode by dr_flac alone", lambda: floor(files, lambda _: None)),
        Contender("floor: decode by libsndfile alone", lambda: [soundfile.read(f, dtype="float32") for f in files] and None),
    ]
    seconds = sum(soundfile.info(f).duration for f in files)
    part = race("features", f"{seconds / 3600:.2f} h ({source}), {len(files)} FLAC files, one thread", contenders, 3 if quick else 9)
    split = open_split([folders["birq"] / "out"], "train")
    part.facts = {"audio_seconds": seconds, "largest_difference_nat": _difference(split, files)}
    part.facts["mib_on_disk"] = {name: size_mib(folder / ("out" if name == "birq" else "store")) for name, folder in folders.items()}
    return part


def _difference(split, files: list[Path]) -> float:
    """Largest difference between birq's shards and torchaudio's kaldi.fbank, nat, over some files."""
    by_id = {name: i for i, name in enumerate(split.ids)}
    some = files[:: max(1, len(files) // 20)]
    want = [fbank.torchaudio_kaldi(torch.from_numpy(w)).numpy() for w in inputs.waves(some)]
    return max(float(np.abs(split.logmel(by_id[f.stem]) - x).max()) for f, x in zip(some, want, strict=True))


# ---- more than one core


def _many(scratch: Path, copies: int, name: str) -> tuple[Path, float]:
    """A corpus that names every file `copies` times under other names (links: the audio lies in the page cache anyway)."""
    _, files = inputs.speech(scratch, 392)
    folder = scratch / f"{name}-audio"
    folder.mkdir()
    links = []
    for c in range(copies):
        for f in files:
            links.append(folder / f"{f.stem}-{c}.flac")
            links[-1].symlink_to(f)
    return inputs.corpus(scratch / name, links), copies * sum(soundfile.info(f).duration for f in files)


class Processes:
    """The floor's work shared by `n` processes that are up and warm: the most that this machine gains from more than one core."""

    def __init__(self, n: int, files: list[Path]):
        self.pool, self.shares = ProcessPoolExecutor(n, get_context("spawn")), [files[i::n] for i in range(n)]
        list(self.pool.map(_floor, [files[:20]] * 4 * n))

    def __call__(self) -> None:
        list(self.pool.map(_floor, self.shares))


def _floor(files: list[Path]) -> None:
    torch.set_num_threads(1)
    floor(files, fbank.Floor())


def _as_users_do(corpus: Path, base: Path, workers: int) -> None:
    """`birq_stage` in a process of its own, so its workers are started anew in every round."""
    command = [sys.executable, "-m", "benchmarks.birq_features", str(corpus), str(base), str(workers)]
    subprocess.run(command, check=True, cwd=ROOT)


def two_workers(scratch: Path, quick: bool) -> Part:
    copies = 2 if quick else 60
    corpus, seconds = _many(scratch, copies, "many")
    n = min(2, len(os.sched_getaffinity(0)))
    files = inputs.speech(scratch, 392)[1] * copies
    floors = {f"floor, {k} warm {'process' if k == 1 else 'processes'}": Processes(k, files) for k in (1, n)}
    contenders = [
        Contender("birq, one worker", lambda: _as_users_do(corpus, scratch / "one", 1)),
        Contender(f"birq, {n} workers", lambda: _as_users_do(corpus, scratch / "two", n)),
        *(Contender(name, run) for name, run in floors.items()),
    ]
    part = race(
        "features on two cores", f"{seconds / 3600:.1f} h, from the start of the first process on", contenders, 1 if quick else 3, warmup=0
    )
    same = [sorted((p.name, p.read_bytes()) for p in (scratch / w / "out").rglob("*.parquet")) for w in ("one", "two")]
    one, all_cores = (list(floors) * 2)[:2]  # the same where there is one core
    part.facts = {"audio_seconds": seconds, "workers": n, "equal_bytes": same[0] == same[1]}
    part.facts["two_cores_over_one_of_the_floor"] = part.ratio(one, all_cores)["median"]
    return part


# ---- memory


def memory_of_stage(corpus: str, base: str) -> Callable[[], None]:
    """For `peak_mib`; a first run on one short file does all loading."""
    torch.set_num_threads(1)
    return lambda: birq_stage(Path(corpus), Path(base), 1)


def memory(scratch: Path, quick: bool) -> Part:
    part = Part("memory of the feature stage", "one worker, its process alone")
    for copies in (1, 4):
        corpus, seconds = _many(scratch, copies, f"memory-{copies}")
        peak = peak_mib("benchmarks.features:memory_of_stage", str(corpus), str(scratch / f"memory-{copies}-out"))
        part.facts[f"peak_mib_at_{seconds / 3600:.1f}_h"] = peak["peak"]
    return part


def run(scratch: Path, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    return [one_core(scratch, quick), two_workers(scratch, quick), memory(scratch, quick)]
