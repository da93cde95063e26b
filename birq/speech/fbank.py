"""Audio to log-mel: Kaldi's filterbank, batched over frames."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from birq.errors import BirqError
from birq.speech.frontend import KALDI

if TYPE_CHECKING:
    import torch

CHUNK_FRAMES = 512  # the buffers of one chunk stay near a core, and calls are few
BAND = 16  # mel bins per product: a triangle covers few FFT bins, so narrow products skip most zeros
PREEMPHASIS = 0.97


# ---- the kernel


def mel_weights(n_mels: int, n_fft: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Triangles on Kaldi's mel scale, 1127 ln(1 + f/700), float32 [n_fft/2 + 1, n_mels]; `high_hz` <= 0 counts from half the rate."""
    import torch

    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz if high_hz > 0 else sample_rate_hz / 2 + high_hz))
    step = (high - low) / (n_mels + 1)
    # in float32 like Kaldi: where a triangle has a single FFT bin near its foot, the rounding is seen in the logarithm
    left_F, centre_F, right_F = (low + torch.arange(k, n_mels + k) * step for k in range(3))
    mel_K1 = (1127.0 * (1.0 + (sample_rate_hz / n_fft) * torch.arange(n_fft // 2) / 700.0).log())[:, None]
    weights_KF = torch.minimum((mel_K1 - left_F) / (centre_F - left_F), (right_F - mel_K1) / (right_F - centre_F)).clamp(min=0)
    return torch.nn.functional.pad(weights_KF, (0, 0, 0, 1))  # Kaldi leaves the Nyquist bin out


class Fbank:
    """Log-mel filterbank in nat, as `torchaudio.compliance.kaldi.fbank` makes it without dither, for samples in [-1, 1].

    Povey window, DC removal, pre-emphasis 0.97, power spectrum, natural logarithm floored at float32's epsilon; whole frames only.
    The operations that touch samples come in Kaldi's order: a different order changes the rounding, and 1e-3 nat is lost in the quiet
    bins of loud frames.
    """

    def __init__(self, sample_rate_hz: int, n_mels: int, frame_length_ms: float, frame_shift_ms: float, low_hz: float, high_hz: float):
        import torch

        self.n_mels = n_mels
        self.length = int(sample_rate_hz * frame_length_ms * 0.001)
        self.shift = int(sample_rate_hz * frame_shift_ms * 0.001)
        if self.length < 2 or self.shift < 1:
            raise BirqError(f"features.frame_length_ms, frame_shift_ms: {frame_length_ms:g} and {frame_shift_ms:g} are below one sample")
        self.n_fft = 1 << (self.length - 1).bit_length()
        self.floor = torch.finfo(torch.float32).eps
        # its first value is 0, so the pre-emphasis of a frame's first sample never matters
        self.window = torch.hann_window(self.length, periodic=False).pow(0.85)
        weights_KF = mel_weights(n_mels, self.n_fft, sample_rate_hz, low_hz, high_hz)
        self.bands = []
        for first in range(0, n_mels, BAND):
            band_KF = weights_KF[:, first : first + BAND]
            used = band_KF.any(dim=1).nonzero().flatten().tolist() or [0]
            bins = slice(used[0], used[-1] + 1)
            self.bands.append((bins, slice(first, first + band_KF.shape[1]), band_KF[bins].contiguous()))

    def n_frames(self, n_samples: int) -> int:
        """Whole frames in so many samples."""
        return 0 if n_samples < self.length else 1 + (n_samples - self.length) // self.shift

    def __call__(self, wave: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Samples [n] in [-1, 1] -> log-mel float32 [T, n_mels]."""
        import torch

        wave = torch.as_tensor(np.ascontiguousarray(wave) if isinstance(wave, np.ndarray) else wave, dtype=torch.float32).contiguous()
        with torch.inference_mode():
            frames_TW = wave.as_strided((self.n_frames(len(wave)), self.length), (self.shift, 1))
            out_TF = torch.empty(len(frames_TW), self.n_mels)
            rows = min(CHUNK_FRAMES, len(frames_TW))
            clean_TW, past_TW = torch.empty(rows, self.length), torch.empty(rows, self.length)
            padded_TN = torch.zeros(rows, self.n_fft)
            for start in range(0, len(frames_TW), CHUNK_FRAMES):
                chunk = frames_TW[start : start + CHUNK_FRAMES]
                n = len(chunk)
                self._chunk(chunk, clean_TW[:n], past_TW[:n, 1:], padded_TN[:n], out_TF[start : start + n])
        return out_TF

    def _chunk(self, frames_TW: Any, clean_TW: Any, past_TW: Any, padded_TN: Any, out_TF: Any) -> None:
        import torch

        torch.sub(frames_TW, frames_TW.mean(dim=1, keepdim=True), out=clean_TW)
        torch.mul(clean_TW[:, :-1], PREEMPHASIS, out=past_TW)
        clean_TW[:, 1:].sub_(past_TW)
        torch.mul(clean_TW, self.window, out=padded_TN[:, : self.length])
        parts_TK = torch.view_as_real(torch.fft.rfft(padded_TN)).flatten(1)  # real and imaginary in turn
        parts_TK.mul_(parts_TK)
        power_TK = parts_TK[:, 0::2] + parts_TK[:, 1::2]
        for bins, mels, weights_KF in self.bands:
            torch.mm(power_TK[:, bins], weights_KF, out=out_TF[:, mels])
        out_TF.clamp_(min=self.floor).log_()


@lru_cache(maxsize=4)
def _kernel(**settings: Any) -> Fbank:
    return Fbank(**settings)


def fbank(wave: np.ndarray | torch.Tensor, settings: dict[str, Any] | None = None) -> torch.Tensor:
    """Samples [n] in [-1, 1] -> log-mel in nat, float32 [T, n_mels]. `settings`: arguments of `Fbank` that are not Kaldi's defaults."""
    return _kernel(**KALDI | (settings or {}))(wave)
