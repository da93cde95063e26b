"""Speech of tones and a model of a few thousand weights: what tests of the model and of training share.

Every letter is a tone, so there is something to learn; the log-mel is the product's own.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from birq.model import objectives
from birq.model.encoder import Encoder, Shape
from birq.model.objectives import BiRq, Objective
from birq.model.quantized import constants
from birq.pipeline import artifact, dag
from birq.pipeline.stage import Job
from birq.settings.methods import METHODS
from birq.settings.params import Params, numbers, parse
from birq.speech import shards
from birq.speech.batches import Batch
from birq.speech.fbank import fbank
from birq.stages import pretrain

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "abcdefgh"
N_MELS = 20
SETTINGS = {"sample_rate_hz": 16000, "n_mels": N_MELS, "frame_length_ms": 25.0, "frame_shift_ms": 10.0, "low_hz": 20.0, "high_hz": 0.0}

# every number of the model and of training: tests must not change with the recipe of the day
SMALL: dict[str, Any] = {
    "run": {"pretrain_corpora": ["tones"], "finetune_corpora": ["tones"]},
    "features": {"n_mels": N_MELS},
    "tokenizer": {"alphabet": LETTERS + " "},
    "model": {
        "n_stack": 4,
        "input_mean": "corpus",
        "d_model": 16,
        "n_layers": 2,
        "n_heads": 2,
        "ff_expansion": 2,
        "conv_kernel": 5,
        "conv_expansion": 1,
        "positions": "rotary",
        "attention_window": 0,
        "norms": "float32",
    },
    "pretrain": {
        "steps": 12,
        "batch_seconds": 8.0,
        "micro_batch_seconds": 8.0,
        "learning_rate": 0.002,
        "warmup_steps": 4,
        "final_rate_share": 0.05,
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "clip_norm": 1.0,
        "dropout": 0.0,
        "mask_start_probability": 0.02,
        "mask_span_ms": 400.0,
        "mask_fill_std": 0.1,
        "reduction": "frames",
        "snapshots": [],
        "starts_from": "none",
        "log_every_steps": 2,
        "checkpoint_seconds": 0.0,
        "cpu_threads": 1,
    },
    "random_projection": {
        "n_codebooks": 2,
        "codebook_size": 32,
        "codebook_dim": 8,
        "view": "log_mel",
        "view_window_frames": 0,
        "distance": "unit",
        "projection": "random",
        "codebook": "random",
        "refine_every_steps": 4,
        "similarity_weight": 0.0,
        "similarity_temperature": 0.1,
        "distil_weight": 0.0,
        "distil_codes": 16,
        "distil_layers": [1],
        "distil_begins_share": 0.25,
        "anchor_weight": 2.4,
    },
    "birq": {
        "label_layer": 1,
        "enhanced_weight": 0.1,
        "temperature": 0.5,
        "logit_scale": 20.0,
        "label_share": 1.0,
        "label_gradient": 1.0,
        "entropy_weight": 1.0,
        "labels": "soft",
        "noise": "gumbel",
        "label_norm": "standardise",
        "heads": "shared",
        "label_projection": "random",
        "label_codebook": "random",
        "begins_share": 0.0,
        "min_perplexity": 2.0,
        "gradient_cosine_every_steps": 0,
    },
    "kmeans": {"clusters": 8, "fit_minutes": 60.0, "view": "log_mel", "layer": 1},
    "relabel": {"layer": 1},
    "finetune": {
        "labelled_minutes": 60.0,
        "steps": 12,
        "batch_seconds": 8.0,
        "micro_batch_seconds": 8.0,
        "learning_rate": 0.002,
        "head_rate_factor": 1.0,
        "reset_layers": 0,
        "frozen_steps": 0,
        "warmup_share": 0.1,
        "hold_share": 0.4,
        "final_rate_share": 0.02,
        "anneal_stairs": 0,
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "clip_norm": 1.0,
        "dropout": 0.1,
        "time_masks": 2,
        "time_mask_ms": 400.0,
        "freq_masks": 2,
        "freq_mask_bins": 6,
        "evaluations": 3,
        "log_every_steps": 2,
        "checkpoint_seconds": 0.0,
        "cpu_threads": 1,
    },
}
# of the objective, what a recipe decides rather than the size of the model
CONSTANTS = ("enhanced_weight", "anchor_weight", "temperature", "logit_scale", "label_share", "label_gradient", "entropy_weight")
CONSTANTS += ("labels", "noise", "label_norm", "heads", "distance", "begins_share", "similarity_weight", "similarity_temperature")


def shipped() -> dict[str, Any]:
    """The objective's constants as params.yaml has them, as changes for `params`."""
    tracked = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return {
        f"{section}__{name}": tracked[section][name]
        for section in ("random_projection", "birq")
        for name in CONSTANTS
        if name in tracked[section]
    }


