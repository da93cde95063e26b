"""Labels from a file: how each kind is made, and that training on them is BEST-RQ's prediction of other labels."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import gang
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_distributed import figures, weights
from tiny import SMALL, batch, curve, every_other, job, noise, params, pretrained, shape, tree

from birq.corpora.manifests import write_alignments
from birq.errors import BirqError, Stopped
from birq.evaluate.layers import Frames, codes_of, read
from birq.labels.kmeans import fitted
from birq.labels.shuffled import rotated
from birq.model import offline, prediction
from birq.model.encoder import Encoder
from birq.model.masking import Given
from birq.pipeline import dag
from birq.pipeline.keys import labelled_inputs
from birq.pipeline.stage import Job
from birq.progress import Progress
from birq.saved import encoder
from birq.saved.labels import Writer, open_labels
from birq.settings import lineage
from birq.settings.methods import METHODS
from birq.settings.params import Params, parse
from birq.speech.shards import Split, open_split, read_front_end
from birq.stages import labels as stage
from birq.stages import pretrain
from birq.study.objective import objective as objective_of
from birq.train.offline import OfflineTask

N_STACK = 4


def make(folder: Path, features: Path, method: str, seed: int = 0, inputs: dict[str, list[Path]] | None = None, **changes) -> Path:
    """Folder of a labels artifact."""
    j = job("labels", folder, {"features": [features]} | (inputs or {}), params(**changes), method, seed)
    stage.compute(j)
    return j.out


def facts(folder: Path) -> dict:
    return json.loads((folder / "labels.json").read_text())


def by_utterance(folder: Path) -> dict[str, np.ndarray]:
    """The codes [T, N] of every utterance."""
    codes_AN, index = np.load(folder / "codes.npy"), pq.read_table(folder / "index.parquet").to_pylist()
    return {r["id"]: codes_AN[r["first_frame"] : r["first_frame"] + r["frames"]] for r in index}


def log_mel(split: Split, features: Path) -> dict[str, np.ndarray]:
    """Normalised log-mel in encoder frames, worked out without batches."""
    front_end = read_front_end([features], split, N_STACK)
    out = {}
    for i, id in enumerate(split.ids):
        x_TF = (split.logmel(i) - front_end.mean_F) / front_end.std_F
        n = len(x_TF) // N_STACK
        out[id] = x_TF[: n * N_STACK].reshape(n, -1)
    return out


def corpus(folder: Path, rows: list[tuple[str, float, float, str]]) -> Path:
    """A corpus artifact that has nothing but phone times."""
    folder.mkdir(parents=True)
    write_alignments(folder / "alignments.parquet", [(*row, None) for row in rows])
    return folder


@pytest.fixture(scope="module")
def split(features: Path) -> Split:
    return open_split([features], "train")


@pytest.fixture(scope="module")
def best_rq(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    return pretrained(tmp_path_factory.mktemp("best_rq"), features, "best_rq")


@pytest.fixture(scope="module")
def half_known(tmp_path_factory: pytest.TempPathFactory, features: Path, split: Split) -> Path:
    """Phones of every other utterance, and of those only of the first half second."""
    rows = [(id, start, start + 0.125, "abcd"[i % 4]) for id in split.ids[::2] for i, start in enumerate((0.0, 0.125, 0.25, 0.375))]
    folder = tmp_path_factory.mktemp("half")
    return make(folder / "labels", features, "phones", inputs={"corpus": [corpus(folder / "tones", rows)]})


# ---- k-means


def test_every_frame_gets_its_nearest_centre_and_the_same_bytes_again(tmp_path: Path, features: Path, split: Split) -> None:
    """Everything random follows from the seed; the labels are those of scikit-learn's own `predict`, which is the nearest centre."""
    one, two = (make(tmp_path / n, features, "hubert1") for n in ("one", "two"))
    for name in ("codes.npy", "index.parquet", "labels.json", "centres.npy"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    centres_VD, codes = np.load(one / "centres.npy"), by_utterance(one)
    for id, x_TD in log_mel(split, features).items():
        distance_TV = ((x_TD[:, None] - centres_VD) ** 2).sum(-1)
        assert (codes[id][:, 0] == distance_TV.argmin(1)).all()
    said = facts(one)
    assert np.load(one / "codes.npy").dtype == np.uint8 and said["n_codebooks"] == 1 and said["codebook_size"] == 8
    assert said["frames"] == said["labelled_frames"] == int((split.n_frames // N_STACK).sum()) == sum(said["counts"][0])
    other = make(tmp_path / "other", features, "hubert1", seed=1)
    assert not np.array_equal(np.load(one / "centres.npy"), np.load(other / "centres.npy"))


def test_the_fit_reads_no_more_speech_than_allowed(tmp_path: Path, features: Path) -> None:
    """`fit_minutes` bounds the memory; all frames get labels all the same."""
    few = facts(make(tmp_path, features, "hubert1", kmeans__fit_minutes=0.05))
    assert 0 < few["fitted_frames"] * N_STACK / 100 <= 3 < few["labelled_frames"] * N_STACK / 100


def test_clusters_of_normalised_cepstra_are_a_method_of_their_own(tmp_path: Path, features: Path) -> None:
    """`cmvn_kmeans` is `hubert1` with the view `cmvn`, to the bit, whatever `kmeans.view` says."""
    named = make(tmp_path / "named", features, "cmvn_kmeans", kmeans__view="log_mel")
    same, other = (make(tmp_path / view, features, "hubert1", kmeans__view=view) for view in ("cmvn", "cepstra"))
    assert (named / "codes.npy").read_bytes() == (same / "codes.npy").read_bytes() != (other / "codes.npy").read_bytes()
    assert np.load(named / "centres.npy").shape == (8, 39) and facts(named)["made"] == facts(same)["made"]


def test_the_second_iteration_clusters_a_layer(tmp_path: Path, features: Path, best_rq: Path, split: Split) -> None:
    """The layer of the encoder that the labels come from, on the front end that it was trained with."""
    out = make(tmp_path, features, "hubert", inputs={"pretrain": [best_rq]}, kmeans__layer=2)
    centres_VD, model = np.load(out / "centres.npy"), encoder.load(best_rq).encoder
    assert centres_VD.shape == (8, 16)
    for id, x_TD in list(log_mel(split, features).items())[:4]:
        with torch.inference_mode():
            z_TD = model(torch.from_numpy(x_TD)[None], torch.tensor([len(x_TD)]), 2)[0].numpy()
        assert (by_utterance(out)[id][:, 0] == ((z_TD[:, None] - centres_VD) ** 2).sum(-1).argmin(1)).mean() > 0.99


def test_fewer_frames_than_clusters_is_an_error(tmp_path: Path, features: Path) -> None:
    with pytest.raises(BirqError, match=r"kmeans\.clusters: 5000 is more than the \d+ frames of log_mel .* kmeans\.fit_minutes: 60"):
        make(tmp_path, features, "hubert1", kmeans__clusters=5000)


def test_codes_that_no_frame_has_are_counted(tmp_path: Path, features: Path, split: Split) -> None:
    """Three distinct frames have three clusters, whatever was asked for; the others are said to be dead, not hidden."""
    x_MD = np.repeat(np.eye(3, dtype=np.float32), 20, 0)
    model = fitted(x_MD, 8, seed=0)
    assert len(np.unique(model.predict(x_MD))) == 3
    writer = Writer(tmp_path, split, N_STACK, 1, 8)
    writer.write(0, model.predict(x_MD)[: writer.n_frames[0], None])
    said = writer.close({})
    assert said["dead_codes"] == [8 - len(np.unique(model.predict(x_MD)[: writer.n_frames[0]]))] and said["dead_codes"][0] >= 5


def test_an_encoder_that_is_not_a_number_makes_no_labels(tmp_path: Path, features: Path, best_rq: Path) -> None:
    """Its clusters would be nonsense without a word."""
    broken = tmp_path / "hubert1-0"
    broken.mkdir()
    for file in best_rq.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "encoder.safetensors")
    state["encoder.project.bias"][0] = torch.nan
    save_file(state, broken / "encoder.safetensors")
    for method in ("hubert", "relabel"):
        with pytest.raises(BirqError, match=r"layer 1 of hubert1-0: frames of .* not finite"):
            make(tmp_path / method, features, method, inputs={"pretrain": [broken]})


# ---- relabelling


def test_relabelling_gives_the_codes_that_the_probe_sees(tmp_path: Path, features: Path, best_rq: Path, split: Split) -> None:
    """The same layer, statistics over all frames, projection and codebook: only the order of the sums may differ."""
    out = make(tmp_path, features, "relabel", inputs={"pretrain": [best_rq]}, relabel__layer=2)
    frames = Frames(split, np.arange(len(split)), encoder.load(best_rq), torch.device("cpu"))
    seen_AN = codes_of(frames, read(frames, tmp_path / "outputs", Progress("test", len(split), "utterance")).layers[2])
    codes_AN = np.load(out / "codes.npy")
    assert codes_AN.shape == seen_AN.shape == (frames.total, 2) and (codes_AN == seen_AN).mean() > 0.999
    assert (facts(out)["n_codebooks"], facts(out)["codebook_size"]) == (2, 32)


def test_layers_of_two_methods_are_read_through_one_quantizer(tmp_path: Path, features: Path, best_rq: Path, split: Split) -> None:
    """Label sets that are compared differ by the encoder alone: projection, codebook and sizes follow from the seed and the params."""
    birq = pretrained(tmp_path / "birq", features, "birq")
    mine, theirs = encoder.load(birq).model.quantizer, encoder.load(best_rq).model.quantizer
    assert torch.equal(mine.codebook, theirs.codebook) and torch.equal(mine.projection, theirs.projection)
    out = make(tmp_path, features, "relabel_birq", inputs={"pretrain": [birq]}, relabel__layer=2)
    frames = Frames(split, np.arange(len(split)), encoder.load(birq), torch.device("cpu"))
    seen_AN = codes_of(frames, read(frames, tmp_path / "outputs", Progress("test", len(split), "utterance")).layers[2])
    assert (np.load(out / "codes.npy") == seen_AN).mean() > 0.999
    other = make(tmp_path / "best_rq", features, "relabel", inputs={"pretrain": [best_rq]}, relabel__layer=2)
    assert (np.load(other / "codes.npy") != seen_AN).mean() > 0.1


# ---- phones


def test_phones_at_the_middle_of_each_frame(tmp_path: Path, features: Path, split: Split, capfd: pytest.CaptureFixture[str]) -> None:
    """By hand: a frame of four log-mel frames spans 55 ms from t · 40 ms on, so its middle lies at 27.5 + 40 t ms."""
    first = split.ids[0]
    times = corpus(tmp_path / "tones", [(first, 0.0, 0.1, "x"), (first, 0.1, 0.2, "k"), ("elsewhere", 0.0, 1.0, "z")])
    out = make(tmp_path / "labels", features, "phones", inputs={"corpus": [times]})
    codes, said = by_utterance(out), facts(out)
    assert said["phones"] == ["k", "x"] and said["codebook_size"] == 2 and said["aligned_utterances"] == 1
    assert codes[first][:6, 0].tolist() == [1, 1, 0, 0, 0, 2] and (codes[first][5:] == 2).all()
    assert all((codes[id] == 2).all() for id in split.ids[1:]), "2 = no label"
    assert said["labelled_frames"] == 5 and said["counts"] == [[3, 2]]
    assert (
        f"1 of {len(split)} utterances have phone times, and {500 / said['frames']:.1f} % of all frames a label" in capfd.readouterr().err
    )


def test_shuffled_phones_keep_how_often_and_how_long(tmp_path: Path, features: Path, split: Split) -> None:
    """Rotated by half an utterance: no label is at its own time, the counts stay, and so do the runs but for one cut."""
    assert rotated(np.array([1, 1, 2, 3, 3])).tolist() == [3, 3, 1, 1, 2]
    rows = [(id, i * 0.1, i * 0.1 + 0.1, "abcdefg"[i % 7]) for id in split.ids for i in range(40)]
    times = corpus(tmp_path / "tones", rows)
    true, moved = (make(tmp_path / m, features, m, inputs={"corpus": [times]}) for m in ("phones", "shuffled"))
    assert facts(true)["counts"] == facts(moved)["counts"]
    a, b = by_utterance(true), by_utterance(moved)
    for id in split.ids:
        half = len(a[id]) // 2
        assert np.array_equal(b[id], np.concatenate([a[id][len(a[id]) - half :], a[id][: len(a[id]) - half]]))


def test_without_phone_times_phones_cannot_be_learned(tmp_path: Path, features: Path, split: Split) -> None:
    """Each message says why there are none, and the way out."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder, why in (
        (bare, "bare has no alignments"),
        (corpus(tmp_path / "others", [("elsewhere", 0.0, 1.0, "a")]), "the alignments of others cover no utterance of the train split"),
    ):
        with pytest.raises(BirqError, match=why) as e:
            make(tmp_path / f"labels-{folder.name}", features, "phones", inputs={"corpus": [folder]})
        assert "corpora.<name>.alignments" in str(e.value)
    late = corpus(tmp_path / "late", [(split.ids[0], 500.0, 501.0, "a")])
    with pytest.raises(BirqError, match="their times do not fit the audio"):
        make(tmp_path / "labels-late", features, "phones", inputs={"corpus": [late]})


# ---- reading them back


def test_labels_of_masked_frames_are_those_of_the_file(half_known: Path, split: Split) -> None:
    """Row by row in the order of the positions; frames without one are left out, and counted by utterance."""
    opened, codes = open_labels(half_known, split, N_STACK), by_utterance(half_known)
    index = np.array([3, 0, 2])
    mask_BT = every_other(split.n_frames[index] // N_STACK)
    given = opened.given(index, mask_BT)
    want = np.concatenate([codes[split.ids[i]][mask_BT[b, : len(codes[split.ids[i]])].numpy(), 0] for b, i in enumerate(index)])
    assert given.known_K is not None and given.known_K.tolist() == np.flatnonzero(want != 4).tolist()
    assert given.codes_KN[:, 0].tolist() == want[want != 4].tolist() and given.codes_KN.dtype == torch.int64
    assert given.count_B[0] == 0 and int(given.count_B.sum()) == len(given.codes_KN)
    nobody = opened.given(index[:0], torch.zeros(0, 1, dtype=torch.bool))
    assert nobody.codes_KN.shape == (0, 1) and nobody.count_B.shape == (0,), "a rank may have no utterance"


def test_labels_of_other_speech_are_refused(tmp_path: Path, half_known: Path, split: Split) -> None:
    """A label beside its frame is worse than none; the utterance is named."""
    for change, why in (
        ("frames", "but labels of"),
        ("id", "but no labels"),
    ):
        folder = tmp_path / why.replace(" ", "_")
        folder.mkdir()
        for file in half_known.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        table = pq.read_table(folder / "index.parquet").to_pydict()
        table[change][1] = "somebody" if change == "id" else table["frames"][1] + 1
        pq.write_table(pa.table(table), folder / "index.parquet")
        with pytest.raises(BirqError, match=rf"utterance {split.ids[1]} has \d+ frames of 4 log-mel frames, {why}"):
            open_labels(folder, split, N_STACK)
    (folder / "codes.npy").write_bytes(b"")
    with pytest.raises(BirqError, match="labels that cannot be read"):
        open_labels(folder, split, N_STACK)


# ---- training on them


def test_training_on_the_anchoring_labels_from_a_file_is_best_rq_to_the_bit(
    tmp_path: Path, features: Path, split: Split, best_rq: Path
) -> None:
    """Encoder, masks, noise, head and weight of the loss are BEST-RQ's: labels are all that differs, so equal labels give equal bits."""
    front_end, model = read_front_end([features], split, N_STACK), encoder.load(best_rq).model
    (tmp_path / "labels").mkdir()
    writer = Writer(tmp_path / "labels", split, N_STACK, 2, 32)
    for i in range(len(split)):
        x_TF = torch.from_numpy((split.logmel(i) - front_end.mean_F) / front_end.std_F)[: writer.n_frames[i] * N_STACK]
        writer.write(i, model.anchor_labels(x_TF[None])[0].numpy())
    writer.close({})
    j = job("pretrain", tmp_path / "pretrain", {"features": [features], "labels": [tmp_path / "labels"]}, params(), "relabel")
    pretrain.compute(j)
    for name in ("encoder.safetensors", "curve.jsonl"):
        assert (j.out / name).read_bytes() == (best_rq / name).read_bytes(), name
    config = json.loads((j.out / "config.json").read_text())
    assert config["objective"]["label_codebooks"] == 2 and config["method"] == "relabel"
    assert encoder.load(j.out).model.quantizer.codebook.shape == (2, 32, 8), "the probe reads its layers as every other method's"


def given_labels(mask_BT: torch.Tensor, known_M: torch.Tensor, codes_MN: torch.Tensor) -> Given:
    rows_M = mask_BT.nonzero()[:, 0]
    count_B = torch.bincount(rows_M[known_M], minlength=len(mask_BT))
    return Given(codes_MN[known_M], None if known_M.all() else known_M.nonzero().flatten(), count_B)


def loss_of(known: slice | None) -> tuple[prediction.Forward, torch.Tensor, torch.Tensor, torch.Tensor, offline.Offline]:
    """Forward pass with labels of some masked frames; the output of all of them, their labels, and which are known."""
    objective = objective_of(params(), METHODS["phones"])
    torch.manual_seed(0)
    model, b, mask_BT = offline.Offline(Encoder(shape()), objective, 0).eval(), batch([12, 9]), every_other([12, 9])
    m = model.masked(mask_BT, b.lengths_B)
    codes_MN = torch.arange(len(m.masked_M))[:, None] % 40
    known_M = torch.zeros(len(m.masked_M), dtype=torch.bool)
    if known is not None:
        known_M[known] = True
    m = dataclasses.replace(m, given=given_labels(mask_BT, known_M, codes_MN))
    h_MD = model.masked_output(model.encoder.stack(b.feats_BTF), b.lengths_B, m, noise(), None)
    return model(b.feats_BTF, b.lengths_B, m, noise()), h_MD, codes_MN, known_M, model


def test_masked_frames_without_a_label_have_no_loss() -> None:
    """The loss is the mean cross-entropy of those that have one; the others are noise in the input all the same, as without labels."""
    forward, h_MD, codes_MN, known_M, model = loss_of(slice(2, 7))
    logits_KV = torch.nn.functional.linear(h_MD[known_M], model.head.weight, model.head.bias)
    want = 2.4 * torch.nn.functional.cross_entropy(logits_KV, codes_MN[known_M, 0])
    torch.testing.assert_close(forward.total, want)
    assert forward.n_masked == 5 and len(forward.anchor_codes_MN) == 5
    weights = [model.head.weight, model.encoder.project.weight]
    for mine, theirs in zip(torch.autograd.grad(forward.total, weights), torch.autograd.grad(want, weights), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_batch_without_any_label_teaches_nothing() -> None:
    """Alignments that cover part of a corpus: such a batch must not divide by nothing."""
    forward, *_, model = loss_of(None)
    forward.total.backward()
    assert float(forward.anchor) == 0 and all(float(p.grad.abs().max()) == 0 for p in model.parameters() if p.grad is not None)


TRAINING = {f"pretrain__{k}": v for k, v in {"steps": 6, "micro_batch_seconds": 4.0, "log_every_steps": 1}.items()}


def train_here(folder: Path, inputs: dict[str, list[Path]], changes: dict, stop_at: int | None = None) -> Job:
    """One rank's part of a training; `stop_at`: rank 0 gets SIGUSR1 in this step."""
    rank = int(os.environ.get("RANK", "0"))
    j = job("pretrain", folder if rank == 0 else folder / f"rank{rank}", inputs, params(**TRAINING | changes), "phones")
    if rank:
        j = dataclasses.replace(j, scratch=folder / "scratch")
    real = OfflineTask.backward

    def backward(self, batches, step, epoch):
        if (rank, stop_at) == (0, step):
            os.kill(os.getpid(), signal.SIGUSR1)
        real(self, batches, step, epoch)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(OfflineTask, "backward", backward)
        pretrain.compute(j)
    return j


@pytest.mark.slow
def test_ranks_give_the_numbers_of_one_process(tmp_path: Path, features: Path, half_known: Path) -> None:
    """Half of the frames have no label, and they are spread unevenly over the ranks: the mean is over those of all ranks."""
    inputs = {"features": [features], "labels": [half_known]}
    alone = train_here(tmp_path / "alone", inputs, {}).out
    gang.run(3, train_in_gang, tmp_path / "gang", inputs)
    np.testing.assert_allclose(figures(tmp_path / "gang/out0"), figures(alone), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(weights(tmp_path / "gang/out0"), weights(alone), rtol=0, atol=2e-5)
    lines = curve(alone)
    assert {line["anchor_loss"] > 0 for line in lines} == {True, False}, "some batches have no label"
    assert all(line["enhanced_loss"] is None and line["anchor_perplexity"] <= 4 for line in lines)


def train_in_gang(folder: Path, inputs: dict[str, list[Path]]) -> None:
    train_here(folder, inputs, {})


def test_a_stopped_training_ends_in_the_same_bits(tmp_path: Path, features: Path, half_known: Path) -> None:
    """Labels follow from the utterances and masks alone, so nothing of them has to be in a checkpoint."""
    inputs = {"features": [features], "labels": [half_known]}
    whole = train_here(tmp_path / "whole", inputs, {"pretrain__log_every_steps": 3}).out
    with pytest.raises(Stopped):
        train_here(tmp_path / "stopped", inputs, {"pretrain__log_every_steps": 3}, stop_at=1)
    again = train_here(tmp_path / "stopped", inputs, {"pretrain__log_every_steps": 3}).out
    for name in ("encoder.safetensors", "curve.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes(), name


# ---- the table


def with_methods(*names: str, variants: dict | None = None, **changes) -> Params:
    settings = tree(**changes)
    settings["run"] |= {"methods": list(names), "seeds": [0]}
    return parse(settings | {"variants": variants or {}})


def test_what_a_method_needs_is_made_and_only_that() -> None:
    """`run.methods: [hubert]` alone has both iterations in its DAG; finetuning and the rest are for run.methods only."""
    p = with_methods("hubert")
    runs = [n.name for n in dag.nodes(p) if n.method]
    assert runs == ["labels/hubert1-0", "pretrain/hubert1-0", "labels/hubert-0"] + [
        f"{s}/hubert-0" for s in ("pretrain", "finetune", "decode", "search", "score", "probe")
    ]
    hubert = dag.find("pretrain/hubert-0", p)
    assert [n.name for n in dag.on_the_way(hubert)] == runs[:3], "DVC has no stage for these"
    assert dag.on_the_way(dag.find("finetune/hubert-0", p)) == []
    assert lineage.also_made(p) == ["run.methods: hubert learns labels of hubert1, which is made as well"]
    twice = with_methods("relabel2", "birq")
    assert [n.name for n in dag.on_the_way(dag.find("pretrain/relabel2-0", twice))] == [
        "pretrain/best_rq-0", "labels/relabel-0", "pretrain/relabel-0", "labels/relabel2-0",
    ]  # fmt: skip
    assert dag.on_the_way(dag.find("pretrain/birq-0", twice)) == []
    assert lineage.also_made(twice) == ["run.methods: relabel2 learns labels of best_rq, then relabel, which is made as well"]
    assert lineage.also_made(with_methods("relabel", "best_rq", "phones")) == []
    assert lineage.also_made(with_methods("relabel_birq", "relabel", "best_rq")) == [
        "run.methods: relabel_birq learns labels of birq, which is made as well"
    ]


def test_a_key_holds_what_its_stage_reads() -> None:
    """The labels read `kmeans`, the training reads labels; BiRQ and BEST-RQ hold no code of either."""
    p = with_methods("hubert", "relabel", "phones", "birq")
    sections = {n.name: n.sections for n in dag.nodes(p)}
    assert sections["labels/hubert1-0"] == (
        "run.pretrain_corpora", "kmeans.clusters", "kmeans.fit_minutes", "kmeans.view", "model.n_stack",
    )  # fmt: skip
    assert "kmeans.layer" in sections["labels/hubert-0"] and "kmeans.view" not in sections["labels/hubert-0"]
    assert "relabel.layer" in sections["labels/relabel-0"] and "random_projection.codebook_size" in sections["labels/relabel-0"]
    assert all(s[:6] not in ("kmeans", "relabe") for name, read in sections.items() if name.startswith("pretrain") for s in read)
    assert not [m for m in dag.find("pretrain/birq-0", p).code if "label" in m or "offline" in m]
    # `birq why` and a record name the encoder that labels come from by its own name, the labels of the run itself by their stage
    assert list(labelled_inputs(dag.find("labels/hubert-0", p))) == ["features/tones", "pretrain/hubert1-0"]
    assert list(labelled_inputs(dag.find("pretrain/hubert-0", p))) == ["features/tones", "labels"]


def test_a_variant_of_the_second_iteration_shares_the_first(tmp_path: Path) -> None:
    """Numbers of a source are those of params.yaml itself, whatever the variant changes."""
    p = with_methods("hubert", "hubert_k2", variants={"hubert_k2": {"method": "hubert", "kmeans.layer": 2, "kmeans.clusters": 5}})
    labels = dag.find("labels/hubert_k2-0", p)
    assert [n.name for n in labels.inputs["pretrain"]] == ["pretrain/hubert1-0"]
    assert labels.params.kmeans.clusters == 5 and dag.find("labels/hubert1-0", p).params.kmeans.clusters == SMALL["kmeans"]["clusters"]


@pytest.mark.parametrize(
    ("methods", "variants", "changes", "why"),
    [
        (
            ["hubert"],
            {},
            {"kmeans__layer": 3},
            r"kmeans\.layer: 3 is above the depth of hubert1's encoder.*legal: 1 to model\.n_layers = 2",
        ),
        (["relabel2"], {}, {"relabel__layer": 9}, r"relabel\.layer: 9 is above the depth of relabel's encoder"),
        (["birq"], {"h": {"method": "hubert", "kmeans.layer": 3}}, {}, "3 is above the depth of hubert1's encoder"),
        (["birq"], {"h": {"method": "hubert", "model.n_stack": 2}}, {}, r"variants\.h: model\.n_stack = 2.*their frames differ"),
        (["birq"], {"h": {"method": "hubert", "kmeans.view": "log_mel"}}, {}, r"kmeans\.view is not read by a variant of hubert"),
        (["birq"], {"h": {"method": "phones", "kmeans.clusters": 4}}, {}, r"kmeans\.clusters is not read by a variant of phones"),
    ],
)
def test_labels_that_cannot_be_made_are_refused(methods: list[str], variants: dict, changes: dict, why: str) -> None:
    """Before anything runs: a layer that the source does not have, frames that are not those of the source, keys that nobody reads."""
    with pytest.raises(BirqError, match=why):
        with_methods(*methods, variants=variants, **changes)


def test_layers_are_checked_where_they_are_read() -> None:
    """A shallow encoder needs no other number for labels that nobody makes; a shallow student may learn of a deeper source."""
    with_methods("birq", "phones", kmeans__layer=9, relabel__layer=9)
    with_methods("birq", variants={"h": {"method": "hubert", "model.n_layers": 1, "kmeans.layer": 2}}, birq__label_layer=1)
    with_methods("birq", variants={"h1": {"method": "hubert1", "model.n_stack": 2, "kmeans.view": "cepstra"}})
