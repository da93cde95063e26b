"""The study under both tools: asked for, killed, gone on with, found by the other tool, compared, recorded. One story, in order."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tinyproject import Project, ended

from birq.pipeline import dag

pytestmark = pytest.mark.pipeline
PARTS = "{screening: {names: [best_rq, hubert1, deep], seeds: [0, 1]}, final: {names: [best_rq], seeds: [0], words: true}}"
PREDICTIONS = "{better: {says: One beats the other., parts: [screening], compared: [{form: hubert1, against: best_rq, more_than: 0.0}]}}"
BY_DVC = ("dvc", "repro", "workflow/study/dvc.yaml")


@pytest.fixture(scope="module")
def study(fresh: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a study, of which nothing is made; its commands are told apart from those of others."""
    project = fresh.copy(tmp_path_factory.mktemp("study") / "project")
    variants = "{deep: {method: best_rq, random_projection.codebook: refined, pretrain.snapshots: [0.2, 0.5]}}"
    project.set(f"variants={variants}", f"study.parts={PARTS}", "run.methods=[scratch]")
    project.set(f"study.predictions={PREDICTIONS}")
    project.git("commit", "-qam", "a study")
    project.forget()
    return project


def computed(project: Project) -> list[str]:
    return [s.artifact for s in project.said() if s.what == "computing"]


def rules(text: str) -> set[str]:
    return set(re.findall(r"^(?:local)?rule (\w+):", text, flags=re.M))


def test_snakemake_alone_plans_no_run_of_it(study: Project) -> None:
    """The whole needs the runs of run.methods only; asked for by name, the study needs its own only."""
    text = study.snakemake("--dry-run").text
    assert "study" not in rules(text) and "method=scratch" in text and not re.search(r"method=(best_rq|hubert1|deep)", text)
    text = study.snakemake("--dry-run", "study").text
    assert "study" in rules(text) and "report" not in rules(text) and "method=deep, seed=1" in text and "method=scratch" not in text
    assert len(re.findall(r"^rule (?:finetune|decode|score):|^localrule score:", text, flags=re.M)) == 3, "one run has words"


def test_a_killed_study_of_dvc_goes_on(study: Project) -> None:
    """What was stored before the kill is not computed again; after the end nothing is."""
    running = study.real().start(*BY_DVC)
    with ended(running):
        running.wait_for(lambda: any((study.root / "data" / ".store" / "probe").glob("*/provenance.json")))
        running.kill()
    before = computed(study)
    assert before and not (study.root / "data" / "study").exists()
    stored = {p.parents[1].name for p in study.root.glob("data/.store/*/*/provenance.json")}
    assert "probe" in stored
    study.run(*BY_DVC)
    wanted = {n.name for n in dag.upstream(dag.find("study", study.params()))}
    assert set(computed(study)) == wanted
    twice = {name for name in computed(study) if computed(study).count(name) > 1}
    assert len(twice) <= 1, "what was under way"
    assert not any(name.endswith("scratch-0") for name in computed(study)) and "report" not in computed(study)
    study.forget()
    again = study.run(*BY_DVC).text
    assert set(re.findall(r"^Running stage '([^']+)'", again, flags=re.M)) <= {"digests"} and not study.said()


def test_snakemake_finds_all_of_it_in_place(study: Project) -> None:
    """Same keys, same folders. Asked for by its name, the rule is called once for its benchmark file, and its verb finds all there."""
    study.forget()
    assert "Nothing to be done" in study.snakemake("data/study/provenance.json").text
    study.snakemake("study")
    assert [(s.artifact, s.what) for s in study.said()] == [("study", "up to date")]
    assert "Nothing to be done" in study.snakemake("study").text


def test_the_rest_is_made_without_it(study: Project) -> None:
    """`dvc repro` makes run.methods alone and Snakemake then finds that; the study stays as it is."""
    before = (study.root / "data" / "study" / "provenance.json").read_bytes()
    study.forget()
    study.dvc()
    assert "study" not in {s.stage for s in study.said()} and set(computed(study)) >= {"pretrain/scratch-0", "report"}
    assert not any("best_rq" in name or "deep" in name for name in computed(study))
    study.snakemake()
    assert (study.root / "data" / "study" / "provenance.json").read_bytes() == before


