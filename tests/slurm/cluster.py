"""A Slurm cluster on this machine: munge, slurmctld, nodes `n1` and `n2` with two pretended GPUs each; if asked for, slurmdbd on MariaDB.

All of it lies in one folder and runs as the user who starts it, with ports of its own. Scheduling is real; limits on memory are enforced by
Slurm's own sampling, not by cgroups; a "GPU" is a device that exists everywhere, so CUDA finds none.

    python -m tests.slurm.cluster start [--accounting] [--folder FOLDER]    # prints the line that points Slurm's commands here
    python -m tests.slurm.cluster status [--folder FOLDER]
    python -m tests.slurm.cluster stop [--folder FOLDER]

Needs slurmctld, slurmd, slurm-client and munge (Debian), with accounting slurmdbd, mariadb-server-core and mariadb-client-core as well.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults")
FOLDER = Path("/tmp/birq-slurm")  # short: a socket's path may have no more than 107 characters
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

CONFIG = """\
ClusterName=birq
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# a requeued job waits until its first credential has expired: 120 s by default
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ctld_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
# nodes may be larger than this machine
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,bf_interval=1,sched_interval=2
ReturnToService=2
MinJobAge=3600
# a node is lost soon, but not because a loaded machine answers late
SlurmdTimeout=12
MessageTimeout=20
BatchStartTimeout=60
TreeWidth=2
{accounting}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1_port} CPUs=24 RealMemory=256000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2_port} CPUs=24 RealMemory=256000 Gres=gpu:2
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
# devices that every machine has stand for GPUs; Slurm only asks whether they exist
GRES = """\
NodeName=n1 Name=gpu File=/dev/null
NodeName=n1 Name=gpu File=/dev/zero
NodeName=n2 Name=gpu File=/dev/null
NodeName=n2 Name=gpu File=/dev/zero
"""
DBD = """\
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser={user}
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
"""


class ClusterError(Exception):
    """The cluster did not start; the message ends with the log of what failed."""


def missing(accounting: bool = False) -> list[str]:
    """The programs that this machine lacks."""
    return [x for x in DAEMONS + (ACCOUNTING if accounting else ()) if not shutil.which(x, path=PATH)]


