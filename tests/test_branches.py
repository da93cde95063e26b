"""Pre-training that begins with another run's encoder: it takes the weights and nothing else, and the DAG, the keys and the cost know."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_train import project
from tiny import curve, job, pretrained, tree

from birq import __main__ as birq
from birq.errors import BirqError, Stopped
from birq.pipeline import artifact, dag, digests, stage, why
from birq.pipeline.keys import current_key, labelled_inputs
from birq.pipeline.stage import Job
from birq.settings import lineage
from birq.settings.params import Params, parse, section
from birq.stages import pretrain
from birq.train import pretraining
from birq.train.pretraining import PretrainTask

MORE = {"method": "best_rq", "pretrain.starts_from": "best_rq"}
BRANCHES = {
    "more": MORE | {"pretrain.steps": 5},
    "birq_more": MORE | {"method": "birq", "pretrain.steps": 5},
    "fresh": {"method": "birq", "pretrain.starts_from": "scratch"},
}


def settings(*methods: str, variants: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    out = tree(**changes)
    out["run"] |= {"methods": list(methods), "seeds": [0]}
    return out | {"variants": BRANCHES if variants is None else variants}


def branching(*methods: str, **changes: Any) -> Params:
    return parse(settings(*methods, **changes))


def branch(folder: Path, features: Path, start: Path, run: str, p: Params | None = None) -> Job:
    """A finished job of a branch."""
    j = job("pretrain", folder, {"features": [features], "pretrain": [start]}, p or branching(run), run)
    pretrain.compute(j)
    return j


@pytest.fixture(scope="module")
def best_rq(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    return pretrained(tmp_path_factory.mktemp("best_rq"), features, "best_rq")


# ---- the weights


def first_weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Filled with the weights of every training when it begins."""
    begun, real = [], pretraining.train

    def train(job: Job, model: torch.nn.Module, *args: Any) -> None:
        begun.append({k: v.clone() for k, v in model.state_dict().items()})
        real(job, model, *args)

    monkeypatch.setattr(pretraining, "train", train)
    return begun


