"""BEST-RQ and BiRQ as theorems: what the losses are, and which way each gradient runs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tiny import batch, every_other, noise, objective, pretrainer
from torch import Tensor

from birq.model import prediction
from birq.model.encoder import Encoder, valid_mask
from birq.model.masking import places
from birq.model.objectives import BiRq, enhanced_labels, mean_label_entropy
from birq.model.prediction import AnchorObjective, BestRq, Forward
from birq.model.quantizer import layer_norm, standardise

LENGTHS = [24, 15, 9]
NOT_TRAINED_BY_LABELS = ("head", "enhanced_head")


def losses(p: BiRq, seed: int = 0, lengths: list[int] | None = None) -> Forward:
    b = batch(lengths or LENGTHS)
    return p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise(seed))


def gradient(p: BiRq, loss: Tensor) -> dict[str, Tensor]:
    p.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(w) if w.grad is None else w.grad.clone() for n, w in p.named_parameters()}


def by_hand(p: BiRq, *, detach: bool, seed: int = 0) -> dict[str, Tensor]:
    """Algorithm 1 written out for all labels; returns the losses F, G and the total."""
    o, b = p.objective, batch(LENGTHS)
    mask, lengths = every_other(b.lengths_B), b.lengths_B
    x = p.encoder.stack(b.feats_BTF)
    generator, m = noise(seed), int(mask.sum())
    masked = x.clone()
    masked[mask] = torch.randn(m, x.shape[-1], generator=generator) * o.mask_fill_std
    h = p.encoder(masked, lengths)[mask]
    logits, enhanced_logits = (head(h).view(m, o.n_codebooks, o.codebook_size) for head in (p.head, p.enhanced_head or p.head))
    unit = (lambda v: F.normalize(v, dim=-1)) if o.distance == "unit" else (lambda v: v)
    v = unit(x[mask] @ p.anchor_quantizer.projection)
    y = torch.cdist(v, p.anchor_quantizer.codebook).argmin(-1).T
    lower = F.cross_entropy(logits.flatten(0, 1), y.flatten())
    z = p.encoder(x, lengths, n_layers=o.label_layer)
    valid = valid_mask(lengths, x.shape[1])
    norms = {"standardise": lambda: standardise(z[valid])[mask[valid]], "layer_norm": lambda: layer_norm(z[mask]), "none": lambda: z[mask]}
    u = unit(norms[o.label_norm]() @ p.quantizer.projection)
    label_logits = -o.logit_scale * torch.cdist(u, p.quantizer.codebook, compute_mode="donot_use_mm_for_euclid_dist").square().transpose(
        0, 1
    )
    if detach:
        label_logits = label_logits.detach()
    uniform = torch.rand(label_logits.shape, generator=generator).clamp_min(1e-20)
    noise_v = -torch.log(-torch.log(uniform))
    labels = ((label_logits + (noise_v if o.noise == "gumbel" else -noise_v)) / o.temperature).softmax(-1)
    if o.labels == "hard":
        labels = F.one_hot(labels.argmax(-1), o.codebook_size) - labels.detach() + labels
    upper = F.cross_entropy(enhanced_logits.flatten(0, 1), labels.flatten(0, 1))
    q = label_logits.softmax(-1).mean(0)
    entropy = torch.distributions.Categorical(probs=q).entropy().mean()
    total = o.enhanced_weight * (upper - o.entropy_weight * entropy) + o.anchor_weight * lower
    return {"F": upper, "G": lower, "H": entropy, "total": total}


def same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    for name, grad in a.items():
        torch.testing.assert_close(
            grad, b[name], atol=tolerance * max(1.0, float(grad.abs().max())), rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


# ---- the losses are those of the paper


@pytest.mark.parametrize("label_norm", ["standardise", "layer_norm"])
@pytest.mark.parametrize("gradient_weight", [1.0, 0.0])
@pytest.mark.parametrize("entropy_weight", [0.0, 1.0])
@pytest.mark.parametrize(("labels", "heads"), [("soft", "shared"), ("soft", "separate"), ("hard", "shared")])
@pytest.mark.parametrize("frames_at_once", [1000, 5])
def test_losses_and_gradients_are_those_of_algorithm_1(
    label_norm: str,
    gradient_weight: float,
    entropy_weight: float,
    labels: str,
    heads: str,
    frames_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the algorithm written out with distances, cross_entropy, torch's detach and torch's own gradient: the detached form is the
    reference with detached labels, the full form the one without. How many frames are looked at together does not matter."""
    weights = {"label_gradient": gradient_weight, "entropy_weight": entropy_weight, "enhanced_weight": 0.7}
    p = pretrainer(label_norm=label_norm, labels=labels, heads=heads, **weights)
    monkeypatch.setitem(prediction.CHUNK_VALUES, "cpu", frames_at_once * p.objective.n_codebooks * p.objective.codebook_size)
    here, hand = losses(p), by_hand(p, detach=gradient_weight == 0)
    for mine, theirs in (
        (here.enhanced, hand["F"]),
        (here.anchor, hand["G"]),
        (here.label_entropy, hand["H"]),
        (here.total, hand["total"]),
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    same(gradient(p, here.total), gradient(p, hand["total"]), tolerance=1e-3)


@pytest.mark.parametrize("noise", ["gumbel", "reversed"])
@pytest.mark.parametrize("label_norm", ["standardise", "layer_norm", "none"])
def test_the_printed_form_is_algorithm_1_with_raw_distances(noise: str, label_norm: str) -> None:
    """Eq. 2 and 4 with distances as they are printed, either sign of the noise, without scale and entropy: against the algorithm."""
    form = {"distance": "raw", "logit_scale": 1.0, "entropy_weight": 0.0, "enhanced_weight": 0.7}
    p = pretrainer(noise=noise, label_norm=label_norm, **form)
    with torch.no_grad():  # or `none` would be LayerNorm
        p.encoder.blocks[0].norm.weight.uniform_(0.3, 2.0, generator=torch.Generator().manual_seed(1))
    here, hand = losses(p), by_hand(p, detach=False)
    for mine, theirs in ((here.enhanced, hand["F"]), (here.anchor, hand["G"]), (here.total, hand["total"])):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    same(gradient(p, here.total), gradient(p, hand["total"]), tolerance=1e-3)


def test_uniform_logits_give_ln_v_for_both_losses() -> None:
    """A head that says nothing has cross-entropy ln V against any label, hard or soft."""
    p = pretrainer(codebook_size=32)
    torch.nn.init.zeros_(p.head.weight)
    torch.nn.init.zeros_(p.head.bias)
    here = losses(p)
    assert here.anchor.item() == pytest.approx(math.log(32), abs=1e-5)
    assert here.enhanced.item() == pytest.approx(math.log(32), abs=1e-5)


def test_w1_0_is_best_rq_over_several_steps() -> None:
    """Without F, BiRQ is BEST-RQ: the same weights after every step as a BEST-RQ loop that knows no enhanced labels, but for the order in
    which float32 sums are taken."""
    birq, plain = pretrainer(enhanced_weight=0.0), pretrainer()
    optimisers = [torch.optim.SGD(p.parameters(), lr=1e-2, momentum=0.9) for p in (birq, plain)]
    for step in range(5):
        b = batch(LENGTHS, seed=step)
        mask, x = every_other(b.lengths_B), plain.encoder.stack(b.feats_BTF)
        here = birq(b.feats_BTF, b.lengths_B, mask, noise(step))
        codes = plain.anchor_labels(b.feats_BTF)[mask]
        fill = torch.randn(len(codes), x.shape[-1], generator=noise(step)) * plain.objective.mask_fill_std
        h = plain.encoder(x.masked_scatter(mask[:, :, None], fill), b.lengths_B)[mask]
        logp = plain.head(h).view(len(codes), plain.objective.n_codebooks, -1).log_softmax(-1)
        loss = plain.objective.anchor_weight * -logp.gather(-1, codes[:, :, None]).mean()
        torch.testing.assert_close(here.total, loss, atol=1e-5, rtol=1e-6)
        for optimiser, value in zip(optimisers, (here.total, loss), strict=True):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        for (name, a), (_, c) in zip(birq.state_dict().items(), plain.state_dict().items(), strict=True):
            torch.testing.assert_close(a, c, atol=1e-6, rtol=1e-5, msg=lambda m, n=name, s=step: f"{n} at step {s}: {m}")
    assert here.enhanced is None and here.label_entropy is None and here.enhanced_codes_MN is None


def test_w1_0_is_best_rq_bit_for_bit() -> None:
    """A model that knows G alone, of the same seed: the same first weights, and the same weights after every step."""
    birq = pretrainer(enhanced_weight=0.0)
    torch.manual_seed(0)
    constants = {f.name: getattr(birq.objective, f.name) for f in dataclasses.fields(AnchorObjective)}
    best_rq = BestRq(Encoder(birq.encoder.shape), AnchorObjective(**constants), seed=0)
    assert not birq.enhanced and not best_rq.enhanced and pretrainer().enhanced
    optimisers = [torch.optim.AdamW(p.parameters(), lr=1e-2) for p in (birq, best_rq)]
    weights, same_weights = birq.state_dict(), best_rq.state_dict()
    assert list(weights) == list(same_weights)
    for step in range(5):
        assert all(torch.equal(w, same_weights[name]) for name, w in weights.items()), step
        b = batch(LENGTHS, seed=step)
        for p, optimiser in zip((birq, best_rq), optimisers, strict=True):
            optimiser.zero_grad()
            p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise(step)).total.backward()
            optimiser.step()
    assert all(torch.equal(w, same_weights[name]) for name, w in weights.items())


