"""A recogniser after fine-tuning: encoder and CTC layer, tokenizer, front end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder
from birq.progress import Progress
from birq.recognise.greedy import greedy
from birq.saved import weights
from birq.speech.batches import Utterances, sequential
from birq.speech.frontend import FrontEnd, from_config
from birq.text import tokenizer as tokens
from birq.text.tokenizer import Tokenizer

FILE = "model.safetensors"


@dataclass
class Recogniser:
    """A model with all that it needs: tokenizer and front end travel with the weights."""

    model: CtcModel
    tokenizer: Tokenizer
    front_end: FrontEnd
    config: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write a finetune artifact's model."""
        weights.save(folder, FILE, self.model, self.config)
        self.tokenizer.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """A finetune artifact, on the CPU, in evaluation mode. Errors: BirqError for files that are missing or damaged."""
        config, state = weights.load(folder, FILE)
        tokenizer = tokens.load(folder)
        model = CtcModel(Encoder(weights.shape_of(config)), tokenizer.size)
        model.load_state_dict(state)
        return cls(model.eval(), tokenizer, from_config(config), config)

    @torch.inference_mode()
    def hypotheses(
        self, utterances: Utterances, index: np.ndarray, batch_seconds: float, device: torch.device, name: str | None = None
    ) -> dict[int, str]:
        """Greedy CTC hypotheses by position in the source. `name`: shown with the progress, which is silent without.

        Errors: BirqError for an utterance longer than `batch_seconds`.
        """
        model = self.model.to(device).eval()
        progress, seconds = Progress(name, len(index), "utterance") if name else None, 0.0
        texts: dict[int, str] = {}
        for batch in sequential(utterances, index, self.front_end, batch_seconds):
            logp_BTV, lengths_B = model(batch.feats_BTF.to(device), batch.lengths_B.to(device))
            for i, ids in zip(batch.index.tolist(), greedy(logp_BTV, lengths_B, model.blank), strict=True):
                texts[i] = " ".join(self.tokenizer.decode(ids).split())  # a recogniser over characters may double a space
            seconds += batch.seconds
            if progress:
                progress.update(len(texts), minutes_of_speech=seconds / 60)
        if progress:
            progress.close()
        return texts
