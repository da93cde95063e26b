"""A further codebook that learns from the encoder's layers."""

from __future__ import annotations

from pathlib import Path

import gang
import numpy as np
import pytest
import torch
from test_distributed import SETTINGS, figures, train_here, weights
from test_refined import quantizer, task
from test_train import stops_and_resumes
from tiny import batch, curve, every_other, job, noise, params, pretrained, pretrainer

from birq.errors import BirqError
from birq.model.distilled import DistilledCodebook
from birq.model.prediction import Forward
from birq.model.quantizer import RandomQuantizer
from birq.saved import encoder
from birq.stages import pretrain
from birq.train.refining import Refining

ON = {"distil_weight": 0.5, "distil_codes": 16}
TRAINED = {f"random_projection__{k}": v for k, v in ON.items()}


def further(codes: list[list[float]]) -> DistilledCodebook:
    """A further codebook of these codes."""
    made = DistilledCodebook(quantizer(h=len(codes[0])), len(codes), 4)
    with torch.no_grad():
        made.codebook.copy_(torch.tensor(codes))
    return made


# ---- D


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], 0.5), ([0, 0], 1.0), ([0, 2], 0.0)])
def test_the_distance_of_a_worked_out_case(labels: list[int], expected: float) -> None:
    """Two frames lie on either side of their mean, so the layer's similarities are 1, −1, −1, 1. Codes at right angles have 1, 0, 0, 1:
    (0 + 1 + 1 + 0) / 2² = 0.5. One code for both has 1, 1, 1, 1: (2 + 2) / 4. Opposite codes are the layer's."""
    z_BTD = torch.tensor([[[7.0, 5, 0], [3.0, 5, 0]]])
    found = further([[1.0, 0], [0, 2], [-3, 0]]).distances(torch.tensor([labels]), [z_BTD], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_masked_frames_padding_and_other_utterances_do_not_count() -> None:
    """The case above, in other company; an utterance without a frame has 0; of two layers, the mean."""
    book, generator = further([[1.0, 0], [0, 2], [-3, 0]]), noise()
    z_BTD = torch.randn(3, 5, 3, generator=generator) * 9
    z_BTD[1, 1], z_BTD[1, 3] = torch.tensor([7.0, 5, 0]), torch.tensor([3.0, 5, 0])
    y_BT = torch.randint(0, 3, (3, 5), generator=generator)
    y_BT[1, 1], y_BT[1, 3] = 0, 1
    frames_BT = torch.tensor([[True, True, True, True, False], [False, True, False, True, False], [False] * 5])
    found = book.distances(y_BT, [z_BTD], frames_BT)
    assert found[1:].tolist() == pytest.approx([0.5, 0.0])
    other = book.distances(y_BT, [z_BTD * torch.tensor([1.0, -2, 3])], frames_BT)
    both = book.distances(y_BT, [z_BTD, z_BTD * torch.tensor([1.0, -2, 3])], frames_BT)
    torch.testing.assert_close(both, (found + other) / 2)
    assert found[0] != other[0]


def test_the_gradient_of_a_worked_out_case_turns_codes_apart() -> None:
    """d/dE_0 of 2 |E_0 · E_1 + 1| / 4 at right angles is E_1 / 2; the layer gets none."""
    book, z_BTD = further([[1.0, 0], [0, 1]]), torch.tensor([[[1.0, 0], [-1, 0]]], requires_grad=True)
    book.distances(torch.tensor([[0, 1]]), [z_BTD], torch.ones(1, 2, dtype=torch.bool)).sum().backward()
    torch.testing.assert_close(book.codebook.grad, torch.tensor([[0.0, 0.5], [0.5, 0]]))
    assert z_BTD.grad is None


def test_labels_are_the_nearest_codes_of_the_first_projection() -> None:
    """By the definition, with all distances; codes count by their direction."""
    q, x = quantizer(h=4), torch.randn(200, 12, generator=noise())
    book = DistilledCodebook(q, 8, 4)
    with torch.no_grad():
        book.codebook.mul_(torch.linspace(0.5, 3, 8)[:, None])
    unit = torch.nn.functional.normalize
    expected = torch.cdist(unit(x.double() @ q.projection[0].double(), dim=-1), unit(book.codebook.double(), dim=-1)).argmin(-1)
    assert torch.equal(book.labels(q, x), expected) and len(expected.unique()) > 4


# ---- in the loss


def losses(p: torch.nn.Module) -> Forward:
    b = batch([20, 13, 9])
    return p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise())