def test_the_anchoring_part_is_the_same_with_and_without_f() -> None:
    """G comes from the same masked pass and the same draws whatever w1, so its curve compares between methods."""
    assert torch.equal(losses(pretrainer()).anchor, losses(pretrainer(enhanced_weight=0.0)).anchor)


@pytest.mark.parametrize("lengths", [LENGTHS, [13]])
def test_several_codebooks_are_the_mean_of_single_ones(lengths: list[int]) -> None:
    """F, G and H are means over codebooks, so N codebooks weigh as much against each other as one."""
    many = pretrainer(n_codebooks=3, noise="none")
    v, whole, single = many.objective.codebook_size, losses(many, lengths=lengths), []
    for n in range(3):
        one = BiRq(many.encoder, dataclasses.replace(many.objective, n_codebooks=1), seed=0)
        for quantizer, theirs in ((one.anchor_quantizer, many.anchor_quantizer), (one.quantizer, many.quantizer)):
            quantizer.projection.copy_(theirs.projection[n : n + 1])
            quantizer.codebook.copy_(theirs.codebook[n : n + 1])
        with torch.no_grad():
            one.head.weight.copy_(many.head.weight[n * v : (n + 1) * v])
            one.head.bias.copy_(many.head.bias[n * v : (n + 1) * v])
        single.append(losses(one, lengths=lengths))
    for name in ("total", "anchor", "enhanced", "label_entropy"):
        torch.testing.assert_close(getattr(whole, name), torch.stack([getattr(s, name) for s in single]).mean(), atol=1e-5, rtol=1e-5)
    assert int(whole.n_correct) == sum(int(s.n_correct) for s in single)


