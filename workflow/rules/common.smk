import os
import shlex
import shutil
import signal
import subprocess
import sys

from pathlib import Path

sys.path.insert(0, str(workflow.basedir))

from birq.errors import BirqError
from birq.pipeline import dag, snakemake as adapter
from birq.settings import params as birq_params
from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job
from snakemake.logging import logger


async def keep_output(job):
    """Before a job, remove its logs but not its output.

    A verb puts a new artifact in the place of the old one in one rename. Were the old provenance removed first, DVC, started beside
    Snakemake, could note half an artifact just then. The output of a job that failed is still removed.
    """
    for log in job.log:
        await log.remove(remove_non_empty_dir=False)


Job.remove_existing_output = keep_output

# a stage's output goes through `tee`, whose success must not stand for the stage's; a prefix replaces Snakemake's own
PREFIX = "set -euo pipefail; "
# rules call `python -m birq` with the Python that runs Snakemake, also where its environment is not activated;
# with --sdm conda, it is the Python of the rule's environment
if not workflow.deployment_settings.deployment_method:
    PREFIX += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
# Slurm signals every process of a job (the end of its time, scancel, preemption). Only the stage may act on it:
# it writes its checkpoint while the shell, `tee` and the job's own Snakemake wait for it
if "SLURM_JOB_ID" in os.environ:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    PREFIX += "trap '' TERM; "
shell.prefix(PREFIX)

# `--config pretrain='{steps: 7}'` goes over params.yaml; `--config feature_parts=8` spreads a corpus' features over so many jobs
FEATURE_PARTS = int(config.pop("feature_parts", 1))
PARAMS, OVERRIDE = Path("params.yaml"), ""

try:
    if config:
        PARAMS = adapter.overridden(config, PARAMS, Path("data/.stamps"))
        OVERRIDE = f" --params {PARAMS}"
    P = birq_params.load(PARAMS)
    if workflow.is_main_process:  # jobs on other machines find this done
        # params and code become files, rewritten only when they change, so that Snakemake sees a change whoever ran last
        adapter.prepare(P, logger.warning)
except BirqError as error:
    raise WorkflowError(str(error)) from None


class Methods:
    """The Methods paragraph of workflow/report/workflow.rst; written when `--report` asks for it, every other run is spared its imports."""

    def __str__(self):
        from birq.report import methods

        return methods.paragraph(P)


config["methods"] = Methods()


def reads(stage):
    """A rule's inputs as the table of stages has them, by stage, and its stamp: params, code, a corpus' own files."""

    def inputs(wildcards):
        names = dag.STAGES[stage].wildcards
        try:
            node = dag.node(stage, {name: getattr(wildcards, name) for name in names}, P)
        except BirqError as error:
            raise WorkflowError(str(error)) from None
        provenance = {before: [str(n.provenance) for n in nodes] for before, nodes in node.inputs.items()}
        return provenance | {"stamp": str(adapter.stamp_path(node))}

    return inputs


def figure(name, category, shown):
    """A figure of the report with its caption, for `snakemake --report`."""
    return report(f"data/report/plots/{name}.svg", category=category, labels={"shown": shown}, caption=f"../report/{name}.rst")


def not_older(path, than):
    """True if all files are there and the first is as new as the others."""
    if not all(map(os.path.exists, [path, *than])):
        return False
    return all(os.stat(path).st_mtime_ns >= os.stat(other).st_mtime_ns for other in than)


def feature_parts(wildcards):
    """Marks of the parts that other jobs make, where features are spread over several."""
    n, corpus = FEATURE_PARTS, wildcards.corpus
    reasons = [f"data/.stamps/{stage}-{corpus}.json" for stage in ("corpus", "features")]
    if not_older(f"data/features/{corpus}/provenance.json", [f"data/corpus/{corpus}/provenance.json", *reasons]):
        return []  # however they were made
    return [f"data/.stamps/parts/features-{corpus}-{i}-of-{n}" for i in range(1, n + 1)] if n > 1 else []


def growing(amount):
    """Memory or time that doubles with every attempt: a job that was killed for want of it gets more. Profiles say how often it is tried."""
    return lambda wildcards, attempt: amount * 2 ** (attempt - 1)


def over_nodes(wildcards, resources):
    """Tells a training of the nodes that a profile asked for: the Slurm executor starts every rule on one."""
    nodes = resources.get("nodes", 1)
    return f"BIRQ_NODES={nodes} " if nodes > 1 else ""


def gpus():
    """1 where a GPU is seen: training jobs then take turns on it. On a cluster the profile names the resources."""
    if not shutil.which("nvidia-smi"):
        return 0
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return int("GPU" in seen.stdout)


GPU = gpus()


# this machine's limit is not a cluster's; under the name `gpu` it would also limit the GPUs that a job may ask Slurm for
resource_scopes:
    local_gpu="local",


wildcard_constraints:
    corpus="[a-z0-9_]+",
    method="[a-z0-9_]+",
    seed="[0-9]+",
