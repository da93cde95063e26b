"""The stage table, the Snakefile and dvc.yaml say the same; profiles, environment file and figures fit them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from birq.errors import BirqError
from birq.pipeline import dag, digests
from birq.pipeline import snakemake as adapter
from birq.settings import params, presets, variants
from birq.settings.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ("Snakefile", "workflow", "params.yaml", "dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots", "birq")


@dataclass(frozen=True)
class Spec:
    """What a tool thinks of one stage with its wildcards filled in."""

    command: str
    inputs: frozenset[str]  # artifact folders
    outputs: frozenset[str]
    params: frozenset[str]


def tracked_copy(target: Path) -> Path:
    """The files of the workflow in a folder of their own, a git repository as DVC wants it."""
    for name in WORKFLOW:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    for link in ("slurm", "profiles"):
        (target / link).symlink_to((ROOT / link).readlink())
    subprocess.run(["git", "init", "-q", "."], cwd=target, check=True)
    return target


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora with different roles, methods of every kind and variants, two seeds: enough to tell every input apart."""
    folder = tracked_copy(tmp_path_factory.mktemp("workflow"))
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["corpora"]["other"] = dict(tree["corpora"]["synth"])
    tree["variants"] = {
        "birq_k2": {"method": "birq", "birq.label_layer": 2, "finetune.steps": 900},
        "hubert_k3": {"method": "hubert", "kmeans.layer": 3},
        "birq_more": {"method": "birq", "pretrain.starts_from": "birq_k2"},
    }
    tree["run"] = {
        "methods": ["birq", "birq_k2", "scratch", "hubert", "hubert_k3", "phones", "relabel", "birq_more"],
        "seeds": [0, 1],
        "pretrain_corpora": ["other", "synth"],
        "finetune_corpora": ["synth"],
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return folder


@pytest.fixture(scope="module")
def loaded(project: Path) -> params.Params:
    return params.load(project / "params.yaml")


def expected(loaded: params.Params) -> dict[str, Spec]:
    specs = {}
    for node in dag.nodes(loaded):
        command = " ".join(["python -m birq", node.stage.name, *(f"--{k} {v}" for k, v in node.wildcards.items())])
        inputs = frozenset(str(n.folder) for n in node.before)
        specs[str(node.folder)] = Spec(command, inputs, frozenset([str(node.folder)]), frozenset(node.sections))
    return specs


def snakemake(project: Path, environment: dict[str, str], *args: str) -> str:
    command = ["snakemake", "--dry-run", "--cores", "2", *args]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rules(project: Path, environment: dict[str, str]) -> list[dict[str, str]]:
    """Every job of a dry run: its rule, input, output, command, ..."""
    text = snakemake(project, environment, "--forceall", "--printshellcmds", "--workflow-profile", "none")
    jobs = []
    for block in re.split(r"\n(?=(?:local)?rule \w+:)", text)[1:]:
        job = {"rule": re.match(r"(?:local)?rule (\w+):", block)[1]}
        job |= dict(re.findall(r"^    (\w+): (.*)$", block, flags=re.M))
        job["command"] = "".join(re.findall(r"^Shell command: (.*)$", block, flags=re.M))
        jobs.append(job)
    return [j for j in jobs if j["rule"] != "all"]


def test_snakefile_equals_the_stage_table(project: Path, loaded: params.Params, rules: list[dict[str, str]]) -> None:
    """Both tools must rerun a stage for the same reasons; params and code reach a rule through its stamp."""
    seen = {}
    for job in rules:
        inputs, outputs = job["input"].split(", "), job["output"].split(", ")
        stamp = next(i for i in inputs if ".stamps" in i)
        record = json.loads((project / stamp).read_text())
        wildcards = dict(x.split("=") for x in job.get("wildcards", "").split(", ") if x)
        node = dag.node(job["rule"], wildcards, loaded)
        assert stamp == str(adapter.stamp_path(node)) and record["code"] == node.code
        assert record["params"] == {s: params.section(node.params, s) for s in node.sections}
        folders = {i.removesuffix("/provenance.json") for i in inputs if i != stamp}
        command, _, log = job["command"].partition(" 2>&1 | tee -a ")
        assert log == job["log"], "what a job says is shown and kept"
        assert outputs[0].endswith("/provenance.json")
        folder = outputs[0].removesuffix("/provenance.json")
        assert all(o.startswith(folder + "/") for o in outputs)
        seen[folder] = Spec(command, frozenset(folders), frozenset([folder]), frozenset(record["params"]))
    assert seen == expected(loaded)


def declared(sections: frozenset[str], read: frozenset[str]) -> frozenset[str]:
    """The keys of a node that DVC's declarations cover: DVC names a section where a stage reads some of its keys."""
    return frozenset(s for s in sections if s in read or s.partition(".")[0] in read)


def test_dvc_equals_the_stage_table(project: Path, loaded: params.Params) -> None:
    """A dependency on `data/features` stands for all corpora, one on a section for those of its keys that the stage reads.

    Labels, and the runs behind them that run.methods lacks, have no stage: the verb that reads them makes them. So it makes the encoder
    that it starts from, because stages of one matrix have no order. So its stage names their
    params, and its digest holds the rest of what decides them.
    Code, and corpora outside the project, reach a stage through its digest, which DVC's own stage `digests` writes. A stage of a method
    names the sections of all methods and `variants`: its verb restores where its own method does not read what has changed.
    """
    from dvc.repo import Repo

    want = {name: spec for name, spec in expected(loaded).items() if listed(dag.find(name, loaded))}
    seen = {}
    by_stage: dict[str, set[str]] = {}
    for stage in Repo(str(project)).index.stages:
        if stage.path_in_repo != "dvc.yaml":
            continue
        deps = [d.def_path for d in stage.deps if type(d).__name__ != "ParamsDependency"]
        read = frozenset(k for d in stage.deps if type(d).__name__ == "ParamsDependency" for k in d.params)
        (out,) = [o.def_path for o in stage.outs]
        name = out.split("/")[1]
        if name == "digests":
            assert stage.always_changed and not deps
            continue
        node = dag.find(out, loaded)
        deps.remove(f"data/digests/{node.stem}.json")
        whole = {s.removeprefix("+").partition(":")[0] for s in dag.STAGES[name].inputs if s.startswith("+")}
        inputs = {str(b.folder) for b in node.before if not listed(b) or b.stage == node.stage}
        for dep in deps:
            part = dep.split("/")[1]
            if part in whole:
                assert dep == f"data/{part}"
                inputs |= {i for i in want[out].inputs if i.startswith(dep + "/") or i == dep}
            else:
                inputs.add(dep)
        made = {s for n in dag.on_the_way(node) for s in n.sections}
        assert all(s in read or s.partition(".")[0] in read for s in made), f"dvc.yaml, {name}: a param of what its verb makes on the way"
        seen[out] = Spec(stage.cmd, frozenset(inputs), frozenset([out]), declared(want[out].params, read))
        by_stage.setdefault(name, set()).update(s for s in read if s != "variants")
        own = (s for m in METHODS.values() for s in (*m.sections, *m.label_sections))
        varied = {s.partition(".")[0] for s in node.sections} & {*variants.VARIED, *own}
        varied = varied if "method" in node.wildcards else set()  # the report reads the project's values
        assert ("variants" in read) == bool(varied), f"dvc.yaml, {name}: a variant may change {sorted(varied)}"
    assert seen == want
    for name, read in by_stage.items():
        needed = {s for n in dag.nodes(loaded, name) for s in n.sections} | {
            s for m in METHODS.values() for s in (*m.sections, *m.label_sections) if name == "pretrain"
        }
        assert all(any(s == r or s.startswith(r + ".") for s in needed) for r in read), f"dvc.yaml, {name}: a param that it does not read"


def listed(node: dag.Node) -> bool:
    """dvc.yaml has the runs of run.methods, and no labels."""
    return node.stage.name != "labels" and node.wildcards.get("method", "birq") in node.project.run.methods


def test_a_digest_for_dvc_changes_with_all_that_decides_what_is_made_on_the_way(loaded: params.Params) -> None:
    """Params, code and corpus of labels and of encoders that only make labels; else DVC would keep what was learned from old labels."""
    content = {m: digests.content(dag.find(f"pretrain/{m}-0", loaded)) for m in ("birq", "hubert", "phones", "relabel")}
    assert "before" not in content["birq"]
    assert list(content["hubert"]["before"]) == ["labels-hubert1", "pretrain-hubert1", "labels-hubert"]
    assert content["hubert"]["before"]["labels-hubert"]["params"]["kmeans.layer"] == loaded.kmeans.layer
    assert list(content["phones"]["before"]) == ["corpus-other", "corpus-synth", "labels-phones"]
    assert content["phones"]["before"]["corpus-synth"]["params"]["corpora.synth"]["seed"] == 1
    assert "birq.labels.relabel" in content["relabel"]["before"]["labels-relabel"]["code"]
    assert list(content["relabel"]["before"]) == ["pretrain-best_rq", "labels-relabel"]


def test_the_group_of_the_study_equals_the_stage_table(project: Path) -> None:
    """Its one stage: the verb, params of all that the verb makes, no run of dvc.yaml, whose fine-tuning it would ask for.

    DVC must not want it where there is none: its output is not in the cache, and `dvc repro` reads dvc.yaml alone.
    """
    from dvc.repo import Repo

    tree = yaml.safe_load((project / "params.yaml").read_text())
    parts = {"a": {"names": ["birq_k2", "hubert", "phones", "relabel"], "seeds": [0, 3], "words": True}}
    node = dag.find("study", params.parse(tree | {"study": {"parts": parts}}))
    (stage,) = [s for s in Repo(str(project)).index.stages if s.path_in_repo == "workflow/study/dvc.yaml"]
    deps = {d.def_path for d in stage.deps if type(d).__name__ != "ParamsDependency"}
    read = {k for d in stage.deps if type(d).__name__ == "ParamsDependency" for k in d.params}
    assert stage.cmd == "python -m birq study" and stage.wdir == str(project)
    made_before = {n.stage.name for n in dag.upstream(node) if not n.method} - {"study"}
    assert deps == {f"data/{name}" for name in made_before} | {"data/digests/study.json"}
    needed = {s for n in dag.upstream(node) for s in n.sections}
    assert declared(frozenset(needed), frozenset(read)) == needed
    assert all(any(s == r or s.startswith(r + ".") for s in needed) for r in read), "a param that it does not read"
    (out,) = stage.outs
    assert out.def_path == "data/study" and not out.use_cache


def test_dvc_orders_stages_by_their_parent_folders(project: Path) -> None:
    """A dependency on a folder of artifacts must make an edge from each stage that writes into it."""
    from dvc.repo import Repo

    graph = Repo(str(project)).index.graph
    edges = {(a.name, b.name) for a, b in graph.edges}
    assert ("pretrain@birq-0", "features@other") in edges and ("report", "score@scratch-1") in edges


def test_every_figure_is_shown_by_both_tools(rules: list[dict[str, str]]) -> None:
    """A figure on the page is also in `snakemake --report`, with a caption, and in `dvc plots show`."""
    from birq.report import plots

    figures = {f"data/report/plots/{name}.svg" for name in plots.FIGURES}
    (report,) = [j for j in rules if j["rule"] == "report"]
    assert {o for o in report["output"].split(", ") if o.endswith(".svg")} == figures
    assert {p for p in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] if isinstance(p, str)} == figures
    for name in (*plots.FIGURES, "page", "workflow"):
        assert (ROOT / "workflow" / "report" / f"{name}.rst").read_text().strip()


