"""The pretrain stage: unlabelled log-mel in, an encoder out."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import Any

import torch

from birq.model.encoder import Shape
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.speech.shards import open_split, read_front_end
from birq.train.distributed import join, leave
from birq.train.loop import CURVES, Training, adamw
from birq.train.pretraining import PretrainTask, Watched, build, constants, pretraining_feed
from birq.train.runtime.devices import for_training
from birq.train.runtime.hardware import prepare
from birq.train.schedule import warmup_cosine


def compute(job: Job) -> None:
    """Pre-train one method with one seed. A method that predicts nothing publishes the encoder as it was drawn: all have the same DAG."""
    method, seed = job.method, int(job.wildcards["seed"])
    module = importlib.import_module(method.module)
    values = {k: v for dotted in method.sections for k, v in _values(job, dotted).items()}
    model_section = job.read("model").model_dump(mode="json")
    folders = job.inputs["features"]
    split = open_split(folders, "train")
    front_end = read_front_end(folders, split, model_section["n_stack"])
    objective = constants(module, values)
    device = for_training(values["cpu_threads"], job.notes) if method.trains else torch.device("cpu")
    group = join(device)
    model = build(module, Shape(**model_section, n_mels=front_end.n_mels), objective, seed, values.get("dropout", 0.0)).to(device)
    hours = float(split.duration_s.sum()) / 3600 if method.trains else 0.0
    config = {
        "method": method.name,
        "seed": seed,
        "model": model_section,
        "objective": asdict(objective),
        "n_parameters": sum(p.numel() for p in model.encoder.parameters()),
        "hours_unlabelled": round(hours, 4),
    } | front_end.config()
    job.notes.update(hours=config["hours_unlabelled"], steps=0, n_parameters=config["n_parameters"])
    if method.trains:
        section = job.read("pretrain")
        job.notes["settings"] = prepare(model.encoder)
        feed = pretraining_feed(split, front_end, section, seed, group)
        mean_frames = float(split.n_frames.mean()) / front_end.n_stack
        watched = Watched(**{k: values[k] for k in Watched.__dataclass_fields__ if k in values})
        task = PretrainTask(model, section, job.name, device, seed, front_end.frame_shift_ms, group, mean_frames, watched)
        optimiser = adamw([{"params": list(model.parameters())}], section)
        schedule = warmup_cosine(section.steps, section.warmup_steps, section.final_rate_share)
        position = Training(job, model, optimiser, schedule, feed, task, section, seed).run()
        job.notes.update(steps=position.step, hours_seen=position.audio_seconds / 3600, train_seconds=position.seconds)
    leave()
    if group.writes:
        for file in () if method.trains else CURVES:
            (job.out / file).touch()
        encoder.save(job.out, model, config)


def _values(job: Job, dotted: str) -> dict[str, Any]:
    """A section's keys and values, or those of a single key."""
    value = job.read(dotted)
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else {dotted.rpartition(".")[2]: value}
