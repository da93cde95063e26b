"""Quantizers that follow the data: principal components as projection, means of frames as codes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gang
import numpy as np
import pytest
import torch
from test_distributed import SETTINGS, figures, train_here, weights
from test_train import stops_and_resumes
from tiny import batch, curve, job, noise, params, pretrained, pretrainer

from birq.errors import BirqError, Stopped
from birq.model.quantizer import RandomQuantizer
from birq.model.refined import Refinement, Refiner, principal_axes, revived
from birq.saved import encoder
from birq.stages import pretrain
from birq.train import pretraining
from birq.train.refining import Refining

REFINED = Refinement(codebook="refined")


def quantizer(d_in: int = 12, h: int = 3, v: int = 16, n: int = 2) -> RandomQuantizer:
    return RandomQuantizer(d_in, h, v, n, noise())


def on_the_plane(codes: list[list[float]], **changes) -> RandomQuantizer:
    """Frames of two values that are projected onto themselves, and these codes."""
    q = RandomQuantizer(2, 2, len(codes), 1, noise(), **changes)
    q.projection.copy_(torch.eye(2))
    q.codebook.copy_(torch.tensor(codes))
    return q


def alone(x: torch.Tensor) -> torch.Tensor:
    return x


def stepped(refiner: Refiner, x_MD: torch.Tensor, seed: int = 0) -> bool:
    """One step of training on these frames."""
    refiner.add(x_MD, refiner.quantizer.nearest(x_MD))
    return refiner.update(seed, alone)


def skewed(m: int, d: int = 12) -> torch.Tensor:
    """Frames with a mean, and with another spread along every axis of a rotated frame."""
    axes_DD = torch.linalg.qr(torch.randn(d, d, generator=noise(1)))[0]
    return (torch.randn(m, d, generator=noise(2)) * torch.linspace(4, 0.1, d)) @ axes_DD + torch.linspace(-1, 1, d)


# ---- the projection


def test_principal_axes_of_a_worked_out_case() -> None:
    """Frames (5, 0), (−1, 0), (2, 2), (2, −2) have the mean (2, 0), the variances 18/4 and 8/4, and no covariance."""
    x = torch.tensor([[5.0, 0], [-1, 0], [2, 2], [2, -2]], dtype=torch.float64)
    axes, deviation = principal_axes(torch.tensor(4), x.sum(0), x.T @ x, 2)
    torch.testing.assert_close(axes, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(deviation, torch.tensor([4.5, 2.0], dtype=torch.float64).sqrt())


def test_the_projection_is_that_of_a_singular_value_decomposition() -> None:
    """Running sums hold the covariance exactly, so frames that came in pieces give the axes of all frames at once."""
    x, q = skewed(500), quantizer()
    refiner = Refiner(q, Refinement(projection="pca", projection_steps=5))
    for part in x.split(100):
        stepped(refiner, part)
    expected_hD = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)[2][:3]
    for n in range(2):
        product = expected_hD @ q.projection[n].double()
        torch.testing.assert_close(product.abs(), torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)
        assert (q.projection[n].gather(0, q.projection[n].abs().argmax(0, keepdim=True)) > 0).all()
    assert torch.equal(q.projection[0], q.projection[1]) and not torch.equal(q.codebook[0], q.codebook[1])


def test_the_projection_is_estimated_along_the_first_steps_and_stays() -> None:
    """Each estimate has twice the frames of the one before; later frames change nothing, or labels would never settle."""
    q = quantizer()
    refiner = Refiner(q, Refinement(projection="pca", projection_steps=6))
    changed = [stepped(refiner, part) for part in skewed(1000).split(100)]
    assert [step for step, yes in enumerate(changed, start=1) if yes] == [1, 2, 4, 6]
    assert not refiner.sums, "nothing is summed up any more"


@pytest.mark.parametrize("distance", ["unit", "raw"])
def test_codes_are_spread_as_the_projected_frames_are(distance: str) -> None:
    """Without the deviations, codes would stand in all directions and frames in those of the first axes: few codes would be used."""
    x = torch.randn(4000, 12, generator=noise(2)) * torch.logspace(0.7, -1.5, 12)
    q = RandomQuantizer(12, 8, 64, 2, noise(), distance)
    drawn = q.codebook.clone()
    stepped(Refiner(q, Refinement(projection="pca")), x)

    def perplexity() -> float:
        counts = pretraining.CodeCounts(2, 64)
        counts.add(q.nearest(x))
        return counts.perplexity()

    spread = perplexity()
    q.codebook.copy_(drawn)
    assert spread > 40 and spread > 1.8 * perplexity()


def test_too_few_frames_are_an_error_that_names_both_numbers() -> None:
    """Three frames about their mean span two directions. Until the estimation ends more may come: the drawn projection stays so long."""
    q = quantizer()
    drawn = q.projection.clone()
    assert not stepped(Refiner(q, Refinement(projection="pca", projection_steps=2)), skewed(3))
    assert torch.equal(q.projection, drawn)
    with pytest.raises(ValueError, match="3 frames are too few for 3 principal components, which need 4 at least"):
        stepped(Refiner(q, Refinement(projection="pca")), skewed(3))
    assert stepped(Refiner(q, Refinement(projection="pca")), skewed(4))


def task(refining: Refining, **changes) -> pretraining.PretrainTask:
    return pretraining.PretrainTask(
        pretrainer(**changes), params().pretrain, "pretrain/birq-0", torch.device("cpu"), 0, 10.0, refining=refining
    )


def test_training_names_the_key_and_the_way_out() -> None:
    """An epoch of one short utterance, and more components than a frame of the view has values."""
    with pytest.raises(BirqError, match=r"random_projection.projection: pca: \d frames are too few for 8 .* set it to random"):
        task(Refining(projection="pca")).backward([batch([4])], 0, 0)
    with pytest.raises(BirqError, match=r"random_projection.projection: pca: 40 principal components of frames that have 39 values"):
        task(Refining(projection="pca"), view="cepstra", codebook_dim=40)


# ---- the codes


def test_a_code_becomes_the_mean_of_its_frames_in_a_worked_out_case() -> None:
    """Of (3, 4), (0, 5) and (2, 0), the first two are nearer to (0, 1). Their directions (.6, .8) and (0, 1) have the mean (.3, .9)."""
    q = on_the_plane([[1.0, 0], [0, 1]])
    refiner = Refiner(q, REFINED)
    assert stepped(refiner, torch.tensor([[3.0, 4], [0, 5], [2, 0]]))
    expected = torch.tensor([[[1.0, 0], [0.3 / 0.9**0.5, 0.9 / 0.9**0.5]]])
    torch.testing.assert_close(q.codebook, expected)
    moved = (expected[0, 1] - torch.tensor([0.0, 1])).norm()
    assert refiner.figures() == {"codebook_shift": pytest.approx(float(moved) / 2), "revived_codes": 0}
    assert refiner.figures() == {"codebook_shift": None, "revived_codes": 0}, "of the refinements since the last line"


def test_a_raw_code_becomes_the_plain_mean() -> None:
    """As they are, (3, 4) and (0, 5) have the mean (1.5, 4.5); (2, 0) is nearest to (1, 0)."""
    q = on_the_plane([[1.0, 0], [0, 1]], distance="raw")
    stepped(Refiner(q, REFINED), torch.tensor([[3.0, 4], [0, 5], [2, 0]]))
    torch.testing.assert_close(q.codebook, torch.tensor([[[2.0, 0], [1.5, 4.5]]]))
    assert q.nearest(torch.tensor([[1.7, 1.9]])).tolist() == [[0]], "by distance: the longer code has the larger inner product"


def test_codes_are_refined_every_few_steps_by_the_frames_of_these_steps() -> None:
    """Frames before the last refinement chose among other codes."""
    x, q, again = skewed(600), quantizer(), quantizer()
    refiner = Refiner(q, Refinement(codebook="refined", refine_every_steps=3))
    assert [stepped(refiner, part) for part in x.split(100)] == [False, False, True] * 2
    for half in x.split(300):
        stepped(Refiner(again, REFINED), half)
    torch.testing.assert_close(q.codebook, again.codebook)


def test_refinement_begins_where_the_projection_is_final() -> None:
    """Means of frames under another projection would be no means of these frames."""
    refiner = Refiner(quantizer(), Refinement("pca", "refined", projection_steps=3, refine_every_steps=2))
    assert [stepped(refiner, part) for part in skewed(700).split(100)] == [True, True, True, False, True, False, True]
    assert [refiner.steps, refiner.estimating] == [7, False]


def test_refinement_brings_codes_nearer_to_their_frames() -> None:
    """Each half of a step of k-means, new means and new nearest codes, can only raise the mean similarity of frames and codes."""
    q, x = quantizer(), skewed(2000)
    refiner = Refiner(q, REFINED)

    def similarity() -> float:
        own_NMh = torch.stack([q.codebook[n, codes_M] for n, codes_M in enumerate(q.nearest(x).T)])
        return float((q.vectors(x) * own_NMh).sum(-1).mean())

    values = [similarity()]
    for _ in range(5):
        stepped(refiner, x)
        values.append(similarity())
    assert values == sorted(values) and values[-1] > values[0] + 0.05


def test_a_dead_code_shares_the_frames_of_the_most_used_one() -> None:
    """A code beside the mean of a cloud of frames cuts it in two; both are used then, and the dead code is counted."""
    cloud = torch.tensor([0.0, 10]) + torch.randn(1000, 2, generator=noise())
    few = torch.tensor([[10.0, 0]]).expand(10, 2)
    q = on_the_plane([[1.0, 0], [0, 1], [0, -1]])
    refiner = Refiner(q, REFINED)
    stepped(refiner, torch.cat([cloud, few]))
    assert refiner.figures()["revived_codes"] == 1
    used = q.nearest(torch.cat([cloud, few])).flatten().bincount(minlength=3)
    assert used[0] == 10 and used[1:].min() > 300


def test_dead_codes_are_revived_alike_for_any_number_of_them() -> None:
    """Two dead codes and one that is used: both move beside it, apart from each other. Without any frame nothing is known: codes stay."""
    codes = torch.eye(3, dtype=torch.float64)
    moved = revived(codes, torch.tensor([0, 5, 0]), noise())
    assert torch.equal(moved[1], codes[1])
    assert ((moved - codes[1]).norm(dim=1)[[0, 2]] - 0.01).abs().max() < 1e-12 and (moved[0] - moved[2]).norm() > 1e-3
    assert torch.equal(revived(codes, torch.zeros(3), noise()), codes)
    assert torch.equal(revived(codes, torch.ones(3), noise()), codes)


def test_codes_without_frames_at_all_stay() -> None:
    """A share of a batch may be empty, and so may all of them."""
    q = quantizer()
    before = q.codebook.clone()
    stepped(Refiner(q, REFINED), torch.zeros(0, 12))
    torch.testing.assert_close(q.codebook, before)


# ---- in training

BOTH = {"random_projection__projection": "pca", "random_projection__codebook": "refined"}
ALL = BOTH | {"birq__label_projection": "pca", "birq__label_codebook": "refined"}


@pytest.mark.parametrize("label_share", [1.0, 0.5])
def test_enhanced_codes_are_the_means_of_the_layer_s_labelled_frames(label_share: float) -> None:
    """The same means, of layer k's projected output; the anchors' codes stay."""
    t = task(Refining(label_codebook="refined"), label_share=label_share)
    seen, real, before = [], t._forward, t.model.quantizer.codebook.clone()

    def forward(*args):
        seen.append(real(*args))
        return seen[-1]

    t._forward = forward
    t.backward([batch([40, 30, 20, 20])], 0, 0)
    (losses,) = seen
    v_NMh = torch.nn.functional.normalize(losses.enhanced_frames_MD @ t.model.quantizer.projection, dim=-1)
    for n, code in [(n, int(losses.enhanced_codes_MN[:, n].mode().values)) for n in range(2)]:
        own = v_NMh[n, losses.enhanced_codes_MN[:, n] == code]
        assert len(own) > 1
        torch.testing.assert_close(t.model.quantizer.codebook[n, code], torch.nn.functional.normalize(own.mean(0), dim=0))
    assert torch.equal(t.model.anchor_quantizer.codebook, before) and not torch.equal(t.model.quantizer.codebook, before)


def test_what_labels_do_not_need_is_not_summed_up_yet() -> None:
    """An enhanced branch that begins late has its first epoch of estimation from there on."""
    t = task(Refining(label_projection="pca"), begins_share=0.25)
    drawn = t.model.quantizer.projection.clone()
    for step in range(4):
        assert torch.equal(t.model.quantizer.projection, drawn)
        t.backward([batch([40, 30], seed=step)], step, 0)  # of 12 steps, enhanced labels begin with the fourth
    assert not torch.equal(t.model.quantizer.projection, drawn) and t.refiners.refiners["enhanced"].steps == 1


def test_the_saved_encoder_has_the_projection_and_the_codes_of_the_last_step(tmp_path: Path, features: Path) -> None:
    """Both are buffers, so the probe reads the labels that training had at its end."""
    out = pretrained(tmp_path, features, "best_rq", **BOTH, pretrain__steps=16)
    q = encoder.load(out).model.anchor_quantizer
    torch.testing.assert_close(q.projection[0].T @ q.projection[0], torch.eye(8), atol=1e-5, rtol=0)
    assert not torch.allclose(q.codebook, pretrainer().anchor_quantizer.codebook, atol=0.1)
    x = torch.randn(300, q.projection.shape[1], generator=noise())
    expected = torch.cdist(torch.nn.functional.normalize(x.double() @ q.projection.double(), dim=-1), q.codebook.double()).argmin(-1).T
    assert torch.equal(q.nearest(x), expected)
    lines = curve(out)
    assert sum(line["anchor_codebook_shift"] is not None for line in lines) >= 2 and lines[-1]["anchor_perplexity"] > 16


def test_an_encoder_from_before_an_option_has_its_default(tmp_path: Path, features: Path) -> None:
    """What was stored without the option was made as its default makes it."""
    out = pretrained(tmp_path, features, "best_rq", pretrain__steps=1)
    config = json.loads((out / "config.json").read_text())
    for key in ("view", "view_window_frames", "distance"):
        del config["objective"][key]
    (out / "config.json").write_text(json.dumps(config))
    o = encoder.load(out).model.objective
    assert (o.view, o.view_window_frames, o.distance) == ("log_mel", 0, "unit")


@pytest.mark.parametrize("call", [3, 4, 8, 10], ids=["along the epoch", "at its end", "at a refinement", "between two"])
def test_a_stopped_run_ends_in_the_same_bits(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """A checkpoint holds the sums since the last change, and the codes follow from (seed, step). The other run writes a checkpoint at every
    line, which changes nothing."""
    changes = ALL | {"pretrain__steps": 16, "pretrain__log_every_steps": 5}
    stops_and_resumes(tmp_path, features, monkeypatch, call, changes, 16)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_refine_as_one_process_does(tmp_path: Path, features: Path, size: int) -> None:
    """Sums over all ranks' frames are the sums of the batch, and dead codes move by numbers that no rank draws for itself."""
    changes = ALL | {"random_projection__refine_every_steps": 2}
    inputs = {"features": [features]}
    one = job("pretrain", tmp_path / "one", inputs, params(**SETTINGS | changes))
    pretrain.compute(one)
    gang.run(size, train_here, "pretrain", tmp_path, inputs, changes)
    np.testing.assert_allclose(figures(tmp_path / "out0"), figures(one.out), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(weights(tmp_path / "out0"), weights(one.out), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_sums_go_on_with_another_number_of_ranks(tmp_path: Path, features: Path) -> None:
    """A checkpoint holds the sums of all ranks, and one rank goes on from them: no frame is lost or counted twice."""
    changes = ALL | {"random_projection__refine_every_steps": 3}
    inputs = {"features": [features]}
    one = job("pretrain", tmp_path / "one", inputs, params(**SETTINGS | changes))
    pretrain.compute(one)
    errors = gang.run(2, train_here, "pretrain", tmp_path, inputs, changes, (1, 5))
    assert [type(e) for e in errors] == [Stopped, Stopped]  # after six steps: four of the epoch, two of sums
    gang.run(3, train_here, "pretrain", tmp_path, inputs, changes)
    torch.testing.assert_close(weights(tmp_path / "out1"), weights(one.out), rtol=0, atol=2e-5)


def test_ranks_end_with_the_quantizer_of_the_first(tmp_path: Path) -> None:
    """On another machine, eigenvectors may differ in the last bits: then ranks would disagree about labels."""
    found = gang.run(2, _quantizer_of_a_rank)
    assert found[0] == found[1]


def _quantizer_of_a_rank() -> list[float]:
    from birq.train import distributed

    group = distributed.join(torch.device("cpu"))
    t = task(Refining(projection="pca"))
    t.group = group
    real = t.refiners.refiners["anchor"].update

    def unlike(*args) -> bool:
        changed = real(*args)
        t.model.anchor_quantizer.projection += group.rank * 1e-3
        return changed

    t.refiners.refiners["anchor"].update = unlike
    t.backward([dataclasses.replace(batch([40, 30]), first=0, n_all_ranks=4)], 0, 0)
    return t.model.anchor_quantizer.projection.flatten().tolist()
