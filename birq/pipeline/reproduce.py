"""From a recorded result to the same number: `record` writes a run's settings and results, `reproduce` runs it again and compares."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from birq import __version__, files
from birq.errors import BirqError
from birq.pipeline import artifact, dag, locations, verify, why
from birq.pipeline.environment import processor
from birq.pipeline.git import answer, git
from birq.settings import params, presets, yamlfile

RESULTS = Path("benchmarks/results")
LOCK = Path("requirements.lock")
FORMAT = 1  # of a record
CODE = ("birq", "workflow", "Snakefile", str(LOCK))  # files that a record's commit must hold unchanged
RATES = ("wer", "cer", "lm_wer")
DONE = "reproduced.json"  # marks a folder whose run was compared: the next one begins anew
Say = Callable[[str], None]


# ---- software


def software(lock: Path) -> dict[str, Any]:
    """Python, kind of machine and processor, and the installed version of every package that the lock file names."""
    names = re.findall(r"^([A-Za-z0-9_.-]+)==", lock.read_text(encoding="utf-8"), flags=re.M)
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # for another platform, or not needed on this one
            continue
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": processor(), "packages": versions}


def software_differences(recorded: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The differences, a line each. A package that only one side has is named too: it may be a dependency of another build of torch."""
    pairs = [(k, recorded[k], here[k]) for k in ("python", "machine", "processor") if k in recorded]  # older records name no processor
    both = recorded["packages"].keys() | here["packages"].keys()
    pairs += [(n, recorded["packages"].get(n), here["packages"].get(n)) for n in sorted(both)]
    return [f"{name}: recorded with {old or 'none'}, here {new or 'none'}" for name, old, new in pairs if old != new]


# ---- writing a record


def _artifacts(loaded: params.Params) -> tuple[dict[str, Any], dict[str, str]]:
    """Key, digest and device of every artifact in the order of the stages, and the digest of every module that made them.

    The report is left out: it shows minutes and hosts, which differ from run to run.
    """
    artifacts: dict[str, Any] = {}
    code: dict[str, str] = {}
    for node in dag.nodes(loaded):
        if node.stage.shows_provenance:
            continue
        made = artifact.read_provenance(node.folder)
        artifacts[node.name] = {
            "key": made["key"],
            "digest": made["digest"],
            "sources": made["parts"]["sources"],
            "device": made["notes"].get("device"),
        }
        code |= made["parts"]["code"]
    return artifacts, code


def record(name: str, loaded: params.Params) -> Path:
    """Write benchmarks/results/NAME.json: settings, software, digests and numbers of the present run. Returns the file.

    Errors: BirqError if something in data/ is stale or damaged, or if the code is not that of a commit.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise BirqError(f"{name!r}: a result's name has small letters, digits and hyphens")
    verify.everything(loaded)
    commit = git("rev-parse", "HEAD")
    if changed := git("status", "--porcelain", "--", *CODE).splitlines():
        raise BirqError(f"{changed[0].split()[-1]} is not as in the last commit; commit first: a record names the code that made it")
    report = dag.find("report", loaded).folder
    artifacts, code = _artifacts(loaded)
    result = {
        "format": FORMAT,
        "name": name,
        "birq": __version__,
        "commit": commit,
        "tag": answer("describe", "--tags", "--exact-match"),
        "params": loaded.model_dump(mode="json"),
        "software": software(LOCK),
        "code": dict(sorted(code.items())),
        "artifacts": artifacts,
        "metrics": json.loads((report / "metrics.json").read_text(encoding="utf-8")),
        "comparisons": json.loads((report / "comparisons.json").read_text(encoding="utf-8"))["comparisons"],
    }
    target = RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return target


def read(source: str) -> dict[str, Any]:
    """A record, by name or as a file. Errors: BirqError if there is none, or it holds no more than metrics."""
    path = Path(source) if source.endswith(".json") else RESULTS / f"{source}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in RESULTS.glob("*.json"))) or "none"
        raise BirqError(f"{path}: no such record; in {RESULTS}: {known}") from None
    except ValueError as e:
        raise BirqError(f"{path}: not readable as JSON ({e})") from None
    if not isinstance(record, dict) or "artifacts" not in record:
        raise BirqError(f"{path} holds figures, but not the params, software and digests of their run; `birq record` writes these")
    if record["format"] > FORMAT:
        raise BirqError(f"{path}: written by birq {record['birq']}, this is birq {__version__} and cannot read it; update birq")
    return record


# ---- running it again


def _code(recorded: dict[str, Any], folder: Path) -> None:
    """A clone at the record's commit in `folder`; one that is there already is kept."""
    commit = recorded["commit"]
    if (folder / ".git").is_dir() and git("rev-parse", "HEAD", cwd=folder) == commit:
        return
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except BirqError:
        way_out = "fetch it (`git fetch --unshallow --tags`), or use the present code with --present-code"
        raise BirqError(f"this clone does not have commit {commit[:12]}, which made the result; {way_out}") from None
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    git("clone", "--quiet", "--no-checkout", str(Path.cwd()), str(folder))
    git("checkout", "--quiet", "--detach", commit, cwd=folder)