# ---- enhanced labels


def test_entropy_term_is_ln_v_for_uniform_usage_and_0_for_one_code() -> None:
    """H(q̄) measures usage over frames, not doubt within a frame: certain labels that share the codes evenly give ln V."""

    def entropy(mean_NV: Tensor) -> float:
        return float(mean_label_entropy(mean_NV, mean_NV.clamp_min(1e-12).log()))

    v = 16
    evenly = torch.eye(v)[:, None, :]
    assert entropy(evenly.mean(0)) == pytest.approx(math.log(v), abs=1e-5)
    assert entropy(torch.full((1, v), 1 / v)) == pytest.approx(math.log(v), abs=1e-5)
    assert entropy(evenly[0]) == pytest.approx(0.0, abs=1e-5)
    assert entropy(torch.cat((evenly, evenly[:1].expand(v, 1, v)), dim=1).mean(0)) == pytest.approx(math.log(v) / 2, abs=1e-5)


def test_labels_are_distributions_and_hard_ones_are_one_hot_with_the_soft_gradient() -> None:
    """Straight-through: the label is the one-hot of the sample, the gradient runs through the soft one."""
    logits = torch.randn(50, 2, 12, generator=noise()).mul_(3)
    logits.requires_grad_()
    pull = torch.randn(50, 2, 12, generator=noise(2))
    soft, hard = (enhanced_labels(logits, objective(labels=kind), noise(1)) for kind in ("soft", "hard"))
    torch.testing.assert_close(soft.sum(-1), torch.ones(50, 2))
    torch.testing.assert_close(hard, F.one_hot(soft.argmax(-1), 12).float())
    assert torch.equal(*(torch.autograd.grad((x * pull).sum(), logits)[0] for x in (soft, hard)))


