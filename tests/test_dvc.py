"""DVC for real: corpora outside the project, remotes, links to one copy on disk, and what its tables and plots show.

One small project of recorded noise, made up to its tokenizer, serves most tests; each leaves it as it was.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_artifacts as artifacts
import yaml
from disk import place, reflinks
from test_corpora import tree
from test_workflow import tracked_copy

from birq.pipeline import dag
from birq.report import build

ROOT = Path(__file__).resolve().parent.parent
MADE = ["data/corpus/mine", "data/features/mine", "data/tokenizer"]
UPTO = "tokenizer"  # DVC runs it and what is before it


class Project:
    """A git and DVC project and its commands."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        identity = {f"GIT_{who}_{what}": f"birq@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
        self.folder = folder
        self.environment = environment | identity | keys | {"PYTHONPATH": str(folder)}

    def run(self, *command: str, fails: bool = False) -> str:
        """What the command says. It must succeed, or fail if told so."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert (done.returncode != 0) == fails, done.stdout[-4000:]
        return done.stdout

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "as it is")

    def clone(self, folder: Path) -> Project:
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        return Project(folder, self.environment)

    def digests(self) -> dict[str, str]:
        return {m: json.loads((self.folder / m / "provenance.json").read_text())["digest"] for m in MADE}


def computed(said: str) -> set[str]:
    return set(re.findall(r"^(\S+): computing \(", said, flags=re.M))


def stages(said: str) -> set[str]:
    """What DVC ran."""
    return set(re.findall(r"^Running stage '([^@']+)", said, flags=re.M))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the user's, outside the project."""
    return tree(tmp_path_factory.mktemp("speech"), suffix="wav")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, forked: dict[str, str], speech: Path) -> Project:
    """Corpus, features and tokenizer are made, and committed."""
    made = Project(tracked_copy(tmp_path_factory.mktemp("dvc") / "project"), forked)
    (made.folder / "data").mkdir()
    for name in (".gitignore", "data/.gitignore"):
        shutil.copy(ROOT / name, made.folder / name)
    values = yaml.safe_load((made.folder / "params.yaml").read_text())
    values["corpora"] = {"mine": {"kind": "local", "root": str(speech)}}
    values["run"] |= {"methods": ["scratch"], "pretrain_corpora": ["mine"], "finetune_corpora": ["mine"]}
    (made.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    made.commit()
    said = made.run("dvc", "repro", UPTO)
    assert computed(said) == {"corpus/mine", "features/mine", "tokenizer"}
    made.commit()
    return made


# ---- corpora outside the project


def test_outside_audio_is_never_stale(project: Project, speech: Path) -> None:
    """DVC does not look into the corpus' folder; the stage `digests` does, so a changed file counts and a touched one does not."""
    assert stages(project.run("dvc", "repro", UPTO)) == {"digests"}
    path = sorted(speech.rglob("*.wav"))[0]
    os.utime(path, (1, 1))
    assert stages(project.run("dvc", "repro", UPTO)) == {"digests"}
    good, before = path.read_bytes(), project.digests()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said = project.run("dvc", "repro", UPTO)
    assert computed(said) >= {"corpus/mine", "features/mine"}
    path.write_bytes(good)
    assert not computed(project.run("dvc", "repro", UPTO))
    assert project.digests() == before and project.run("git", "status", "--porcelain") == "", "dvc.lock is what it was"


# ---- remotes


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3, on this machine, with a bucket `speech`."""
    pytest.importorskip("dvc_s3", reason="dvc-s3 is missing: pip install -e '.[dev]'")
    server = pytest.importorskip("moto.server", reason="moto[s3], flask or flask-cors is missing: pip install -e '.[dev]'")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="speech")
    yield url
    running.stop()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def round_trip(project: Project, clone: Path) -> None:
    """What was pushed comes back in a fresh clone, byte for byte, and neither DVC nor a verb by itself makes it again."""
    assert "files pushed" in project.run("dvc", "push")
    fresh = project.clone(clone)
    fresh.run("dvc", "pull", "--allow-missing", "digests", "corpus", "features", UPTO)
    assert fresh.digests() == project.digests()
    assert stages(fresh.run("dvc", "repro", UPTO)) == {"digests"}
    assert "up to date" in fresh.run("python", "-m", "birq", "tokenizer"), "pulled artifacts are taken into the store"


def test_local_remote(project: Project, tmp_path: Path) -> None:
    """A folder, such as one on a server's disk; when it is not mounted, `pull` names it as an error and touches nothing."""
    project.run("dvc", "remote", "add", "-f", "-d", "storage", str(tmp_path / "remote"))
    project.commit()
    try:
        round_trip(project, tmp_path / "clone")
        (tmp_path / "remote").rename(tmp_path / "elsewhere")
        lost = project.clone(tmp_path / "lost")
        said = lost.run("dvc", "pull", "digests", fails=True)
        assert "ERROR: failed to pull data from the cloud" in said and not list(lost.folder.glob("data/digests/*"))
    finally:
        project.run("git", "reset", "-q", "--hard", "HEAD~1")


def test_s3_remote(project: Project, tmp_path: Path, s3: str) -> None:
    """The same over S3. While the server cannot be reached there is one error and nothing is lost: the next push sends all of it."""
    project.run("dvc", "remote", "add", "-f", "-d", "storage", "s3://speech/birq")
    project.run("dvc", "remote", "modify", "storage", "endpointurl", f"http://127.0.0.1:{free_port()}")
    before = project.digests()
    try:
        said = project.run("dvc", "push", fails=True)
        assert said.count("ERROR") == 1 and "Could not connect to the endpoint URL" in said
        assert project.digests() == before and stages(project.run("dvc", "repro", UPTO)) == {"digests"}
        project.run("dvc", "remote", "modify", "storage", "endpointurl", s3)
        project.commit()
        round_trip(project, tmp_path / "clone")
    finally:
        project.run("git", "reset", "-q", "--hard")
        if "storage" in (project.folder / ".dvc" / "config").read_text():
            project.run("git", "reset", "-q", "--hard", "HEAD~1")


# ---- links


def copies(folder: Path) -> float:
    """How often the features lie on disk: bytes of different files in the workspace, the store and DVC's cache over those of one."""
    stored = list(folder.glob("data/.store/features/*/**/*.parquet"))
    sizes = {p.stat().st_size for p in stored}
    cached = [p for p in folder.glob(".dvc/cache/files/md5/*/*") if p.stat().st_size in sizes and p.read_bytes()[:4] == b"PAR1"]
    shown = list(folder.glob("data/features/*/**/*.parquet"))
    assert stored and len(cached) == len(stored) == len(shown)
    different = {place(p): p.stat().st_size for p in (*stored, *cached, *(p for p in shown if not p.is_symlink()))}
    return sum(different.values()) / sum(p.stat().st_size for p in stored)


def clone_with(kind: str, project: Project, folder: Path) -> Project:
    """A clone that has birq's store, and whose DVC fills the workspace by one kind of link."""
    other = project.clone(folder)
    other.run("dvc", "config", "--local", "cache.type", kind)
    shutil.copytree(project.folder / "data" / ".store", other.folder / "data" / ".store")
    key = json.loads((project.folder / "data/features/mine/provenance.json").read_text())["key"]
    for old in (p for p in (other.folder / "data" / ".store" / "features").iterdir() if p.is_dir() and p.name != key):
        shutil.rmtree(old)
    assert not computed(other.run("dvc", "repro", UPTO))
    assert other.digests() == project.digests()
    return other


@pytest.fixture(scope="module")
def linked(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone with hard links."""
    return clone_with("hardlink,copy", project, tmp_path_factory.mktemp("linked") / "clone")


def test_hard_links_make_one_copy(linked: Project) -> None:
    """The workspace, birq's store and DVC's cache are three names of one file."""
    assert copies(linked.folder) == pytest.approx(1)


@pytest.mark.parametrize(("kind", "times"), [("symlink", 2), ("copy", 3)])
def test_other_links_make_more(project: Project, tmp_path: Path, kind: str, times: int) -> None:
    """The figures of docs/dvc.md: DVC moves nothing out of the store, so its cache is a second copy, and a copied workspace a third.

    Where files can share blocks, DVC copies by sharing them, whatever it was told.
    """
    assert copies(clone_with(kind, project, tmp_path / "clone").folder) == pytest.approx(1 if reflinks() else times)


one_file = pytest.mark.skipif(reflinks(), reason="where files can share blocks, DVC makes no hard links to what it has just cached")


@one_file
def test_snakemake_replaces_what_dvc_linked(linked: Project) -> None:
    """DVC's links are read-only and Snakemake refuses to replace read-only outputs; the file in the cache stays what it was."""
    mighty = os.geteuid() == 0
    if mighty and not shutil.which("setpriv"):
        pytest.skip("root may write read-only files, and setpriv (util-linux), which would take that away, is missing")
    path, settings = linked.folder / "data/tokenizer/provenance.json", linked.folder / "params.yaml"
    before, text = path.read_bytes(), settings.read_text()
    assert not path.stat().st_mode & 0o222 and path.stat().st_nlink > 1
    settings.write_text(text.replace("kind: characters", "kind: bpe").replace("vocab_size: 256", "vocab_size: 30"))
    rights = "-dac_override,-dac_read_search"
    might = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if mighty else []
    said = linked.run(*might, "snakemake", "--cores", "1", "data/tokenizer/provenance.json")
    settings.write_text(text)
    assert computed(said) == {"tokenizer"} and path.read_bytes() != before
    assert before in [p.read_bytes() for p in linked.folder.glob(".dvc/cache/files/md5/*/*")]


@one_file
def test_damage_through_a_hard_link_is_mended(linked: Project) -> None:
    """One byte changed changes the workspace, the store and DVC's cache, and DVC believes what is read-only: birq finds it and says so."""
    folder = linked.folder / "data" / "features" / "mine"
    path = next(folder.glob("train/*.parquet"))
    good = path.read_bytes()
    path.chmod(0o644)
    with open(path, "r+b") as f:
        f.write(bytes([good[0] ^ 1]))
    path.chmod(0o444)
    assert "has changed since it was made" in linked.run("python", "-m", "birq", "tokenizer", fails=True)
    shutil.rmtree(folder)
    assert computed(linked.run("dvc", "repro", "features")) == {"features/mine"}
    assert path.read_bytes() == good


# ---- curves while they grow


def test_dvc_draws_curves_while_they_grow(project: Project) -> None:
    """tests/test_live.py has what is written; here DVC reads it, the project's own dvc.yaml is not touched, and no key depends on it."""
    pytest.importorskip("dvclive", reason="dvclive is missing: pip install -e '.[dev]'")
    run = "dict(method='scratch', seed='0')"
    script = "from birq.pipeline import dag, keys; from birq.settings import params; "
    script += f"print(keys.current_key(dag.node('pretrain', {run}, params.load('params.yaml'))))"
    key = project.run("python", "-c", script).strip()
    curve = project.folder / "data" / ".work" / "pretrain" / key / "scratch" / "curve.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text("".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in (1, 5, 10)))
    try:
        assert "pretrain/scratch-0: 3 more lines, step 10" in project.run("python", "-m", "birq", "live", "--once")
        shown = json.loads(project.run("dvc", "plots", "show", "dvclive/pretrain/scratch-0/curves/plots/metrics/loss.tsv", "--json"))
        assert "errors" not in shown
        assert project.run("git", "diff", "--name-only") == "", "the project's own dvc.yaml is not touched"
        assert project.run("python", "-c", script).strip() == key
    finally:
        shutil.rmtree(curve.parents[1])
        shutil.rmtree(project.folder / "dvclive", ignore_errors=True)


# ---- tables and plots


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, forked: dict[str, str]) -> Project:
    """A project with a report of two methods and two seeds."""
    made = Project(tracked_copy(tmp_path_factory.mktemp("reported")), forked)
    skill = {m: artifacts.SKILL[m] for m in ("birq", "scratch")}
    inputs = artifacts.everything(made.folder, skill, (0, 1))
    out = made.folder / "data" / "report"
    out.mkdir(parents=True)
    chosen = artifacts.params(methods=list(skill), seeds=[0, 1])
    build.report(inputs, out, chosen.report, chosen.run, dag.nodes(chosen), chosen.birq.label_layer)
    made.commit()
    return made


def test_metrics_are_few_and_short(reported: Project) -> None:
    """One row of `dvc exp show` must hold all methods beside the params: WER, its interval, CER, the probe, nothing else."""
    shown = json.loads(reported.run("dvc", "metrics", "show", "--json"))[""]["data"]["data/report/wer.json"]["data"]
    assert list(shown) == ["birq", "scratch"]
    for values in shown.values():
        assert list(values) == ["wer", "interval", "cer", "probe"]
        low, high = map(float, re.fullmatch(r"\[([\d.]+), ([\d.]+)\]", values["interval"]).groups())
        assert low < values["wer"] < high and values["wer"] == round(values["wer"], 2)


def test_every_plot_of_dvc_draws(reported: Project) -> None:
    """Each plot of dvc.yaml finds its columns and its template, and Vega draws points of both methods, with the axes named."""
    import vl_convert

    shown = json.loads(reported.run("dvc", "plots", "show", "--json"))
    assert "errors" not in shown
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    wanted = {name: spec for p in listed if isinstance(p, dict) for name, spec in p.items()}
    drawn = {name: plots for name, plots in shown["data"].items() if name in wanted}
    assert set(drawn) == set(wanted)
    for name, (plot,) in drawn.items():
        svg = vl_convert.vegalite_to_svg(plot["content"])
        assert wanted[name]["y_label"] in svg and ">birq<" in svg and "NaN" not in svg, name
        assert len(re.findall(r'aria-roledescription="point"', svg)) >= 4, name


def test_page_of_plots_opens_without_network(reported: Project) -> None:
    """With vega.js beside it the page asks the network for nothing: no other script is named but in the fallback."""
    reported.run("dvc", "plots", "show")
    page = (reported.folder / "dvc_plots" / "index.html").read_text()
    assert re.findall(r'<script[^>]* src="([^"]+)"', page.split("document.write")[0]) == ["vega.js"]
    assert re.search(r"if \(!window\.vegaEmbed\)\s+document\.write", page) and page.count("cdn.jsdelivr.net") == 1
    assert "vegaEmbed('#" in page
