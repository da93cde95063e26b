"""The table of stages, and its nodes: a stage with its wildcards filled in.

Snakefile and dvc.yaml say the same; a test holds them equal.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from birq.errors import BirqError
from birq.pipeline import code, locations
from birq.settings.corpora import FolderCorpus
from birq.settings.methods import Method
from birq.settings.params import Features, Params, Tokenizer

PROVENANCE = "provenance.json"
NO_STUDY = (
    "study.parts is empty, so there is nothing to compare: `python -m birq preset study-screen` fills it, "
    "or write `study: {parts: {NAME: {names: [best_rq, birq], seeds: [0, 1, 2]}}}` into params.yaml"
)
Wildcards = dict[str, str]


@dataclass(frozen=True)
class Own:
    """Modules, sections and inputs of a node besides its stage's: those of its corpus' kind, or of its run's method."""

    modules: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    module: str = ""  # holds `compute(job)` in place of the stage's


@dataclass(frozen=True)
class Stage:
    """One stage = one verb = one Snakemake rule = one DVC stage."""

    name: str
    sections: tuple[str, ...]  # sections or keys of params that the stage reads; wildcards in braces
    # stages: "name" of the same run, "name@method" of another method, "+name" of every run, "+name:role" of the corpora with that role,
    # or of the runs of the study (role `study`; `words`: those that it scores)
    inputs: tuple[str, ...]
    wildcards: tuple[str, ...] = ()
    own: Callable[[Params, Wildcards], Own] = lambda params, wildcards: Own()
    methods: Callable[[Method], bool] = lambda method: True  # for which it runs
    ranks: bool = False  # several processes may compute it together
    shows_provenance: bool = False  # its inputs' provenance is part of its result
    # Snakefile and dvc.yaml name its files one by one; they are copies, never links: Snakemake must be able to replace them
    files_declared: bool = False
    # False: dvc.yaml has no stage for it, so the verb that reads it makes it, and whatever it is made from, on the way
    listed: bool = True
    # made only when it is asked for: no target of the whole needs it. DVC has it outside of dvc.yaml, and its verb makes all of its runs
    asked: bool = False
    elsewhere: str = ""  # its module, where that is not birq.stages.<name>

    @property
    def module(self) -> str:
        """Holds `compute(job)`; its imports within birq are the stage's code."""
        return self.elsewhere or f"birq.stages.{self.name}"

    @property
    def pattern(self) -> str:
        """`data/<stage>/<wildcards>`, the artifact's folder."""
        tail = "-".join("{" + w + "}" for w in self.wildcards)
        return f"data/{self.name}/{tail}" if tail else f"data/{self.name}"


def _of_corpus(params: Params, wildcards: Wildcards) -> Own:
    corpus = params.corpora[wildcards["corpus"]]
    return Own((f"birq.corpora.{corpus.kind}",), corpus.reads)


def _features_of_corpus(params: Params, wildcards: Wildcards) -> Own:
    """The limits on recordings too where their audio is first heard when features are made."""
    corpus = params.corpora.get(wildcards["corpus"])
    if not getattr(corpus, "streams", False):
        return Own()
    limits = tuple(key for key in corpus.reads if key.startswith("features."))
    return Own(sections=limits, module="birq.stages.streamed_features")


def _of_method(params: Params, wildcards: Wildcards) -> Own:
    method = params.method(wildcards["method"])
    start = params.starts_from(wildcards["method"])
    inputs = ("labels",) * bool(method.labels_from) + ((f"pretrain@{start}",) if start else ())
    return Own(method.modules, method.sections, inputs)


def _labels_of_method(params: Params, wildcards: Wildcards) -> Own:
    method = params.method(wildcards["method"])
    inputs = {"features": (), "corpus": ("+corpus:pretrain",)}.get(method.labels_from or "", (f"pretrain@{method.labels_from}",))
    return Own((method.labeller,) if method.labeller else (), method.label_sections, inputs)


def _of_study(params: Params, wildcards: Wildcards) -> Own:
    """What its runs read: the study shows their params."""
    runs = upstream(*(n for i in STUDIED for n in _for_role(STAGES[i.partition(":")[0][1:]], i.partition(":")[2], params)))
    return Own(sections=tuple(dict.fromkeys(s for n in runs for s in n.sections)))


RUN = ("method", "seed")
STUDIED = ("+pretrain:study", "+probe:study", "+finetune:words", "+score:words")
# all but the limits on recordings, which the corpus stage applies
FEATURES = tuple(key for key in (f"features.{name}" for name in Features.model_fields) if key not in FolderCorpus.reads)
TOKENIZER = tuple(key for key in (f"tokenizer.{name}" for name in Tokenizer.model_fields) if key not in FolderCorpus.reads)

