"""The facts of the report, read once from the artifacts of the stages before it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.stuck import stuck
from birq.files import read_json
from birq.pipeline.artifact import own_seconds, read_provenance, seconds
from birq.settings.methods import METHODS, Method

# each has a contrast of 3 or more on white and on the dark page
PALETTE = ("#3b82d6", "#d9660a", "#2e9e5b", "#9b5de0", "#d6457f", "#1798a5", "#a3703a")
NO_PRETRAINING = "#78828f"


@dataclass(frozen=True)
class Run:
    """One method or variant with one seed: everything that its stages left."""

    name: str  # in run.methods: a method's name, or a variant's own
    method: Method
    seed: int
    config: dict[str, Any]  # of the encoder
    pretrain_curve: list[dict[str, Any]]
    finetune_curve: list[dict[str, Any]]
    speed_hours_per_hour: float | None  # of pre-training: audio heard per hour of wall time
    scores: dict[str, dict[str, Any]]  # by split, rates as fractions
    worst: list[dict[str, Any]]  # utterances of the main split, most errors first
    stuck: str | None  # what is wrong where it says the same for nearly all of them
    probe: dict[str, Any]
    provenance: dict[str, dict[str, Any]]  # by stage: pretrain, finetune, score, probe
    score_folder: Path
    probe_folder: Path

    @property
    def title(self) -> str:
        """`BiRQ`; of a variant `BiRQ (birq_k2)`."""
        return self.method.title if self.name == self.method.name else f"{self.method.title} ({self.name})"

    @property
    def pretrained(self) -> bool:
        return self.method.trains

    @property
    def unlabelled_hours(self) -> float:
        """Hours of speech heard without transcripts; an encoder that was not pre-trained heard none."""
        return float(self.provenance["pretrain"]["notes"].get("hours") or 0.0) if self.pretrained else 0.0

    @property
    def labelled_hours(self) -> float:
        return float(self.provenance["finetune"]["notes"].get("labelled_hours") or 0.0)

    def layer(self, number: int) -> dict[str, Any]:
        """The probe's figures of a layer; of one that the encoder lacks, none."""
        return next((row for row in self.probe["rows"] if row["layer"] == number), {})

    @property
    def dev_loss(self) -> float | None:
        """CTC loss on dev of the model that was kept, nats per character."""
        kept = self.provenance["finetune"]["notes"].get("best_step")
        return next((p.get("dev_loss") for p in self.finetune_curve if p["step"] == kept), None)

    def seconds(self, stage: str) -> float:
        """Wall time of a stage; of pre-training, with that of its labels and of the encoders that they, or its first weights, come from."""
        return (seconds if stage == "pretrain" else own_seconds)(self.provenance[stage])

    @property
    def label_seconds(self) -> float:
        """The part of the time of pre-training that went into labels and other encoders, before this one began; 0 where it needs none."""
        return self.seconds("pretrain") - own_seconds(self.provenance["pretrain"])


@dataclass(frozen=True)
class CorpusFacts:
    """One corpus and its features."""

    info: dict[str, Any]  # corpus.json
    quarantine: dict[str, int]  # reason -> recordings
    frames: dict[str, int]  # split -> log-mel frames
    provenance: dict[str, dict[str, Any]]  # by stage: corpus, features

    @property
    def name(self) -> str:
        return self.info["name"]