def wait_for(what: str, condition: Callable[[], object], seconds: float = 60, logs: Callable[[], str] = str) -> None:
    """Wait until something is true. Errors: ClusterError with the logs when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s in vain: {what}\n{logs()}")
        time.sleep(0.05)


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


@dataclass
class Cluster:
    """A cluster in a folder; its configuration and process ids lie there, so another process can stop it."""

    folder: Path = FOLDER
    accounting: bool = False

    # ---- using it

    @property
    def environment(self) -> dict[str, str]:
        """What points Slurm's commands to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{self.folder / 'bin'}{os.pathsep}{PATH}"}

    def call(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands here; its output."""
        done = subprocess.run(
            command, env=os.environ | self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stdout}\n{self.logs()}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job that the controller remembers, as `scontrol show job` tells it; JobState, ReqTRES, NodeList, Comment, ..."""
        text = self.call("scontrol", "--oneliner", "show", "job", check=False)
        return [dict(w.split("=", 1) for w in line.split() if "=" in w) for line in text.splitlines() if line.startswith("JobId=")]

    def states(self) -> dict[str, str]:
        """State of each node: idle, alloc, mix, down, ..."""
        return dict(line.split() for line in self.call("sinfo", "-h", "-N", "-o", "%N %T").splitlines())

    def processes(self, job: str, *words: str) -> list[int]:
        """Processes of a job whose command line holds these words."""
        found = []
        for pid in self._belonging():
            with contextlib.suppress(OSError):
                place = Path(f"/proc/{pid}")
                command = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if f"SLURM_JOB_ID={job}\0" in (place / "environ").read_text(errors="replace") and set(words) <= set(command):
                    found.append(pid)
        return found

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        kept = {p.name: p for p in sorted(self.folder.glob("*.log"), reverse=True)}
        logs = [
            p for name, p in kept.items() if ".out." not in name or name.replace(".out.", ".") not in kept
        ]  # what it prints is its log again
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-3000:]}" for p in logs)

    # ---- starting and stopping

    def start(self) -> None:
        """Bring the cluster up, or leave it as it is when it runs. Errors: ClusterError."""
        if self.running() and set(self.states().values()) <= {"idle", "mixed", "allocated"}:
            return
        self.stop()
        if lacking := missing(self.accounting):
            raise ClusterError(f"not installed: {', '.join(lacking)}")
        self.folder.mkdir(parents=True)
        ports = dict(zip(("ctld_port", "n1_port", "n2_port", "dbd_port", "db_port"), _free_ports(5), strict=True))
        names = ports | {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "folder": self.folder}
        names["accounting"] = (
            self._accounting_lines(ports["dbd_port"]) if self.accounting else "AccountingStorageType=accounting_storage/none"
        )
        (self.folder / "slurm.conf").write_text(CONFIG.format(**names))
        (self.folder / "gres.conf").write_text(GRES)
        self._wrap("srun", "scontrol")
        try:
            self._start_munge()
            if self.accounting:
                self._start_accounting(names)
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            wait_for("both nodes idle", self._idle, logs=self.logs)
        except BaseException:
            self.stop(keep_logs=True)
            raise

    def stop(self, keep_logs: bool = False) -> None:
        """End every process of the cluster, its jobs' too, and remove the folder."""
        if not self.folder.exists():
            return
        for name in ("n1", "n2", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end(name)
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for("no process left", lambda: not self.left(), seconds=20)
        if not keep_logs:
            shutil.rmtree(self.folder)

    def start_controller(self) -> None:
        self._run("slurmctld", "slurmctld", "-D")

    def stop_controller(self) -> None:
        """As for an update: jobs run on."""
        self._end("slurmctld")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._run(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """What a power cut does to a node: its slurmd and all processes of its jobs are gone at once."""
        pids = [self._pid(node), *self._belonging(node)]
        for pid in filter(None, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._forget(node)

    def pids(self) -> dict[str, int]:
        """The daemons that live."""
        names = [p.stem for p in self.folder.glob("*.started")]
        return {name: pid for name in names if (pid := self._pid(name))}

    def running(self) -> bool:
        return {"munged", "slurmctld", *NODES} <= set(self.pids())

    def left(self) -> list[int]:
        """Processes of the cluster's jobs."""
        return list(self._belonging())

    # ---- inside

    def _idle(self) -> bool:
        states = self.call("sinfo", "-h", "-N", "-o", "%T", check=False).split()
        return states == ["idle", "idle"]

    def _run(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own; its process id is kept in a file."""
        with open(self.folder / f"{name}.out.log", "a") as out:
            process = subprocess.Popen(
                command, env=os.environ | self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        (self.folder / f"{name}.started").write_text(str(process.pid))
        _children[process.pid] = process

    def _pid(self, name: str) -> int | None:
        """Process id of a daemon that lives."""
        try:
            pid = int((self.folder / f"{name}.started").read_text())
        except FileNotFoundError:
            return None
        return pid if _alive(pid) else None

    def _forget(self, name: str) -> None:
        (self.folder / f"{name}.started").unlink(missing_ok=True)

    def _end(self, name: str) -> None:
        if pid := self._pid(name):
            os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(ClusterError):
                wait_for(f"{name} ends", lambda: not _alive(pid), seconds=10)
            if _alive(pid):
                os.kill(pid, signal.SIGKILL)
        self._forget(name)

    def _wrap(self, *commands: str) -> None:
        """Commands that know their configuration: Snakemake's plugin takes SLURM_CONF away from what it calls inside a job."""
        (self.folder / "bin").mkdir()
        for name in commands:
            wrapper = self.folder / "bin" / name
            real = shutil.which(name, path=PATH)
            wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
            wrapper.chmod(0o755)

    def _belonging(self, node: str = "") -> Iterator[int]:
        """Processes of the cluster's jobs, or of those on one node: known by their environment, Slurm's step daemons by their log file."""
        wanted = [f"SLURM_CONF={self.folder / 'slurm.conf'}", f"SLURMD_NODENAME={node}"]
        step_logs = {str(self.folder / f"{n}.log") for n in ([node] if node else NODES)}
        own = {os.getpid(), os.getppid()}
        for place in Path("/proc").glob("[0-9]*"):
            pid = int(place.name)
            with contextlib.suppress(OSError):
                if pid in own or not _alive(pid):
                    continue
                variables = (place / "environ").read_bytes().decode(errors="replace")
                is_step = (place / "comm").read_text().strip() == "slurmstepd"
                if all(w in variables for w in wanted) or (is_step and _open_files(place) & step_logs):
                    yield pid

    def _start_munge(self) -> None:
        place = self.folder / "munge"
        place.mkdir(mode=0o711)
        key = place / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "munged.log"}
        options = [f"--{option}={place / name}" for option, name in files.items()]
        self._run("munged", "munged", "--foreground", "--force", "--num-threads=2", *options)
        wait_for("munge", (place / "socket").exists, logs=self.logs)

    def _accounting_lines(self, port: int) -> str:
        lines = {"Type": "accounting_storage/slurmdbd", "Host": "127.0.0.1", "Port": port, "Pass": self.folder / "munge" / "socket"}
        return "\n".join(f"AccountingStorage{name}={value}" for name, value in lines.items())

    def _start_accounting(self, names: dict[str, object]) -> None:
        data, port, user = self.folder / "mariadb", names["db_port"], getpass.getuser()
        done = subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--auth-root-authentication-method=socket"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClusterError(done.stdout + done.stderr)
        db_socket = self.folder / "mariadb.sock"
        options = {"datadir": data, "socket": db_socket, "port": port, "bind-address": "127.0.0.1", "user": user}
        options |= {"pid-file": self.folder / "mariadb.pid", "innodb-buffer-pool-size": "64M", "innodb-lock-wait-timeout": 900}
        self._run("mariadbd", "mariadbd", "--no-defaults", "--skip-grant-tables", *(f"--{k}={v}" for k, v in options.items()))
        wait_for("MariaDB", db_socket.exists, logs=self.logs)
        place = self.folder / "slurmdbd.conf"
        place.write_text(DBD.format(**names))
        place.chmod(0o600)
        self._run("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: "birq" in self.call("sacctmgr", "-n", "-i", "add", "cluster", "birq", check=False), logs=self.logs)
        self.call("sacctmgr", "-i", "add", "account", "speech", "Description=speech", "Organization=birq")
        self.call("sacctmgr", "-i", "add", "user", user, "account=speech")


_children: dict[int, subprocess.Popen[bytes]] = {}


def _alive(pid: int) -> bool:
    """True for a process that is there and no zombie."""
    if child := _children.get(pid):
        child.poll()  # buries it when it has ended
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _open_files(place: Path) -> set[str]:
    found = set()
    for link in (place / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed in the meantime
            found.add(os.readlink(link))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm.cluster", description="A Slurm cluster of two pretended nodes on this machine"
    )
    parser.add_argument("command", choices=("start", "stop", "status"))
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where all of it lies (default: {FOLDER})")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd on MariaDB")
    asked = parser.parse_args()
    cluster = Cluster(asked.folder.resolve(), asked.accounting)
    try:
        if asked.command == "start":
            cluster.start()
            print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
        elif asked.command == "stop":
            cluster.stop()
        elif cluster.running():
            print(json.dumps(cluster.states()))
        else:
            print("not running")
            return 1
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