def test_slurm_profile(project: Path, environment: dict[str, str]) -> None:
    """The literal command finds the profile through its link, asks for GPUs for training only, and its commented lines are legal."""
    text = snakemake(project, environment, "--profile", "slurm")
    blocks = {m[1]: m[0] for m in re.finditer(r"rule (\w+):\n(?:    .*\n)+", text)}
    assert "gpu=1" in blocks["pretrain"] and "gpu=1" in blocks["finetune"] and "gpu=1" not in blocks["features"]
    profile = project / "workflow" / "profiles" / "slurm" / "config.yaml"
    before = profile.read_text()
    after = re.sub(r"^( *)# (- slurm_|slurm_partition)", r"\1\2", before, flags=re.M)
    assert after.count("\n    slurm_partition: gpu") == 5 and "\n  - slurm_account=ACCOUNT" in after
    profile.write_text(after)
    try:
        assert "slurm_partition=gpu" in snakemake(project, environment, "--profile", "slurm")
    finally:
        profile.write_text(before)


def test_default_profile_is_found_and_keeps_contents_out(project: Path, environment: dict[str, str]) -> None:
    """Snakemake's memory of file contents overlooks what DVC made in between, so only times count."""
    profile = yaml.safe_load((project / "profiles" / "default" / "config.yaml").read_text())
    assert profile["max-checksum-file-size"] == "0"
    done = subprocess.run(["snakemake", "-n", "--cores", "1"], cwd=project, env=environment, capture_output=True, text=True, check=True)
    assert "profiles/default" in done.stderr