STAGES: dict[str, Stage] = {
    s.name: s
    for s in (
        Stage("corpus", ("corpora.{corpus}", "tokenizer.alphabet"), (), ("corpus",), own=_of_corpus),
        Stage("features", FEATURES, ("corpus",), ("corpus",), own=_features_of_corpus),
        Stage("tokenizer", (*TOKENIZER, "run.finetune_corpora"), ("+features:finetune",)),
        Stage(
            "labels",
            ("run.pretrain_corpora",),
            ("+features:pretrain",),
            RUN,
            own=_labels_of_method,
            methods=lambda method: method.labels_from is not None,
            listed=False,
        ),
        Stage("pretrain", ("model", "run.pretrain_corpora"), ("+features:pretrain",), RUN, own=_of_method, ranks=True),
        Stage("finetune", ("finetune", "run.finetune_corpora"), ("pretrain", "tokenizer", "+features:finetune"), RUN, ranks=True),
        Stage(
            "lm",
            ("lm", "tokenizer.alphabet", "tokenizer.language", "finetune.labelled_minutes", "run.finetune_corpora"),
            ("+features:finetune",),
        ),
        Stage("decode", ("decode", "run.finetune_corpora"), ("finetune", "+features:finetune"), RUN),
        Stage(
            "search", ("search", "decode.batch_seconds", "run.finetune_corpora"), ("finetune", "decode", "lm", "+features:finetune"), RUN
        ),
        Stage("score", ("score",), ("decode", "search"), RUN),
        Stage("probe", ("probe", "score", "run.finetune_corpora"), ("pretrain", "+features:finetune", "+corpus:finetune"), RUN),
        Stage(
            "report",
            ("report", "run", "birq.label_layer"),
            ("+corpus:all", "+features:all", "+pretrain", "+finetune", "+score", "+probe"),
            shows_provenance=True,
            files_declared=True,
        ),
        Stage(
            "study",
            ("study", "variants", "birq.label_layer", "report.main_split", "score.confidence"),
            STUDIED,
            own=_of_study,
            shows_provenance=True,
            asked=True,
        ),
    )
}


@dataclass(frozen=True)
class Node:
    """A stage with its wildcards filled in: one call of a verb, which makes one artifact."""

    stage: Stage
    wildcards: Wildcards
    project: Params  # params.yaml

    @property
    def params(self) -> Params:
        """The params of its run: a variant has numbers of its own."""
        return self.project.of_run(self.wildcards["method"]) if "method" in self.wildcards else self.project

    @property
    def run(self) -> str:
        """The wildcards as one word, such as birq-0; empty for a stage without."""
        return "-".join(self.wildcards.values())

    @property
    def name(self) -> str:
        """Such as finetune/birq-0, corpus/synth or report."""
        return "/".join(x for x in (self.stage.name, self.run) if x)

    @property
    def stem(self) -> str:
        """For files that the seeds of a method share: stage-corpus, stage-method, or the stage alone."""
        own = self.wildcards.get("corpus") or self.wildcards.get("method")
        return f"{self.stage.name}-{own}" if own else self.stage.name

    @property
    def folder(self) -> Path:
        """The artifact's folder, relative to the project."""
        return locations.data_root() / self.name

    @property
    def provenance(self) -> Path:
        return self.folder / PROVENANCE

    @property
    def method(self) -> Method | None:
        """The method of its run; None for a stage of a corpus or of the whole."""
        return self.project.method(self.wildcards["method"]) if "method" in self.wildcards else None

    @property
    def own(self) -> Own:
        return self.stage.own(self.project, self.wildcards)

    @property
    def module(self) -> str:
        """Holds `compute(job)`."""
        return self.own.module or self.stage.module

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections and keys of params that it reads."""
        return tuple(s.format(**self.wildcards) for s in self.stage.sections) + self.own.sections

    @property
    def code(self) -> dict[str, str]:
        """Hash of each module that makes its bytes."""
        return code.digests(self.module, *self.own.modules)

    @property
    def inputs(self) -> dict[str, list[Node]]:
        """The nodes that it reads: stage name -> nodes, in the order of params.yaml."""
        out: dict[str, list[Node]] = {}
        for spec in (*self.stage.inputs, *self.own.inputs):
            name, _, role = spec.removeprefix("+").partition(":")
            name, _, method = name.partition("@")
            if not spec.startswith("+"):
                wildcards = self.wildcards | ({"method": method} if method else {})
                out[name] = [Node(STAGES[name], {w: wildcards[w] for w in STAGES[name].wildcards}, self.project)]
            elif role:
                out[name] = _for_role(STAGES[name], role, self.project)
            else:
                out[name] = list(_instances(STAGES[name], self.project))
        return out

    @property
    def before(self) -> list[Node]:
        """All the nodes that it reads."""
        return [n for made in self.inputs.values() for n in made]


def corpora_for(role: str, params: Params) -> list[str]:
    """Names of the corpora that play a role: `pretrain`, `finetune` or `all`."""
    if role == "all":
        return list(params.corpora)
    return list(getattr(params.run, f"{role}_corpora"))


def _for_role(stage: Stage, role: str, params: Params) -> list[Node]:
    """The stage's nodes for the corpora with a role, or for the runs of the study."""
    if stage.wildcards == ("corpus",):
        return [Node(stage, {"corpus": c}, params) for c in corpora_for(role, params)]
    return [Node(stage, {"method": m, "seed": str(s)}, params) for m, s in params.study.runs(words=role == "words")]


