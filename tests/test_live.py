"""A run while it goes on: its curves in other tools, and the page of `birq ui`."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest

from birq.errors import BirqError
from birq.live import follow, serve, sinks, state, trainings
from birq.pipeline import artifact, keys, locations
from birq.pipeline.dag import Node
from birq.settings import params

ROOT = Path(__file__).resolve().parent.parent
RUN = "pretrain/birq-0"
LINES = [{"step": s, "loss": 1 / s, "masked_accuracy": s / 100, "label_fidelity": None} for s in (1, 5, 5, 10)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tracked params.yaml in a folder of its own; every artifact has a key, as if all inputs were there."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIRQ_STORE", raising=False)
    monkeypatch.setattr(keys, "current_key", lambda node: f"key-of-{node.name.replace('/', '-')}")
    monkeypatch.setattr(trainings, "_key", keys.current_key)
    return tmp_path


def key(name: str) -> str:
    return f"key-of-{name.replace('/', '-')}"


def work(name: str) -> Path:
    return locations.work_root() / name.partition("/")[0] / key(name)


def written(name: str = RUN, lines: list[dict[str, Any]] = LINES, half: str = '{"step": 15, "lo') -> Path:
    folder = work(name) / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + half)
    timing = [{"step": line["step"], "seconds": 2.0 * line["step"], "audio_hours_per_hour": 400.0} for line in lines]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    return folder


# ---- curves in other tools


def read_dvclive(folder: Path) -> dict[str, list[tuple[int, float]]]:
    out = {}
    for path in (folder / RUN / "curves/plots/metrics").glob("*.tsv"):
        rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
        out[path.stem] = [(int(step), float(value)) for step, value in rows]
    return out


def read_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / RUN))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_mlflow(folder: Path) -> dict[str, list[tuple[int, float]]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    (found,) = client.search_runs([client.get_experiment_by_name("birq").experiment_id])
    assert found.info.run_name == RUN and found.data.tags["birq.key"] == key(RUN) and found.data.tags["birq.method"] == "birq"
    return {name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)] for name in found.data.metrics}


def read_wandb(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """From the file that `wandb sync` sends: records with checksum, length and kind before each, in one block of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    out: dict[str, list[tuple[int, float]]] = {}
    (path,) = folder.glob(f"wandb/offline-run-*-{key(RUN)}/*.wandb")
    data, at = path.read_bytes(), 7
    assert len(data) < 32768
    while at < len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        assert kind == 1, "a whole record"
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
        for name in items.keys() & {"loss", "masked_accuracy", "label_fidelity"}:
            out.setdefault(name, []).append((record.history.step.num, items[name]))
    return out


