"""The stages: what each reads, writes and depends on. Snakefile and dvc.yaml say the same, and a test holds all three equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from birq.params import Params


@dataclass(frozen=True)
class Stage:
    """One stage = one verb = one Snakemake rule = one DVC stage."""

    name: str
    code: str  # module whose `compute(job)` does the work; its imports within birq are the stage's code
    sections: tuple[str, ...]  # params that the stage may read; wildcards in braces
    inputs: tuple[str, ...]  # artifacts: "stage/wildcards", "+" in front: one per value of the wildcard
    wildcards: tuple[str, ...] = ()
    ranks: bool = False  # several processes may compute it together

    @property
    def pattern(self) -> str:
        """`data/<stage>/<wildcards>`, the artifact's folder."""
        tail = "-".join("{" + w + "}" for w in self.wildcards)
        return f"data/{self.name}/{tail}" if tail else f"data/{self.name}"


RUN = ("method", "seed")

STAGES: dict[str, Stage] = {
    s.name: s
    for s in (
        Stage("corpus", "birq.corpora.prepare", ("corpora.{corpus}", "features", "tokenizer.alphabet"), (), ("corpus",)),
        Stage("features", "birq.features", ("features",), ("corpus",), ("corpus",)),
        Stage("tokenizer", "birq.tokenizer", ("tokenizer", "run.finetune_corpora"), ("+features:finetune",)),
        Stage(
            "pretrain",
            "birq.train.pretrain",
            ("model", "pretrain", "features", "run.pretrain_corpora"),
            ("+features:pretrain",),
            RUN,
            ranks=True,
        ),
        Stage(
            "finetune",
            "birq.train.finetune",
            ("finetune", "run.finetune_corpora"),
            ("pretrain", "tokenizer", "+features:finetune"),
            RUN,
            ranks=True,
        ),
        Stage("decode", "birq.evaluate.decode", ("decode", "run.finetune_corpora"), ("finetune", "+features:finetune"), RUN),
        Stage("score", "birq.evaluate.score", ("score",), ("decode",), RUN),
        Stage(
            "probe",
            "birq.evaluate.probe",
            ("probe", "run.finetune_corpora"),
            ("pretrain", "+features:finetune", "+corpus:finetune"),
            RUN,
        ),
        Stage(
            "report",
            "birq.report.build",
            ("report", "run"),
            ("+corpus:all", "+features:all", "+pretrain", "+finetune", "+score", "+probe"),
        ),
    )
}


def corpora_for(role: str, params: Params) -> list[str]:
    """Names of the corpora that play a role: `pretrain`, `finetune` or `all`."""
    if role == "all":
        return list(params.corpora)
    return list(getattr(params.run, f"{role}_corpora"))


def artifact(stage: str, wildcards: dict[str, str]) -> Path:
    """Folder of an artifact, relative to the project."""
    return Path(STAGES[stage].pattern.format(**wildcards))


def sections(stage: str, wildcards: dict[str, str]) -> list[str]:
    """The params that the stage reads, wildcards filled in."""
    return [s.format(**wildcards) for s in STAGES[stage].sections]


def inputs(stage: str, wildcards: dict[str, str], params: Params) -> dict[str, list[Path]]:
    """The artifacts that the stage reads: stage name -> folders, in the order of params.yaml."""
    out: dict[str, list[Path]] = {}
    for spec in STAGES[stage].inputs:
        name, _, role = spec.removeprefix("+").partition(":")
        if not spec.startswith("+"):
            out[name] = [artifact(name, wildcards)]
        elif role:
            out[name] = [artifact(name, {"corpus": c}) for c in corpora_for(role, params)]
        else:
            out[name] = [artifact(name, w) for w in instances(name, params)]
    return out


def instances(stage: str, params: Params) -> list[dict[str, str]]:
    """Every set of wildcards with which the stage runs under these params."""
    wildcards = STAGES[stage].wildcards
    if wildcards == ("corpus",):
        return [{"corpus": c} for c in params.corpora]
    if wildcards == RUN:
        return [{"method": m, "seed": str(s)} for m in params.run.methods for s in params.run.seeds]
    return [{}]