def _instances(stage: Stage, params: Params) -> Iterator[Node]:
    """The stage's nodes for the corpora, methods and seeds that `corpora` and `run` name."""
    if stage.wildcards == ("corpus",):
        yield from (Node(stage, {"corpus": c}, params) for c in params.corpora)
    elif stage.wildcards == RUN:
        runs = [(m, s) for m in params.run.methods for s in params.run.seeds if stage.methods(params.method(m))]
        yield from (Node(stage, {"method": m, "seed": str(s)}, params) for m, s in runs)
    else:
        yield Node(stage, {}, params)


def upstream(*wanted: Node) -> list[Node]:
    """Nodes and everything that they are made from, inputs before their readers."""
    seen: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.name not in seen:
            for before in node.before:
                visit(before)
            seen.setdefault(node.name, node)

    for node in wanted:
        visit(node)
    return list(seen.values())


def _listed(node: Node) -> bool:
    """Whether dvc.yaml has a stage for a node: it lists run.methods with run.seeds, and no labels."""
    run = node.project.run
    ours = not node.method or (node.wildcards["method"] in run.methods and int(node.wildcards["seed"]) in run.seeds)
    return node.stage.listed and ours


def on_the_way(node: Node) -> list[Node]:
    """What a node's verb makes where it is not in place: inputs that dvc.yaml has no stage for, or none that comes before this one's for
    sure, and the runs behind them, first to last.

    Of the study, all of its runs: a dependency on those of dvc.yaml would make every one of them, and fine-tune where it only probes.
    Snakemake has rules for all of them, and has made them before.
    """
    unordered = (b for b in node.before if node.stage.asked or not _listed(b) or b.stage == node.stage)
    return [n for n in upstream(*unordered) if n.method]


def _up_to(stages: Iterable[Stage], stage: str | None, params: Params) -> list[Node]:
    found = upstream(*(node for s in stages for node in _instances(s, params)))
    return [n for n in found if stage in (None, n.stage.name)]


def nodes(params: Params, stage: str | None = None) -> list[Node]:
    """Every node that `snakemake` and `dvc repro` make, or of one stage, stage by stage, and inputs before their readers."""
    return _up_to((s for s in STAGES.values() if not s.asked), stage, params)


def every(params: Params, stage: str | None = None) -> list[Node]:
    """The same with the study and its runs, where params have one."""
    return _up_to((s for s in STAGES.values() if params.study.parts or not s.asked), stage, params)


def downstream(made: list[Node], params: Params) -> list[Node]:
    """Every node of these params, those of the study among them, that is one of those given, or is made from one, first to last."""
    names = {n.name for n in made}
    out = []
    for node in every(params):
        if node.name in names or any(b.name in names for b in node.before):
            names.add(node.name)
            out.append(node)
    return out


def node(stage: str, wildcards: Wildcards, params: Params) -> Node:
    """One node of these params. Errors: BirqError lists the legal wildcards, or says how to get a study."""
    if STAGES[stage].asked and not params.study.parts:
        raise BirqError(NO_STUDY)
    legal = every(params, stage)
    for one in legal:
        if one.wildcards == wildcards:
            return one
    asked, *known = (" ".join(f"--{k} {v}" for k, v in w.items()) for w in (wildcards, *(n.wildcards for n in legal)))
    raise BirqError(f"params.yaml lists no {asked} for {stage}; legal: {', '.join(known)}")


def find(text: str, params: Params) -> Node:
    """The node given as `data/finetune/birq-0`, `finetune/birq-0` or `report`. Errors: BirqError lists the artifacts of these params."""
    legal = {n.name: n for n in every(params)}
    asked = text.rstrip("/").removesuffix(f"/{PROVENANCE}").removeprefix(f"{locations.data_root()}/")
    if asked in legal:
        return legal[asked]
    close = difflib.get_close_matches(asked, legal, n=1)
    hint = f"did you mean {close[0]}?" if close else f"these are: {', '.join(legal)}"
    raise BirqError(f"{text} is not an artifact of these params; {hint}")
