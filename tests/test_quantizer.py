"""The random-projection quantizer: nearest codes, what a label may depend on, how far noise moves it."""

from __future__ import annotations

import pytest
import torch
from tiny import N_MELS, batch, noise, objective, pretrainer

from birq.model.objectives import enhanced_labels
from birq.model.quantizer import BLOCK, CHUNK_VALUES, RandomQuantizer, argmax, layer_norm, standardise


def quantizer(d_in: int = 24, h: int = 8, v: int = 64, n: int = 3, seed: int = 0, distance: str = "unit") -> RandomQuantizer:
    return RandomQuantizer(d_in, h, v, n, torch.Generator().manual_seed(seed), distance)


def by_distance(q: RandomQuantizer, x_MD: torch.Tensor) -> torch.Tensor:
    """Eq. 2 as it is written: argmin over codes of ‖v − C‖, v = x P or unit(x P), in float64."""
    v_NMh = x_MD.double() @ q.projection.double()
    return torch.cdist(torch.nn.functional.normalize(v_NMh, dim=-1) if q.unit else v_NMh, q.codebook.double()).argmin(-1).T


def test_labels_are_the_nearest_codes() -> None:
    """The largest inner product with a unit code is the smallest distance, whatever the length of x P."""
    q, x = quantizer(), torch.randn(500, 24, generator=noise())
    assert torch.equal(q.nearest(x), by_distance(q, x))
    assert torch.equal(q.nearest(x), q.nearest(7.0 * x))


def test_raw_labels_are_the_nearest_codes_as_they_were_drawn() -> None:
    """Without unit length, the code's own length counts (−‖C‖²/2 beside the inner product), and so does that of x P."""
    q, x = quantizer(distance="raw"), torch.randn(500, 24, generator=noise())
    assert torch.equal(q.nearest(x), by_distance(q, x))
    assert not torch.equal(q.nearest(x), q.nearest(7.0 * x))
    assert q.codebook.norm(dim=-1).std() > 0.3
    same = torch.nn.functional.normalize(q.codebook, dim=-1)
    assert torch.equal(same, quantizer().codebook) and torch.equal(q.projection, quantizer().projection), "one draw for both forms"


def test_a_code_that_is_near_by_distance_and_not_by_direction() -> None:
    """By hand: v = (1, 0.6) is √1.16 from (0, 1) and √4.36 from (3, 0), but its direction is nearer to that of (3, 0)."""
    labels = {}
    for distance in ("raw", "unit"):
        q = quantizer(d_in=2, h=2, v=2, n=1, distance=distance)
        codes = torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])
        q.projection.copy_(torch.eye(2))
        q.codebook.copy_(codes if distance == "raw" else torch.nn.functional.normalize(codes, dim=-1))
        labels[distance] = q.nearest(torch.tensor([[1.0, 0.6]])).item()
    assert labels == {"raw": 1, "unit": 0}
    raw = quantizer(d_in=2, h=2, v=2, n=1, distance="raw")
    raw.codebook.copy_(codes)
    logits = raw.logits(torch.tensor([[[1.0, 0.6]]]), scale=0.5).flatten()
    assert (logits[1] - logits[0]).item() == pytest.approx(0.5 * (4.36 - 1.16), abs=1e-5)


def test_codes_of_any_length_can_stand_in_a_unit_quantizer() -> None:
    """Codes that are means of frames are shorter than 1; with `unit_codes` off, the nearest one to unit(x P) is found all the same."""
    q, x = quantizer(), torch.randn(500, 24, generator=noise())
    q.codebook.mul_(torch.rand(3, 64, 1, generator=noise(1)))
    q.unit_codes = False
    assert torch.equal(q.nearest(x), by_distance(q, x))
    assert torch.equal(q.logits(q.vectors(x)).argmax(-1), q.nearest(x))
    q.unit_codes = True
    assert not torch.equal(q.nearest(x), by_distance(q, x)), "the inner product alone would prefer long codes"