FORMS = {"BEST-RQ": {"enhanced_weight": 0.0}, "some labels": {"label_share": 0.4}, "all labels": {}}


@pytest.mark.parametrize("form", FORMS)
def test_g_gets_the_further_cross_entropy_as_of_any_codebook_and_d(form: str) -> None:
    """Two codebooks and the further one: each adds the same share. What the curve calls G stays that of the two."""
    changes = {"noise": "none", **FORMS[form]}
    plain, p = losses(pretrainer(**changes)), pretrainer(**changes, **ON)
    found = losses(p)
    b, seen = batch([20, 13, 9]), []
    mask_BT, x_BTS = every_other(b.lengths_B), p.encoder.stack(b.feats_BTF)
    h_MD, *_ = p.masked_pass(x_BTS, x_BTS, b.lengths_B, p.masked(mask_BT, b.lengths_B), noise(), None, seen)
    y_BT = p.distilled.labels(p.anchor_quantizer, x_BTS.flatten(0, 1)).view(mask_BT.shape)
    cross_entropy = torch.nn.functional.cross_entropy(p.distilled.head(h_MD), y_BT[mask_BT])
    valid_BT = torch.arange(20) < b.lengths_B[:, None]
    distance = p.distilled.distances(y_BT, seen[:1], valid_BT & ~mask_BT).mean()
    torch.testing.assert_close(found.total - plain.total, 2.4 * (cross_entropy / 2 + 0.5 * distance))
    torch.testing.assert_close(torch.stack([found.distilled, found.distance]), torch.stack([cross_entropy, distance]).detach())
    assert torch.equal(found.anchor, plain.anchor) and torch.equal(found.distilled_codes_M1[:, 0], y_BT[mask_BT])


def test_d_teaches_the_further_codebook_alone() -> None:
    """Ten times the weight is ten times the gradient of E, and the same gradient of all else. Labels give E none."""
    grads = []
    for weight in (0.5, 5.0):
        p = pretrainer(**ON | {"distil_weight": weight})
        losses(p).total.backward()
        grads.append({name: x.grad for name, x in p.named_parameters()})
    torch.testing.assert_close(grads[1].pop("distilled.codebook"), 10 * grads[0].pop("distilled.codebook"))
    assert all(torch.equal(x, grads[1][name]) for name, x in grads[0].items())


def test_without_it_there_is_no_such_codebook() -> None:
    """No weight, no sum, no figure: the model, its first weights and its state are those of a model that knows no distillation."""
    p, on = pretrainer(), pretrainer(**ON)
    assert p.distilled is None and set(on.state_dict()) - set(p.state_dict()) == {
        "distilled.codebook",
        "distilled.head.weight",
        "distilled.head.bias",
    }
    assert all(torch.equal(x, on.state_dict()[name]) for name, x in p.state_dict().items())
    assert not [k for k in task(Refining()).figures(0) if k.startswith("distil")]


def test_sizes_that_do_not_fit_are_refused() -> None:
    """Too many codes, and a layer that is not there: where it is on."""
    with pytest.raises(BirqError, match=r"random_projection.*distil_codes: 64 is above codebook_size = 32"):
        params(random_projection__distil_weight=0.5, random_projection__distil_codes=64)
    with pytest.raises(BirqError, match=r"random_projection.distil_layers: \[1, 3\] has one above the depth; legal: 1 to .* = 2"):
        params(random_projection__distil_weight=0.5, random_projection__distil_layers=[1, 3])
    assert params(random_projection__distil_codes=64, random_projection__distil_layers=[9]).random_projection.distil_weight == 0


