"""The benchmarks' harness on contenders that are made up, and the page that shows the results. Nothing here is timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tree

from benchmarks import __main__ as command
from benchmarks import collapse, earlier, equal_time, harness, house, models, profile, report, same_steps, training
from benchmarks.harness import Contender, Part, race

BEFORE_ROOMS = "4f4994a"


def test_contenders_take_turns():
    """A B A B: a machine that slows down for a while slows both of a round; what is untimed comes before each call."""
    calls: list[str] = []
    a = Contender("a", lambda: calls.append("a"), lambda: calls.append("before a"))
    part = race("fake", "nothing", [a, Contender("b", lambda: calls.append("b"))], rounds=2, warmup=1)
    assert calls == ["before a", "a", "b"] * 3
    assert [len(t) for t in (*part.wall.values(), *part.cpu.values())] == [2, 2, 2, 2]


def test_ratios_are_taken_within_a_round():
    """On a clock that runs ever faster, the ratio of two contenders stays what it is, though no time is like another."""
    now, speed = [0.0], [1.0]

    def work(units: float):
        def run() -> None:
            now[0] += units * speed[0]

        return run

    def next_round() -> None:
        speed[0] *= 3

    contenders = [Contender("slow", work(6), next_round), Contender("fast", work(2))]
    part = race("fake", "nothing", contenders, rounds=5, clock=lambda: (now[0], 2 * now[0]))
    assert part.ratio("slow", "fast") == pytest.approx({"median": 3, "low": 3, "high": 3})
    assert part.cpu["fast"] == [2 * t for t in part.wall["fast"]] and len(set(part.wall["fast"])) == 5


def test_median_and_quartiles():
    """Of 1 to 9: 5, 3 and 7; of one value, that value."""
    assert harness.spread([9, 1, 8, 2, 7, 3, 6, 4, 5]) == {"median": 5, "low": 3, "high": 7}
    assert harness.spread([4.0]) == {"median": 4.0, "low": 4.0, "high": 4.0}


def test_peak_is_what_the_call_takes_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The mark is high water, above what was held before: 64 MiB taken and given back count, 128 MiB held from before do not."""
    (tmp_path / "hungry.py").write_text(
        "def set_up(held, taken):\n    kept = b'x' * (held << 20)\n    return lambda: len(b'y' * (taken << 20)) + len(kept)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = harness.peak_mib("hungry:set_up", 128, 64)
    assert found["before"] > 128 and 63 < found["peak"] < 80


def test_results_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every raw time is kept, with the command, the machine and the versions."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    part = Part("p", "work", {"a": [0.1, 0.25]}, {"a": [0.1, 0.2]}, {"bytes": 3})
    about, parts = harness.read(harness.write("x", [part], quick=True, seconds=1.0, command="c"))
    assert parts == {"p": part} and about["command"] == "c" and about["quick"]
    assert about["machine"]["cores"] >= 1 and about["versions"]["torch"] == torch.__version__


def test_the_floor_holds_every_product_of_the_linear_layers():
    """A linear layer costs three products a step: outputs, and the gradients of its weight and of its input (not of the first layer's)."""
    layers = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2, bias=False))

    def step() -> float:
        layers(torch.ones(5, 8)).sum().backward()
        return 0.0

    with models._Products() as products:
        step()
    sizes = sorted((*a.shape, b.shape[1]) for a, b in products.seen)
    assert sizes == sorted([(5, 8, 4), (4, 5, 8), (5, 4, 2), (2, 5, 4), (5, 2, 4)])
    assert models.linear_floor(step)() == 0.0


def test_the_page_shows_the_results():
    """docs/performance.md holds exactly what benchmarks/results say; `python -m benchmarks report` makes them agree again."""
    page, results = report.PAGE.read_text(), report.load()
    assert results, "no results under benchmarks/results"
    assert report.filled(page, report.blocks(results)) == page
    for name in results:
        assert f"figures/performance-{name}.svg" in page and (report.FIGURES / f"performance-{name}.svg").exists()


def test_opponents_are_the_ones_that_were_measured():
    """benchmarks/opponents.txt pins what the figures were taken with."""
    pinned = dict(line.split("==") for line in (report.ROOT / "benchmarks" / "opponents.txt").read_text().splitlines() if "==" in line)
    for name, (about, _) in report.load().items():
        assert {k: about["versions"][k] for k in pinned} == pinned, name