def _prepare(recorded: dict[str, Any], folder: Path, settings: list[str], present: bool) -> Path:
    """The folder of the rerun with its params.yaml; returns where the code lies."""
    if (folder / DONE).exists():
        shutil.rmtree(folder)
    if not present:
        _code(recorded, folder)
    folder.mkdir(parents=True, exist_ok=True)
    tree = json.loads(json.dumps(recorded["params"]))
    for setting in settings:
        presets.assign(tree, setting)
    files.write_text(folder / "params.yaml", yamlfile.text(tree, yamlfile.plain()))
    return Path.cwd() if present else folder


def _run(folder: Path, code: Path, cores: str, store: Path | None) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", cores, "--quiet", "host", "reason", "rules"]
    command += ["--snakefile", str(code.resolve() / "Snakefile"), "--workflow-profile", str(code.resolve() / "workflow/profiles/default")]
    env = {k: v for k, v in os.environ.items() if k not in ("BIRQ_STORE", "SNAKEMAKE_PROFILE")}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(code.resolve()), env.get("PYTHONPATH")) if p)
    if store:
        env["BIRQ_STORE"] = str(store.resolve())
    if subprocess.run(command, cwd=folder, env=env, check=False).returncode:
        raise BirqError(f"the rerun failed: see above, and the logs in {folder}/data/logs; the same command goes on from there")


# ---- comparing


@dataclass(frozen=True)
class Outcome:
    """The result of a rerun compared with the record."""

    verdict: str  # same, within the interval, different
    lines: list[str]

    @property
    def good(self) -> bool:
        return self.verdict != "different"


