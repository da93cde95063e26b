"""One pre-training through every fault that a cluster has, beside a stage that always fails; then the bytes are compared."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Cluster, wait_for
from on_slurm import COMMAND, Run, on, rule
from tinyproject import Done, Project, Running, ended

from birq import artifact

pytestmark = pytest.mark.pipeline

PRETRAIN, TOKENIZER = Path("data/pretrain/best_rq-0"), Path("data/tokenizer")
SECONDS = 420  # for what takes ten on an idle machine


@dataclass(frozen=True)
class Story:
    """What happened: the jobs in their order, what Snakemake printed, the stage's own log, the weights' digest and an undisturbed run's."""

    cancelled: dict[str, str]
    lost: dict[str, str]
    warned: dict[str, str]
    last: dict[str, str]
    done: Done
    log: str
    digest: str
    undisturbed: str


class Training:
    """The running pre-training's job, which is stopped with SIGSTOP while a fault is prepared."""

    def __init__(self, cluster: Cluster, project: Project, running: Running):
        self.cluster, self.running = cluster, running
        self.log = project.root / "data/logs/pretrain/best_rq-0.log"
        self.scratch = project.root / "data/.work/pretrain"

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait; Snakemake must not have ended meanwhile."""

        def holds() -> bool:
            assert self.running.process.poll() is None, self.said()
            return bool(condition())

        wait_for(what, holds, SECONDS, self.said)

    def said(self) -> str:
        log = self.log.read_text()[-2000:] if self.log.exists() else ""
        return f"{self.running.log.read_text()[-4000:]}\n--- {self.log}\n{log}\n{self.cluster.logs()}"

    def resumptions(self) -> int:
        return len(re.findall(r"resumes at step", self.log.read_text())) if self.log.exists() else 0

    def jobs(self) -> list[dict[str, str]]:
        """The pre-training's jobs, oldest first."""
        found = [j for j in self.cluster.jobs() if rule(j) == "pretrain"]
        return sorted(found, key=lambda j: int(j["JobId"]))

    @contextlib.contextmanager
    def stopped(self, count: int, resumed: int) -> Iterator[tuple[dict[str, str], int]]:
        """The newest of `count` jobs after `resumed` resumptions and one more checkpoint; its training stands still inside the block."""
        self.until(f"{count} jobs, {resumed} resumptions", lambda: len(self.jobs()) == count and self.resumptions() == resumed)
        before = self._checkpoint() if resumed else 0
        self.until("a checkpoint", lambda: self._checkpoint() > before)
        job = self.jobs()[-1]
        (pid,) = self.cluster.processes(job["JobId"], "birq", "pretrain")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield job, pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _checkpoint(self) -> int:
        """Time of the newest checkpoint."""
        return max((p.stat().st_mtime_ns for p in self.scratch.glob("*/scratch/checkpoint.pt")), default=0)


def pending(pid: int) -> set[int]:
    """Signals that wait for a stopped process."""
    status = Path(f"/proc/{pid}/status").read_text()
    bits = [int(mask, 16) for mask in re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)", status, flags=re.M)]
    return {n for n in range(1, 65) for mask in bits if mask >> (n - 1) & 1}


def lose_node(cluster: Cluster, training: Training) -> dict[str, str]:
    """The job's node goes dark while the controller is away; the job as it is started again by Slurm."""
    with training.stopped(2, 1) as (job, _):
        cluster.stop_controller()
        cluster.kill_node(job["NodeList"])
        cluster.start_controller()
    training.until("Slurm starts the job again", lambda: training.jobs()[-1].get("Restarts") == "1")
    cluster.start_node(job["NodeList"])
    return job


def run_out_of_time(cluster: Cluster, training: Training) -> dict[str, str]:
    """The job's limit comes near: Slurm warns it, as the profile asked."""
    with training.stopped(2, 2) as (job, pid):
        hours, minutes, _ = map(int, job["RunTime"].split("-")[-1].split(":"))
        cluster.call("scontrol", "update", f"JobId={job['JobId']}", f"TimeLimit={hours * 60 + minutes + 2}")
        training.until("Slurm's warning", lambda: signal.SIGUSR1 in pending(pid))
    return job


@pytest.fixture(scope="session")
def story(cluster: Cluster, run: Run, place: Path) -> Story:
    """Cancelled, its node lost, out of time, done: four runs of one training in three jobs."""
    project = on(cluster, run.project.copy(place / "faults"))
    project.set("pretrain.steps=600", "pretrain.log_every_steps=10", 'tokenizer.alphabet="bcdefgh "')
    calm = project.copy(place / "calm")
    undisturbed = threading.Thread(target=calm.birq, args=("pretrain", "--method", "best_rq", "--seed", "0"))
    running = project.start(*COMMAND, "--retries", "2", *(f"{x}/provenance.json" for x in (PRETRAIN, TOKENIZER)))
    training = Training(cluster, project, running)
    with ended(running):
        with training.stopped(1, 0) as (job, _):
            cluster.call("scancel", job["JobId"])  # ends the standstill by itself: Slurm sends SIGCONT first
        undisturbed.start()
        lose_node(cluster, training)
        warned = run_out_of_time(cluster, training)
        done = running.end(status=1)
        undisturbed.join()
    cancelled, lost, last = training.jobs()
    digests = [artifact.read_provenance(p.root / PRETRAIN)["digest"] for p in (project, calm)]
    return Story(cancelled, lost, warned, last, done, training.log.read_text(), *digests)


def test_weights_are_those_of_an_undisturbed_run(story: Story) -> None:
    """Everything random at a step follows from seed and step, so where a training was interrupted cannot be seen in its weights."""
    assert story.digest == story.undisturbed


def test_every_job_goes_on_where_the_one_before_it_ended(story: Story) -> None:
    """Never at step 0, and always later."""
    stopped = [int(n) for n in re.findall(r"step (\d+) of \d+ is saved", story.log)]
    resumed = [int(n) for n in re.findall(r"resumes at step (\d+)", story.log)]
    assert len(resumed) == 3 and resumed == sorted(set(resumed)) and resumed[0] > 0
    assert {resumed[0], resumed[2]} == set(stopped), "told to stop, it writes a checkpoint at that very step"


def test_a_cancelled_job_is_submitted_again(story: Story) -> None:
    """`scancel` tells the training to stop; what comes after it has another number."""
    assert story.cancelled["JobState"] == "CANCELLED" and story.lost["JobId"] != story.cancelled["JobId"]
    assert f"SLURM-job '{story.cancelled['JobId']}' failed, SLURM status is: 'CANCELLED'" in story.done.text


def test_a_lost_node_is_left_to_slurm(story: Story) -> None:
    """Slurm starts the job again under its number on the other node; Snakemake waits on, although the controller was away as well."""
    assert story.lost["Restarts"] == "1" and story.warned["JobId"] == story.lost["JobId"]


def test_a_job_is_warned_before_its_time_is_over(story: Story) -> None:
    """The signal that the profile asks for reaches the training, and neither its shell nor Snakemake dies of it."""
    assert story.lost["JobState"] == "FAILED", "not TIMEOUT: it ended by itself"
    assert story.last["JobState"] == "COMPLETED"
    assert "SIGUSR1" in story.log


def test_a_stage_that_fails_says_why(story: Story) -> None:
    """In Snakemake's own output stand the stage's error and the path of its log; the others' work is done all the same."""
    said = story.done.text.split("data/logs/tokenizer.log ends with:")[1]
    assert re.search(r"^ +error: .*not in tokenizer\.alphabet", said, flags=re.M)