def needed() -> list[Requirement]:
    """The packages of the pipeline."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(r) for r in (*project["dependencies"], *project["optional-dependencies"]["pipeline"])]


def test_the_lock_pins_what_birq_needs() -> None:
    """Each package of pyproject.toml has one version per platform that it allows; the conda environment has the same lines."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pinned: dict[str, list[Requirement]] = {}
    for line in lines:
        pinned.setdefault(canonicalize_name(Requirement(line).name), []).append(Requirement(line))
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") and not r.url for rs in pinned.values() for r in rs)
    for wanted in needed():
        versions = [next(iter(r.specifier)).version for r in pinned[canonicalize_name(wanted.name)]]
        assert all(wanted.specifier.contains(v) for v in versions), f"{wanted} is locked at {versions}"
    environment = yaml.safe_load((ROOT / "workflow" / "envs" / "birq.yaml").read_text())
    assert [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)] == [lines]


def test_lists_of_inputs_follow_from_params_of_the_stamp() -> None:
    """Snakemake compares times only: a corpus, method or seed that is added or taken away changes the stamp of whoever reads all."""
    for stage in dag.STAGES.values():
        for spec in (s for s in stage.inputs if s.startswith("+")):
            role = spec.partition(":")[2]
            by_role = {"pretrain": "run.pretrain_corpora", "finetune": "run.finetune_corpora", "study": "study", "words": "study"}
            decides = by_role.get(role, "run")
            assert {decides, "study" if decides == "study" else "run"} & set(stage.sections), f"{stage.name}: {spec} depends on {decides}"


