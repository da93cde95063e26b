"""The inputs of all contenders: FLAC files of speech, a corpus artifact over them, lists of lengths."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.harness import ROOT
from birq.corpora import manifests

RATE = 16000


def corpora() -> Path:
    """Where recorded speech is looked for: BIRQ_CORPORA, else beside the checkout."""
    return Path(os.environ.get("BIRQ_CORPORA", ROOT.parent / "shared" / "corpora"))


@lru_cache
def speech(scratch: Path, n_files: int) -> tuple[str, list[Path]]:
    """A description of the audio, and up to `n_files` FLAC files of it: LibriSpeech where there is some, else noise made here.

    Files are taken evenly from all there are, so that speakers and lengths are mixed.
    """
    recorded = sorted(corpora().glob("LibriSpeech/**/*.flac")) + sorted(corpora().glob("librivox-untranscribed/**/*.flac"))
    if recorded:
        chosen = [recorded[i] for i in np.linspace(0, len(recorded) - 1, min(n_files, len(recorded))).astype(int)]
        return "LibriSpeech, recorded", chosen
    print(f"  no FLAC of LibriSpeech under {corpora()} (BIRQ_CORPORA says where it is): generated audio instead", flush=True)
    return "generated", [_generated(scratch / "audio" / f"{i % 20}-0-{i:04d}.flac", i) for i in range(n_files)]


def _generated(path: Path, seed: int) -> Path:
    """Noise with a falling spectrum and a slow envelope: FLAC spends about as many bits on it as on speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    n = int(rng.uniform(4, 17) * RATE)
    spectrum = np.fft.rfft(rng.normal(size=n)) / np.maximum(100, np.arange(n // 2 + 1))
    wave = np.fft.irfft(spectrum, n) * (1 + np.sin(np.arange(n) / RATE * 6))
    soundfile.write(path, 0.5 * wave / np.abs(wave).max(), RATE, subtype="PCM_16")
    return path


def waves(files: list[Path]) -> list[np.ndarray]:
    """Samples in [-1, 1], float32."""
    return [soundfile.read(f, dtype="float32")[0] for f in files]


def corpus(folder: Path, files: list[Path]) -> Path:
    """The files as birq's corpus artifact: one train split."""
    folder.mkdir(parents=True)
    cuts = [manifests.cut(f.stem, str(f), RATE, soundfile.info(f).frames, f.stem.split("-")[0], None) for f in files]
    manifests.write_corpus(
        folder,
        name=folder.name,
        kind="local",
        synthetic=False,
        licence="as the files'",
        source="benchmark",
        audio_root="/",
        splits=manifests.write_cuts(folder, {"train": cuts}),
        quarantined=0,
    )
    return folder


def librispeech_like_frames(n: int, seed: int = 0) -> np.ndarray:
    """`n` lengths in 10 ms frames, like LibriSpeech's 960 h: mean 12.4 s, most of 12 to 16.5 s, a tail down to 1.4 s, few up to 24.5 s."""
    rng = np.random.default_rng(seed)
    long = rng.normal(14.7, 1.3, n)
    short = rng.uniform(1.4, 14.5, n)
    rare = rng.uniform(16.5, 24.5, n)
    kind = rng.random(n)
    seconds = np.where(kind < 0.65, long, np.where(kind < 0.998, short, rare))
    return (np.clip(seconds, 1.4, 24.5) * 100).astype(np.int64)
