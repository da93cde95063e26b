"""The command line: mistakes get one message and status 2, and the verbs that look at things say what is there."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

import pytest

from birq import __version__
from birq.__main__ import ALLOCATOR, main
from birq.commandline import parser
from birq.pipeline import dag, locations


@pytest.fixture
def here(tmp_path: Path, root: Path) -> Path:
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copytree(root / "presets", tmp_path / "presets")
    return tmp_path


def test_without_a_home_libraries_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container under a number without a name, lhotse fails when it is imported, unless there is a home folder."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("USER", "ann")
    locations.lend_home()
    assert (Path.home(), getpass.getuser()) == (tmp_path, "ann"), "what is there stays"
    monkeypatch.delenv("HOME"), monkeypatch.delenv("USER")
    for home in (None, "/nonexistent"):
        if home:
            monkeypatch.setenv("HOME", home)
        locations.lend_home()
        assert Path.home() == tmp_path / "data" / ".home" and getpass.getuser() == f"uid{os.getuid()}"


def test_every_stage_is_a_verb_with_its_wildcards() -> None:
    """Snakemake and DVC call the same verbs, so each stage must have one."""
    for name, stage in dag.STAGES.items():
        args = parser().parse_args([name, *(x for w in stage.wildcards for x in (f"--{w}", "x"))])
        assert args.verb == name


def test_version_and_help(birq) -> None:
    assert birq("--version").stdout.strip() == f"birq {__version__}"
    assert "stage: makes data/pretrain/{method}-{seed}" in birq("--help").stdout.replace("\n", " ").replace("  ", "")


def test_gpu_memory_may_grow_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly every batch has a shape of its own, and fixed segments would be lost between them; ranks inherit the environment."""
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert main(["preset"]) in (0, 2)
    assert os.environ.pop("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    main(["preset"])
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_outside_the_project_the_message_says_where_to_go(birq) -> None:
    done = birq("score", "--method", "birq", "--seed", "0")
    assert done.returncode == 2
    assert done.stderr == "error: params.yaml: no such file; run birq from the project's root folder\n"


def test_bad_params_are_no_traceback(here: Path, birq) -> None:
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text(text.replace("label_layer: 3", "label_layer: 30"))
    done = birq("params", "check")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: params.yaml: ") and "label_layer: 30 is above the depth" in done.stderr


def test_a_run_that_params_do_not_list_is_refused(here: Path, birq) -> None:
    """Its artifact would belong to no DAG."""
    done = birq("score", "--method", "birq", "--seed", "7")
    assert done.returncode == 2 and "--method birq --seed 0" in done.stderr
    done = birq("corpus", "--corpus", "an4")
    assert done.returncode == 2 and "--corpus synth" in done.stderr


def test_a_missing_input_is_told(here: Path, birq) -> None:
    done = birq("score", "--method", "birq", "--seed", "0")
    assert done.returncode == 2 and "data/decode/birq-0: not made yet" in done.stderr
    assert (here / "data" / ".stamps" / "score-birq.json").is_file()


def test_table_and_verify_before_anything_is_made(here: Path, birq) -> None:
    for verb in ("table", "verify"):
        done = birq(verb)
        assert done.returncode == 2 and "not made yet" in done.stderr and "snakemake" in done.stderr


def test_presets_are_listed_and_applied(here: Path, birq) -> None:
    assert "an4" in birq("preset").stdout
    done = birq("preset", "an4", "--set", "corpora.an4.root=/speech/an4")
    assert done.returncode == 0 and "corpora.an4.root: /speech/an4 (new)" in done.stdout
    assert "corpora an4; runs birq-0" in birq("params", "check").stdout


def test_the_papers_sizes(here: Path, birq) -> None:
    """The counts that the paper gives are reached exactly by the sizes in design and docs."""
    out = birq("params", "count").stdout
    for count in ("137.4 M", "155.3 M", "274.7 M"):
        assert count in out


def test_stamps_change_only_with_content(here: Path, birq) -> None:
    """Snakemake goes by time, so a stamp that says the same must keep its time."""
    birq("stamp")
    stamps = here / "data" / ".stamps"
    before = {p.name: p.stat().st_mtime_ns for p in stamps.iterdir()}
    own = {(): [""], ("corpus",): ["-synth"], ("method", "seed"): ["-birq", "-best_rq", "-scratch"]}
    made = {s: d for s, d in dag.STAGES.items() if s != "labels" and not d.asked}  # no method of these learns from a file
    assert sorted(before) == sorted(f"{s}{end}.json" for s, d in made.items() for end in own[d.wildcards])
    text = (here / "params.yaml").read_text()
    (here / "params.yaml").write_text("# a comment\n" + text.replace("bootstrap_samples: 2000", "bootstrap_samples: 500"))
    birq("stamp")
    assert [n for n, t in before.items() if (stamps / n).stat().st_mtime_ns != t and not n.startswith(("score-", "probe-"))] == []
