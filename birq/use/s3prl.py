"""An encoder as s3prl takes them, by its interface alone: s3prl itself is not imported, and does not install beside current torchaudio.

Shape suffixes: B utterances, T log-mel frames, F mel bins, N encoder frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from birq import load
from birq.errors import BirqError
from birq.speech.batches import collate
from birq.speech.utterances import InMemory
from birq.use.encoder import device_of

RATE_HZ = 16000  # of all waves that s3prl gives


class UpstreamExpert(nn.Module):
    """`ckpt`: a folder that was pre-trained or fine-tuned, such as data/pretrain/birq-0. Its encoder can be trained further."""

    def __init__(self, ckpt: str | Path, model_config: Any = None, **unused: Any):
        super().__init__()
        made = load(ckpt, False)
        self.encoder, self.front_end = made.model.encoder, made.front_end
        self.encoder.requires_grad_(True)
        if RATE_HZ * self.front_end.about["frame_shift_ms"] % 1000:
            raise BirqError(f"{ckpt}: a shift of {self.front_end.about['frame_shift_ms']} ms is no whole number of samples at 16 kHz")

    def get_downsample_rates(self, key: str) -> int:
        """Samples at 16 kHz for an encoder frame."""
        return round(RATE_HZ * self.front_end.about["frame_shift_ms"] / 1000) * self.front_end.n_stack

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Waves [n] in [-1, 1] at 16 kHz -> `hidden_states`: outputs [B, N, D] of all layers; `last_hidden_state`: of the last one.

        A wave of less than one encoder frame is continued with zeros, since s3prl expects a frame of each.
        """
        least = self.get_downsample_rates("hidden_states") + round(RATE_HZ * self.front_end.about["frame_length_ms"] / 1000)
        waves = [w.detach().cpu().to(torch.float32).reshape(-1).numpy() for w in wavs]
        padded = [(np.pad(w, (0, max(least - len(w), 0))), RATE_HZ) for w in waves]
        batch = collate(InMemory(padded, self.front_end), np.arange(len(padded)), self.front_end)
        device = device_of(self.encoder)
        layers = list(self.encoder.layers_out(batch.feats_BTF.to(device), batch.lengths_B.to(device)))
        return {"hidden_states": layers, "last_hidden_state": layers[-1]}


def birq_local(ckpt: str, *args: Any, **kwargs: Any) -> UpstreamExpert:
    """The entry of a hubconf.py, under whose name s3prl finds it: `-u birq_local -k data/pretrain/birq-0`."""
    return UpstreamExpert(ckpt, *args, **kwargs)
