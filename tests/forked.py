"""Commands of the tests without their imports: a server that has loaded the big packages forks for each command.

Most processor time of a test that calls `snakemake`, `dvc` or `python -m birq` goes into imports: torch with its optimisers 6 s, Snakemake
2 s, DVC 1 s. One server for all processes that run tests imports those packages; birq itself it forgets, because its code lies in folders
that tests edit. In a folder that stands first in PATH lie `python`, `snakemake` and `dvc`: clients, which hand over their arguments,
folder, environment and open files, pass on the signals that they get, and end as their command ends. Who kills a client kills its command.

A client runs the real command where its process differs from the server in more than that: limits, mounts, rights, ignored signals,
locale. Tests whose subject is the process take the fixture `environment`, which has the real commands, and not `forked`.

    python tests/forked.py SOCKET    # the server; it ends when nobody is connected any more
"""

from __future__ import annotations

import contextlib
import marshal
import os
import signal
import socket
import struct
import sys

# small ones first: the server imports one whenever no command waits, and forks with what it has
PACKAGES = "pydantic ruamel.yaml.main jinja2 packaging.requirements jsonschema snakemake.cli snakemake.api snakemake.workflow"
PACKAGES += (
    " snakemake.report.html_reporter snakemake_executor_plugin_slurm dvc.cli dvc.repo dvc.commands.repro dvc.commands.experiments.run"
)
PACKAGES += " dvc.commands.checkout dvc.repo.experiments dvc.repo.reproduce dvc.stage.run dvc.output dvc.dependency torch torch._dynamo"
PACKAGES += " safetensors.torch torchaudio lhotse pandas pyarrow.parquet pyarrow.dataset sklearn.cluster scipy.stats networkx pyparsing"
PACKAGES += " soundfile sentencepiece miniaudio jiwer altair vl_convert"
COMMANDS = ("python", "snakemake", "dvc")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
HANDED_OVER = (b"PYTHONPATH", b"PYTHONDONTWRITEBYTECODE")  # of what starts with PYTHON
FIXED = (b"PYTHON", b"LC_", b"LANG", b"LD_", b"MALLOC", b"ARROW_")  # read when a package is loaded
STATUS = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapEff", "CapBnd", "Seccomp", "Cpus_allowed_list")
REFUSED = -1


def traits() -> list:
    """What a forked process has from the server: client and server must be equal in it."""
    with open("/proc/self/status") as status, open("/proc/self/limits") as limits:
        own: list = [line for line in status if line.startswith(STATUS)]
        own += limits.readlines()
    own += [os.readlink(f"/proc/self/ns/{space}") for space in ("mnt", "user", "pid")]
    return own + sorted((k, v) for k, v in os.environb.items() if k.startswith(FIXED) and k not in HANDED_OVER)


# ---- the client


def client(address: str, real: str) -> None:
    """Have the server run a command with this process's arguments; ends this process as the command ends."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
    except OSError:  # it has ended
        os.execv(real, [real, *sys.argv[1:]])
    asked = marshal.dumps((real, sys.argv[1:], os.getcwd(), dict(os.environb), traits()))
    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    socket.send_fds(server, [struct.pack("i", len(asked))], [0, 1, 2])
    server.sendall(asked)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    answer = server.recv(4)
    if not answer:
        sys.exit("the tests' fork server has died")
    status = struct.unpack("i", answer)[0]
    if status == REFUSED:
        os.execv(real, [real, *sys.argv[1:]])
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def seconds(address: str, worker: str) -> float:
    """Processor seconds of the commands that have ended, by the process of pytest-xdist that called them."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = marshal.dumps(worker.encode())
        server.sendall(struct.pack("i", len(asked)) + asked)
        return struct.unpack("d", server.recv(8))[0]


def install(folder: str) -> str:
    """Write the clients into an empty folder; the address of their server."""
    address, here = f"{folder}/socket", os.path.dirname(os.path.abspath(__file__))
    for name in COMMANDS:
        real = os.path.join(os.path.dirname(sys.executable), name)
        with open(f"{folder}/{name}", "w") as f:
            f.write(f"#!{sys.executable} -SEI\nimport sys\nsys.path.insert(0, {here!r})\nimport forked\n")
            f.write(f"forked.client({address!r}, {real!r})\n")
        os.chmod(f"{folder}/{name}", 0o755)
    return address


# ---- the server


def load(package: str) -> None:
    """Import a package if this machine has it; torchaudio as birq does it, which is then forgotten."""
    import importlib

    try:
        if package == "torchaudio":
            importlib.import_module("birq.speech.resampling").torchaudio()
        else:
            importlib.import_module(package)
    except Exception as e:
        print(f"{package}: {e!r}", file=sys.stderr)
    for name in [n for n in sys.modules if n.partition(".")[0] == "birq"]:
        del sys.modules[name]


