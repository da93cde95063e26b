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
from tinyproject import Done, Project, ended

from birq.pipeline import artifact

pytestmark = pytest.mark.pipeline

PRETRAIN, TOKENIZER = Path("data/pretrain/best_rq-0"), Path("data/tokenizer")
SECONDS = 200  # for what takes twenty on an idle machine


@dataclass(frozen=True)
class Story:
    """What happened: the three jobs in their order, where each run began or stopped, what Snakemake printed, digests of weights."""

    cancelled: dict[str, str]
    warned: dict[str, str]
    last: dict[str, str]
    begun: list[int]
    stopped: list[str]
    done: Done
    digest: str
    undisturbed: str


class Training:
    """The running pre-training's job, which is stopped with SIGSTOP while a fault is prepared."""

    def __init__(self, cluster: Cluster, project: Project):
        self.cluster, self.project = cluster, project
        self.earlier = {j["JobId"] for j in cluster.jobs()}
        self.running = project.start(*COMMAND, "--retries", "2", *(f"{x}/provenance.json" for x in (PRETRAIN, TOKENIZER)))
        self.log = project.root / "data/logs/pretrain/best_rq-0.log"  # Snakemake begins it anew for every attempt
        self.scratch = project.root / "data/.work/pretrain"
        self.begun: list[int] = []  # step at which each run began

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait; Snakemake must not have ended meanwhile."""

        def holds() -> bool:
            assert self.running.process.poll() is None, self.said()
            return bool(condition())

        wait_for(what, holds, SECONDS, self.said)

    def said(self) -> str:
        jobs = sorted((self.project.root / ".snakemake/slurm_logs/rule_pretrain").rglob("*.log"))
        own = "\n".join(f"--- {p}\n{p.read_text(errors='replace')[-3000:]}" for p in jobs)
        return f"{self.running.log.read_text()[-4000:]}\n--- {self.log}\n{self.own_words()}\n{own}\n{self.cluster.logs()}"

    def own_words(self) -> str:
        try:
            return self.log.read_text()
        except FileNotFoundError:  # between two attempts
            return ""

    def jobs(self) -> list[dict[str, str]]:
        """This pre-training's jobs, oldest first."""
        found = [j for j in self.cluster.jobs() if rule(j) == "pretrain" and j["JobId"] not in self.earlier]
        return sorted(found, key=lambda j: int(j["JobId"]))

    def begins(self, attempt: int, restarts: int = 0) -> tuple[dict[str, str], int]:
        """Wait until the attempt's training runs; its job and process."""
        found: list[tuple[dict[str, str], int]] = []

        def there() -> bool:
            jobs = self.jobs()
            if len(jobs) == attempt and int(jobs[-1]["Restarts"]) == restarts:
                found[:] = [(jobs[-1], pid) for pid in self.cluster.processes(jobs[-1]["JobId"], "birq", "pretrain")]
            return bool(found) and bool(re.search("resumes at step" if self.begun else "computing", self.own_words()))

        self.until(f"attempt {attempt} runs, restarted {restarts} times", there)
        self.begun += [int(n) for n in re.findall(r"resumes at step (\d+)", self.own_words())] or [0]
        return found[0]

    @contextlib.contextmanager
    def standing(self, attempt: int, restarts: int = 0) -> Iterator[tuple[dict[str, str], int]]:
        """Inside the block, the attempt's training has written a checkpoint and stands still."""
        job, pid = self.begins(attempt, restarts)
        before = self._checkpoint() if restarts or attempt > 1 else 0
        self.until("a checkpoint", lambda: self._checkpoint() > before)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield job, pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def stops(self) -> str:
        """Wait for the training's word that it was told to stop."""
        self.until("a stop", lambda: "is saved" in self.own_words())
        return re.search(r"step \d+ of \d+ is saved \(.*?\)", self.own_words())[0]

    def _checkpoint(self) -> int:
        """Time of the newest checkpoint."""
        return max((p.stat().st_mtime_ns for p in self.scratch.glob("*/scratch/checkpoint.pt")), default=0)


