"""The front end: all that turns log-mel frames into the encoder's input. One value that travels with a model.

Shape suffixes: F mel bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from birq.errors import BirqError

# the settings that decide the log-mel values; these are Kaldi's defaults, with 80 bins
KALDI = {"sample_rate_hz": 16000, "n_mels": 80, "frame_length_ms": 25.0, "frame_shift_ms": 10.0, "low_hz": 20.0, "high_hz": 0.0}
KERNEL = tuple(KALDI)
INPUT_MEANS = ("corpus", "utterance")
STEP_NAT = 1 / 1024  # of int16 storage: 16 times finer than the noise that would move an anchoring label


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """The settings and storage of log-mel, its statistics over the training frames, and the number of frames in one encoder frame."""

    about: dict[str, Any]  # the keys of KERNEL, and `dtype`: int16 or float32, as log-mel is stored
    mean_F: np.ndarray  # nat, float32
    std_F: np.ndarray  # nat, float32
    n_stack: int
    input_mean: str = "corpus"  # subtracted from the encoder's input: mean_F, or the mean over the utterance

    @property
    def kernel(self) -> dict[str, Any]:
        """The settings of the filterbank."""
        return {key: self.about[key] for key in KERNEL}

    @property
    def n_mels(self) -> int:
        return int(self.about["n_mels"])

    @property
    def frame_shift_ms(self) -> float:
        """Time between two log-mel frames."""
        return float(self.about["frame_shift_ms"])

    @property
    def encoder_shift_ms(self) -> float:
        """Time between two encoder frames."""
        return self.frame_shift_ms * self.n_stack

    def n_frames(self, seconds: float) -> int:
        """Log-mel frames in so many seconds."""
        return int(seconds * 1000 / self.frame_shift_ms + 1e-6)

    def seconds(self, n_frames: int | float | np.integer) -> float:
        """Seconds that so many log-mel frames last."""
        return float(n_frames) * self.frame_shift_ms / 1000

    def config(self) -> dict[str, Any]:
        """JSON-ready; `from_config` reads it."""
        about = {key: self.about[key] for key in (*KERNEL, "dtype")}
        config = {"features": about, "mean": [float(v) for v in self.mean_F], "std": [float(v) for v in self.std_F]}
        return config if self.input_mean == "corpus" else config | {"input_mean": self.input_mean}  # models from before it have none


def from_config(config: dict[str, Any]) -> FrontEnd:
    """The front end of a saved model's config.json. Errors: BirqError for an input_mean that this birq does not know."""
    mean_F, std_F = (np.asarray(config[key], np.float32) for key in ("mean", "std"))
    input_mean = config.get("input_mean", "corpus")
    if input_mean not in INPUT_MEANS:
        legal = ", ".join(INPUT_MEANS)
        raise BirqError(f"config.json of the model: input_mean: {input_mean!r} is not legal: {legal}; load it with the birq that wrote it")
    return FrontEnd(config["features"], mean_F, std_F, config["model"]["n_stack"], input_mean)
