"""What a change of params.yaml computes, restores and leaves alone.

Where a stage comes out with the same bytes, the verbs after it are called and find their artifacts in place.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scenario import scenario
from tinyproject import Project

pytestmark = pytest.mark.pipeline

GROUP = "Params (Snakemake unless said)"


def changed(section: str, setting: str, expected: str, *, computed: str, restored: str = "") -> Callable[[Project], None]:
    """A test that sets one value and lets Snakemake run; whatever was not computed must still hold."""

    def test(project: Project) -> None:
        project.set(setting)
        project.snakemake()
        project.verify()

    test.__name__ = f"test_params_{section}"
    test.__doc__ = f"A key holds the sections that its stage reads, so that {setting} reaches these stages and no other."
    return scenario(GROUP, f"`{setting}`", expected, computed=computed, restored=restored)(test)


test_params_corpora = changed(
    "corpora",
    "corpora.tones.split_seed=1",
    "the corpus is read again; its bytes are the same, so nothing follows",
    computed="corpus",
)
test_params_features = changed(
    "features",
    "features.max_seconds=34.0",
    "the stage that reads the key; its bytes are the same",
    computed="corpus",
)
test_params_tokenizer = changed(
    "tokenizer",
    "tokenizer.vocab_size=300",
    "the tokenizer, which is the same one: it has no pieces",
    computed="tokenizer",
)
test_params_model = changed(
    "model", "model.conv_kernel=5", "pre-training and all after it", computed="pretrain finetune decode search score probe report"
)
test_params_pretrain = changed(
    "pretrain",
    "pretrain.steps=7",
    "pre-training and all after it",
    computed="pretrain finetune decode search score probe report",
)
test_params_checkpoint = changed("checkpoint", "pretrain.checkpoint_seconds=30.0", "nothing: it decides when, not what", computed="")
test_params_birq = changed("birq", "birq.temperature=0.7", "nothing: the runs are of BEST-RQ, which does not read it", computed="")
test_params_finetune = changed(
    "finetune", "finetune.learning_rate=0.01", "fine-tuning and all after it, not the probe", computed="finetune decode search score report"
)
test_params_decode = changed("decode", "decode.batch_seconds=120.0", "decoding; the hypotheses are the same", computed="decode search")
test_params_lm = changed("lm", "lm.order=2", "the language model and all after it; no network runs", computed="lm search score report")
test_params_search = changed(
    "search", "search.weights=[0.3]", "the search, from the log probabilities that decoding kept", computed="search score report"
)
test_params_score = changed("score", "score.confidence=0.9", "scores, the probe's intervals and the report", computed="score probe report")
test_params_probe = changed("probe", "probe.max_minutes=14.0", "the probe; its figures are the same", computed="probe")
test_params_report = changed("report", "report.worst_utterances=3", "the report", computed="report")


@scenario(
    GROUP,
    "a method is added to the list",
    "the new method's runs and the report",
    computed="pretrain finetune decode search score probe report",
)
def test_method_added(project: Project) -> None:
    """Runs of one method have keys of their own, so those of the others stand."""
    project.set("run.methods=[best_rq, scratch]")
    project.snakemake()
    assert {s.artifact for s in project.said() if s.what == "computing"} == {
        f"{stage}/scratch-0" for stage in ("pretrain", "finetune", "decode", "search", "score", "probe")
    } | {"report"}
    project.verify()


@scenario(
    GROUP,
    "the text of the language model changes (Snakemake, then DVC)",
    "the language model and all after it, by either tool; no network runs",
    computed="lm search score report",
)
def test_language_model_changed(project: Project) -> None:
    """A file outside of data/ reaches the key by its content, through Snakemake's stamp and DVC's digest alike."""
    texts, table = project.root / "texts.txt", (project.root / "speech" / "transcripts.tsv").read_text().splitlines()[1:]
    texts.write_text("".join(row.split("\t")[1] + "\n" for row in table))
    project.set("lm.source=texts.txt")
    project.snakemake()
    project.verify()
    before = project.digests()
    with open(texts, "a") as f:
        f.write("abc abc abc\n")
    project.dvc()
    project.verify()
    assert project.digests() != before
    project.nothing_to_do()


@scenario(
    GROUP,
    "a method is added whose labels another one makes (DVC)",
    "labels, and the encoder that makes them, are made on the way; Snakemake finds all in place",
    computed="labels pretrain finetune decode search score probe report",
)
def test_labelled_method_added(project: Project) -> None:
    """dvc.yaml cannot list the runs of methods that run.methods lacks, so the verb that reads labels makes them, under the same keys."""
    project.set("run.methods=[best_rq, hubert]")
    said = project.dvc().text
    assert "pretrain/hubert-0: made from labels/hubert1-0, pretrain/hubert1-0, labels/hubert-0, which come first" in said
    assert {s.artifact for s in project.said() if s.what == "computing"} == {
        "labels/hubert1-0",
        "pretrain/hubert1-0",
        "labels/hubert-0",
    } | {f"{stage}/hubert-0" for stage in ("pretrain", "finetune", "decode", "search", "score", "probe")} | {"report"}
    project.verify()
    project.nothing_to_do()
    project.up_to_date()


@scenario(
    GROUP,
    "a run is added that starts from another one's encoder (DVC)",
    "where that one is there, only the new run is made; where it is not, it is made on the way",
    computed="pretrain finetune decode search score probe report",
    restored="pretrain finetune decode search",
)
def test_branch_added(project: Project) -> None:
    """DVC knows no order of two pre-trainings; the verb has what it begins with made first, whether run.methods names it or not."""
    project.set("variants={more: {method: best_rq, pretrain.starts_from: best_rq}}", "run.methods=[best_rq, more]")
    project.dvc()
    runs = {f"{stage}/more-0" for stage in ("pretrain", "finetune", "decode", "search", "score", "probe")} | {"report"}
    assert {s.artifact for s in project.said() if s.what == "computing"} == runs
    project.verify()
    first = "first: {method: best_rq, pretrain.steps: 3}"
    project.set(f"variants={{{first}, more: {{method: best_rq, pretrain.starts_from: first}}}}")
    project.dvc()
    assert {s.artifact for s in project.said() if s.what == "computing"} >= {"pretrain/first-0", "pretrain/more-0"}
    project.verify()
    project.up_to_date()


@scenario(
    GROUP,
    "a param of labels changes (made by Snakemake, then DVC)",
    "the labels and all that learned from them; the verbs of other methods restore",
    computed="labels pretrain finetune decode search score probe report",
    restored="pretrain",
)
def test_param_of_labels_changed(project: Project) -> None:
    """Labels that are there but stale must not be learned from, though no stage of DVC's makes them."""
    project.set("run.methods=[best_rq, relabel]")
    project.snakemake()
    project.forget()
    project.set("relabel.layer=2")
    project.dvc()
    assert {s.artifact for s in project.said() if s.what == "computing"} == {"labels/relabel-0", "report"} | {
        f"{stage}/relabel-0" for stage in ("pretrain", "finetune", "decode", "search", "score", "probe")
    }
    project.verify()