@dataclass(frozen=True)
class Facts:
    """All that the report is made of."""

    main_split: str
    probed_layer: int  # the layer of the primary measure of pre-training, birq.label_layer
    runs: list[Run]  # in the order of params.yaml
    corpora: list[CorpusFacts]
    finetune_corpora: list[str]
    pretrain_corpora: list[str]
    colours: dict[str, str] = field(default_factory=dict)  # by name, the same in the page and in all figures
    pipeline: str = ""  # the drawing, SVG
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # of WER of every pair of names, as `claims.with_cost` returns them
    probe_comparisons: list[dict[str, Any]] = field(default_factory=list)  # the same of the linear probe's accuracy

    @property
    def names(self) -> list[str]:
        """Methods and variants, in the order of params.yaml."""
        return list(dict.fromkeys(r.name for r in self.runs))

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(r.seed for r in self.runs))

    def runs_of(self, name: str) -> list[Run]:
        return [r for r in self.runs if r.name == name]

    def title(self, name: str) -> str:
        return self.runs_of(name)[0].title

    def rates(self, name: str, key: str = "wer") -> list[float | None]:
        """A rate on the main split by seed, as fractions."""
        return [r.scores[self.main_split][key] for r in self.runs_of(name)]

    def accuracies(self, name: str) -> list[float]:
        """The linear probe's accuracy at the primary layer by seed, as fractions; empty where a seed has none."""
        found = [r.layer(self.probed_layer).get("linear") for r in self.runs_of(name)]
        return [] if None in found else found

    def records(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and provenance of every artifact that the report reads."""
        out = [(f"{stage}/{c.name}", c.provenance[stage]) for stage in ("corpus", "features") for c in self.corpora]
        stages = ("pretrain", "finetune", "score", "probe")
        return out + [(f"{stage}/{r.name}-{r.seed}", r.provenance[stage]) for stage in stages for r in self.runs]

    @property
    def score_params(self) -> dict[str, Any]:
        """confidence, bootstrap_samples and seed, with which the scores were made: the paired tests use the same."""
        return self.runs[0].provenance["score"]["parts"]["params"]["score"]

    @property
    def synthetic(self) -> list[bool]:
        """For each corpus that is scored: was its speech synthesised?"""
        return [bool(c.info.get("synthetic")) for c in self.corpora if c.name in self.finetune_corpora]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A curve: one JSON object per line; no file and an empty file are an empty curve."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as e:
        raise BirqError(f"{path}: a line is not readable as JSON ({e}); delete {path.parent} and run again") from None


def _quarantine(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as f:
        return dict(Counter(row["reason"] for row in csv.DictReader(f, delimiter="\t")).most_common())


def _by_run(folders: list[Path]) -> dict[tuple[str, int], tuple[Path, dict[str, Any]]]:
    """By the folder's name: a provenance names the run that made the artifact, and a variant may share it."""
    out = {}
    for folder in folders:
        name, _, seed = folder.name.rpartition("-")
        out[name, int(seed)] = (folder, read_provenance(folder))
    return out


def _utterances(folder: Path, split: str) -> list[dict[str, Any]]:
    rows = pq.read_table(folder / "utterances.parquet", filters=[("split", "==", split)]).to_pylist()
    return sorted(rows, key=lambda r: (-r["errors"], r["id"]))


def _speed(timing: list[dict[str, Any]]) -> float | None:
    values = sorted(t["audio_hours_per_hour"] for t in timing if t.get("audio_hours_per_hour"))
    return values[len(values) // 2] if values else None


def _method(config: dict[str, Any], folder: Path) -> Method:
    if config.get("method") not in METHODS:
        raise BirqError(f"{folder}/config.json: unknown method {config.get('method')!r}, birq has {', '.join(METHODS)}; update birq")
    return METHODS[config["method"]]


def _run(who: tuple[str, int], artifacts: dict[str, dict], main_split: str, worst: int) -> Run:
    folders = {stage: artifacts[stage][who][0] for stage in artifacts}
    config = read_json(folders["pretrain"] / "config.json")
    scores = read_json(folders["score"] / "scores.json")
    if main_split not in scores:
        raise BirqError(
            f"{folders['score']}/scores.json: no split {main_split!r}, it has {sorted(scores)}; set report.main_split to one of them"
        )
    rows = _utterances(folders["score"], main_split)
    return Run(
        name=who[0],
        method=_method(config, folders["pretrain"]),
        seed=who[1],
        config=config,
        pretrain_curve=read_lines(folders["pretrain"] / "curve.jsonl"),
        finetune_curve=read_lines(folders["finetune"] / "curve.jsonl"),
        speed_hours_per_hour=_speed(read_lines(folders["pretrain"] / "timing.jsonl")),
        scores=scores,
        worst=rows[:worst],
        stuck=stuck([r["text"] for r in rows], [r["hypothesis"] for r in rows]),
        probe=read_json(folders["probe"] / "probe.json"),
        provenance={stage: artifacts[stage][who][1] for stage in artifacts},
        score_folder=folders["score"],
        probe_folder=folders["probe"],
    )


def _colours(runs: list[Run]) -> dict[str, str]:
    pretrained = list(dict.fromkeys(r.name for r in runs if r.pretrained))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(pretrained)}
    return {r.name: colours.get(r.name, NO_PRETRAINING) for r in runs}


def gather(
    inputs: dict[str, list[Path]],
    main_split: str,
    worst: int,
    pretrain_corpora: list[str],
    finetune_corpora: list[str],
    probed_layer: int,
) -> Facts:
    """Read the artifacts that the report stands on.

    inputs: folders by stage, as in `Job.inputs`. worst: how many utterances to keep per run. probed_layer: of the primary measure.
    Errors: BirqError for a file that is missing or damaged, and for a split that was not scored.
    """
    artifacts = {stage: _by_run(inputs[stage]) for stage in ("pretrain", "finetune", "score", "probe")}
    features = {r["wildcards"]["corpus"]: (f, r) for f, r in ((f, read_provenance(f)) for f in inputs["features"])}
    corpora = []
    for folder in inputs["corpus"]:
        info = read_json(folder / "corpus.json")
        feature_folder, feature_record = features[info["name"]]
        frames = {split: s["frames"] for split, s in read_json(feature_folder / "splits.json").items()}
        provenance = {"corpus": read_provenance(folder), "features": feature_record}
        corpora.append(CorpusFacts(info, _quarantine(folder / "quarantine.tsv"), frames, provenance))
    runs = [_run(who, artifacts, main_split, worst) for who in artifacts["score"]]
    return Facts(main_split, probed_layer, runs, corpora, finetune_corpora, pretrain_corpora, _colours(runs))
