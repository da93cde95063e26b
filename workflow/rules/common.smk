import shlex
import shutil
import subprocess
import sys

from pathlib import Path

sys.path.insert(0, str(workflow.basedir))

from birq import dag, params as birq_params, stamps
from birq.errors import BirqError
from snakemake.exceptions import WorkflowError

# rules call `python -m birq` with the Python that runs Snakemake, also where its environment is not activated
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

try:
    P = birq_params.load("params.yaml")
    # params and code become files, rewritten only when they change, so that Snakemake sees a change whoever ran last
    stamps.write_all(P)
except BirqError as error:
    raise WorkflowError(str(error)) from None


def made(stage, role="runs"):
    """The provenance of a stage's artifacts: of the corpora that play a role, or of every method and seed."""
    found = dag.instances(stage, P) if role == "runs" else [{"corpus": c} for c in dag.corpora_for(role, P)]
    return [f"{dag.artifact(stage, w)}/provenance.json" for w in found]


def stamp(stage):
    """What a stage depends on besides its inputs: its params and its code."""
    return f"data/.stamps/{stage}.json"


def gpus():
    """1 where a GPU is seen: training jobs then take turns on it. On a cluster the profile says what to ask for."""
    if not shutil.which("nvidia-smi"):
        return 0
    seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return int("GPU" in seen.stdout)


GPU = gpus()


# a local limit on `gpu` holds for this machine, not for jobs that a cluster places
resource_scopes:
    gpu="local",


wildcard_constraints:
    corpus="[a-z0-9_]+",
    method="[a-z_]+",
    seed="[0-9]+",