class Server:
    """Forks for each request."""

    def __init__(self, address: str):
        import multiprocessing.spawn  # noqa: F401, keeps the real interpreter for what multiprocessing starts
        import selectors

        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen(100)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.children: dict[socket.socket, int] = {}  # process of each connection; 0: it has asked for nothing yet
        self.seconds: dict[bytes, float] = {}
        self.traits = traits()

    def run(self) -> tuple | None:
        """Serve until the last connection is closed. In a forked child: what it is to run, and its open files."""
        todo = PACKAGES.split()
        begun = False
        while self.children or not begun:
            ready = self.selector.select(0 if todo else None)
            if not ready:
                load(todo.pop(0))
            for key, _ in ready:
                if key.fileobj is self.listener:
                    self._accept()
                    begun = True
                elif key.data:
                    self._bury(key.fileobj, *key.data)
                elif self.children.get(key.fileobj):
                    self._pass_on(key.fileobj)
                elif key.fileobj in self.children and (command := self._asked(key.fileobj)):
                    return command
        return None

    def _accept(self) -> None:
        connection = self.listener.accept()[0]
        self.children[connection] = 0
        self.selector.register(connection, 1)

    def _close(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        del self.children[connection]
        connection.close()

    def _bury(self, ended: int, pid: int, connection: socket.socket, worker: bytes) -> None:
        """Tell how a child has ended."""
        _, status, used = os.wait4(pid, 0)
        self.seconds[worker] = self.seconds.get(worker, 0.0) + used.ru_utime + used.ru_stime
        self.selector.unregister(ended)
        os.close(ended)
        if connection in self.children:
            self._answer(connection, status)

    def _answer(self, connection: socket.socket, status: int) -> None:
        with contextlib.suppress(OSError):  # killed meanwhile
            connection.sendall(struct.pack("i", status))
        self._close(connection)

    def _pass_on(self, connection: socket.socket) -> None:
        """Signals for a child; all of its group is killed when its client is gone."""
        pid = self.children[connection]
        numbers = connection.recv(64)
        for number in numbers:
            os.kill(pid, number)
        if not numbers:
            os.killpg(pid, signal.SIGKILL)
            self._close(connection)

    def _asked(self, connection: socket.socket) -> tuple | None:
        """Read a request and fork for it; in the child, what was asked."""
        import gc

        size, files, _, _ = socket.recv_fds(connection, 4, 3)
        if not size:
            return self._close(connection)
        text = b""
        while len(text) < struct.unpack("i", size)[0]:
            text += connection.recv(1 << 20)
        asked = marshal.loads(text)
        if not files:
            return connection.sendall(struct.pack("d", self.seconds.get(asked, 0.0)))
        *command, own = asked
        pid = REFUSED
        if own == self.traits:
            gc.freeze()  # so that no collection in a child touches, and copies, the server's pages
            pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            for key in list(self.selector.get_map().values()):
                os.close(key.fd)
            return *command, files
        for f in files:
            os.close(f)
        if pid == REFUSED:
            return self._answer(connection, REFUSED)
        os.setpgid(pid, pid)
        self.children[connection] = pid
        self.selector.register(os.pidfd_open(pid), 1, (pid, connection, command[3].get(b"PYTEST_XDIST_WORKER", b"")))
        return None


def execute(real: str, arguments: list[str], folder: str, environment: dict[bytes, bytes], files: list[int]) -> None:
    """Run a command in this process, which was forked for it."""
    import importlib
    import runpy
    import time

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environb.clear()
    os.environb.update(environment)
    time.tzset()
    if "torch" in sys.modules and "OMP_NUM_THREADS" in os.environ:  # which torch read in the server; Snakemake sets it for each job
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    places = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:] = [*places, *sys.path]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    if os.path.basename(real) != "python":
        arguments = [real, *arguments]
    sys.executable = os.path.join(os.path.dirname(sys.argv[1]), "python")  # what this command calls goes the same way
    match arguments:
        case ["-m", module, *rest]:
            sys.path.insert(0, folder)
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", text, *rest]:
            sys.path.insert(0, "")
            sys.argv = ["-c", *rest]
            exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *rest]:
            sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")


def end(function, *arguments) -> None:
    """Call a function as an interpreter runs a program: exit status, error and what is left to do at the end."""
    import atexit
    import threading
    import traceback

    status = 0
    try:
        function(*arguments)
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        status = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads any more
            status = status or 120
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    import shutil

    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # only what is forked without threads is whole
    sys.path[0] = os.path.dirname(sys.path[0])
    if command := Server(sys.argv[1]).run():
        sys.path.pop(0)
        end(execute, *command)
    shutil.rmtree(os.path.dirname(sys.argv[1]))
