"""The cost of the stage contract, beside the same tools with nothing to do.

    python -m benchmarks.contract [--rounds 5] [--experiments 200] [--before 4f4994a]

One interleaved run has a no-change `snakemake` and `dvc repro`, here, at an earlier commit, and in a project of one empty step. It also has
the verb of a stage whose artifact is there, and a stage that computes, less its computing. Then all runs again with many experiments in
the store.
Wall and processor seconds are kept: on a machine that others use too, only the latter can be compared.
Writes benchmarks/results/contract.json, prints a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "pipeline"))  # the tests' tiny project is this benchmark's project

import tinyproject  # noqa: E402
from tinyproject import Project  # noqa: E402

STAGE = ("score", "--method", "best_rq", "--seed", "0")
EMPTY_SNAKEFILE = 'rule empty:\n    output: "done"\n    shell: "touch {output}"\n'
EMPTY_DVC = "stages:\n  empty:\n    cmd: touch done\n    outs: [done]\n"
CASES = {  # name: its reference, and the largest allowed ratio to it
    "snakemake, empty": None,
    "snakemake": ("snakemake, empty", 2.0),
    "dvc repro, empty": None,
    "dvc repro": ("dvc repro, empty", 2.0),
}


def empty(folder: Path, env: dict[str, str]) -> Project:
    """A project of one empty step for either tool."""
    folder.mkdir()
    (folder / "Snakefile").write_text(EMPTY_SNAKEFILE)
    (folder / "dvc.yaml").write_text(EMPTY_DVC)
    project = Project(folder, env).at(folder)
    for command in (["git", "init", "-q", "."], ["dvc", "init", "-q"], ["dvc", "repro", "-q"], ["snakemake", "--cores", "1"]):
        project.run(*command)
    return project


def project_of(commit: str, folder: Path, env: dict[str, str]) -> Project:
    """The tests' tiny project as an earlier commit has it, every stage made. Its packages are those installed now, but for libyaml, if its
    pyproject.toml did not ask for it."""
    code, project = folder / "code", folder / "project"
    subprocess.run(["git", "clone", "-q", "-n", "--shared", ROOT, code], check=True)
    subprocess.run(["git", "checkout", "-q", commit], cwd=code, check=True)
    make = "import os, pathlib, sys, tinyproject; tinyproject.new(pathlib.Path(sys.argv[1]), dict(os.environ), [])"
    path = os.pathsep.join([str(code), str(code / "tests" / "pipeline")])
    subprocess.run([sys.executable, "-c", make, project], env=env | {"PYTHONPATH": path}, cwd=code, check=True)
    if "ruamel.yaml.clib" not in (code / "pyproject.toml").read_text(encoding="utf-8"):
        (project / "_ruamel_yaml.py").write_text('raise ImportError("it was no dependency")\n')
    return made(tinyproject.existing(project, env, []))


def made(project: Project) -> Project:
    """The same project, every stage made under both tools and committed."""
    project.snakemake()
    project.dvc()
    project.git("add", "-A")
    project.git("commit", "-qm", "results")
    return project


Spent = tuple[float, float]  # wall seconds, processor seconds of the command and all that it started


def timed(command: Callable[[], object]) -> Spent:
    used, before = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command()
    wall, now = time.perf_counter() - before, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def publish(project: Project, seed: int) -> Spent:
    """A stage that computes, less its computing: the process, key, reserve, hashing, publishing, placing."""
    project.set(f"score.seed={seed}")
    wall, cpu = timed(lambda: project.birq(*STAGE))
    record = json.loads((project.root / "data" / "score" / "best_rq-0" / "provenance.json").read_text())
    project.git("checkout", "-q", "params.yaml")
    project.birq(*STAGE)
    return wall - record["wall_seconds"], cpu  # the processor's seconds of computing are not kept apart


def fill(project: Project, n: int) -> None:
    """The store as n more experiments leave it: every artifact again under n other keys."""
    store = project.root / "data" / ".store"
    for folder in [p.parent for p in store.glob("[a-z]*/*/provenance.json")]:
        record = json.loads((folder / "provenance.json").read_text())
        for i in range(n):
            key = f"{i:08x}{record['key'][8:]}"
            shutil.copytree(folder, folder.with_name(key), copy_function=os.link)
            (folder.with_name(key) / "provenance.json").unlink()
            (folder.with_name(key) / "provenance.json").write_text(json.dumps(record | {"key": key}))


def measure(project: Project, earlier: dict[str, Project], nothing: Project, rounds: int, seeds: Iterator[int]) -> dict[str, list[Spent]]:
    """Seconds of every case, taken in turn."""

    def idle(which: Project, tool: str) -> Callable[[], Spent]:
        return lambda: timed(which.dvc if tool == "dvc repro" else lambda: which.run("snakemake", "--cores", "1"))

    projects = {", empty": nothing, "": project} | {f", {commit}": p for commit, p in earlier.items()}
    cases = {f"{tool}{name}": idle(p, tool) for tool in ("snakemake", "dvc repro") for name, p in projects.items()}
    cases |= {
        "python": lambda: timed(lambda: project.run(sys.executable, "-c", "pass")),
        "verb, artifact there": lambda: timed(lambda: project.birq(*STAGE)),
        "verb that computes, less computing": lambda: publish(project, next(seeds)),
    }
    out: dict[str, list[Spent]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            out[name].append(case())
        # the verbs above left Snakemake and DVC something to look at
        project.snakemake()
        project.dvc()
    return out


def medians(spent: list[Spent]) -> Spent:
    return statistics.median(s[0] for s in spent), statistics.median(s[1] for s in spent)


def table(few: dict[str, list[Spent]], many: dict[str, list[Spent]], experiments: int) -> str:
    """A line per case: median wall (processor) seconds, and their references."""
    lines = [
        "| median wall (processor) seconds | one experiment | " + f"{experiments + 1} experiments | aim |",
        "| --- | ---: | ---: | --- |",
    ]
    for name in few:
        cells = [medians(side[name]) for side in (few, many)]
        aim = "at most 1 s" if name.startswith("verb") else ""
        if held := CASES.get(name):
            bases = [medians(side[held[0]]) for side in (few, many)]
            times = ", ".join(f"{c[0] / b[0]:.2f} ({c[1] / b[1]:.2f})" for c, b in zip(cells, bases, strict=True))
            aim = f"at most {held[1]:g} times the empty one: {times}"
        lines.append(f"| {name} | " + " | ".join(f"{c[0]:.2f} ({c[1]:.2f})" for c in cells) + f" | {aim} |")
    return "\n".join(lines)


def main() -> None:
    """Make the project, measure, fill the store, measure again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--before", metavar="COMMIT", help="idle tools in the project of this commit too")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "contract.json")
    args = parser.parse_args()
    env = tinyproject.environment()
    with tempfile.TemporaryDirectory() as folder:
        nothing = empty(Path(folder) / "empty", env)
        project = made(tinyproject.new(Path(folder) / "project", env, []))
        earlier = {args.before: project_of(args.before, Path(folder) / "before", env)} if args.before else {}
        seeds = itertools.count(1000)
        few = measure(project, earlier, nothing, args.rounds, seeds)
        for one in (project, *earlier.values()):
            fill(one, args.experiments)
        many = measure(project, earlier, nothing, args.rounds, seeds)
    print(table(few, many, args.experiments))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    record = {
        "what": __doc__.splitlines()[0],
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": {"cpus": os.cpu_count(), "platform": platform.machine(), "load": os.getloadavg()},
        "rounds": args.rounds,
        "seconds": {"1 experiment": few, f"{args.experiments + 1} experiments": many},
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
