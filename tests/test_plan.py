"""`birq plan`: figures by formula, held against what is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT, batch, params, shape

from birq.__main__ import main
from birq.errors import BirqError
from birq.model.encoder import Encoder
from birq.pipeline import dag, keys
from birq.settings import presets
from birq.settings.params import load
from birq.speech import batches
from birq.study import duration, lengths, measure, memory, plan

MACHINE = plan.Machine()


def preset(folder: Path, name: str, *settings: str):
    path = folder / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    if not (folder / "presets").exists():
        (folder / "presets").symlink_to(ROOT / "presets")
    presets.command(name, list(settings), path)
    return load(path)


@pytest.mark.parametrize("change", [{}, {"ff_expansion": 4, "conv_expansion": 2}, {"d_model": 64}])
def test_activations_by_formula_are_those_that_autograd_keeps(change: dict) -> None:
    """The largest part of a card's memory; what is kept for all layers alike (input, rotary tables, masks, weights) is little."""
    kept = {}
    for layers in (2, 5):
        s = shape(**({"d_model": 32, "ff_expansion": 2} | change), n_layers=layers)
        encoder, seen = Encoder(s), {}
        weights = {w.data_ptr() for w in encoder.parameters()}

        def keep(x, seen=seen, weights=weights):
            if x.is_floating_point() and x.untyped_storage().data_ptr() not in weights:
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        b = batch([200, 200])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            encoder(encoder.stack(b.feats_BTF), b.lengths_B)
        kept[layers] = sum(seen.values()) / 400
    per_layer = (kept[5] - kept[2]) / 3
    assert 4 * sum(memory.kept_values(s, 200)) == pytest.approx(per_layer, rel=0.15)