def test_a_page_without_markers_is_refused():
    """A table that has no place would be lost silently."""
    with pytest.raises(KeyError, match="no markers"):
        report.filled("# page", {"fbank": "table"})
    assert report.filled("<!-- a:begin -->\nold\n<!-- a:end -->", {"a": "new"}) == "<!-- a:begin -->\nnew\n<!-- a:end -->"


def test_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Without a name it lists; without opponents it says how to get them; what it does not know, it refuses."""
    command.main([])
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*command.BENCHMARKS, *command.EXPERIMENTS))
    for name in (*command.BENCHMARKS, *command.EXPERIMENTS):
        assert (harness.ROOT / "benchmarks" / f"{name}.py").exists()
    monkeypatch.setattr(command, "VENV", tmp_path)
    with pytest.raises(SystemExit, match="python -m benchmarks setup"):
        command.main(["fbank"])
    with pytest.raises(SystemExit):
        command.main(["speed"])
    assert json.loads((harness.RESULTS / "fbank.json").read_text())["benchmark"] == "fbank"


def test_the_page_of_performance_shows_the_profile():
    """docs/performance.md has the table that `python -m benchmarks.profile` prints for the record that is kept."""
    record = json.loads((harness.ROOT / "benchmarks/results/profile-cpu.json").read_text(encoding="utf-8"))
    assert profile.table(record) in (harness.ROOT / "docs/performance.md").read_text(encoding="utf-8")


def test_the_page_of_results_shows_the_record():
    """docs/results.md has the tables that `python -m benchmarks.equal_time` prints for the record that is kept."""
    record = json.loads((harness.ROOT / equal_time.OUT).read_text(encoding="utf-8"))
    page = (harness.ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert equal_time.table(record) in page and equal_time.decomposition(record) in page


def test_labels_and_time_are_told_apart():
    """Labels: a form less BEST-RQ of as many steps. Time: that less BEST-RQ of all steps. Together: the form less BEST-RQ."""
    form = {"ratio": 2.0, "steps": 50, "wer": [30.0, 32.0]}
    record = {"seeds": [0, 1], "forms": {equal_time.BASE: {"ratio": 1.0, "steps": 100, "wer": [29.0, 30.0]}, "BiRQ": form}}
    record["best_rq_of_steps"] = {"50": [33.0, 35.0]}
    assert equal_time.table(record).splitlines()[-1].endswith("| +1.5 [+1.0, +2.0] |")
    assert equal_time.decomposition(record).splitlines()[-1] == "| BiRQ | 50 | 31.0 | 34.0 | -3.0 [-3.0, -3.0] | +4.5 [+4.0, +5.0] |"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mkldnn_convolution", "convolution"),
        ("void at::native::vectorized_layer_norm_kernel", "norms"),
        ("aten::argmax", "search and statistics of labels"),
        ("cudaLaunchKernel", "other"),
    ],
)
def test_kinds_of_operations(name: str, kind: str):
    """The profile's parts, by operations' names on a CPU and on a GPU."""
    assert profile.kind_of(name) == kind


def test_values_of_params_are_replaced():
    """By dotted names, checked as params.yaml is."""
    params = training.load(harness.ROOT / "params.yaml")
    assert training.changed(params, {"birq.label_share": 0.5, "model.d_model": 64}).birq.label_share == 0.5
    assert training.by_section({"a.b": 1, "a.c": 2, "d.e": 3}) == {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    with pytest.raises(ValueError, match="label_share"):
        training.changed(params, {"birq.label_share": 2.0})


@pytest.mark.parametrize("method", ["best_rq", "birq"])
def test_code_from_before_the_rooms_still_runs(method: str, tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch):
    """It reads today's params.yaml and features, and its steps are those of today's code."""
    known = ["git", "-C", str(harness.ROOT), "cat-file", "-e", f"{BEFORE_ROOMS}^{{commit}}"]
    if subprocess.run(known, check=False, capture_output=True).returncode:
        pytest.skip(f"this clone's history has no {BEFORE_ROOMS}")
    (tmp_path / "data/features").mkdir(parents=True)
    (tmp_path / "data/features/tones").symlink_to(features)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree()))
    monkeypatch.chdir(tmp_path)
    with earlier.code_of(BEFORE_ROOMS) as code:
        assert not (code / "birq" / "settings").exists()
        sides = [same_steps.by(c, method, steps=2) for c in (code, harness.ROOT)]
    assert len(sides[0]) == 2 and ("enhanced_loss" in sides[0][0]) == (method == "birq")
    for name in sides[0][0]:
        assert max(same_steps.apart(*sides, name)) < 1e-5


def test_forms_that_collapse_are_run_once(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A run that the file has is not made again, and fresh ones leave it as it is. Detached labels have no force."""
    for folder in ("data/features", "benchmarks/results", "docs/figures"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data/features/tones").symlink_to(features)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree()))
    monkeypatch.chdir(tmp_path)
    size = ["collapse", "--steps", "2", "--width", "16"]
    for forms, seeds in ((["printed"], ["0"]), (["printed", "printed, labels detached"], ["0", "1"])):
        monkeypatch.setattr("sys.argv", [*size, "--forms", *forms, "--seeds", *seeds])
        before = collapse.kept()
        collapse.main()
        assert collapse.kept()[: len(before)] == before
    runs = collapse.kept()
    assert [(r["form"], r["seed"]) for r in runs] == [(f, s) for s in (0, 1) for f in ("printed", "printed, labels detached")]
    for r in runs:
        assert (r["forces"]["first"]["labels"] > 0) == (r["form"] == "printed") and r["forces"]["first"]["anchors"] > 0
    table = capsys.readouterr().out.split("width 16")[-1]
    low, high = sorted(r["curve"][-1]["enhanced_perplexity"] for r in runs if r["form"] == "printed")
    assert f"{(low + high) / 2:.1f} ({low:.1f} to {high:.1f})" in table and (tmp_path / collapse.FIGURE).stat().st_size > 1000


def test_the_form_called_printed_is_the_variant_of_the_page():
    """docs/method.md shows the printed form as a variant; what is measured under that name must be the same."""
    text = (harness.ROOT / "docs/method.md").read_text().split("```yaml\n")[1].split("```")[0]
    variant = yaml.safe_load(text)["variants"]["birq_printed"]
    assert variant.pop("method") == "birq" and variant | {"birq.label_gradient": 1.0} == collapse.PRINTED


@pytest.mark.parametrize(
    ("here", "moved", "different"),
    [
        ([0.0] * 20, [0.0] * 20, False),
        ([1e-7] * 10 + [6e-3], [1e-7] * 10 + [3e-3], False),
        ([1e-7] * 10 + [6e-3], [1e-7] * 11, True),
        ([1e-4] + [1e-7] * 10, [1e-7] * 10 + [3e-3], True),
    ],
)
def test_when_steps_differ(here: list[float], moved: list[float], different: bool):
    """From the first steps on by more than last digits, or later by more than a moved weight makes of them."""
    assert same_steps.differs(here, moved) == different


def test_the_house_is_counted():
    """Lines of code are neither empty, comment nor docstring; a method's name has its class; modules of the root are told apart."""
    text = '"""A module."""\n\nX = """two\nlines"""\n\n\nclass A:\n    """A class."""\n\n'
    text += "    def f(self):\n        # none\n        return 1\n"
    tree = {"birq/__init__.py": "", "birq/room/a.py": text, "dvc.yaml": "stages:\n", "README.md": "# a\n\nb\n"}
    tree["pyproject.toml"] = '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["a", "b | c"]\n'
    h = house.House(tree)
    assert house.code_lines(text) == 5 and h.in_root == ["birq/__init__.py"]
    assert h.longest_function == (3, "birq/room/a.py: A.f") and h.longest_module == (12, "birq/room/a.py")
    assert (len(h.contracts), h.layers, h.lines("README.md"), h.lines("dvc.yaml")) == (1, 2, 3, 1)
    shown = house.table({"x": h, "here": house.House(house.tree_of(None))})
    assert "| modules in the root of birq/ | 1 | " in shown and len(shown.splitlines()) == 2 + len(house.FIGURES)