def test_compare_prints_what_the_artifact_holds(study: Project) -> None:
    """From artifacts, from the artifact of the stage and from a record: the same tables, with figures of probe.json and scores.json."""
    root = study.root
    shown = study.birq("compare", "--markdown", "--record", "record.json").text
    assert shown == (root / "data" / "study" / "study.md").read_text()
    assert json.loads((root / "record.json").read_text()) == json.loads((root / "data" / "study" / "study.json").read_text())
    for source in ("record.json", "data/study/study.json"):
        assert study.birq("compare", "--markdown", "--from", source, "--page", "page.html").text == shown
    assert (root / "page.html").read_text() == (root / "data" / "study" / "index.html").read_text()
    assert (
        re.search(r"^\| better \| hubert1 \| best_rq \| .* \| 2 \| not decided \|$", shown, flags=re.M)
        and "One beats the other." in (root / "page.html").read_text()
    )
    rows = {(r["part"], r["form"], r["seed"]): r for r in json.loads((root / "record.json").read_text())["rows"]}
    assert len(rows) == 7
    run = rows["final", "best_rq", 0]
    probe = json.loads((root / "data" / "probe" / "best_rq-0" / "probe.json").read_text())
    assert [of_layer["linear"] for of_layer in run["layers"]] == [r["linear"] for r in probe["rows"]]
    assert {"abx_within", "kmeans_pnmi", "effective_rank", "repeat_share"} <= set(run["layers"][1])
    assert "snapshots" not in run and "| deep | 3 | 2 |" in shown, "a table by step of the one form that has some"
    kept = json.loads((root / "data" / "probe" / "deep-1" / "probe.json").read_text())["snapshots"]
    assert [s["step"] for s in kept] == [1, 3] and all(len(s["rows"]) == len(probe["rows"]) - 1 for s in kept)
    found = [[of_layer["linear"] for of_layer in s["layers"]] for s in rows["screening", "deep", 1]["snapshots"]]
    assert found == [[r["linear"] for r in s["rows"]] for s in kept]
    scores = json.loads((root / "data" / "score" / "best_rq-0" / "scores.json").read_text())["test"]
    assert (run["words"]["wer"], run["words"]["cer"]) == (scores["wer"], scores["cer"]) and run["words"]["dev_loss"] > 0
    assert (
        run["steps"] == 6
        and run["seconds"] > 0
        and run["made"]["commit"]
        and set(run["keys"]) == {"pretrain", "probe", "finetune", "score"}
    )
    labelled = json.loads((root / "data" / "pretrain" / "hubert1-0" / "provenance.json").read_text())
    assert rows["screening", "hubert1", 0]["seconds"] > labelled["wall_seconds"] * 0.5 and labelled["input_seconds"] > 0


def test_compare_says_what_lacks_and_shows_the_rest(study: Project) -> None:
    """A probe that is not there costs its row, no other."""
    probe = study.root / "data" / "probe" / "deep-1"
    shutil.move(probe, study.root / "aside")
    try:
        said = study.birq("compare", "--part", "screening").text
    finally:
        shutil.move(study.root / "aside", probe)
    assert "made under other params, inputs or code: probe/deep-1." in said
    assert re.search(r"^deep .* 1 ", said, flags=re.M) and re.search(r"^hubert1 .* 2 ", said, flags=re.M)


def test_stale_runs_are_not_shown_as_those_of_these_params(study: Project) -> None:
    """After a change of params nothing is there of them; the record refuses what is made under them."""
    before = (study.root / "params.yaml").read_text()
    study.set("pretrain.steps=7")
    try:
        assert "no run is there yet" in study.birq("compare", status=2).text
        study.snakemake("data/probe/best_rq-0/provenance.json")
        said = study.birq("compare", "--record", "record.json", status=2).text
        assert "record.json: screening, best_rq: recorded with pretrain.steps = 6, here it is 7" in said
        assert "pretrain.steps was 6 when it was made, is 7 now" in study.birq("why", "study").text
    finally:
        (study.root / "params.yaml").write_text(before)
    study.forget()
    study.snakemake("study")
    assert not computed(study), "all of it is in the store"


def test_its_artifacts_are_needed_checked_and_kept(study: Project) -> None:
    """`store gc` removes none of them, `verify` walks them, and both know the study itself."""
    study.birq("store", "gc")
    needed = [line for line in study.birq("store", "ls").text.splitlines() if " workspace" in line]
    runs = {tuple(line.split()[::2][:2]) for line in needed}
    assert {("pretrain", "hubert1-1"), ("labels", "hubert1-0"), ("score", "best_rq-0")} <= runs
    assert any(re.match(r"study .* workspace, dvc\.lock of ", line) for line in needed), "its own lock of DVC refers to it too"
    study.verify()
    index = study.root / "data" / "study" / "index.html"
    kept: Path = study.root / "kept"
    shutil.copy(index, kept)
    index.unlink()
    index.write_text("another page")
    assert "data/study/index.html" in study.birq("verify", status=2).text
    index.unlink()
    shutil.copy(kept, index)


def test_a_project_without_a_study_says_how_to_get_one(study: Project) -> None:
    """Under either tool, by the verb, and before anything is made."""
    before = (study.root / "params.yaml").read_text()
    study.set("study.parts={}")
    try:
        for command in (
            ["snakemake", "--cores", "1", "study"],
            [*BY_DVC],
            ["python", "-m", "birq", "study"],
            ["python", "-m", "birq", "compare"],
        ):
            said = study.run(*command, status=None).text
            assert "study.parts is empty" in said and "preset study-screen" in said, said[-3000:]
            assert "Traceback (most recent call last)" not in said
    finally:
        (study.root / "params.yaml").write_text(before)