def tree(**changes: Any) -> dict[str, Any]:
    """params.yaml made small; `pretrain__steps=3` sets pretrain.steps."""
    out = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    out["corpora"] = {"tones": out["corpora"]["synth"]}
    for section, values in SMALL.items():
        out[section] |= values
    for key, value in changes.items():
        section, name = key.split("__")
        out[section][name] = value
    return out


def params(**changes: Any) -> Params:
    """Checked params; see `tree`."""
    return parse(tree(**changes))


# ---- speech of tones


def tones(text: str, rng: np.random.Generator, seconds_each: float = 0.16, noise: float = 0.01) -> np.ndarray:
    """16 kHz samples: one tone per letter, silence for a space, a little noise."""
    n = round(16000 * seconds_each)
    time_s = np.arange(n) / 16000
    fade = np.minimum(1, np.minimum(np.arange(n), np.arange(n)[::-1]) / 400)
    parts = [0.3 * fade * np.sin(2 * np.pi * 300 * 1.45 ** LETTERS.index(c) * time_s) if c != " " else np.zeros(n) for c in text]
    wave = np.concatenate(parts)
    return (wave + noise * rng.standard_normal(len(wave))).astype(np.float32)


def sentences(n: int, seed: int, shortest: int = 4, longest: int = 12) -> list[str]:
    """Random words over the letters, without two equal letters in a row."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        letters = [LETTERS[rng.integers(8)]]
        while len(letters) < rng.integers(shortest, longest + 1):
            fresh = " " if letters[-1] != " " and rng.random() < 0.2 else LETTERS[rng.integers(8)]
            if fresh != letters[-1]:
                letters.append(fresh)
        out.append("".join(letters).strip())
    return out


def rows(texts: list[str], prefix: str, *, seed: int = 0, labelled: bool = True, heard: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows for a shard; `heard`: what the audio says, where it is not the transcript."""
    rng = np.random.default_rng(seed)
    made = []
    for i, (text, said) in enumerate(zip(texts, heard or texts, strict=True)):
        wave = tones(said, rng)
        row = {"id": f"{prefix}{i:03d}", "speaker": f"{prefix}{i % 3}", "text": text if labelled else None}
        made.append(row | {"duration_s": len(wave) / 16000, "fbank": fbank(wave, SETTINGS).numpy()})
    return made


def write_features(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """A features artifact with a provenance, as if the stage had made it."""
    summary = {}
    for split, some in splits.items():
        shards.write_shard(folder / split / "00000.parquet", some, shards.metadata(**SETTINGS))
        summary[split] = {"utterances": len(some), "shards": 1, "frames": sum(len(r["fbank"]) for r in some)}
    frames_TF = np.concatenate([r["fbank"] for r in splits["train"]]).astype(np.float64)
    stats = {"n_frames": len(frames_TF), "mean": frames_TF.mean(0).tolist(), "var": frames_TF.var(0).tolist()}
    (folder / "stats.json").write_text(json.dumps(stats))
    (folder / "splits.json").write_text(json.dumps(summary))
    files = artifact.describe(folder)
    record = {"stage": "features", "wildcards": {"corpus": "tones"}, "key": "0" * 32, "parts": {}}
    record |= {"digest": artifact.content_digest(files), "files": files}
    (folder / artifact.PROVENANCE).write_text(json.dumps(record))
    return folder


def speech(folder: Path, n: int = 24, labelled: bool = True) -> Path:
    """A small corpus of tones with train and dev splits."""
    train = rows(sentences(n, 1), "train", seed=1, labelled=labelled)
    return write_features(folder, {"train": train, "dev": rows(sentences(6, 2), "dev", seed=2)})


@dataclass(frozen=True)
class TinyJob(Job):
    """A job whose inputs are given, wherever they lie."""

    given: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, list[Path]]:
        return self.given