def signalled(pid: int, number: int) -> bool:
    """Whether a signal waits for a stopped process, or has ended it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    masks = re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)", status, flags=re.M)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def asks(snakemake: int) -> bool:
    """Whether this Snakemake is asking Slurm for the state of its jobs just now."""
    children = Path(f"/proc/{snakemake}/task").glob("*/children")
    pids = [pid for c in children for pid in c.read_text().split()]
    return any(Path(f"/proc/{pid}/comm").read_text() == "squeue\n" for pid in pids if Path(f"/proc/{pid}").exists())


def cancel(cluster: Cluster, training: Training) -> str:
    """The controller is away while Snakemake asks for it; when it is back, the job is cancelled."""
    with training.standing(1) as (job, _):
        cluster.stop_controller()
        training.until("Snakemake asks a controller that is not there", lambda: asks(training.running.process.pid))
        cluster.start_controller()
        training.until("the controller is back", cluster.jobs)
        cluster.call("scancel", job["JobId"])  # ends the standstill by itself: Slurm sends SIGCONT first
    return training.stops()


def lose_node(cluster: Cluster, training: Training) -> None:
    """The job's node goes dark; Slurm starts the job again on the other one."""
    with training.standing(2) as (job, _):
        cluster.kill_node(job["NodeList"])
    training.until("Slurm starts the job again", lambda: training.jobs()[-1]["Restarts"] == "1")
    cluster.start_node(job["NodeList"])


def run_out_of_time(cluster: Cluster, training: Training) -> str:
    """The job's limit comes near: Slurm warns it, as the profile asked."""
    with training.standing(2, restarts=1) as (job, pid):
        hours, minutes, _ = map(int, job["RunTime"].split("-")[-1].split(":"))
        cluster.call("scontrol", "update", f"JobId={job['JobId']}", f"TimeLimit={hours * 60 + minutes + 2}")
        training.until("Slurm's warning", lambda: signalled(pid, signal.SIGUSR1))
    return training.stops()


@pytest.fixture(scope="session")
def story(cluster: Cluster, run: Run, place: Path) -> Story:
    """Cancelled, its node lost, out of time, done: four runs of one training in three jobs."""
    project = on(cluster, run.project.copy(place / "faults"))
    project.set("pretrain.steps=600", "pretrain.log_every_steps=10", "tokenizer.kind=bpe", "tokenizer.vocab_size=4000")
    calm = project.copy(place / "calm")
    undisturbed = threading.Thread(target=calm.birq, args=("pretrain", "--method", "best_rq", "--seed", "0"))
    training = Training(cluster, project)
    with ended(training.running):
        stopped = [cancel(cluster, training)]
        undisturbed.start()
        lose_node(cluster, training)
        stopped.append(run_out_of_time(cluster, training))
        training.begins(3)
        done = training.running.end(status=1)
        undisturbed.join()
    digests = [artifact.read_provenance(p.root / PRETRAIN)["digest"] for p in (project, calm)]
    return Story(*training.jobs(), training.begun, stopped, done, *digests)


def test_weights_are_those_of_an_undisturbed_run(story: Story) -> None:
    """Everything random at a step follows from seed and step, so where a training was interrupted cannot be seen in its weights."""
    assert story.digest == story.undisturbed


def test_every_run_goes_on_where_the_one_before_it_ended(story: Story) -> None:
    """Never at step 0 again, and always later; told to stop, a training writes a checkpoint at that very step."""
    first, second, third, fourth = story.begun
    assert 0 == first < second < third < fourth
    assert story.stopped == [f"step {second} of 600 is saved (SIGTERM)", f"step {fourth} of 600 is saved (SIGUSR1)"]


def test_a_cancelled_job_is_submitted_again(story: Story) -> None:
    """Under a new number; that the controller was away just before does not matter."""
    assert story.cancelled["JobState"] == "CANCELLED"
    assert f"SLURM-job '{story.cancelled['JobId']}' failed, SLURM status is: 'CANCELLED'" in story.done.text


def test_a_lost_node_is_left_to_slurm(story: Story) -> None:
    """Slurm starts the job again under its number, and Snakemake waits on."""
    assert [j["Restarts"] for j in (story.cancelled, story.warned, story.last)] == ["0", "1", "0"]


def test_a_job_is_warned_before_its_time_is_over(story: Story) -> None:
    """The signal that the profile asks for reaches the training; its shell and Snakemake live on and report its end."""
    assert story.warned["JobState"] == "FAILED", "not TIMEOUT: it ended by itself"
    assert story.last["JobState"] == "COMPLETED"


def test_a_stage_that_fails_says_why(story: Story) -> None:
    """In Snakemake's own output stand the stage's error and the path of its log; the others' work is done all the same."""
    said = story.done.text.split("data/logs/tokenizer.log ends with:")[1]
    assert re.search(r"^ +error: tokenizer\.vocab_size: 4000 is too many", said, flags=re.M)
