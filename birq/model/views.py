"""Views of the input: what labels are quantised from, apart from what the encoder sees.

A view leaves out what is not about speech sounds, such as the channel and the voice's long-term spectrum. Everything is computed from the
stored log-mel, on its device.

Shape suffixes: B utterances, T log-mel frames, F mel bins, V values of a frame of a view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

N_CEPSTRA = 13  # coefficients 0 to 12, as in HuBERT's MFCC (Hsu et al. 2021)
DELTA_FRAMES = 2  # to either side, Kaldi's default
LEAST_VARIANCE = 1e-5  # added, so that a value that never changes stays 0


def _valid(x_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Which frames are not padding, [B, T, 1]."""
    return (torch.arange(x_BTV.shape[1], device=x_BTV.device) < lengths_B[:, None])[:, :, None]


def _at(x_BTV: Tensor, place_BT: Tensor) -> Tensor:
    return x_BTV.gather(1, place_BT[:, :, None].expand(-1, -1, x_BTV.shape[2]))


def _mean(x_BTV: Tensor, lengths_B: Tensor, window_frames: int) -> Tensor:
    """Mean over each utterance [B, 1, V], or over a window of so many frames around each frame [B, T, V]; float64.

    Sums run along time in float64, so that neither padding nor batch mates change them.
    """
    t = x_BTV.shape[1]
    total_BTV = torch.where(_valid(x_BTV, lengths_B), x_BTV, 0.0).double().cumsum(1)
    last_B1 = (lengths_B - 1).clamp_min(0)[:, None]
    if not window_frames:
        return _at(total_BTV, last_B1) / lengths_B.clamp_min(1)[:, None, None]
    frame_1T, half = torch.arange(t, device=x_BTV.device)[None], window_frames // 2
    end_BT, begin_BT = torch.minimum(frame_1T + half, last_B1), (frame_1T - half - 1).expand(len(x_BTV), -1)
    before_BTV = torch.where((begin_BT >= 0)[:, :, None], _at(total_BTV, begin_BT.clamp_min(0)), 0.0)
    count_BT = (end_BT - begin_BT.clamp_min(-1)).clamp_min(1)
    return (_at(total_BTV, end_BT) - before_BTV) / count_BT[:, :, None]


def mean_removed(x_BTV: Tensor, lengths_B: Tensor, window_frames: int = 0) -> Tensor:
    """Less the mean over each utterance, or over a window of so many frames around each frame; zeros beyond the ends."""
    mean_BTV = _mean(x_BTV, lengths_B, window_frames)
    return torch.where(_valid(x_BTV, lengths_B), x_BTV - mean_BTV.to(x_BTV.dtype), 0.0)


def variance_normalised(x_BTV: Tensor, lengths_B: Tensor, window_frames: int = 0) -> Tensor:
    """Zero mean and unit variance of every value over each utterance or window; zeros beyond the ends. What does not vary is 0."""
    variance_BTV = _mean(x_BTV.double().square(), lengths_B, window_frames) - _mean(x_BTV, lengths_B, window_frames).square()
    scale_BTV = (variance_BTV.clamp_min(0) + LEAST_VARIANCE).rsqrt().to(x_BTV.dtype)
    return mean_removed(x_BTV, lengths_B, window_frames) * scale_BTV


def cosine_table(n_mels: int, n_cepstra: int, device: torch.device) -> Tensor:
    """The first rows of the orthonormal DCT-II, [F, C]."""
    mel_F1, order_1C = torch.arange(n_mels, device=device)[:, None] + 0.5, torch.arange(n_cepstra, device=device)[None]
    table_FC = torch.cos(math.pi / n_mels * mel_F1 * order_1C) * math.sqrt(2 / n_mels)
    table_FC[:, 0] /= math.sqrt(2)
    return table_FC


def deltas(x_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Slope over time by regression over DELTA_FRAMES to either side; the first and the last frame stand for those beyond them."""
    frame_1T, last_B1 = torch.arange(x_BTV.shape[1], device=x_BTV.device)[None], (lengths_B - 1).clamp_min(0)[:, None]
    slope_BTV = torch.zeros_like(x_BTV)
    for n in range(1, DELTA_FRAMES + 1):
        after_BT, before_BT = torch.minimum(frame_1T + n, last_B1), torch.minimum((frame_1T - n).clamp_min(0), last_B1)
        slope_BTV += n * (_at(x_BTV, after_BT) - _at(x_BTV, before_BT))
    return slope_BTV / (2 * sum(n * n for n in range(1, DELTA_FRAMES + 1)))


def cepstra(x_BTF: Tensor, lengths_B: Tensor, window_frames: int = 0) -> Tensor:
    """N_CEPSTRA coefficients with the mean removed, their deltas and the deltas of these: [B, T, 3 · N_CEPSTRA]."""
    c_BTV = mean_removed(x_BTF @ cosine_table(x_BTF.shape[2], N_CEPSTRA, x_BTF.device), lengths_B, window_frames)
    first_BTV = deltas(c_BTV, lengths_B)
    return torch.cat([c_BTV, first_BTV, deltas(first_BTV, lengths_B)], dim=2)


def cmvn(x_BTF: Tensor, lengths_B: Tensor, window_frames: int = 0) -> Tensor:
    """`cepstra` with unit variance of every value over the utterance or window (CMVN), [B, T, 3 · N_CEPSTRA].

    Cepstra of high order and deltas vary little. So they count as much as the first ones. It also takes out how far a voice swings.
    """
    return variance_normalised(cepstra(x_BTF, lengths_B, window_frames), lengths_B, window_frames)


VIEWS = {"mean_removed": mean_removed, "cepstra": cepstra, "cmvn": cmvn}  # and log_mel, as it is
CEPSTRAL = ("cepstra", "cmvn")


def width(name: str, n_mels: int, n_stack: int) -> int:
    """Values of an encoder frame of `stacked`."""
    return 3 * N_CEPSTRA if name in CEPSTRAL else n_stack * n_mels


def view(name: str, x_BTF: Tensor, lengths_B: Tensor, window_frames: int = 0) -> Tensor:
    """Normalised log-mel [B, T, F], lengths in log-mel frames -> [B, T, V] float32, whatever the surrounding precision."""
    if name == "log_mel":
        return x_BTF
    with torch.autocast(x_BTF.device.type, enabled=False):
        return VIEWS[name](x_BTF.float(), lengths_B, window_frames)


def stacked(name: str, x_BTF: Tensor, lengths_B: Tensor, n_stack: int, window_frames: int = 0) -> Tensor:
    """A view in encoder frames, [B, T / n_stack, width]: log-mel frames are stacked, cepstra averaged, which change slowly.

    lengths: in encoder frames.
    """
    v_BTV = view(name, x_BTF, lengths_B * n_stack, window_frames)
    b, t, _ = v_BTV.shape
    v_BNSV = v_BTV.reshape(b, t // n_stack, n_stack, -1)
    return v_BNSV.mean(2) if name in CEPSTRAL else v_BNSV.flatten(2)
