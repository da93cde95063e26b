"""How long the whole of a run takes on this machine, roughly: steps are timed here, the rest is in proportion to them.

The proportions are those of the demo on two idle cores (benchmarks/results/demo.json). They hold for a small run on a CPU: an estimate.
"""

from __future__ import annotations

import os

import torch

from birq.pipeline import dag, keys
from birq.pipeline.dag import Node
from birq.settings.decoding import with_lm
from birq.settings.params import Params
from birq.study.lengths import lengths_in_steps
from birq.study.measure import device_here, measure

UTTERANCE_SECONDS = 9.0  # of the steps that are timed
# seconds of audio that BEST-RQ trains on in the time of: fine-tuning on one second, dev sets included
FINETUNED_SECOND = 1.1
PROBED_RUN, DECODED_RUN, SEARCHED_RUN = 5600.0, 1500.0, 800.0  # a probe; decoding and scoring; the search with a language model
PROBED_SNAPSHOT = 0.4  # of the time of a probe
SPOKEN_HOUR, FEATURES_HOUR = 7400.0, 1500.0  # synthesis of an hour; log-mel of an hour
JOB_SECONDS, REPORT_SECONDS = 2.5, 12.0  # start and end of a process; figures and page


def seconds_of_steps(params: Params, runs: list[Node]) -> dict[str, float]:
    """Seconds of a step of every one of these pre-trainings, by name, and of BEST-RQ's: timed here."""
    out = {}
    for name in dict.fromkeys(("best_rq", *(n.wildcards["method"] for n in runs if n.method and n.method.trains))):
        section = params.of_run(name).pretrain
        timed = measure(params, name, section.micro_batch_seconds, UTTERANCE_SECONDS, device_here(section))
        out[name] = timed.seconds_per_step * section.batch_seconds / timed.micro_batch_seconds
    return out


def _seconds(node: Node, steps: dict[str, float], hours: dict[str, float]) -> float:
    """Of one process on one core, or on the GPU."""
    audio_second = steps["best_rq"] / node.project.pretrain.batch_seconds
    match node.stage.name:
        case "pretrain" if node.method and node.method.trains:
            return lengths_in_steps(node.params, "pretrain", hours, UTTERANCE_SECONDS).steps * steps[node.wildcards["method"]]
        case "finetune":
            section = lengths_in_steps(node.params, "finetune", hours, UTTERANCE_SECONDS)
            return section.steps * section.batch_seconds * FINETUNED_SECOND * audio_second
        case "corpus" if node.project.corpora[node.wildcards["corpus"]].kind == "synth":
            return SPOKEN_HOUR * hours[node.wildcards["corpus"]] * audio_second
        case "features":
            return FEATURES_HOUR * hours[node.wildcards["corpus"]] * audio_second
        case "probe" if node.method and node.method.trains:
            return PROBED_RUN * (1 + PROBED_SNAPSHOT * len(node.params.pretrain.snapshots)) * audio_second
        case "report":
            return REPORT_SECONDS
        case "search" if not with_lm(node.project.lm, node.project.tokenizer.alphabet):
            return 0.0
        case stage:
            return {"probe": PROBED_RUN, "decode": DECODED_RUN, "search": SEARCHED_RUN}.get(stage, 0.0) * audio_second


def wall_seconds(nodes: list[Node], steps: dict[str, float], hours: dict[str, float], cores: int, *, gpu: bool) -> float:
    """Of all these nodes. steps: seconds of a step by name; hours: of speech by corpus.

    Runs share the cores, or take turns on a GPU, and no more of them are at work than there are.
    """
    spread = {True: 0.0, False: 0.0}
    for node in nodes:
        spread[node.method is not None] += _seconds(node, steps, hours) + JOB_SECONDS
    at_once = 1 if gpu else min(cores, len({n.run for n in nodes if n.method}) or 1)
    return spread[False] / cores + spread[True] / at_once


def line(params: Params, hours: dict[str, float], cores: int | None) -> str:
    """The estimate for what is not in place, in one line. cores: None for all that this process may use."""
    cores = cores or len(os.sched_getaffinity(0))
    nodes = [n for n in dag.nodes(params) if not keys.in_place(n)]
    if not nodes:
        return "everything is in place: `snakemake` has nothing to compute"
    steps = seconds_of_steps(params, [n for n in nodes if n.stage.name == "pretrain"])
    gpu = torch.cuda.is_available()
    minutes = wall_seconds(nodes, steps, hours, cores, gpu=gpu) / 60
    return (
        f"about {max(1, round(minutes))} min from here on, with {'the GPU' if gpu else f'{cores} core' + 's' * (cores > 1)}: "
        f"a step of BEST-RQ takes {steps['best_rq']:.2f} s on this machine as it is now"
    )