@pytest.mark.parametrize("distance", ["unit", "raw"])
def test_labels_do_not_depend_on_the_chunk(distance: str) -> None:
    """More frames than are compared at once give what the same frames give in pieces."""
    q = quantizer(v=256, n=1, distance=distance)
    x = torch.randn(CHUNK_VALUES["cpu"] // 256 + 100, 24, generator=noise())
    codes = q.nearest(x)
    assert torch.equal(codes[-200:], q.nearest(x[-200:]))


def test_argmax_in_blocks_is_argmax() -> None:
    """The largest of the blocks' largest is the largest; of equal ones the first is taken, or labels would depend on the blocks."""
    for v in (1, 100, BLOCK, BLOCK + 1, 5 * BLOCK):
        score = torch.randint(0, 40, (64, v), generator=noise()).float()
        first = torch.tensor([row.index(max(row)) for row in score.tolist()])
        assert torch.equal(argmax(score), first)


def test_codes_have_unit_length_and_codebooks_differ() -> None:
    """Without unit length the longest codes would win; equal codebooks would teach one thing twice."""
    q = quantizer()
    torch.testing.assert_close(q.codebook.norm(dim=-1), torch.ones(3, 64))
    assert not torch.allclose(q.projection[0], q.projection[1])
    assert not torch.allclose(q.codebook[0], q.codebook[1])


def test_raw_logits_are_minus_the_squared_distance() -> None:
    """Eq. 4's −s ‖v − C‖² up to ‖v‖², which is the same for all codes of a frame; with gradient to v."""
    q, x = quantizer(distance="raw"), torch.randn(40, 24, generator=noise())
    v_NMh = (x @ q.projection).requires_grad_()
    want = -3.0 * torch.cdist(v_NMh, q.codebook, compute_mode="donot_use_mm_for_euclid_dist").square().transpose(0, 1)
    have = q.logits(v_NMh, scale=3.0)
    torch.testing.assert_close(have.log_softmax(-1), want.log_softmax(-1), atol=1e-3, rtol=1e-4)
    assert torch.equal(have.argmax(-1), q.nearest(x)) and torch.equal(v_NMh, q.vectors(x))
    pull = torch.randn(have.shape, generator=noise(1))
    here, there = (torch.autograd.grad((logits.softmax(-1) * pull).sum(), v_NMh)[0] for logits in (have, want))
    torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)


def test_logits_are_two_minus_the_squared_distance() -> None:
    """Eq. 4's −‖v − C‖² up to a constant; softmax does not see the constant."""
    q, x = quantizer(), torch.randn(40, 24, generator=noise())
    v_NMh = torch.nn.functional.normalize(x @ q.projection, dim=-1)
    torch.testing.assert_close(q.logits(q.vectors(x)), (2 - torch.cdist(v_NMh, q.codebook).square()).transpose(0, 1), atol=1e-5, rtol=0)
    assert torch.equal(q.logits(q.vectors(x)).argmax(-1), q.nearest(x))


def test_nothing_in_it_is_trained_and_all_of_it_is_saved() -> None:
    """Projection and codebook are buffers: no optimiser sees them, every checkpoint holds them."""
    q = quantizer()
    assert not list(q.parameters())
    assert set(q.state_dict()) == {"projection", "codebook"}


def test_draws_follow_from_the_seed_and_are_not_the_encoders() -> None:
    """Equal seeds, equal labels; and the projection must not be drawn from the numbers that make the encoder's first weights."""
    assert torch.equal(quantizer(seed=3).projection, quantizer(seed=3).projection)
    assert not torch.equal(quantizer(seed=3).projection, quantizer(seed=4).projection)
    for seed in (0, 1, 2**31 - 1):
        p = pretrainer(seed=seed)
        drawn = p.anchor_quantizer.projection.flatten()[:64]
        first = p.encoder.project.weight.flatten()[:64]
        assert abs(torch.corrcoef(torch.stack([drawn, first]))[0, 1]) < 0.5


# ---- what an anchoring label depends on


