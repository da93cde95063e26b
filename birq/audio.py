"""Audio in: the one guarded import of torchaudio, reading files, resampling."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from birq.errors import BirqError

SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".oga")
RESAMPLE_PIECE = 1 << 14  # samples


def _refuse(function: Callable[..., Any]) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"torchaudio.{function.__name__} needs torchaudio's compiled extension, which birq does not load")

    return refused


def torchaudio() -> types.ModuleType:
    """The torchaudio module, its compiled extension reported as absent.

    torchaudio's wheels are built for CUDA and fail to import beside a CPU-only torch. What birq uses (fbank, resampling,
    masks) is Python on torch, so the extension is left out everywhere, and the same code runs with and without a GPU.
    """
    name = "torchaudio._extension"
    if "torchaudio" not in sys.modules and name not in sys.modules:
        absent = types.ModuleType(name)
        absent._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
        absent._IS_ALIGN_AVAILABLE = False  # type: ignore[attr-defined]
        absent.fail_if_no_align = _refuse  # type: ignore[attr-defined]
        sys.modules[name] = absent
    try:
        import torchaudio
        import torchaudio.compliance.kaldi
    except (ImportError, OSError) as e:
        raise BirqError(f"torchaudio cannot be imported ({e}); install torch and torchaudio of the versions in pyproject.toml") from e
    return torchaudio


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> Any:
    import torch

    # the filter's angles lose 5 digits in float32
    return torchaudio().transforms.Resample(from_hz, to_hz, dtype=torch.float64).float()


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Band-limited resampling of a mono wave [n] -> float32 [ceil(n · to_hz / from_hz)]; equal rates need no torch."""
    wave = np.asarray(wave, np.float32)
    if from_hz == to_hz or not len(wave):
        return wave
    import torch

    # torch prepares a convolution anew for every length (3 ms), so lengths are few; the zeros added are what the filter pads with
    padded = np.zeros(-(-len(wave) // RESAMPLE_PIECE) * RESAMPLE_PIECE, np.float32)
    padded[: len(wave)] = wave
    with torch.inference_mode():
        out = _resampler(from_hz, to_hz)(torch.from_numpy(padded)).numpy()
    return out[: -(-len(wave) * to_hz // from_hz)]


def read(path: str | Path, sample_rate_hz: int, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Mono float32 samples [n] in [-1, 1] at the wanted rate; WAV, FLAC, MP3, OGG/Opus; channels are averaged.

    `offset_s` and `duration_s` cut a piece out (seconds). Errors: BirqError names a file that is missing or cannot be decoded.
    """
    import soundfile

    try:
        with soundfile.SoundFile(str(path)) as f:
            rate = f.samplerate
            if offset_s > 0:
                f.seek(min(round(offset_s * rate), f.frames))
            frames = -1 if duration_s is None else round(duration_s * rate)
            wave = f.read(frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as e:
        why = "no such file" if not Path(path).exists() else f"cannot be decoded ({e})"
        raise BirqError(f"{path}: {why}; replace the file, or take it out of the corpus and run again") from e
    return resample(wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1), rate, sample_rate_hz)