def variant_added(project: Project, run: Callable[[], object]) -> None:
    """A variant of fine-tuning alone: only what it changes, and the report, is computed."""
    project.set("variants={short: {method: best_rq, finetune.steps: 5}}", "run.methods=[best_rq, short]")
    run()
    done = {s.artifact for s in project.said() if s.what == "computing"}
    assert done == {"finetune/short-0", "decode/short-0", "search/short-0", "score/short-0", "report"}
    project.verify()


@scenario(
    GROUP,
    "a variant is added that changes fine-tuning",
    "it shares pre-training and probe with its method; the rest is its own",
    computed="finetune decode search score report",
    restored="pretrain probe",
)
def test_variant_added(project: Project) -> None:
    """An ablation is one DAG: a variant that changes nothing that a stage reads has that stage's key."""
    variant_added(project, project.snakemake)


@scenario(
    GROUP,
    "the same under DVC",
    "the same; DVC sees `variants` change, so it calls the verbs of the other run too, and they restore",
    computed="finetune decode search score report",
    restored="pretrain finetune decode search probe",
)
def test_variant_added_dvc(project: Project) -> None:
    """DVC's matrix runs over the names in `run.methods`, whatever they are."""
    variant_added(project, project.dvc)


@scenario(
    GROUP, "a seed is added (DVC)", "the new seed's runs and the report", computed="pretrain finetune decode search score probe report"
)
def test_seed_added(project: Project) -> None:
    """The same for seeds, and DVC's matrix grows as Snakemake's targets do."""
    project.set("run.seeds=[0, 1]")
    project.dvc()
    assert {s.artifact for s in project.said() if s.what == "computing"} == {
        f"{stage}/best_rq-1" for stage in ("pretrain", "finetune", "decode", "search", "score", "probe")
    } | {"report"}
    project.verify()


@scenario(GROUP, "changed, and changed back", "computed once, then restored", computed="score probe report", restored="score probe report")
def test_there_and_back(project: Project) -> None:
    """The store keeps what a key made: the way back costs no computing, and brings the very bytes."""
    before = project.digests()
    project.set("score.confidence=0.9")
    project.snakemake()
    assert project.digests() != before
    project.git("checkout", "-q", "params.yaml")
    project.snakemake()
    assert project.digests() == before
    project.nothing_to_do()


@scenario(
    GROUP,
    "changed and back, once by each tool",
    "computed once, then restored",
    computed="score probe report",
    restored="score probe report",
)
def test_there_and_back_by_both(project: Project) -> None:
    """DVC's memory and Snakemake's are both out of date here; the keys are not."""
    before = project.digests()
    project.set("score.confidence=0.9")
    project.dvc()
    changed = project.digests()
    assert changed != before
    project.nothing_to_do()
    project.git("checkout", "-q", "params.yaml")
    project.snakemake()
    assert project.digests() == before