def test_anchor_labels_of_a_frame_do_not_depend_on_other_frames() -> None:
    """Eq. 2 looks at one frame."""
    p, b = pretrainer(), batch([30])
    labels = p.anchor_labels(b.feats_BTF)
    changed = b.feats_BTF.clone()
    changed[:, :40] = torch.randn(1, 40, N_MELS, generator=noise(1)) * 5
    changed[:, 44:] = 0
    assert torch.equal(p.anchor_labels(changed)[:, 10], labels[:, 10])
    assert not torch.equal(p.anchor_labels(changed), labels)


def test_anchor_labels_do_not_depend_on_padding_or_batch_mates() -> None:
    """An utterance has its labels alone, in a batch, and with padding behind it."""
    p, b = pretrainer(), batch([30, 12, 21])
    together = p.anchor_labels(b.feats_BTF)
    for row, length in enumerate(b.lengths_B.tolist()):
        alone = p.anchor_labels(b.feats_BTF[row : row + 1, : length * 4])
        assert torch.equal(together[row, :length], alone[0])


def test_anchor_labels_do_not_depend_on_autocast() -> None:
    """bf16 would move 0.7 to 3 % of the labels, so the quantizer leaves autocast."""
    p, b = pretrainer(codebook_size=1024), batch([200, 200])
    labels = p.anchor_labels(b.feats_BTF)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(p.anchor_labels(b.feats_BTF), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert p.quantizer.logits(p.quantizer.vectors(torch.zeros(1, 16))).dtype == torch.float32


def test_a_shared_mean_starves_the_codebook() -> None:
    """Why features, and layer k's output, are standardised: with a large common mean all frames point the same way."""
    q = quantizer(v=256, n=1)
    x = torch.randn(2000, 24, generator=noise())
    shifted = x + 8 * torch.randn(24, generator=noise(1))
    assert q.nearest(x).unique().numel() > 4 * q.nearest(shifted).unique().numel()
    assert q.nearest(standardise(shifted)).unique().numel() > 0.9 * q.nearest(x).unique().numel()


# ---- norms


def test_standardise_gives_mean_0_and_variance_1_or_uses_the_statistics_given() -> None:
    """Statistics of one set of frames can be applied to another, as the probe does."""
    z = torch.randn(300, 5, generator=noise()) * torch.tensor([1.0, 5, 0.1, 2, 3]) + 10
    y = standardise(z)
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var(0, unbiased=False), torch.ones(5), atol=2e-3, rtol=0)
    torch.testing.assert_close(standardise(z[:7], z.mean(0), (z.var(0, unbiased=False) + 1e-5).sqrt()), y[:7])


def test_layer_norm_of_a_frame_depends_on_that_frame() -> None:
    """So LayerNorm'd labels do not depend on batch mates; standardised ones do, by design."""
    z = torch.randn(6, 16, generator=noise())
    torch.testing.assert_close(layer_norm(z)[2:3], layer_norm(z[2:3]))
    assert not torch.allclose(standardise(z)[2:5], standardise(z[2:5]))


# ---- the Gumbel trap


@pytest.mark.parametrize(
    ("distance", "scale", "low", "high"), [("unit", 1.0, 0.0, 0.02), ("unit", 20.0, 0.40, 1.0), ("raw", 1.0, 0.40, 1.0)]
)
def test_gumbel_noise_swamps_unscaled_labels_of_unit_length_only(distance: str, scale: float, low: float, high: float) -> None:
    """Logits of unit vectors span 4 while the largest of V = 8192 Gumbel draws is near ln V = 9: with s = 1 the nearest code is
    hardly ever sampled, with s = 20 it is in about half of all frames, whatever the temperature. Raw vectors of 16 dimensions have squared
    lengths near 27, which does what s = 20 does for unit vectors: the printed form needs no scale."""
    q = quantizer(d_in=96, h=16, v=8192, n=1, distance=distance)
    logits = q.logits(q.vectors(torch.randn(600, 96, generator=noise())), scale)
    for temperature in (0.5, 2.0):
        sampled = enhanced_labels(logits, objective(temperature=temperature, labels="soft", noise="gumbel"), noise(1))
        assert low <= (sampled.argmax(-1) == logits.argmax(-1)).float().mean() <= high