def _dotted(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _keyed(recorded: Any, now: Any) -> Any:
    """Of a recorded section, the values that a key holds."""
    return {k: v for k, v in recorded.items() if k in now} if isinstance(recorded, dict) and isinstance(now, dict) else recorded


def _input(label: str, run: str) -> str:
    """The name in a record of an input that a key names."""
    return why.input_folder(label, run).relative_to(locations.data_root()).as_posix()


def _reasons(name: str, recorded: dict[str, Any], made: dict[str, Any]) -> list[str]:
    """Possible reasons for a different artifact: the parts of its key that differ from the record."""
    parts, run = made["parts"], name.partition("/")[2]
    old = {
        "params": {s: _keyed(_dotted(recorded["params"], s), value) for s, value in parts["params"].items()},
        "inputs": {i: recorded["artifacts"].get(_input(i, run), {}).get("digest") for i in parts["inputs"]},
        "code": {m: recorded["code"][m] for m in parts["code"] if m in recorded["code"]},
        "sources": recorded["artifacts"][name]["sources"],
    }
    return why.differences(run, old, parts)


def divergence(recorded: dict[str, Any], data: Path) -> list[str]:
    """The first artifact, in the order of the stages, that differs from the record, and the reasons; empty if all are equal to the bit."""
    unlike, first = [], []
    for name, old in recorded["artifacts"].items():
        try:
            made = artifact.read_provenance(data / name)
        except BirqError:
            unlike.append(name)
            first = first or [f"first: {name} was not made"]
            continue
        if made["digest"] == old["digest"]:
            continue
        unlike.append(name)
        if not first:
            reasons = _reasons(name, recorded, made) or [_elsewhere(recorded)]
            if (device := made["notes"].get("device")) != old["device"]:
                reasons.append(f"made on {device}, recorded on {old['device']}")
            first = [f"first: {name}", *(f"    {r}" for r in reasons)]
    return [f"{len(unlike)} of {len(recorded['artifacts'])} artifacts differ from the recorded ones", *first] if unlike else []


def _elsewhere(recorded: dict[str, Any]) -> str:
    """The reason that is left where params, inputs and code are the recorded ones."""
    then = recorded["software"].get("processor", "unknown")
    how = "; on another kind of processor sums are rounded in another order, and bits differ" if then != processor() else ""
    return f"params, inputs and code are the recorded ones: software or machine must differ (processor {processor()}, recorded {then}){how}"


def _by_run(metrics: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {(m["method"], m["seed"], m["split"]): m for m in metrics}


def figures(recorded: list[dict[str, Any]], now: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Does every rate of the rerun lie within the recorded interval? With a line per method, seed and split."""
    within, lines = True, []
    rerun = _by_run(now)
    for run, old in _by_run(recorded).items():
        texts = []
        for rate in (r for r in RATES if r in old):  # earlier records have no language model
            new, low, high = rerun.get(run, {}).get(rate), old[f"{rate}_low"], old[f"{rate}_high"]
            good = new == old[rate] if None in (new, low, high) else low <= new <= high
            within &= good
            shown = [f"{100 * x:.2f}" if x is not None else "none" for x in (old[rate], low, high, new)]
            texts.append(f"{rate.upper()} {shown[0]} [{shown[1]}, {shown[2]}] -> {shown[3]}{'' if good else ' OUTSIDE'}")
        lines.append(f"{run[0]}-{run[1]} {run[2]}: {', '.join(texts)}")
    return within, lines


def compare(recorded: dict[str, Any], data: Path) -> Outcome:
    """Hold the artifacts and the figures of a rerun in `data` against a record."""
    unlike = divergence(recorded, data)
    now = json.loads((data / "report" / "metrics.json").read_text(encoding="utf-8"))
    within, lines = figures(recorded["metrics"], now)
    if not unlike:
        verdict = "same"
        unlike = [f"all {len(recorded['artifacts'])} artifacts are equal to the bit"]
    else:
        verdict = "within the interval" if within else "different"
    return Outcome(verdict, [*lines, *unlike])


def reproduce(source: str, folder: Path | None, settings: list[str], cores: str, present: bool, use_store: bool, say: Say) -> Outcome:
    """Run a recorded result again in a folder of its own and compare.

    The folder (data/.reproduce/NAME) has its own store, so that everything is computed again; with `use_store`, artifacts come from
    the project's store. A killed rerun resumes; a rerun that was compared already begins anew.
    Errors: BirqError for a record or a commit that is not there, params that are not legal, a stage that fails.
    """
    recorded = read(source)
    folder = folder or locations.data_root() / ".reproduce" / recorded["name"]
    tag = f", {recorded['tag']}" if recorded["tag"] else ""
    say(f"{recorded['name']}: birq {recorded['birq']}, commit {recorded['commit'][:12]}{tag}")
    differs = software_differences(recorded["software"], software(LOCK))
    say("software: as recorded" if not differs else "software differs from the recorded:\n  " + "\n  ".join(differs))
    code = _prepare(recorded, folder, settings, present)
    if differs:
        say(f"the versions of the result: python -m pip install -c {code / LOCK} -e '.[pipeline]'")
    say(f"running it again in {folder}, with {'the present code' if present else 'the code of that commit'}")
    _run(folder, code, cores, locations.store_root() if use_store else None)
    outcome = compare(recorded, folder / "data")
    (folder / DONE).write_text(json.dumps({"verdict": outcome.verdict, "lines": outcome.lines}, indent=1) + "\n", encoding="utf-8")
    return outcome
