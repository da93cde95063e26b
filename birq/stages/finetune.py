"""The finetune stage: an encoder and a little transcribed speech in, a CTC recogniser out."""

from __future__ import annotations

import torch

from birq.model.ctc import CtcModel
from birq.model.encoder import Block, Encoder
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.saved.recogniser import Recogniser
from birq.settings.params import Finetune
from birq.speech.shards import open_split
from birq.text import tokenizer as tokens
from birq.train.distributed import joined
from birq.train.epochs import resolved
from birq.train.finetuning import FinetuneTask, labelled
from birq.train.loop import Training, adamw, feed_of
from birq.train.runtime.devices import for_training
from birq.train.runtime.hardware import prepare
from birq.train.schedule import tri_stage


def compute(job: Job) -> None:
    """Fine-tune one method's encoder with one seed; the checkpoint with the best dev WER is published."""
    seed, section = int(job.wildcards["seed"]), job.read("finetune")
    pretrained = encoder.load(job.input("pretrain"))
    tokenizer, front_end = tokens.load(job.input("tokenizer")), pretrained.front_end
    split, dev = (open_split(job.inputs["features"], name) for name in ("train", "dev"))
    device = for_training(section.cpu_threads, job.notes)
    with joined(device) as group:
        # the labelled subset is the same for every method and seed: methods are compared on the same speech
        index = labelled(split, section, tokenizer, front_end.n_stack, seed=0, group=group)
        section = resolved(job, section, split, index, front_end, group)
        model = _model(pretrained.encoder, tokenizer.size, section, seed).to(device)
        job.notes["settings"] = prepare(model.encoder)
        feed = feed_of(split, index, front_end, section, seed, group)
        task = FinetuneTask(model, tokenizer, front_end, section, dev, job.scratch, device, group)
        layers = [
            {"params": list(model.encoder.parameters())},
            {"params": list(model.head.parameters()), "rate_factor": section.head_rate_factor},
        ]
        shares = (section.warmup_share, section.hold_share, section.final_rate_share)
        schedule = tri_stage(section.steps, *shares, section.anneal_stairs)
        position = Training(job, model, adamw(layers, section), schedule, feed, task, section, seed).run()
    if not group.writes:
        return
    task.take_best()
    hours = float(split.duration_s[index].sum()) / 3600
    config = {k: pretrained.config[k] for k in ("method", "seed", "model", "hours_unlabelled")} | front_end.config()
    config |= {"labelled_hours": round(hours, 4), "best_step": task.best_step}
    Recogniser(model, tokenizer, front_end, config).save(job.out)
    job.notes.update(labelled_hours=hours, labelled_utterances=len(index), steps=position.step)
    job.notes.update(best_step=task.best_step, train_seconds=position.seconds)


def _model(pretrained: Encoder, n_tokens: int, section: Finetune, seed: int) -> CtcModel:
    """A pre-trained encoder with a CTC layer; its top layers begin anew where params say so."""
    torch.manual_seed(seed)
    pretrained.dropout = section.dropout
    shape = pretrained.shape
    for i in range(shape.n_layers - section.reset_layers, shape.n_layers):
        pretrained.blocks[i] = Block(shape)
    return CtcModel(pretrained, n_tokens)
