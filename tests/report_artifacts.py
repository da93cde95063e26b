"""Artifacts of the stages before the report, small, in the form that a run leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from birq.evaluate import linear
from birq.evaluate.rates import beside, score_split
from birq.pipeline.artifact import sha256_json
from birq.settings.methods import METHODS
from birq.settings.params import Params, Score, load

SCORE = {"confidence": 0.95, "bootstrap_samples": 400, "seed": 0}
SEARCH = {"weight": 0.5, "bonus": 1.5, "beam": 32, "tuned_on": "dev", "lm": {"source": "transcripts", "order": 3, "words": 1357}}
SENTENCES = (
    "the second of july at four in berlin turn left and call seven nine two please stop near old bridge "
    "record eleven winter boats to oslo spell b r i q read it again"
)
N_LAYERS, CODES = 4, 256
# errors per word that the made-up recogniser makes
SKILL = {"birq": 0.28, "best_rq": 0.33, "scratch": 0.46}
SECONDS = {"birq": 260.0, "best_rq": 205.0, "scratch": 0.3}  # of pre-training


def params(**changes: Any) -> Params:
    """The tracked params.yaml with other methods or seeds, and without samples: the made-up features have no shards."""
    loaded = load(Path(__file__).parent.parent / "params.yaml")
    silent = loaded.report.model_copy(update={"audio_samples": 0})
    return loaded.model_copy(update={"run": loaded.run.model_copy(update=changes), "report": silent})


def _put(folder: Path, stage: str, wildcards: dict[str, str], seconds: float, notes: dict[str, Any], sections: dict[str, Any]) -> None:
    record = {
        "birq": "0.1.0",
        "stage": stage,
        "wildcards": wildcards,
        "key": sha256_json([stage, wildcards])[:32],
        "digest": "d" * 64,
        "parts": {"params": sections, "inputs": {}, "code": "c" * 64},
        "files": {},
        "wall_seconds": seconds,
        "notes": notes,
        "environment": {
            "host": "node<7>",
            "python": "3.11.9",
            "machine": "x86_64",
            "cpus": 2,
            "packages": {"torch": "2.13.0", "numpy": "2.2.0"},
            "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": stage == "probe"},
        },
    }
    (folder / "provenance.json").write_text(json.dumps(record), encoding="utf-8")


def _write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, value in files.items():
        lines = name.endswith("jsonl")
        (folder / name).write_text("".join(json.dumps(v) + "\n" for v in value) if lines else json.dumps(value), encoding="utf-8")
    return folder


def corpus(root: Path, name: str, synthetic: bool) -> tuple[Path, Path]:
    """A corpus artifact and its features."""
    sizes = {"train": (2500, 96, 4.2), "dev": (90, 12, 0.15), "test": (480, 12, 0.8)}
    splits = {
        s: {"utterances": n, "speakers": k, "hours": h, "labelled_utterances": n, "labelled_hours": h} for s, (n, k, h) in sizes.items()
    }
    info = {
        "name": name, "kind": "synth" if synthetic else "local", "synthetic": synthetic, "licence": "CC0", "source": "made up <here>",
        "audio_root": ".", "splits": splits, "quarantined": 3,
    }  # fmt: skip
    folder = _write(root / "data/corpus" / name, {"corpus.json": info})
    rows = [("a1", "a1.flac", "too short", "0.1 s"), ("a2", "a2.flac", "too short", "0.2 s"), ("a3", "a3.flac", "unreadable", "")]
    text = "id\tpath\treason\tdetail\n" + "".join("\t".join(r) + "\n" for r in rows)
    (folder / "quarantine.tsv").write_text(text, encoding="utf-8")
    _put(folder, "corpus", {"corpus": name}, 61.0, {"synthetic": synthetic}, {f"corpora.{name}": {"kind": info["kind"], "seed": 1}})
    framed = {s: v | {"frames": int(v["hours"] * 360_000), "shards": 5} for s, v in splits.items()}
    features = _write(root / "data/features" / name, {"splits.json": framed, "stats.json": {"n_frames": 1}})
    _put(features, "features", {"corpus": name}, 18.4, {"device": "cpu", "hours": 5.15}, {"features": {"n_mels": 80}})
    return folder, features


def _curve(method: str, rng: np.random.Generator, collapse: bool) -> list[dict[str, Any]]:
    lines = []
    for step in range(25, 2001, 25):
        fall = math.exp(-step / 500)
        anchor = 78 + rng.normal()
        enhanced = anchor * (0.62 + 0.25 * (1 - fall)) if not collapse else max(1.0, anchor * math.exp(-step / 60))
        line = {
            "step": step, "epoch": step // 250, "loss": 9 + 3 * fall, "anchor_loss": 3.9 + 1.4 * fall + 0.03 * rng.normal(),
            "masked_accuracy": 0.22 * (1 - fall) + 0.03, "anchor_perplexity": anchor, "anchor_used_share": 0.86,
            "gradient_norm": 1.2, "learning_rate": 0.002, "hours_seen": step / 60,
        }  # fmt: skip
        enhanced_keys = ("enhanced_loss", "label_fidelity", "enhanced_perplexity", "enhanced_used_share", "agreement", "gradient_cosine")
        line |= dict.fromkeys(enhanced_keys)
        if method == "birq":
            values = (4.2 + fall, 0.72 + 0.05 * fall, enhanced, 0.7, 0.02, None)
            line |= dict(zip(enhanced_keys, values, strict=True))
        lines.append(line)
    return lines


def _say(text: str, errors_per_word: float, rng: np.random.Generator) -> str:
    """A hypothesis: words are replaced, dropped or doubled."""
    out = []
    for word in text.split():
        luck = rng.random()
        if luck > errors_per_word:
            out.append(word)
        elif luck > 0.35 * errors_per_word:
            out.append(word[:-1] + rng.choice(list("aeiou")) if len(word) > 1 else "and")
        elif luck < 0.15 * errors_per_word:
            out += [word, "uh"]
    return " ".join(out)


def _decoded(split: str, n: int, speakers: int, skill: float, rng: np.random.Generator) -> pa.Table:
    words = np.random.default_rng(7)  # references are the same for every method
    texts = [" ".join(words.choice(SENTENCES.split(), words.integers(2, 14))) for _ in range(n)]
    hard = words.uniform(0.3, 1.7, speakers)
    return pa.table(
        {
            "id": [f"{split}-{i:04d}" for i in range(n)],
            "speaker": [f"en-gb+f{i % speakers}" for i in range(n)],
            "duration_s": [0.4 * len(t.split()) + 0.6 for t in texts],
            "text": texts,
            "hypothesis": [_say(t, skill * hard[i % speakers], rng) for i, t in enumerate(texts)],
        }
    )


def _counts(method: str, available: bool, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """utterances.parquet and confusions.parquet of the probe: 40 utterances of 50 frames, 4 speakers; every error is the next phone."""
    n, frames = 40, 50
    accuracy = {"birq": 0.53, "best_rq": 0.6, "scratch": 0.49}.get(method, 0.6)
    correct = [rng.random(n * frames) < accuracy - 0.02 * abs(layer - 3) for layer in range(N_LAYERS + 1)] if available else []
    ids = [f"dev-{i:03d}" for i in range(n)]
    phones = np.array(["AA", "B", "IY", "SIL"])[np.arange(n * frames) % 4]
    found = [np.where(right, phones, np.roll(phones, -1)) for right in correct]
    counts = linear.table(correct, np.repeat(np.arange(n), frames), ids, [f"s{i % 4}" for i in range(n)])
    return counts, linear.confusions(found, phones)


def _probe(method: str, available: bool, counts: pa.Table) -> dict[str, Any]:
    gain = {"birq": 0.06, "best_rq": 0.07, "scratch": 0.0}.get(method, 0.07)  # of PNMI
    rows = []
    accuracies = linear.figures(counts, Score(**SCORE)) if available else [dict.fromkeys(linear.KEYS)] * (N_LAYERS + 1)
    errors = {"abx_within": 0.16 - gain, "abx_across": 0.22 - gain, "kmeans_pnmi": 0.4, "kmeans_pnmi_floor": 0.09}
    for layer in range(N_LAYERS + 1):
        known = {"phone_purity": 0.30 + gain, "cluster_purity": 0.11, "pnmi": 0.2 + gain * layer / 2 - 0.015 * layer, "pnmi_floor": 0.077}
        rows.append(
            {"labels": "enhanced" if layer else "anchor", "layer": layer}
            | (known if available else dict.fromkeys(known))
            | (errors if available else dict.fromkeys(errors))
            | accuracies[layer]
            | {"effective_rank": 12.0 + layer, "repeat_share": 0.2}
            | {"perplexity": 70.0 - 3 * layer, "used_share": 0.8, "agreement": 0.4 if layer else None}
        )
    ranks = np.arange(1, CODES + 1)
    usage = {k: (w / w.sum()).tolist() for k, w in (("anchor", np.exp(-ranks / 40)), ("enhanced", np.exp(-ranks / 28)))}
    why = None if available else "no alignments of an4: name them in corpora.an4.alignments"
    about = {
        "available": available, "why_not": why, "train_utterances": 380, "train_minutes": 15.0, "unknown_frames": 0, "shared_speakers": 0,
        "speakers": 4, "why_no_speaker_interval": None,
    }  # fmt: skip
    abx = {"tokens": 2800, "phones": 39, "speakers": 4, "why_not_within": None, "why_not_across": None}
    return {
        "available": available, "why_not": why, "split": "dev", "frames": 21_000, "phones": 40, "codebook_size": CODES, "n_codebooks": 8,
        "label_layer": 3, "rows": rows, "usage": usage, "linear": about, "abx": abx if available else None, "clusters": CODES,
        "split_utterances": 40, "aligned_utterances": 40 if available else 0, "utterances": 40, "minutes": 9.2,
        "phone_frames": 21_000 if available else 0, "phone_repeat_share": 0.58 if available else None,
    }  # fmt: skip


def run(
    root: Path,
    name: str,
    seed: int,
    *,
    skill: float,
    collapse: bool = False,
    aligned: bool = True,
    n: int = 120,
    seconds: dict[str, float] | None = None,
    lm: bool = False,
) -> dict[str, Path]:
    """Artifacts of one method or variant (`birq_...`) and seed: pretrain, finetune, score, probe. seconds: of pre-training, by name."""
    method = name if name in METHODS else next(m for m in METHODS if name.startswith(m))
    rng = np.random.default_rng([seed, *name.encode()])
    who, wildcards = f"{name}-{seed}", {"method": name, "seed": str(seed)}
    curve = [] if method == "scratch" else _curve(method, rng, collapse)
    timing = [{"step": p["step"], "seconds": p["step"] * 0.1, "audio_hours_per_hour": 610.0 + p["step"] % 7} for p in curve]
    config = {
        "method": method, "seed": seed, "n_parameters": 1_284_352, "hours_unlabelled": 4.2,
        "model": {"n_layers": N_LAYERS, "d_model": 96, "n_stack": 4},
        "features": {"n_mels": 80, "frame_shift_ms": 10.0, "sample_rate_hz": 16000}, "pretrain": {"label_layer": 3},
    }  # fmt: skip
    out = {"pretrain": _write(root / "data/pretrain" / who, {"curve.jsonl": curve, "timing.jsonl": timing, "config.json": config})}
    took = (seconds or {}).get(name) or SECONDS[method]
    sections = {"pretrain": {"steps": 2000}, "model": config["model"]}
    _put(out["pretrain"], "pretrain", wildcards, took, {"device": "cpu", "threads": 1, "hours": 4.2, "steps": 2000}, sections)
    rise = 0.9 * SKILL.get(method, skill)
    tuned = [
        {
            "step": s, "loss": 3 * math.exp(-s / 300) + rise, "gradient_norm": 1.0, "learning_rate": 0.001,
            "dev_wer": rise + 0.5 * math.exp(-s / 300) if s % 200 == 0 else None,
            "dev_loss": rise + math.exp(-s / 300) if s % 200 == 0 else None,
        }
        for s in range(25, 1201, 25)
    ]  # fmt: skip
    out["finetune"] = _write(root / "data/finetune" / who, {"curve.jsonl": tuned, "config.json": {}})
    notes = {"device": "cpu", "labelled_hours": 1.0, "best_step": 1200}
    _put(out["finetune"], "finetune", wildcards, 190.2, notes, {"finetune": {"labelled_minutes": 60.0}})
    scores, tables = {}, []
    for split, size in (("dev", n // 2), ("test", n)):
        scores[split], table = score_split(split, _decoded(split, size, 6, skill, rng), Score(**SCORE))
        more = None
        if lm:
            figures, more = score_split(split, _decoded(split, size, 6, skill / 3, rng), Score(**SCORE))
            scores[split]["lm"] = figures | {"search": SEARCH}
        tables.append(beside(table, more))
    out["score"] = _write(root / "data/score" / who, {"scores.json": scores})
    pq.write_table(pa.concat_tables(tables), out["score"] / "utterances.parquet")
    _put(out["score"], "score", wildcards, 1.4, {}, {"score": SCORE})
    found, confused = _counts(method, aligned, rng)
    out["probe"] = _write(root / "data/probe" / who, {"probe.json": _probe(method, aligned, found)})
    pq.write_table(found, out["probe"] / "utterances.parquet")
    pq.write_table(confused, out["probe"] / "confusions.parquet")
    _put(out["probe"], "probe", wildcards, 6.8, {"device": "cpu"}, {"probe": {"split": "dev", "max_minutes": 15.0}})
    return out


def everything(
    root: Path, methods: dict[str, float], seeds: tuple[int, ...] = (0, 1), synthetic: bool = True, **options: Any
) -> dict[str, list[Path]]:
    """All inputs of the report. methods: name -> errors per word; options as in `run`."""
    folders = corpus(root, "synth", synthetic)
    inputs: dict[str, list[Path]] = {
        "corpus": [folders[0]],
        "features": [folders[1]],
        "pretrain": [],
        "finetune": [],
        "score": [],
        "probe": [],
    }
    for method, skill in methods.items():
        for seed in seeds:
            for stage, folder in run(root, method, seed, skill=skill, **options).items():
                inputs[stage].append(folder)
    return inputs