def test_one_oldest_snakemake() -> None:
    """The Snakefile, the package and the tests name the same one; tests/test_oldest_snakemake.py runs it."""
    (wanted,) = [d for d in needed() if d.name == "snakemake"]
    (oldest,) = re.findall(r'^min_version\("(.*)"\)$', (ROOT / "Snakefile").read_text(), flags=re.M)
    assert str(wanted.specifier) == f">={oldest}"


def test_every_rule_is_complete() -> None:
    """A log and a benchmark to look at, an environment that pins its software, and memory and time that grow when it is tried again."""
    seen = set()
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for name, body in re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", path.read_text(), flags=re.M):
            seen.add(name)
            for part in ("log:", "benchmark:", "conda:", "threads:", "mem_mb=growing(", "runtime=growing("):
                assert part in body, f"{path.name}: rule {name} lacks {part}"
    assert seen >= set(dag.STAGES)


def test_memory_and_time_grow_with_attempts(project: Path, environment: dict[str, str]) -> None:
    """What was killed for want of memory or time would be killed again at the same size. `--attempt` is what a cluster's jobs are given."""

    def asked(attempt: int) -> list[int]:
        said = snakemake(project, environment, "--attempt", str(attempt), "data/corpus/synth/provenance.json")
        return [int(re.search(rf"\b{name}=(\d+)", said)[1]) for name in ("mem_mb", "runtime")]

    assert asked(3) == [4 * x for x in asked(1)]


def test_the_schema_refuses_what_birq_refuses(loaded: params.Params) -> None:
    """Editors show it while params.yaml is typed (its first line names it), so it must neither be laxer on single values nor stricter."""
    schema = json.loads((ROOT / "workflow" / "schemas" / "params.schema.json").read_text())
    first = (ROOT / "params.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=workflow/schemas/params.schema.json"
    jsonschema.validate(loaded.model_dump(mode="json"), schema)
    for change in (
        {"pretrain": {"steps": 0}},
        {"pretrain": {"step": 7}},
        {"run": {"methods": ["Bork"]}},
        {"model": {"positions": "absolute"}},
        {"features": {"n_mels": "80"}},
        {"corpora": {"synth": {"kind": "song"}}},
    ):
        tree = loaded.model_dump(mode="json")
        presets.merge(tree, change)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tree, schema)
        with pytest.raises(BirqError):
            params.parse(tree, "params.yaml")


def test_bad_params_stop_snakemake_with_the_message(project: Path, environment: dict[str, str]) -> None:
    """One sentence, not a traceback through Snakemake."""
    before = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(before.replace("label_layer: 3", "label_layer: 30"))
    try:
        done = subprocess.run(["snakemake", "-n"], cwd=project, env=environment, capture_output=True, text=True, check=False)
    finally:
        (project / "params.yaml").write_text(before)
    assert done.returncode == 1 and "birq.label_layer: 30 is above the depth" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
