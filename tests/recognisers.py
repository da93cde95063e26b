"""A recogniser that was not trained and says much all the same, sounds and a language model for it, and stages run by themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch

from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder
from birq.pipeline import dag
from birq.recognise import lm
from birq.saved.recogniser import Recogniser
from birq.saved.weights import shape_of
from birq.settings.params import Params, parse
from birq.speech.frontend import KALDI, FrontEnd
from birq.speech.utterances import InMemory
from birq.stages import corpus, decode, features
from birq.text import arpa, tokenizer
from birq.text.ngram import NGram
from birq.use.models import SEARCH

LETTERS = tiny.LETTERS + " "


def made(stage: str, home: Path, params: Params, wildcards: dict[str, str], given: dict[str, list[Path]]) -> Path:
    """The folder that a stage fills."""
    out, scratch = home / stage, home / "scratch" / stage
    out.mkdir(parents=True)
    scratch.mkdir(parents=True)
    compute = {"corpus": corpus, "features": features, "decode": decode}[stage].compute
    compute(tiny.TinyJob(dag.Node(dag.STAGES[stage], wildcards, params), "0" * 32, out, scratch, given=given))
    return out


def sweep(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones that rise and fall, and a little noise, at 16 kHz."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * 16000)) / 16000
    hz = 1200 + 1000 * np.sin(2 * np.pi * rng.uniform(0.4, 0.9) * time_s)
    return 0.3 * np.sin(2 * np.pi * np.cumsum(hz) / 16000) * (np.sin(7 * time_s) > -0.5) + 0.01 * rng.standard_normal(len(time_s))


def front_end() -> FrontEnd:
    """With the statistics of such a sound."""
    made = FrontEnd(KALDI | {"dtype": "int16"}, np.zeros(80, np.float32), np.ones(80, np.float32), parse(tiny.tree()).model.n_stack)
    frames_TF = InMemory([(sweep(8.0), 16000)], made).raw(0) / 1024
    return replace(made, mean_F=frames_TF.mean(0).astype(np.float32), std_F=frames_TF.std(0).astype(np.float32))


def untrained(folder: Path, front_end: FrontEnd, **shape: Any) -> Path:
    """Its head is so sharp that it says something else for every recording. shape: of the encoder, where it is not tiny.yaml's."""
    letters = tokenizer.characters(LETTERS)
    config = {"method": "birq", "seed": 0, "model": parse(tiny.tree()).model.shape | shape, "labelled_hours": 0.0} | front_end.config()
    torch.manual_seed(0)
    model = CtcModel(Encoder(shape_of(config)), letters.size)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    folder.mkdir()
    Recogniser(model, letters, front_end, config).save(folder)
    return folder


def add_language_model(folder: Path, scratch: Path) -> None:
    """Beside the model, with weights as if chosen on dev."""
    (folder / "lm").mkdir()
    NGram(["ab cd", "cd ef gh", "a b c", "gh ab"] * 3, 2).write(scratch / "standard.arpa")
    made = arpa.copy(scratch / "standard.arpa", folder / "lm" / lm.ARPA, str.lower, LETTERS, lm.END_WORD)
    (folder / "lm" / lm.WORDS).write_text("".join(f"{w}\n" for w in made.words))
    (folder / "lm" / SEARCH).write_text(json.dumps({"weight": 0.75, "bonus": -2.0, "beam": 8, "grid": []}))