def test_gumbel_samples_follow_the_softmax() -> None:
    """argmax(l + Gumbel) is a draw from softmax(l): the reason for eq. 4. Without noise the label is softmax(l/τ)."""
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(60_000, 1, 3)
    drawn = enhanced_labels(logits, objective(), noise()).argmax(-1).flatten()
    torch.testing.assert_close(drawn.bincount() / 60_000, logits[0, 0].softmax(-1), atol=0.01, rtol=0)
    free = enhanced_labels(logits, objective(noise="none"), noise())
    torch.testing.assert_close(free, (logits / 0.5).softmax(-1))


def test_reversed_noise_is_eq_4_as_printed() -> None:
    """softmax of −(d + v)/τ with v = −ln(−ln q), in plain numbers: two codes at squared distances 1 and 2, τ = 0.5."""
    label = enhanced_labels(torch.tensor([[[-1.0, -2.0]]]), objective(noise="reversed"), noise()).flatten().tolist()
    q = torch.rand(2, generator=noise()).tolist()
    odds = [math.exp(-(d - math.log(-math.log(q_n))) / 0.5) for d, q_n in zip((1.0, 2.0), q, strict=True)]
    assert label == pytest.approx([x / sum(odds) for x in odds], abs=1e-5)
    plain = enhanced_labels(torch.tensor([[[-1.0, -2.0]]]), objective(), noise()).flatten().tolist()
    assert plain != pytest.approx(label, abs=1e-3)


def test_without_a_norm_of_its_own_a_label_sees_the_gain_of_the_layers_last_norm() -> None:
    """The block ends in a LayerNorm: untrained, `none` and `layer_norm` are one; a trained gain and bias stay in z only with `none`."""
    b = batch(LENGTHS)
    mask, seen = every_other(b.lengths_B), {}
    for trained in (False, True):
        for kind in ("none", "layer_norm"):
            p = pretrainer(label_norm=kind, distance="raw")
            with torch.no_grad():
                p.encoder.blocks[0].norm.weight.mul_(3.0 if trained else 1.0)
            seen[kind, trained] = p.label_vectors(p.encoder.stack(b.feats_BTF), b.lengths_B, places(mask, b.lengths_B))
    torch.testing.assert_close(seen["none", False], seen["layer_norm", False], atol=1e-3, rtol=0)
    torch.testing.assert_close(seen["none", True], 3 * seen["none", False], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen["layer_norm", True], seen["layer_norm", False], atol=1e-3, rtol=0)


def test_before_the_enhanced_branch_begins_the_objective_is_best_rq_s() -> None:
    """`begins_share` 0.3 of 10 steps: three steps of BEST-RQ, and BiRQ's from the fourth on. Nothing but the step's number decides."""
    o = objective(begins_share=0.3)
    assert [o.at(step / 10).enhanced_weight for step in range(10)] == [0.0] * 3 + [0.1] * 7
    assert o.at(0.0) == dataclasses.replace(o, enhanced_weight=0.0) and o.at(0.3) is o and objective().at(0.0) == objective()


def test_layer_normed_enhanced_labels_do_not_depend_on_batch_mates_or_padding() -> None:
    """LayerNorm looks at one frame and the encoder at one utterance, so its labels alone are its labels in a batch."""
    p, b = pretrainer(label_norm="layer_norm"), batch(LENGTHS)
    mask = every_other(b.lengths_B)
    together, begin = p.label_vectors(p.encoder.stack(b.feats_BTF), b.lengths_B, places(mask, b.lengths_B)).transpose(0, 1), 0
    for row, length in enumerate(LENGTHS):
        feats, here = b.feats_BTF[row : row + 1, : 4 * length], mask[row : row + 1, :length]
        length_B = b.lengths_B[row : row + 1]
        alone = p.label_vectors(p.encoder.stack(feats), length_B, places(here, length_B)).transpose(0, 1)
        torch.testing.assert_close(together[begin : begin + len(alone)], alone, atol=1e-4, rtol=0)
        begin += len(alone)


def test_enhanced_labels_come_from_the_unmasked_input_and_layer_k() -> None:
    """What fills the mask does not change a label; a layer above k does not either, layer k does."""
    p = pretrainer(n_layers=3, label_layer=2)
    codes = losses(p, seed=0).enhanced_codes_MN
    assert torch.equal(codes, losses(p, seed=1).enhanced_codes_MN)
    for layer, same_codes in ((2, True), (1, False)):
        torch.manual_seed(5)
        for w in p.encoder.blocks[layer].parameters():
            torch.nn.init.normal_(w)
        assert torch.equal(losses(p).enhanced_codes_MN, codes) == same_codes


