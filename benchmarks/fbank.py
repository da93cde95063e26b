"""The log-mel kernel alone: samples in memory -> log-mel in memory, one thread."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import Contender, Part, race
from birq.model.quantizer import RandomQuantizer
from birq.speech import resampling
from birq.speech.fbank import CHUNK_FRAMES, Fbank
from birq.speech.frontend import KALDI


def torchaudio_kaldi(wave: torch.Tensor) -> torch.Tensor:
    return resampling.torchaudio().compliance.kaldi.fbank(wave[None], num_mel_bins=80, sample_frequency=16000.0)


class KaldiNative:
    """kaldi-native-fbank takes samples of any scale; torchaudio's numbers are those of samples in [-1, 1]."""

    def __init__(self) -> None:
        import kaldi_native_fbank

        self.module = kaldi_native_fbank
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0.0
        options.mel_opts.num_bins = 80
        self.options = options

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        computer = self.module.OnlineFbank(self.options)
        computer.accept_waveform(16000, wave)
        computer.input_finished()
        return computer.get_frames(0, computer.num_frames_ready) if hasattr(computer, "get_frames") else self._one_by_one(computer)

    @staticmethod
    def _one_by_one(computer) -> np.ndarray:
        return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


class Floor:
    """Real FFT, mel product and logarithm alone, on frames that lie windowed and padded in cache: no log-mel can do with less."""

    def __init__(self) -> None:
        self.kernel = Fbank(**KALDI)
        self.frames_TN = torch.randn(CHUNK_FRAMES, self.kernel.n_fft)
        self.out_TF = torch.empty(CHUNK_FRAMES, self.kernel.n_mels)

    def __call__(self, n_samples: int) -> None:
        for n in range(self.kernel.n_frames(n_samples), 0, -CHUNK_FRAMES):
            n = min(n, CHUNK_FRAMES)
            parts_TK = torch.view_as_real(torch.fft.rfft(self.frames_TN[:n])).flatten(1)
            parts_TK.mul_(parts_TK)
            power_TK = parts_TK[:, 0::2] + parts_TK[:, 1::2]
            for bins, mels, weights_KF in self.kernel.bands:
                torch.mm(power_TK[:, bins], weights_KF, out=self.out_TF[:n, mels])
            self.out_TF[:n].log_()


def labels_that_differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Share of anchoring labels (stack 4, 320 -> 16 -> 8192 codes) that differ between two sets of log-mel."""
    every = torch.cat(b)
    mean_F, std_F = every.mean(0), every.std(0)
    quantizer = RandomQuantizer(320, 16, 8192, 1, torch.Generator().manual_seed(0))

    def codes(features: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.cat([((x - mean_F) / std_F)[: len(x) // 4 * 4].reshape(-1, 320) for x in features])
        return quantizer.nearest(rows)

    return float((codes(a) != codes(b)).double().mean())


@torch.inference_mode()
def run(scratch, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    source, files = inputs.speech(scratch, 20 if quick else 60)
    waves = inputs.waves(files)
    tensors = [torch.from_numpy(w) for w in waves]
    ours, native, floor = Fbank(**KALDI), KaldiNative(), Floor()
    seconds = sum(map(len, waves)) / inputs.RATE
    part = race(
        "fbank",
        f"{seconds:.0f} s of audio ({source}), 80 log-mel bins, one thread",
        [
            Contender("torchaudio kaldi.fbank", lambda: [torchaudio_kaldi(w) for w in tensors]),
            Contender("kaldi-native-fbank", lambda: [native(w) for w in waves]),
            Contender("birq", lambda: [ours(w) for w in tensors]),
            Contender("floor: rFFT, mel product, log", lambda: [floor(len(w)) for w in waves]),
        ],
        5 if quick else 15,
    )
    want, got = [torchaudio_kaldi(w) for w in tensors], [ours(w) for w in tensors]
    theirs = [torch.from_numpy(np.array(native(w))) for w in waves]
    part.facts = {
        "audio_seconds": seconds,
        "largest_difference_nat": max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True)),
        "median_difference_nat": float(torch.cat([(a - b).abs().flatten() for a, b in zip(got, want, strict=True)]).median()),
        "labels_that_differ": labels_that_differ(got, want),
        "largest_difference_of_kaldi_native_nat": max(float((a - b).abs().max()) for a, b in zip(theirs, want, strict=True)),
        "labels_that_differ_of_kaldi_native": labels_that_differ(theirs, want),
    }
    return [part]