def test_features_take_the_bytes_that_are_planned(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """int16, 100 frames a second; the rest of a shard is its index."""
    (tmp_path / "data/features").mkdir(parents=True)
    (tmp_path / "data/features/tones").symlink_to(features)
    monkeypatch.chdir(tmp_path)
    made = plan.make(params(), {})
    on_disk = sum(p.stat().st_size for p in features.rglob("*.parquet")) / 2**30
    assert made.feature_gib == pytest.approx(on_disk, rel=0.3) and made.feature_gib < on_disk


def test_paper_sizes_and_hours(tmp_path: Path) -> None:
    """LibriSpeech's 960 hours are known, 5,000 hours of files that nobody has read yet must be said."""
    made = plan.make(preset(tmp_path, "paper-c2-librispeech"), {})
    assert made.corpus_hours["librispeech_960"] == pytest.approx(961, abs=1)
    assert made.n_parameters == pytest.approx(154.9e6, rel=0.01)
    assert made.jobs["features"] == 2 and made.jobs["report"] == 1
    yodas = preset(tmp_path, "paper-c3-yodas-ami")
    with pytest.raises(BirqError, match="--hours ami=HOURS"):
        plan.make(yodas, {})
    with pytest.raises(BirqError, match="not in corpora; legal: yodas, ami"):
        plan.make(yodas, {"yodas": 5000, "amy": 150})
    assert plan.make(yodas, {"ami": 150}).feature_gib == pytest.approx(5150 * 360000 * 160 / 2**30)


def test_epochs_are_planned_before_there_are_features() -> None:
    """From hours alone, within three in a thousand of the batches that such lengths make; fine-tuning's are of its minutes."""
    seconds = np.clip(np.random.default_rng(0).normal(12.3, 4.0, 30_000), 1.0, 35.0)
    hours = {"tones": float(seconds.sum()) / 3600}
    batch = {"steps": "100 epochs", "batch_seconds": 787.0}
    p = params(**{f"{stage}__{k}": v for stage in ("pretrain", "finetune") for k, v in batch.items()}, finetune__labelled_minutes=600.0)
    speech = p.corpora["tones"].model_copy(update={"train_hours": 1.0, "dev_hours": 0.0, "test_hours": 0.0})
    p = p.model_copy(update={"corpora": {"tones": speech}})
    real = len(batches.plan((seconds * 100).astype(int), 78_700, seed=3, epoch=1))
    assert lengths.lengths_in_steps(p, "pretrain", hours, 12.3).steps == pytest.approx(100 * real, rel=0.003)
    assert lengths.lengths_in_steps(p, "finetune", hours, 12.3).steps == pytest.approx(100 * real * 10 / hours["tones"], rel=0.003)


def test_time_on_many_gpus_is_compute_shared_and_gradients_summed(tmp_path: Path) -> None:
    """On one GPU nothing is summed; over nodes the network counts, not NVLink."""
    made = plan.make(preset(tmp_path, "paper-c2-librispeech"), {})
    training = made.trainings[0]
    one, eight, many = (training.hours(n, MACHINE) for n in (1, 8, 64))
    assert one == pytest.approx(training.flops / MACHINE.flops_per_second / 3600)
    sums = [training.steps * 2 * (n - 1) / n * 4 * training.n_parameters / speed / 3600 for n, speed in ((8, 300e9), (64, 50e9))]
    assert eight == pytest.approx(one / 8 + sums[0]) and many == pytest.approx(one / 64 + sums[1])


def test_best_rq_takes_less_than_birq_and_scratch_is_not_pre_trained(tmp_path: Path) -> None:
    """The label path is work and memory; its share of a batch counts."""
    made = {s: plan.make(preset(tmp_path, "paper-c2-librispeech", f"birq.label_share={s}"), {}) for s in ("1.0", "0.25")}
    cost = {s: {t.name: t for t in p.trainings} for s, p in made.items()}
    birq, best_rq = cost["1.0"]["pretrain/birq-0"], cost["1.0"]["pretrain/best_rq-0"]
    assert 1.5 < birq.flops / best_rq.flops < 1.9 and birq.activation_gib > best_rq.activation_gib
    assert cost["0.25"]["pretrain/birq-0"].flops / best_rq.flops < 1.25
    assert "pretrain/scratch-0" not in cost["1.0"]


def test_encoders_that_only_make_labels_are_planned_and_labels_cost_no_quantizer(tmp_path: Path) -> None:
    """HuBERT is two trainings; at equal sizes a training on labels from a file is BEST-RQ's without the codes of the input."""
    p = preset(tmp_path, "an4", "run.methods=[hubert, relabel]", "model.n_layers=4")
    made = plan.make(p, {})
    cost = {t.name: t for t in made.trainings}
    assert [name for name in cost if name.startswith("pretrain")] == [
        "pretrain/hubert1-0", "pretrain/best_rq-0", "pretrain/hubert-0", "pretrain/relabel-0",
    ]  # fmt: skip
    assert made.jobs["labels"] == 3 and made.jobs["finetune"] == 2
    best_rq, relabel = cost["pretrain/best_rq-0"], cost["pretrain/relabel-0"]
    assert 0.8 * best_rq.flops < relabel.flops < best_rq.flops and relabel.activation_gib == best_rq.activation_gib


def test_the_study_is_planned_where_it_is_asked_for(tmp_path: Path) -> None:
    """Its runs, with words or without, and the encoders behind them; never mixed with those of the report."""
    p = preset(tmp_path, "an4", "study.parts={a: {names: [relabel], seeds: [0, 1]}, b: {names: [birq], seeds: [5], words: true}}")
    made = plan.make(p, {}, study=True)
    assert made.jobs["pretrain"] == 5 and made.jobs["labels"] == 2 and made.jobs["finetune"] == made.jobs["score"] == 1
    assert {t.name for t in made.trainings} >= {"pretrain/best_rq-1", "pretrain/relabel-0", "finetune/birq-5"}
    assert "study" not in plan.make(p, {}).jobs
    with pytest.raises(BirqError, match=r"study\.parts is empty"):
        plan.make(preset(tmp_path, "an4"), {}, study=True)


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Printed for any params; what cannot be is an error with the way out."""
    preset(tmp_path, "paper-c3-yodas-ami")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--hours", "yodas=5000", "--hours", "ami=150", "--gpus", "1", "8", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    assert "yodas 5,000.0 h" in out and "GPU-hours" in out and "cost" in out and "an assumption" in out
    for wrong, said in (
        (["--hours", "yodas"], "must be CORPUS=HOURS"),
        (["--hours", "yodas=5", "--hours", "ami=1", "--gpu", "Z80"], "--gpu Z80: not known; legal: "),
        (["--mfu", "2"], "--mfu must be above 0"),
        (["--hours", "yodas=5", "--hours", "ami=1", "--tune"], "torch sees none"),
    ):
        if "--tune" in wrong and torch.cuda.is_available():
            continue
        assert main(["plan", *wrong]) == 2 and said in capsys.readouterr().err


def test_steps_are_timed_here() -> None:
    """Real steps of the real objective: BiRQ's takes longer than BEST-RQ's of the same audio."""
    p = params()
    found = {m: measure.measure(p, m, 8.0, 2.0, torch.device("cpu")) for m in ("birq", "best_rq", "hubert", "phones")}
    for m, one in found.items():
        assert one.method == m and one.micro_batch_seconds == pytest.approx(8.0)
        assert one.audio_hours_per_hour == pytest.approx(8.0 / one.seconds_per_step) and one.mfu is None and one.peak_gib > 0
    made = plan.make(p, {"tones": 1.0})
    machine, lines = plan.measured(p, made, MACHINE, tune=False)
    assert machine == MACHINE and [line.split(":")[0] for line in lines] == [m for m in p.run.methods if m != "scratch"]


def test_the_time_of_a_run_is_that_of_its_parts(tmp_path: Path) -> None:
    """Two methods: two cores halve it, more cores than runs change only what is no run's, a GPU has one run at a time."""
    p = preset(tmp_path, "synth-1h", "run.methods=[birq, best_rq]", "pretrain.steps=100", "finetune.steps=10")
    nodes, steps, hours = dag.nodes(p), {"best_rq": 1.0, "birq": 3.0}, {"synth": 0.0}

    def wall(cores: int, gpu: bool = False) -> float:
        return duration.wall_seconds(nodes, steps, hours, cores, gpu=gpu)

    jobs = {in_run: sum((n.method is not None) == in_run for n in nodes) * duration.JOB_SECONDS for in_run in (True, False)}
    audio_second = 1.0 / p.pretrain.batch_seconds
    run = 10 * p.finetune.batch_seconds * duration.FINETUNED_SECOND + duration.PROBED_RUN + duration.DECODED_RUN + duration.SEARCHED_RUN
    runs, rest = 100 * (1 + 3) + 2 * run * audio_second + jobs[True], duration.REPORT_SECONDS + jobs[False]
    assert wall(1) == pytest.approx(runs + rest) and wall(2) == pytest.approx(wall(1) / 2)
    assert wall(8) == pytest.approx(runs / 2 + rest / 8) and wall(8, gpu=True) == pytest.approx(runs + rest / 8)
    spoken = duration.wall_seconds(nodes, steps, {"synth": 2.0}, 1, gpu=False) - wall(1)
    assert spoken == pytest.approx(2 * (duration.SPOKEN_HOUR + duration.FEATURES_HOUR) * audio_second)


def test_snapshots_are_planned(tmp_path: Path) -> None:
    """8 bytes of a weight on the disk each, in the work folder and in the artifact; and a part of the time of a probe."""
    kept, without = (preset(tmp_path, "an4", "run.methods=[best_rq]", f"pretrain.snapshots={s}") for s in ("[0.1, 0.5]", "[]"))
    n_bytes = [{t.name: t.disk_gib * memory.GIB / t.n_parameters for t in plan.make(p, {}).trainings} for p in (kept, without)]
    more = {name: n_bytes[0][name] - n_bytes[1][name] for name in n_bytes[1]}
    assert more == pytest.approx({"pretrain/best_rq-0": 16, "finetune/best_rq-0": 0})
    seconds = [duration.wall_seconds(dag.nodes(p), {"best_rq": 1.0}, {"an4": 0.0}, 1, gpu=False) for p in (kept, without)]
    snapshots = 2 * duration.PROBED_SNAPSHOT * duration.PROBED_RUN / kept.pretrain.batch_seconds
    assert seconds[0] - seconds[1] == pytest.approx(snapshots)


def test_the_time_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is not in place, by steps that are timed here; where all is there, nothing is timed."""
    preset(
        tmp_path,
        "synth-1h",
        "run.methods=[best_rq]",
        "model.d_model=16",
        "pretrain.batch_seconds=10.0",
        "pretrain.micro_batch_seconds=10.0",
    )
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["plan", "--time"]) == 0
    assert re.fullmatch(r"about \d+ min from here on, with .+: a step of BEST-RQ takes \d+\.\d\d s on .*\n", capsys.readouterr().out)
    assert main(["plan", "--time", "--cores", "1"]) == 0 and "with 1 core:" in capsys.readouterr().out
    assert main(["plan", "--time", "--cores", "0"]) == 2 and "--cores at least 1" in capsys.readouterr().err
    monkeypatch.setattr(keys, "in_place", lambda node: True)
    assert main(["plan", "--time"]) == 0 and "nothing to compute" in capsys.readouterr().out