def test_enhanced_labels_are_made_without_dropout() -> None:
    """In training, with dropout on, codes are those of evaluation: the label's only noise is Gumbel's."""
    p = pretrainer()
    p.encoder.dropout = 0.5
    assert p.training and torch.equal(losses(p).enhanced_codes_MN, losses(p.eval()).enhanced_codes_MN)


# ---- which way the gradient of F runs


def label_path_alone(weight: float, layers: int = 3, k: int = 2) -> tuple[BiRq, Tensor]:
    """F with the prediction held constant: only the label path is left."""
    p, b = pretrainer(n_layers=layers, label_layer=k, label_gradient=weight, entropy_weight=0.0), batch(LENGTHS)
    mask = every_other(b.lengths_B)
    p.head.requires_grad_(False)
    v = p.label_vectors(p.encoder.stack(b.feats_BTF), b.lengths_B, places(mask, b.lengths_B)).transpose(0, 1)
    codes, sum_NV = p.nearest_and_sum(v)
    h, y = torch.randn(len(v), p.head.in_features, generator=noise(1)), p.anchor_labels(b.feats_BTF)[mask]
    o = dataclasses.replace(p.objective, anchor_weight=0.0)
    return p, p.enhanced_sums(o, (h, y, v, codes), (sum_NV / len(v)).log(), len(y), len(v), noise())[0]


def test_gradient_of_f_reaches_layers_up_to_k_through_the_labels_and_no_other() -> None:
    """Bilevel: θ moves the labels too. With the prediction cut, exactly the layers that make labels get a gradient."""
    p, upper = label_path_alone(1.0)
    for name, grad in gradient(p, upper).items():
        reached = name.startswith(("encoder.project", "encoder.blocks.0", "encoder.blocks.1"))
        # a bias that the following normalisation removes has no gradient by right
        assert bool(grad.abs().max() > 0) == reached or (reached and name.endswith("norm.bias")), name


def test_gradient_of_f_is_zero_where_labels_are_detached_and_the_prediction_is_cut() -> None:
    """label_gradient 0: labels are constants, so nothing is left to differentiate."""
    _, upper = label_path_alone(0.0)
    assert not upper.requires_grad


def test_label_gradient_weighs_the_label_path_and_nothing_else() -> None:
    """∇(w) = ∇(prediction) + w · ∇(labels), inside the whole objective; the loss itself does not change."""
    seen = {}
    for weight in (0.0, 0.5, 1.0):
        p = pretrainer(n_layers=3, label_layer=2, label_gradient=weight, enhanced_weight=1.0)
        here = losses(p)
        seen[weight] = (here.total.item(), gradient(p, here.total))
    assert seen[0.0][0] == pytest.approx(seen[1.0][0], abs=1e-5) and seen[0.5][0] == pytest.approx(seen[1.0][0], abs=1e-5)
    none, half, full = (seen[w][1] for w in (0.0, 0.5, 1.0))
    same(half, {n: (none[n] + full[n]) / 2 for n in none}, tolerance=1e-5)
    for name in none:
        if name.startswith(("encoder.blocks.2", *NOT_TRAINED_BY_LABELS)):
            torch.testing.assert_close(none[name], full[name], atol=1e-6, rtol=1e-5)
    assert any((none[n] - full[n]).abs().max() > 1e-4 for n in none if n.startswith("encoder.blocks.0"))


def test_half_the_label_gradient_is_half_of_it() -> None:
    """The label path alone, to float precision."""
    (p, half), (q, full) = label_path_alone(0.5), label_path_alone(1.0)
    same({n: 2 * g for n, g in gradient(p, half).items()}, gradient(q, full), tolerance=1e-6)


def test_gradient_of_the_entropy_runs_through_labels_only() -> None:
    """H(q̄) is a function of the labels: no head sees it, and detached labels leave it a constant."""
    with_it, without = (pretrainer(entropy_weight=w) for w in (1.0, 0.0))
    a, b = gradient(with_it, losses(with_it).total), gradient(without, losses(without).total)
    assert torch.equal(a["head.weight"], b["head.weight"])
    assert not torch.equal(a["encoder.project.weight"], b["encoder.project.weight"])


