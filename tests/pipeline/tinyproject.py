"""A birq project of its own for a test: its commands, what they computed and restored, and the bytes that came out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import tones

from birq.pipeline import artifact, dag
from birq.settings import params, presets

ROOT = Path(__file__).resolve().parents[2]
# an artifact's name where a verb speaks of it. Snakemake writes a message and its end of line apart, and a job's line may come between
# them, so not only at the start of a line; after blanks stand the last words of a failed job, which were said before
NAME = rf"(?<![ \t])((?:{'|'.join(dag.STAGES)})(?:/[\w-]+)?)"
VERB = re.compile(rf"{NAME}: (computing|restored|up to date|taken)[a-z ]* \((\w+)\)")
GIVEN_UP = re.compile(rf"{NAME}: an input was removed or replaced meanwhile")
PATIENCE_S = 300  # for conditions that come in seconds on an idle machine


def edit(path: Path, pattern: str, new: str) -> None:
    """Replace the one place that a pattern fits."""
    text, count = re.subn(pattern, new, path.read_text(), flags=re.M | re.S)
    assert count == 1, f"{pattern!r} stands {count} times in {path}"
    path.write_text(text)


@dataclass(frozen=True)
class Said:
    """What a verb said of its artifact: `computing`, `restored`, `up to date`, or `taken` (into the store)."""

    artifact: str  # stage/wildcards
    what: str
    key: str

    @property
    def stage(self) -> str:
        return self.artifact.split("/")[0]


@dataclass(frozen=True)
class Done:
    """A finished command and all that it printed."""

    text: str
    status: int

    def said(self) -> list[Said]:
        return [Said(*found) for found in VERB.findall(self.text)]


@dataclass(frozen=True)
class Project:
    """A folder with the tracked files and tiny params, under git; `done` gathers every command that ran."""

    root: Path
    env: dict[str, str]
    done: list[Done] = field(default_factory=list)  # shared by the copies of a project

    # ---- commands

    def run(self, *command: str, status: int | None = 0) -> Done:
        """Run a command here; its exit status must be the expected one (None: any but 0)."""
        process = subprocess.run(
            command, cwd=self.root, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return self.note(process.stdout, process.returncode, status)

    def note(self, text: str, code: int, status: int | None = 0) -> Done:
        """Keep what a command said."""
        done = Done(text, code)
        self.done.append(done)
        assert code == status if status is not None else code != 0, f"exit status {code}\n{text[-8000:]}"
        return done

    def snakemake(self, *args: str, status: int | None = 0) -> Done:
        return self.run("snakemake", "--cores", "2", *args, status=status)

    def dvc(self, *args: str, status: int | None = 0) -> Done:
        return self.run("dvc", *(args or ("repro",)), status=status)

    def birq(self, *args: str, status: int | None = 0) -> Done:
        return self.run("python", "-m", "birq", *args, status=status)

    def git(self, *args: str) -> Done:
        return self.run("git", *args)

    def start(self, *command: str) -> Running:
        """Start a command; what it prints goes into a file, read when it has ended."""
        log = self.root.parent / f"{self.root.name}-{len(self.done)}-{time.monotonic_ns()}.log"
        with open(log, "w") as f:
            process = subprocess.Popen(command, cwd=self.root, env=self.env, stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
        return Running(self, process, log)

    # ---- changes

    def set(self, *settings: str) -> None:
        """Set params: `finetune.steps=7`."""
        presets.apply(None, list(settings), self.root / "params.yaml")

    def params(self) -> params.Params:
        return params.load(self.root / "params.yaml")

    # ---- what came out

    def forget(self) -> None:
        """What ran so far was preparation."""
        self.done.clear()

    def said(self) -> list[Said]:
        """What the verbs said, in all copies of this project."""
        return [said for done in self.done for said in done.said()]

    def digests(self) -> dict[str, str]:
        """The digest of every artifact of the present params."""
        loaded = self.params()
        folders = [node.folder for node in dag.nodes(loaded)]
        return {str(f): artifact.read_provenance(self.root / f)["digest"] for f in folders}

    def verify(self) -> None:
        """Every hash and every key in data/ holds."""
        assert "every hash and every key holds" in self.birq("verify").text

    def nothing_to_do(self) -> None:
        """Snakemake finds all in place; no verb is called."""
        done = self.snakemake()
        assert "Nothing to be done" in done.text and not done.said(), done.text[-4000:]

    def up_to_date(self) -> None:
        """DVC finds all in place; it runs no stage but `digests`, which tells it about code and audio."""
        done = self.dvc()
        ran = set(re.findall(r"^Running stage '([^']+)'", done.text, flags=re.M))
        assert ran <= {"digests"} and not done.said(), done.text[-4000:]

    def copy(self, folder: Path) -> Project:
        """A copy with its own store and caches, times kept."""
        subprocess.run(["cp", "-a", self.root, folder], check=True)
        return self.at(folder)

    def real(self) -> Project:
        """The same folder, with commands that are processes of their own from their first line on (tests/forked.py)."""
        return self.at(self.root, PATH=self.env.get("REAL_PATH", self.env["PATH"]))

    def at(self, folder: Path, **env: str) -> Project:
        """The project in another folder; DVC's places outside of it are its own too."""
        places = {"PYTHONPATH": str(folder), "DVC_SITE_CACHE_DIR": f"{folder}.site", "DVC_GLOBAL_CONFIG_DIR": f"{folder}.config"}
        return replace(self, root=folder, env=self.env | places | env)


@dataclass
class Running:
    """A command in the background, with a process group of its own."""

    project: Project
    process: subprocess.Popen
    log: Path

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; the command must not have ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.02)

    def kill(self) -> Done:
        """SIGKILL to the command and all that it started, as a power cut does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        return self.project.note(self.log.read_text(), self.process.wait(), None)

    def end(self, status: int | None = 0) -> Done:
        """Wait for the end."""
        code = self.process.wait(timeout=PATIENCE_S)
        return self.project.note(self.log.read_text(), code, status)


@contextmanager
def ended(*running: Running) -> Iterator[None]:
    """Leaves no process behind, whatever happens."""
    try:
        yield
    finally:
        for one in running:
            if one.process.poll() is None:
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()


def tracked_files(folder: Path) -> None:
    """The checkout's files, as a commit of the present state would hold them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if not source.exists():
            continue  # deleted, not yet committed
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            shutil.copy(source, target)


def environment() -> dict[str, str]:
    """For a project of a benchmark: this Python's commands, its own store."""
    env = {k: v for k, v in os.environ.items() if k not in ("BIRQ_STORE", "SNAKEMAKE_PROFILE")} | {"OMP_NUM_THREADS": "1"}
    return env | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])}


def existing(folder: Path, environment: dict[str, str], ledger: list[Done]) -> Project:
    """A project that lies in a folder."""
    identity = {f"GIT_{who}_{what}": f"birq@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return Project(folder, environment | identity | {"GIT_CONFIG_GLOBAL": os.devnull}, ledger).at(folder)


def new(folder: Path, environment: dict[str, str], ledger: list[Done]) -> Project:
    """A fresh project: tracked files, the tones and their params, one commit; nothing made yet."""
    tracked_files(folder)
    shutil.copy(Path(__file__).with_name("tones.yaml"), folder / "presets")
    presets.apply("tones", [], folder / "params.yaml")
    tones.write(folder / "speech")
    project = existing(folder, environment, ledger)
    for command in (["init", "-q", "-b", "main", "."], ["add", "-A"], ["commit", "-qm", "tones"]):
        project.git(*command)
    project.forget()
    return project