READ = {"dvclive": read_dvclive, "tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


@pytest.mark.parametrize("tool", sinks.TOOLS)
def test_a_tool_has_the_curve(project: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step once, also where a training was resumed; half a line waits for its end; what is null is not there."""
    pytest.importorskip(tool, reason=f"{tool} is missing: pip install -e '.[dev]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written()
    said: list[str] = []
    follow.follow(params.load("params.yaml"), [tool], Path(tool), said.append, once=True)
    assert said == [f"{RUN}: 3 more lines, step 10"]
    found = READ[tool](Path(tool))
    assert set(found) == {"loss", "masked_accuracy"}
    assert [step for step, _ in found["loss"]] == [1, 5, 10] and [v for _, v in found["loss"]] == pytest.approx([1, 0.2, 0.1])


@pytest.mark.parametrize("tool", ["dvclive", "tensorboard", "mlflow"])
def test_begun_again_it_doubles_nothing(project: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps the run by its key and gets what is new; the others are written anew."""
    pytest.importorskip(tool, reason=f"{tool} is missing: pip install -e '.[dev]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    loaded, said = params.load("params.yaml"), []
    written()
    follow.follow(loaded, [tool], None, said.append, once=True)
    written(lines=[*LINES, {"step": 15, "loss": 0.05, "masked_accuracy": 0.2}], half="")
    follow.follow(loaded, [tool], None, said.append, once=True)
    assert [step for step, _ in READ[tool](Path(tool))["loss"]] == [1, 5, 10, 15]
    assert said[1] == f"{RUN}: {1 if tool == 'mlflow' else 4} more lines, step 15"


def test_it_ends_when_all_trainings_are_done(project: Path) -> None:
    """It goes on while one is missing, and reads a curve that was published meanwhile."""
    pytest.importorskip("tensorboard", reason="tensorboard is missing: pip install -e '.[dev]'")
    loaded, said = params.load("params.yaml"), []
    names = [n.name for n in trainings.nodes(loaded)]
    begun = threading.Thread(
        target=follow.follow, args=(loaded, ["tensorboard"], None, said.append), kwargs={"once": False, "every_seconds": 0.02}
    )
    written()
    begun.start()
    try:
        for name in names:
            stored = locations.store_path(name.partition("/")[0], key(name))
            stored.parent.mkdir(parents=True, exist_ok=True)
            assert begun.is_alive()
            written(name, [*LINES, {"step": 20, "loss": 0.01}], half="").rename(stored)
    finally:
        begun.join(30)
    assert not begun.is_alive() and all(any(s.startswith(f"{name}: ") and s.endswith("step 20") for s in said) for name in names)


def test_a_tool_that_is_not_there_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BirqError, match="--to comet: unknown, birq knows dvclive, tensorboard, wandb, mlflow"):
        follow.follow(params.load("params.yaml"), ["comet"], None, print, once=True)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BirqError, match=r"package wandb cannot be imported .*pip install 'birq\[wandb\]'"):
        follow.follow(params.load("params.yaml"), ["wandb"], None, print, once=True)


# ---- the state of a run


def jobs(of: params.Params) -> dict[str, str]:
    return {job["name"]: job["state"] for job in state.state(of)["jobs"]}


def test_states(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, stale, running, stopped by a kill, waiting; a process of this machine is asked for, one of another told by its files."""
    known = {"corpus/synth": key("corpus/synth"), "features/synth": "another"}

    def of(node: Node) -> dict[str, Any]:
        if node.name not in known:
            raise BirqError(f"{node.folder}: not made")
        return {"key": known[node.name], "wall_seconds": 12.0, "notes": {}}

    monkeypatch.setattr(artifact, "of", of)
    loaded, lock = params.load("params.yaml"), locations.store_path("pretrain", key(RUN)).with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    written()
    assert jobs(loaded)[RUN] == "stopped"
    (work(RUN) / "reserve").touch()
    lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    found = jobs(loaded)
    assert (found["corpus/synth"], found["features/synth"], found[RUN], found["report"]) == ("done", "stale", "running", "waiting")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock.write_text(f"process {dead.pid} on {socket.gethostname()}")
    assert jobs(loaded)[RUN] == "stopped"
    lock.write_text("process 1 on elsewhere")
    assert jobs(loaded)[RUN] == "running"
    long_ago = time.time() - 2 * state.SILENT_SECONDS
    for path in (work(RUN), *work(RUN).rglob("*")):
        os.utime(path, (long_ago, long_ago))
    assert jobs(loaded)[RUN] == "stopped"


def test_curves_and_time_left(project: Path) -> None:
    """2 s a step: what is left follows; of many lines every n-th comes, and the last one."""
    loaded = params.load("params.yaml")
    written()
    (one,) = state.state(loaded)["trainings"]
    assert (one["stage"], one["run"], one["step"], one["steps"]) == ("pretrain", "birq-0", 10, loaded.pretrain.steps)
    assert one["left_s"] == pytest.approx(2.0 * (loaded.pretrain.steps - 10)) and one["speed_h_per_h"] == 400.0
    assert one["curves"]["loss"] == [[1, 1.0], [5, 0.2], [10, 0.1]] and "label_fidelity" not in one["curves"]
    written(lines=[{"step": s, "loss": 1.0} for s in range(1, 5001)], half="")
    points = state.state(loaded)["trainings"][0]["curves"]["loss"]
    assert len(points) <= state.POINTS + 1 and points[0][0] == 1 and points[-1][0] == 5000


# ---- the page


@pytest.fixture
def served(project: Path) -> Iterator[serve.Server]:
    written()
    with serve.Server("127.0.0.1", 0, "params.yaml") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(server: serve.Server, path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"localhost:{server.port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_it_answers_to_this_machine_alone(served: serve.Server) -> None:
    """A page of another site, whose name resolves to this address, gets nothing: no figures, no report."""
    for host in (f"localhost:{served.port}", f"127.0.0.1:{served.port}", f"[::1]:{served.port}", f"LOCALHOST:{served.port}"):
        assert asked(served, "/", host)[0] == 200, host
    for host in (
        f"evil.example:{served.port}",
        "evil.example",
        "localhost",
        "localhost:1",
        "",
        f"localhost.evil.example:{served.port}",
        f"192.0.2.1:{served.port}",
    ):
        for path in ("/", "/state.json", "/report"):
            assert asked(served, path, host)[0] == 403, host


@pytest.mark.parametrize(
    "path",
    [
        *("/params.yaml", "/../params.yaml", "/..%2fparams.yaml", "//etc/passwd", "/report/../../params.yaml", "/report", "/data/"),
        *("/state.json/..", "/%00", "*", "http://x/"),
    ],
)
def test_no_file_is_served_but_its_pages(served: serve.Server, path: str) -> None:
    """The report is not made here, so it is not served either."""
    assert asked(served, path)[0] == 404


def test_it_only_reads(served: serve.Server) -> None:
    """No method changes anything; the page may load nothing from elsewhere, nor stand in another page."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert asked(served, "/", method=method)[0] == 501
    status, headers, body = asked(served, "/", method="HEAD")
    assert status == 200 and body == b"" and int(headers["content-length"]) > 1000
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in headers


def test_the_report_is_served_when_it_is_made(served: serve.Server) -> None:
    page = Path("data/report/index.html")
    page.parent.mkdir(parents=True)
    page.write_text("<h1>made</h1>")
    assert asked(served, "/report")[2] == b"<h1>made</h1>" and asked(served, "/study")[0] == 404
    assert json.loads(asked(served, "/state.json")[2])["pages"] == ["report"]


def test_a_mistake_in_params_is_shown_and_the_rest_stays(served: serve.Server) -> None:
    assert "error" not in json.loads(asked(served, "/state.json")[2])
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("batch_seconds: 30.0", "batch_seconds: soon", 1))
    served.watched._next = 0.0
    now = json.loads(asked(served, "/state.json")[2])
    assert "soon" in now["error"] and now["trainings"]
    Path("params.yaml").write_text(text)
    served.watched._next = 0.0
    assert "error" not in json.loads(asked(served, "/state.json")[2])


def test_a_first_look_that_fails_is_a_page_all_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(loaded: params.Params) -> dict[str, Any]:
        raise BirqError("an artifact is damaged")

    monkeypatch.setattr(serve, "state", fails)
    found = json.loads(serve.Watched("params.yaml").json())
    assert found["error"] == "an artifact is damaged" and found["jobs"] == found["trainings"] == found["pages"] == []


def test_looks_are_rare_where_they_are_dear(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten readers at once are one look; a look of a second is not repeated for ten."""
    looks = []
    monkeypatch.setattr(serve, "state", lambda loaded: looks.append(1) or time.sleep(0.3) or {"jobs": []})
    watched = serve.Watched("params.yaml")
    threads = [threading.Thread(target=watched.json) for _ in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(looks) == 1 and watched._next - time.monotonic() > 2.0


def test_another_address_is_said(project: Path) -> None:
    """On an address that others reach, names are this machine's own; an address that is taken is refused with the way out."""
    with serve.Server("0.0.0.0", 0, "params.yaml") as server:
        own = socket.gethostname().lower()
        assert (
            server.knows(f"192.0.2.7:{server.port}")
            and server.knows(f"{own}:{server.port}")
            and not server.knows(f"evil.example:{server.port}")
        )
        with pytest.raises(BirqError, match=rf"0.0.0.0:{server.port} cannot be used .*--port 0"):
            other = socket.socket()
            other.bind(("0.0.0.0", 0))
            other.listen()
            serve.Server("0.0.0.0", server.port, "params.yaml")


@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium here, so the page is not used in a browser")
def test_the_page_in_a_browser(served: serve.Server) -> None:
    """It shows what is there, and a step that comes later without a reload; when the server does not answer, it says so."""
    with chromium.page() as tab:
        tab.open(f"http://localhost:{served.port}/")
        tab.wait("document.querySelectorAll('#charts svg').length === 2")
        assert tab.run("document.querySelector('#progress tbody tr').textContent").startswith("birq-0pre-training10 of ")
        assert "stopped" in tab.run("document.getElementById('said').textContent")
        written(lines=[*LINES, {"step": 12, "loss": 0.07, "masked_accuracy": 0.3}], half="")
        tab.wait("document.querySelector('#progress tbody tr').textContent.startsWith('birq-0pre-training12 of ')")
        assert set(tab.requests) == {f"http://localhost:{served.port}/", f"http://localhost:{served.port}/state.json"} and not tab.errors
        tab.size(390, 840)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        served._names = set()  # it refuses from now on
        tab.wait("document.getElementById('said').textContent.includes('does not answer')")