def test_quantizers_are_equal_for_all_methods_of_a_seed_and_never_change() -> None:
    """Labels compare between methods only if they are made alike; training must not move them."""
    birq, best_rq = pretrainer(), pretrainer(enhanced_weight=0.0)
    names = [n for n, _ in birq.named_buffers()]
    assert sorted(names) == sorted(f"{q}.{b}" for q in ("anchor_quantizer", "quantizer") for b in ("projection", "codebook"))
    before = {n: birq.state_dict()[n].clone() for n in names}
    optimiser = torch.optim.AdamW(birq.parameters(), lr=0.1, weight_decay=0.5)
    losses(birq).total.backward()
    optimiser.step()
    for n in names:
        assert torch.equal(birq.state_dict()[n], before[n]) and torch.equal(best_rq.state_dict()[n], before[n]), n
    assert torch.equal(birq.quantizer.codebook, birq.anchor_quantizer.codebook)
    assert not torch.equal(pretrainer(seed=1).quantizer.codebook, birq.quantizer.codebook)


# ---- options


CHANGES = {
    "enhanced_weight": 0.3,
    "anchor_weight": 1.0,
    "label_layer": 2,
    "temperature": 2.0,
    "logit_scale": 3.0,
    "label_share": 0.4,
    "entropy_weight": 0.0,
    "labels": "hard",
    "noise": "none",
    "distance": "raw",
    "label_norm": "layer_norm",
    "heads": "separate",
    "mask_fill_std": 1.0,
    "n_codebooks": 3,
    "codebook_size": 16,
    "codebook_dim": 4,
    "view": "cepstra",
    "view_window_frames": 7,
    "similarity_weight": 0.1,
    "similarity_temperature": 0.5,
    "distil_weight": 0.5,
    "distil_codes": 8,
    "distil_layers": [2],
}


@pytest.mark.parametrize(
    "option", sorted({f.name for f in dataclasses.fields(objective())} - {"label_gradient", "begins_share", "distil_begins_share"})
)
def test_every_option_changes_the_loss(option: str) -> None:
    """An option that changes nothing is one that is parsed and never used. (The others change the gradient, or some steps: elsewhere.)"""
    needed = {"view_window_frames": {"view": "mean_removed"}, "similarity_temperature": {"similarity_weight": 0.1}}
    also = (needed | {key: {"distil_weight": 0.1} for key in ("distil_codes", "distil_layers")}).get(option, {})
    assert not torch.equal(losses(pretrainer(**also, **{option: CHANGES[option]})).total, losses(pretrainer(**also)).total)


def test_a_share_of_the_labels_is_f_over_some_whole_utterances() -> None:
    """label_share: F over a draw of utterances, each with its own labels and predictions; G stays that of the whole batch."""
    fixed = {"label_norm": "layer_norm", "noise": "none", "mask_fill_std": 0.0, "entropy_weight": 0.0}
    whole, part = losses(pretrainer(**fixed)), losses(pretrainer(**fixed, label_share=0.34))
    torch.testing.assert_close(whole.anchor, part.anchor)
    assert part.n_masked == whole.n_masked
    b = batch(LENGTHS)
    mask, single = every_other(b.lengths_B), {}
    for row in range(3):
        n = LENGTHS[row]
        alone = pretrainer(**fixed)(b.feats_BTF[row : row + 1, : 4 * n], b.lengths_B[row : row + 1], mask[row : row + 1, :n], noise())
        single[alone.n_masked] = alone.enhanced.item()
    assert part.enhanced.item() == pytest.approx(single[part.n_labelled], abs=1e-4)
    assert part.n_labelled < whole.n_labelled == whole.n_masked


def test_every_utterance_is_drawn_for_labels_equally_often() -> None:
    """So F over a share has the expectation of F over the whole: cheaper, not another objective."""
    p = pretrainer(label_share=0.34)
    drawn = [losses(p, seed=s).n_labelled for s in range(60)]
    assert set(drawn) == {int(every_other([n]).sum()) for n in LENGTHS}
    assert min(drawn.count(n) for n in set(drawn)) >= 8


def test_label_layer_beyond_the_encoder_is_an_error() -> None:
    """Not the last layer in silence."""
    with pytest.raises(ValueError, match="label_layer 3 of 2"):
        pretrainer(label_layer=3)


def test_counts_are_counts() -> None:
    """Fidelity, agreement and accuracy are shares of masked frames × codebooks; without noise every sample is the nearest code."""
    here = losses(pretrainer(noise="none"))
    n = here.n_masked * 2
    assert here.n_masked == int(every_other(LENGTHS).sum()) == here.n_labelled
    assert int(here.n_faithful) == n
    assert 0 <= int(here.n_correct) <= n and int(here.n_agreeing) == int((here.enhanced_codes_MN == here.anchor_codes_MN).sum())
