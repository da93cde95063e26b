"""The cost of a run, before it runs: disk, memory, time, jobs. docs/scale.md has the formulas in words.

Nothing is read but params.yaml and, where they are there, the features' lengths. Operations come from birq/train/runtime/flops.py.
How much of a card's peak they reach is an assumption (`mfu`) until `--measure` has timed steps on the machine at hand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

from birq.corpora import manifests
from birq.downloads import verb
from birq.errors import BirqError
from birq.model.encoder import Shape, count_parameters
from birq.model.masking import span_frames, stacked_start_probability
from birq.pipeline import dag
from birq.pipeline.dag import Node
from birq.settings.params import Params
from birq.speech.shards import open_split
from birq.study.lengths import lengths_in_steps, librispeech_hours
from birq.study.measure import device_here, largest_micro_batch, measure
from birq.study.memory import GIB, activations_gib, weights_gib
from birq.study.objective import objective as objective_of
from birq.train.runtime.flops import TRAINING, encoder_per_frame, pretraining_per_frame
from birq.train.runtime.hardware import PEAK_TFLOPS, card

# Hours of audio per hour of one core, FLAC to Parquet: benchmarks/results/features.json (another processor has another rate)
FEATURE_HOURS_PER_CORE_HOUR = 2800.0
TYPICAL_SECONDS = 12.0  # of an utterance, where no features say it
CHECKPOINT_BYTES = 12  # without the gradient; two checkpoints are kept


@dataclass(frozen=True)
class Machine:
    """Assumptions about the machines; bandwidths are those that one GPU sees in an all-reduce."""

    gpu: str = "H200"
    mfu: float = 0.15
    gpus_per_node: int = 8
    node_gb_per_second: float = 300.0  # NVLink
    network_gb_per_second: float = 50.0  # 400 Gb/s
    price_per_gpu_hour: float | None = None
    mfu_measured: bool = False

    @property
    def flops_per_second(self) -> float:
        if self.gpu not in PEAK_TFLOPS:
            raise BirqError(f"--gpu {self.gpu}: not known; legal: {', '.join(PEAK_TFLOPS)}")
        return PEAK_TFLOPS[self.gpu] * 1e12 * self.mfu

    def all_reduce_seconds(self, n_bytes: float, n_gpus: int) -> float:
        """A ring: every GPU sends and receives 2 (n − 1) / n of the bytes, over the slowest link on its way."""
        if n_gpus == 1:
            return 0.0
        speed = self.node_gb_per_second if n_gpus <= self.gpus_per_node else self.network_gb_per_second
        return 2 * (n_gpus - 1) / n_gpus * n_bytes / (speed * 1e9)


@dataclass(frozen=True)
class Training:
    """One training of a method with a seed."""

    name: str
    steps: int
    audio_hours: float  # of all passes together
    flops: float
    n_parameters: int
    weight_gib: float  # weights, optimiser
    activation_gib: float  # of a micro-batch on one GPU
    disk_gib: float

    def hours(self, n_gpus: int, machine: Machine) -> float:
        """Wall time on n GPUs: compute shared evenly, then the sum of gradients, which birq does not overlap with the backward pass."""
        reduce = self.steps * machine.all_reduce_seconds(4 * self.n_parameters, n_gpus)
        return (self.flops / n_gpus / machine.flops_per_second + reduce) / 3600


@dataclass(frozen=True)
class Plan:
    """Figures of a run."""

    corpus_hours: dict[str, float]
    utterance_seconds: float  # mean
    longest_seconds: float
    feature_gib: float
    feature_core_hours: float
    trainings: list[Training]
    jobs: dict[str, int]
    n_parameters: int
    downloads: str  # what is missing of corpora and language model, in bytes


def corpus_hours(params: Params, given: dict[str, float]) -> dict[str, float]:
    """Hours of every corpus: as given, else from its features or its cuts, else from the published size.

    Errors: BirqError where none is known, or where a corpus is named that params.yaml does not have.
    """
    if unknown := set(given) - set(params.corpora):
        raise BirqError(f"--hours {sorted(unknown)[0]}: not in corpora; legal: {', '.join(params.corpora)}")
    out = {}
    for name, corpus in params.corpora.items():
        if name in given:
            out[name] = given[name]
        elif (folder := Path("data/features") / name).exists():
            out[name] = sum(float(open_split([folder], s).duration_s.sum()) for s in ("train", "dev", "test")) / 3600
        elif (folder := Path("data/corpus") / name / "corpus.json").exists():
            out[name] = sum(split["hours"] for split in manifests.info(folder.parent)["splits"].values())
        elif corpus.kind == "synth":
            out[name] = corpus.train_hours + corpus.dev_hours + corpus.test_hours
        elif corpus.kind == "librispeech":
            out[name] = librispeech_hours([*corpus.train_parts, *corpus.dev_parts, *corpus.test_parts])
        elif corpus.kind == "an4":
            out[name] = 0.9
        elif corpus.kind == "yodas" and corpus.hours:
            out[name] = corpus.hours
        else:
            raise BirqError(f"how long corpus {name} is, nobody knows yet: run `birq corpus --corpus {name}`, or say --hours {name}=HOURS")
    return out


def planned(node: Node, utterance_seconds: float, longest_seconds: float, hours: dict[str, float]) -> Training | None:
    """The training of a node; None where nothing is trained. Its work is that of usual utterances, its memory that of the longest ones.

    `hours`: of the corpora, by name; a length in epochs follows from them.
    """
    p, method = node.params, node.method
    f, m = p.features, p.model
    shape = Shape(**m.shape, n_mels=f.n_mels)
    frames_per_second = 1000 / (f.frame_shift_ms * m.n_stack)
    n_frames, n_parameters = utterance_seconds * frames_per_second, count_parameters(shape)
    section = lengths_in_steps(p, node.stage.name, hours, utterance_seconds)
    if node.stage.name == "pretrain":
        if method is None or not method.trains:
            return None
        start = stacked_start_probability(p.pretrain.mask_start_probability, m.n_stack)
        masked = 1 - (1 - start) ** span_frames(p.pretrain.mask_span_ms, f.frame_shift_ms, m.n_stack)
        objective = objective_of(p, method)
        per_frame = pretraining_per_frame(shape, objective, n_frames, masked)
        n_weights = n_parameters + (m.d_model + 1) * prod(objective.label_sizes)
        n_saved = 1 + 2 * len(p.pretrain.snapshots)  # in the work folder too
    else:
        masked, objective, n_weights, n_saved = 0.0, None, n_parameters, 1
        per_frame = TRAINING * encoder_per_frame(shape, m.n_layers, n_frames)
    audio_seconds = section.steps * section.batch_seconds
    held = (section.micro_batch_seconds * frames_per_second, longest_seconds * frames_per_second, section.dropout, objective, masked)
    return Training(
        name=node.name,
        steps=section.steps,
        audio_hours=audio_seconds / 3600,
        flops=per_frame * audio_seconds * frames_per_second,
        n_parameters=n_parameters,
        weight_gib=weights_gib(n_weights, ceil(section.batch_seconds / section.micro_batch_seconds)),
        activation_gib=activations_gib(shape, *held),
        disk_gib=(4 * n_saved + 2 * CHECKPOINT_BYTES) * n_parameters / GIB,
    )


def make(params: Params, given_hours: dict[str, float], *, study: bool = False) -> Plan:
    """Every figure that depends on params alone, of what the report compares, or of the study. Errors: as `corpus_hours`; no study."""
    nodes = dag.upstream(dag.node("study", {}, params)) if study else dag.nodes(params)
    f, m = params.features, params.model
    shape = Shape(**m.shape, n_mels=f.n_mels)
    hours = corpus_hours(params, given_hours)
    used = {c for role in ("pretrain", "finetune") for c in dag.corpora_for(role, params)}
    total_hours = sum(h for name, h in hours.items() if name in used)
    frames_per_hour = 3600 * 1000 / f.frame_shift_ms
    utterance_seconds, longest_seconds = _utterance_seconds(params)
    trainings = [t for node in nodes if node.stage.ranks and (t := planned(node, utterance_seconds, longest_seconds, hours))]
    return Plan(
        corpus_hours={name: h for name, h in hours.items() if name in used},
        utterance_seconds=utterance_seconds,
        longest_seconds=longest_seconds,
        feature_gib=total_hours * frames_per_hour * f.n_mels * (2 if f.storage == "int16" else 4) / GIB,
        feature_core_hours=total_hours / FEATURE_HOURS_PER_CORE_HOUR,
        trainings=trainings,
        jobs=dict(Counter(node.stage.name for node in nodes)),
        n_parameters=count_parameters(shape),
        downloads=verb.sizes(params),
    )


def _utterance_seconds(params: Params) -> tuple[float, float]:
    """Mean and longest."""
    folders = [Path("data/features") / c for c in dag.corpora_for("pretrain", params)]
    if not all(folder.exists() for folder in folders):
        return min(TYPICAL_SECONDS, params.features.max_seconds), params.features.max_seconds
    durations = open_split(folders, "train").duration_s
    return float(durations.mean()), float(durations.max())


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.0f} days"


def _gib(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 or gib == 0 else f"{1024 * gib:.0f} MiB"


def measured(params: Params, plan: Plan, machine: Machine, *, tune: bool) -> tuple[Machine, list[str]]:
    """Time steps of every method here. Returns the machine with the measured share of peak, if it has one, and the lines to print.

    Errors: BirqError as `largest_micro_batch`.
    """
    device, section, lines = device_here(params.pretrain), params.pretrain, []
    for method in (m for m in params.run.methods if params.method(m).trains):
        if tune:
            timed = largest_micro_batch(params, method, plan.longest_seconds, device)
            lines.append(f"{method}: pretrain.micro_batch_seconds up to {timed.micro_batch_seconds:.0f} fits {timed.device}")
        else:
            timed = measure(params, method, section.micro_batch_seconds, plan.utterance_seconds, device)
        training = next(t for t in plan.trainings if t.name.startswith(f"pretrain/{method}-"))
        whole = training.audio_hours / timed.audio_hours_per_hour
        share = f", {100 * timed.mfu:.1f} % of peak" if timed.mfu else ""
        lines.append(
            f"{method}: {timed.seconds_per_step:.3f} s for {timed.micro_batch_seconds:.0f} s of audio ({timed.device}, "
            f"{timed.audio_hours_per_hour:,.0f} h of audio per hour{share}), at most {_gib(timed.peak_gib)} held; "
            f"{training.steps:,d} steps here: {_time(whole)}"
        )
        if timed.mfu:
            machine = replace(machine, mfu=timed.mfu, mfu_measured=True, gpu=card(timed.device) or machine.gpu)
    return machine, lines


def text(plan: Plan, machine: Machine, n_gpus: list[int], measured: list[str]) -> str:
    """The plan as it is printed."""
    corpora = ", ".join(f"{name} {hours:,.1f} h" for name, hours in plan.corpus_hours.items())
    lines = [
        f"corpora     {corpora}; utterances of {plan.utterance_seconds:.1f} s",
        f"features    {_gib(plan.feature_gib)} on disk, {_time(plan.feature_core_hours)} of one core; audio comes on top",
        *([f"downloads   {plan.downloads}"] if plan.downloads else []),
        f"encoder     {plan.n_parameters / 1e6:.1f} M parameters",
        f"jobs        {sum(plan.jobs.values())}: " + ", ".join(f"{n} {stage}" for stage, n in plan.jobs.items()),
        "",
        f"{'training':24s}{'steps':>10s}{'audio':>14s}{'GPU memory':>12s}{'disk':>10s}" + "".join(f"{f'{n} GPU':>12s}" for n in n_gpus),
    ]
    for t in plan.trainings:
        cells = f"{t.steps:>10,d}{t.audio_hours:>12,.0f} h{_gib(t.weight_gib + t.activation_gib):>12s}{_gib(t.disk_gib):>10s}"
        lines.append(f"{t.name:24s}{cells}" + "".join(f"{_time(t.hours(n, machine)):>12s}" for n in n_gpus))
    totals = [sum(t.hours(n, machine) for t in plan.trainings) for n in n_gpus]
    disk = plan.feature_gib + sum(t.disk_gib for t in plan.trainings)
    lines.append(f"{'all, one after another':24s}{'':24s}{'':>12s}{_gib(disk):>10s}" + "".join(f"{_time(h):>12s}" for h in totals))
    lines.append(f"{'GPU-hours':70s}" + "".join(f"{n * h:>12,.1f}" for n, h in zip(n_gpus, totals, strict=True)))
    if machine.price_per_gpu_hour is not None:
        costs = (n * h * machine.price_per_gpu_hour for n, h in zip(n_gpus, totals, strict=True))
        lines.append(f"{'cost':70s}" + "".join(f"{cost:>12,.0f}" for cost in costs))
    source = "as measured here" if machine.mfu_measured else "an assumption (--mfu); --measure times steps here"
    lines += [
        "",
        f"Time: the objective's operations at {100 * machine.mfu:.0f} % of one {machine.gpu}'s dense bf16 peak, {source};",
        f"gradients summed at {machine.node_gb_per_second:.0f} GB/s in a node of {machine.gpus_per_node} GPUs, at "
        f"{machine.network_gb_per_second:.0f} GB/s over nodes.",
        f"Memory: weights, optimiser, activations of one micro-batch of the longest utterances ({plan.longest_seconds:.0f} s) on one GPU;",
        "n GPUs share it. The allocator's own loss comes on top: leave a tenth of the card.",
    ]
    return "\n".join([*lines, *([""] if measured else []), *measured])
