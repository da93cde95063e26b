"""The pretrain stage: unlabelled log-mel in, an encoder out."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Any

from birq import ranks
from birq.files import read_json
from birq.model.encoder import Shape
from birq.model.quantized import build, constants
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.speech.shards import open_split, read_front_end


def compute(job: Job) -> None:
    """Pre-train one method with one seed. A method that predicts nothing publishes the encoder as it was drawn: all have the same DAG.

    The method's modules are imported by name, so that each method is keyed by its own code.
    """
    method, seed = job.method, int(job.wildcards["seed"])
    module = importlib.import_module(method.module)
    values = {k: v for dotted in method.sections for k, v in _values(job, dotted).items()}
    if method.labels_from:
        facts = read_json(job.input("labels") / "labels.json")
        values |= {"label_codebooks": facts["n_codebooks"], "label_codebook_size": facts["codebook_size"]}
    model_section = job.read("model")
    folders = job.inputs["features"]
    split = open_split(folders, "train")
    front_end = read_front_end(folders, split, model_section.n_stack, model_section.input_mean)
    objective = constants(module, values)
    model = build(module, Shape(**model_section.shape, n_mels=front_end.n_mels), objective, seed, values.get("dropout", 0.0))
    config = {
        "method": method.name,
        "seed": seed,
        "model": model_section.shape,
        "objective": asdict(objective),
        "n_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "hours_unlabelled": round(float(split.duration_s.sum()) / 3600, 4) if method.task else 0.0,
    } | front_end.config()
    job.notes.update(hours=config["hours_unlabelled"], steps=0, n_parameters=config["n_parameters"])
    if method.task:
        importlib.import_module(method.task).train(job, model, split, front_end, values)
    if ranks.rank() == 0:
        encoder.save(job.out, model, config)


def _values(job: Job, dotted: str) -> dict[str, Any]:
    """A section's keys and values, or those of a single key; through `job.read`, which refuses undeclared ones."""
    value = job.read(dotted)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else {dotted.rpartition(".")[2]: value}
