"""The one guarded import of torchaudio, and resampling by it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import lru_cache
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