# ---- in training


def test_before_it_begins_a_run_is_one_without_it(tmp_path: Path, features: Path) -> None:
    """To the bit, in every figure of three steps of twelve; then the codebook learns, and the pass takes its layers' similarities."""
    changes = {"pretrain__log_every_steps": 1}
    plain = curve(pretrained(tmp_path / "plain", features, "birq", **changes))
    out = pretrained(tmp_path / "on", features, "birq", **TRAINED, **changes)
    lines = curve(out)
    assert [{k: line[k] for k in plain[0]} for line in lines[:3]] == plain[:3] and lines[3]["loss"] != plain[3]["loss"]
    assert [line["distilled_loss"] is None for line in lines] == [True] * 3 + [False] * 9
    assert lines[3]["distilled_loss"] == pytest.approx(np.log(16), abs=0.5)
    model = encoder.load(out).model
    assert not hasattr(model, "distilled"), "the probe reads no head and no further codebook"


def test_the_further_codebook_learns_the_layers_similarities() -> None:
    """Frames that wander, and a layer that is a copy of them: D falls by more than a quarter, by codes and by labels that follow them."""
    q = RandomQuantizer(12, 8, 16, 1, noise(1))
    book, frames_BT = DistilledCodebook(q, 16, 4), torch.ones(6, 40).bool()
    z_BTD = torch.randn(6, 40, 12, generator=noise()).cumsum(1)
    view_AS = (z_BTD - z_BTD.mean(1, keepdim=True)).flatten(0, 1)
    optimiser, found = torch.optim.Adam([book.codebook], lr=0.01), []
    for _ in range(100):
        distance = book.distances(book.labels(q, view_AS).view(6, 40), [z_BTD], frames_BT).mean()
        optimiser.zero_grad()
        distance.backward()
        optimiser.step()
        found.append(distance.item())
    assert found[-1] < 0.75 * found[0]


def test_it_begins_with_codes_that_have_followed_the_data() -> None:
    """Of twelve steps the fourth is the first with it. Three refinements lie behind it, and a fourth after it changes nothing there."""
    t = task(Refining(codebook="refined"), **ON, distil_begins_share=0.25)
    drawn = t.model.distilled.codes().detach().clone()
    for step in range(3):
        t.backward([batch([40, 30], seed=step)], step, 0)
        assert torch.equal(t.model.distilled.codes(), drawn) and t.model.distilled.codebook.grad is None
    refined = t.model.anchor_quantizer.codebook[0, :16].clone()
    t.backward([batch([40, 30], seed=3)], 3, 0)
    torch.testing.assert_close(t.model.distilled.codes(), refined)
    assert t.model.distilled.codebook.grad.abs().sum() > 0 and not torch.allclose(refined, drawn)
    t.backward([batch([40, 30], seed=4)], 4, 0)
    torch.testing.assert_close(t.model.distilled.codes(), refined)


@pytest.mark.parametrize("call", [3, 4, 7], ids=["just before it begins", "in its first step", "later"])
def test_a_stopped_run_ends_in_the_same_bits(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """The codebook is one of the model's weights, and its beginning follows from the step."""
    changes = TRAINED | {"random_projection__codebook": "refined", "pretrain__log_every_steps": 5}
    stops_and_resumes(tmp_path, features, monkeypatch, call, changes, 12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_distil_as_one_process_does(tmp_path: Path, features: Path, size: int) -> None:
    """D is a mean over the utterances of all ranks; some of four ranks have none."""
    inputs = {"features": [features]}
    one = job("pretrain", tmp_path / "one", inputs, params(**SETTINGS | TRAINED))
    pretrain.compute(one)
    gang.run(size, train_here, "pretrain", tmp_path, inputs, TRAINED)
    assert curve(one.out)[-1]["distilled_distance"] > 0
    np.testing.assert_allclose(figures(tmp_path / "out0"), figures(one.out), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(weights(tmp_path / "out0"), weights(one.out), rtol=0, atol=2e-5)
