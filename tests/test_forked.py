"""A forked command is to whoever calls it what the real one is; tests/forked.py says why there are such."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., subprocess.CompletedProcess[str]]
FORKED = "int(open('/proc/self/cmdline').read().split(chr(0))[1].endswith('forked.py'))"


@pytest.fixture(params=["environment", "forked"])
def env(request: pytest.FixtureRequest, fork_server_address: str | None) -> dict[str, str]:
    """Every test holds for the real commands and for the forked ones."""
    if fork_server_address is None:
        pytest.skip("--real-commands")
    return request.getfixturevalue(request.param)


@pytest.fixture
def call(env: dict[str, str], tmp_path: Path) -> Call:
    """Runs `python ARGS`."""

    def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["python", *args], cwd=tmp_path, env=env | more, input="heard", capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_it_is_forked(call: Call, env: dict[str, str]) -> None:
    """Else the suite would take twice its time and nobody would see why."""
    assert call("-c", f"print({FORKED})").stdout == f"{int('REAL_PATH' in env)}\n"


def test_arguments_folder_environment_and_files(call: Call, tmp_path: Path) -> None:
    """All that a command can see of its caller."""
    text = "import os, sys; print(sys.argv, os.getcwd(), os.environ['HELLO'], sys.stdin.read()); print('aside', file=sys.stderr)"
    said = call("-c", text, "a", "b c", HELLO="wörld")
    assert (said.stdout, said.stderr) == (f"['-c', 'a', 'b c'] {tmp_path} wörld heard\n", "aside\n")


def test_code_of_the_folder_that_is_asked_for(call: Call, tmp_path: Path) -> None:
    """birq lies in copies that tests edit: none is left over from a command before."""
    for n in ("1", "2"):
        (tmp_path / n / "birq").mkdir(parents=True)
        (tmp_path / n / "birq" / "__main__.py").write_text(f"import sys\nprint({n}, sys.argv[1:])")
        assert call("-m", "birq", "x", PYTHONPATH=str(tmp_path / n)).stdout == f"{n} ['x']\n"
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    (tmp_path / "script.py").write_text("import beside\nif __name__ == '__main__':\n    print(beside.NAME)")
    assert call("script.py").stdout == "beside\n"


@pytest.mark.parametrize(
    ("text", "status"),
    [("", 0), ("import sys; sys.exit(75)", 75), ("import sys; sys.exit('no')", 1), ("1 / 0", 1)]
    + [("import os; os.kill(os.getpid(), 9)", -9), ("import os; os.kill(os.getpid(), 15)", -15), ("import os; os._exit(3)", 3)]
    + [("raise KeyboardInterrupt", -2)],
)
def test_exit_status(call: Call, text: str, status: int) -> None:
    """A tool decides by it what to do."""
    assert call("-c", text).returncode == status


def test_what_is_left_to_do_at_the_end_is_done(call: Call) -> None:
    """Functions of atexit, threads, and what stands in buffers."""
    text = "import atexit, threading, time; atexit.register(print, 'last')\n"
    text += "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start(); print('first')"
    assert call("-c", text).stdout == "first\nthread\nlast\n"


SLEEPER = "import os, subprocess, time; print(os.getpid(), flush=True); subprocess.run(['sleep', '60'])"
STOPPED = "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\nprint(flush=True); time.sleep(60)"


def test_signals_reach_it(env: dict[str, str]) -> None:
    """A training stops at a signal with a status of its own."""
    with subprocess.Popen(["python", "-c", STOPPED], env=env, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGUSR1)
        assert child.wait(60) == 75


def test_who_kills_it_kills_its_children(env: dict[str, str]) -> None:
    """As a power cut does: tests kill a group of processes, and nothing may go on."""
    with subprocess.Popen(["python", "-c", SLEEPER], env=env, stdout=subprocess.PIPE, start_new_session=True) as child:
        pid = int(child.stdout.readline())
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(60) == -9
        child.stdout.read()  # until all that held it are gone
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_another_is_a_real_one(forked: dict[str, str], tmp_path: Path) -> None:
    """Limits, mounts and ignored signals are not handed over, so such a command must not be forked."""
    if forked["PATH"] == forked["REAL_PATH"]:
        pytest.skip("--real-commands")
    ask = f'python -c "print({FORKED})"'
    for before, expected in (("", "1"), ("ulimit -n 99;", "0"), ("trap '' USR1;", "0"), ("umask 0;", "0"), ("export LC_ALL=C;", "0")):
        said = subprocess.run(["bash", "-c", f"{before} {ask}"], env=forked, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == expected, before
    if not subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        command = ["unshare", "-rm", "bash", "-c", ask]
        assert subprocess.run(command, env=forked, capture_output=True, text=True, check=True).stdout.strip() == "0"