def job(stage: str, folder: Path, inputs: dict[str, list[Path]], params: Params, method: str = "birq", seed: int = 0) -> Job:
    """A job in `folder`; its scratch stays, its output is fresh."""
    spec = dag.STAGES[stage]
    node = dag.Node(spec, {"method": method, "seed": str(seed)} if spec.wildcards else {}, params)
    n = len(list(folder.glob("out*"))) if folder.exists() else 0
    out, scratch = folder / f"out{n}", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    return TinyJob(node, "0" * 32, out, scratch, given=inputs)


def run_pretrain(folder: Path, features: Path, method: str = "birq", seed: int = 0, **changes: Any) -> Job:
    """A finished job of the pretrain stage."""
    j = job("pretrain", folder, {"features": [features]}, params(**changes), method, seed)
    pretrain.compute(j)
    return j


def pretrained(folder: Path, features: Path, method: str = "birq", seed: int = 0, **changes: Any) -> Path:
    """Folder of a pretrain artifact."""
    return run_pretrain(folder, features, method, seed, **changes).out


def finetune_job(folder: Path, encoder: Path, letters: Path, features: Path, **changes: Any) -> Job:
    """A job of the finetune stage."""
    return job("finetune", folder, {"pretrain": [encoder], "tokenizer": [letters], "features": [features]}, params(**changes))


def curve(folder: Path) -> list[dict[str, Any]]:
    """curve.jsonl as dicts."""
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def child_environment() -> dict[str, str]:
    """For `python -m birq` in another folder: this checkout, one thread."""
    env = {k: v for k, v in os.environ.items() if k not in ("BIRQ_STORE", "SNAKEMAKE_PROFILE")}
    return env | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[:1]]), "OMP_NUM_THREADS": "1"}


# ---- the model alone


def shape(**changes: Any) -> Shape:
    """A shape of 2 to 3 layers, width 16."""
    return Shape(**(params().model.shape | {"n_mels": N_MELS} | changes))


def objective(**changes: Any) -> Objective:
    """The constants of `SMALL`, `changes` on top."""
    p = params()
    return constants(objectives, numbers(p, METHODS["birq"]) | changes)


def pretrainer(seed: int = 0, n_layers: int = 2, **changes: Any) -> BiRq:
    """A pretrainer whose weights follow from the seed."""
    torch.manual_seed(seed)
    return BiRq(Encoder(shape(n_layers=n_layers)), objective(**changes), seed)


def batch(lengths: list[int], seed: int = 0, n_stack: int = 4) -> Batch:
    """Random features with slowly changing frames; lengths in stacked frames, padding exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    feats_BTF = torch.randn(len(lengths), max(lengths) * n_stack, N_MELS, generator=generator).cumsum(1) * 0.3
    for row, length in enumerate(lengths):
        feats_BTF[row] -= feats_BTF[row, : length * n_stack].mean(0)
        feats_BTF[row, length * n_stack :] = 0
    ids = [f"u{seed}-{i}" for i in range(len(lengths))]
    return Batch(feats_BTF, torch.tensor(lengths), ids, [None] * len(ids), np.arange(len(ids)), sum(lengths) * n_stack / 100)


def every_other(lengths: torch.Tensor | list[int], t: int | None = None) -> torch.Tensor:
    """A mask [B, T] of alternating pairs of frames; padding is not masked."""
    lengths_B = torch.as_tensor(lengths)
    t = int(lengths_B.max()) if t is None else t
    place_T = torch.arange(t)
    return (place_T // 2 % 2 == 0) & (place_T < lengths_B[:, None])


def noise(seed: int = 0) -> torch.Generator:
    """A generator for the fill and the Gumbel noise."""
    return torch.Generator().manual_seed(seed)