@pytest.mark.parametrize("method", ["best_rq", "birq"])
def test_a_branch_begins_with_the_encoder_and_draws_the_rest_anew(
    tmp_path: Path, features: Path, best_rq: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads and quantizers are those of the method from scratch, the encoder is the finished one: so its branches begin alike."""
    begun = first_weights(monkeypatch)
    pretrained(tmp_path / "alone", features, method)
    j = branch(tmp_path / "branch", features, best_rq, "more" if method == "best_rq" else "birq_more")
    alone, branched = begun
    finished = load_file(best_rq / "encoder.safetensors")
    of_encoder = {name for name in branched if name.startswith("encoder.")}
    assert alone.keys() == branched.keys() and {"head.weight", "quantizer.projection"} <= branched.keys() - of_encoder
    assert all(torch.equal(branched[name], finished[name]) for name in of_encoder)
    assert all(torch.equal(branched[name], alone[name]) for name in branched.keys() - of_encoder)
    assert any(not torch.equal(branched[name], alone[name]) for name in of_encoder)
    assert [line["step"] for line in curve(j.out)][-1] == 5, "the schedule is its own"
    assert curve(j.out)[0]["hours_seen"] < curve(j.out)[-1]["hours_seen"] < curve(best_rq)[-1]["hours_seen"]


def test_to_start_from_an_untrained_encoder_is_to_start_anew(tmp_path: Path, features: Path, scratch_encoder: Path) -> None:
    """To the bit: batches, masks, noise and dropout are those of the same training, whatever encoder it begins with."""
    alone = pretrained(tmp_path / "alone", features, "birq")
    j = branch(tmp_path / "branch", features, scratch_encoder, "fresh")
    for name in ("encoder.safetensors", "curve.jsonl", "config.json"):
        assert (j.out / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_stopped_branch_ends_in_the_same_bits(tmp_path: Path, features: Path, best_rq: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is resumed is the checkpoint; the encoder that it began with must not be put over it."""
    p = branching("birq_more", pretrain__dropout=0.1)
    whole = branch(tmp_path / "whole", features, best_rq, "birq_more", p).out
    real = PretrainTask.backward

    def backward(self: PretrainTask, batches: Any, step: int, epoch: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        real(self, batches, step, epoch)

    with monkeypatch.context() as m:
        m.setattr(PretrainTask, "backward", backward)
        with pytest.raises(Stopped, match="step 3 of 5 is saved"):
            branch(tmp_path / "stopped", features, best_rq, "birq_more", p)
    again = branch(tmp_path / "stopped", features, best_rq, "birq_more", p).out
    for name in ("encoder.safetensors", "curve.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


# ---- the DAG


def test_branches_of_a_seed_share_one_encoder() -> None:
    """It is made whether run.methods names it or not, said once a branch, and gets no fine-tuning of its own."""
    p = branching("more", "birq_more")
    pretrainings = [n.name for n in dag.nodes(p, "pretrain")]
    assert pretrainings == ["pretrain/best_rq-0", "pretrain/more-0", "pretrain/birq_more-0"]
    for run in ("more", "birq_more"):
        assert [n.name for n in dag.find(f"pretrain/{run}-0", p).inputs["pretrain"]] == ["pretrain/best_rq-0"]
    assert not {"finetune/best_rq-0", "probe/best_rq-0"} & {n.name for n in dag.nodes(p)}
    assert lineage.also_made(p) == [f"run.methods: {run} starts from best_rq, which is made as well" for run in ("more", "birq_more")]
    assert lineage.also_made(branching("more", "best_rq")) == []
    chain = {"a": {"method": "relabel", "pretrain.starts_from": "b"}, "b": {"method": "birq", "pretrain.starts_from": "hubert1"}}
    assert lineage.also_made(branching("a", variants=chain)) == [
        "run.methods: a learns labels of best_rq, which is made as well",
        "run.methods: a starts from hubert1, then b, which is made as well",
    ]


def test_dvc_makes_the_first_encoder_on_the_way_though_it_lists_it() -> None:
    """dvc.yaml knows no order of two pre-trainings, so a branch may come first; its digest holds what decides the other."""
    p = branching("more", "best_rq")
    more = dag.find("pretrain/more-0", p)
    assert [n.name for n in dag.on_the_way(more)] == ["pretrain/best_rq-0"]
    assert list(digests.content(more)["before"]) == ["pretrain-best_rq"]
    assert dag.on_the_way(dag.find("finetune/more-0", p)) == dag.on_the_way(dag.find("pretrain/best_rq-0", p)) == []


def test_only_a_branch_has_the_other_encoder_in_its_key() -> None:
    """The encoder counts by its content, under its name; what begins anew has the params and the code that it had without branches."""
    p = branching("more", "best_rq")
    assert "starts_from" not in section(p, "pretrain")
    more, anew = (dag.find(f"pretrain/{run}-0", p) for run in ("more", "best_rq"))
    assert set(more.code) - set(anew.code) == {"birq.train.branch"} and not set(anew.code) - set(more.code)
    assert list(labelled_inputs(more)) == ["features/tones", "pretrain/best_rq-0"] and list(labelled_inputs(anew)) == ["features/tones"]


# ---- through the verb


def test_one_verb_makes_all_and_counts_it_once(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels of BEST-RQ's encoder, and a start from the same one: it is trained once, and its time is in the cost once."""
    both = {"both": {"method": "relabel", "pretrain.starts_from": "best_rq", "pretrain.steps": 5}}
    folder = project(tmp_path, features)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings("both", variants=both)))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    assert birq.main(["pretrain", "--method", "both", "--seed", "0"]) == 0
    assert "pretrain/both-0: made from pretrain/best_rq-0, labels/both-0, which come first" in capsys.readouterr().err
    record, *behind = (
        json.loads((folder / "data" / n / "provenance.json").read_text())
        for n in ("pretrain/both-0", "pretrain/best_rq-0", "labels/both-0")
    )
    assert record["input_seconds"] == pytest.approx(sum(artifact.own_seconds(r) for r in behind), abs=2e-3)
    assert list(record["parts"]["inputs"]) == ["features/tones", "labels", "pretrain/best_rq-0"]
    # another value is another key, and said; the same one again is in place
    p = parse(settings("both", variants=both))
    assert current_key(dag.find("pretrain/both-0", p)) == record["key"]
    anew = parse(settings("both", variants={"both": both["both"] | {"pretrain.starts_from": "none"}}))
    assert "its input data/pretrain/best_rq-0 is not used any more" in why.explain("pretrain/both-0", anew)
    # what it cost is known also where not everything behind it is there any more, as after `dvc pull`
    finetune = dag.find("finetune/both-0", p)
    assert stage._input_seconds(finetune) == pytest.approx(artifact.seconds(record), abs=2e-3)
    shutil.rmtree(folder / "data" / "labels")
    assert stage._input_seconds(finetune) == artifact.seconds(record)


# ---- bad input


ITSELF = "pretrain.starts_from: best_rq starts from best_rq, so none can be .* let one begin with none"
UNKNOWN = r"variants\.a: pretrain\.starts_from: 'best_rp' is neither .* did you mean best_rq\?; legal: none, birq, "
WIDE = r"variants\.a: pretrain\.starts_from: best_rq's encoder has model\.d_model = 16, that of a 32.* model\.d_model: 32"


def start(name: str, **more: Any) -> dict[str, Any]:
    return {"method": "best_rq", "pretrain.starts_from": name} | more


@pytest.mark.parametrize(
    ("variants", "changes", "reason"),
    [
        ({}, {"pretrain__starts_from": "best_rq"}, ITSELF),
        ({}, {"pretrain__starts_from": "relabel"}, "relabel learns labels of best_rq starts from relabel, so none"),
        ({"a": start("a")}, {}, "a starts from a, so none"),
        ({"a": start("b"), "b": start("a")}, {}, "a starts from b starts from a, so none"),
        ({"a": start("best_rp")}, {}, UNKNOWN),
        ({}, {"pretrain__starts_from": "elsewhere"}, "pretrain.starts_from: 'elsewhere' is neither a method nor in variants"),
        ({}, {"pretrain__starts_from": 3}, r"pretrain\.starts_from: 3 is not legal"),
        ({"a": start("best_rq") | {"model.d_model": 32}}, {}, WIDE),
        ({"a": start("best_rq") | {"model.attention_window": 8}}, {}, r"model\.attention_window = 0, that of a 8"),
        ({"a": start("best_rq", method="scratch")}, {}, "pretrain.starts_from is not read by a variant of scratch"),
        ({"none": {"method": "best_rq"}}, {}, r"variants\.none: in pretrain\.starts_from, that stands for no encoder at all"),
    ],
)
def test_a_start_that_cannot_be_is_refused(variants: dict, changes: dict, reason: str) -> None:
    """Before anything runs: circles, also through labels; names that are not there; an encoder of another shape."""
    with pytest.raises(BirqError, match=reason):
        branching("birq", variants=variants, **changes)


def test_every_run_may_start_from_one_variant() -> None:
    """The way out that the message of a circle names; variants of another width may start from each other."""
    first = {"first": {"method": "best_rq", "pretrain.starts_from": "none"}}
    p = branching("best_rq", "relabel", "scratch", variants=first, pretrain__starts_from="first")
    assert [p.starts_from(run) for run in ("best_rq", "relabel", "scratch", "first")] == ["first", "first", None, None]
    assert lineage.sources(p, "relabel") == ["first", "best_rq"]
    wide = {"method": "best_rq", "model.d_model": 32}
    branching("b", variants={"a": wide, "b": wide | {"pretrain.starts_from": "a"}})
