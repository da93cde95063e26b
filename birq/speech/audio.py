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

RESAMPLE_PIECE = 1 << 14  # samples


def _refuse(function: Callable[..., Any]) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"torchaudio.{function.__name__} needs torchaudio's compiled extension, which birq does not load")

    return refused


def torchaudio() -> types.ModuleType:
    """The torchaudio module, its compiled extension reported as absent.

    torchaudio's wheels are built for CUDA and fail to import beside a CPU-only torch. The functions that birq uses (fbank, resampling,
    masks) are Python on torch, so the extension is left out everywhere. The same code runs with and without a GPU.
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

    # torch prepares a convolution anew for every length (3 ms), so lengths are few; the added zeros equal the padding of the filter
    padded = np.zeros(-(-len(wave) // RESAMPLE_PIECE) * RESAMPLE_PIECE, np.float32)
    padded[: len(wave)] = wave
    with torch.inference_mode():
        out = _resampler(from_hz, to_hz)(torch.from_numpy(padded)).numpy()
    return out[: -(-len(wave) * to_hz // from_hz)]


def _whole_flac(path: str | Path) -> tuple[np.ndarray, int] | None:
    """Samples [n, channels] and their rate by dr_flac, which takes 0.6 of libsndfile's time and gives the same samples to the bit.

    None for files that libsndfile must read: no plain FLAC, more than 24 bits, or fewer samples than the header promises. The last kind
    is damaged: dr_flac leaves out bad frames silently, libsndfile reports the error.
    """
    import miniaudio

    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    # STREAMINFO comes first: 20 bits rate, 3 bits channels - 1, 5 bits sample size - 1, 36 bits samples
    facts = int.from_bytes(data[18:26], "big")
    bits, promised = (facts >> 36 & 31) + 1, facts & (1 << 36) - 1
    if data[:4] != b"fLaC" or bits > 24:
        return None
    try:
        decoded = miniaudio.flac_read_s16(data) if bits <= 16 else miniaudio.flac_read_f32(data)
    except miniaudio.DecodeError:
        return None
    if not promised or decoded.num_frames != promised:
        return None
    wave = np.frombuffer(decoded.samples, np.int16 if bits <= 16 else np.float32).reshape(-1, decoded.nchannels)
    return (wave * np.float32(1 / 32768) if bits <= 16 else wave), decoded.sample_rate


def _mono(wave: np.ndarray) -> np.ndarray:
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)


def read(path: str | Path, sample_rate_hz: int, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Mono float32 samples [n] in [-1, 1] at the wanted rate; WAV, FLAC, MP3, OGG/Opus; channels are averaged.

    `offset_s` and `duration_s` cut a piece out (seconds). Errors: BirqError names a file that is missing or cannot be decoded.
    """
    import soundfile

    if not offset_s and duration_s is None and str(path).endswith(".flac") and (decoded := _whole_flac(path)):
        return resample(_mono(decoded[0]), decoded[1], sample_rate_hz)
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
    return resample(_mono(wave), rate, sample_rate_hz)
