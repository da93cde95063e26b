"""The Conformer: what a frame's output may depend on, and how many weights there are."""

from __future__ import annotations

import pytest
import torch
from tiny import N_MELS, batch, shape
from torch import nn

from birq.model import kernels
from birq.model.encoder import RELATIVE_REACH, Attention, Encoder, Shape, count_parameters, rotary_table, rotate, valid_mask


def encoder(**changes) -> Encoder:
    torch.manual_seed(0)
    return Encoder(shape(**changes)).eval()


@pytest.mark.parametrize("positions", ["rotary", "relative"])
@pytest.mark.parametrize("window", [0, 8])
def test_output_does_not_depend_on_padding_or_batch_mates(positions: str, window: int) -> None:
    """Attention and convolution see valid frames only, so an utterance alone and one in a padded batch are the same."""
    model = encoder(positions=positions, attention_window=window)
    b = batch([23, 9, 17])
    together_BTD = model(model.stack(b.feats_BTF), b.lengths_B)
    for row, length in enumerate(b.lengths_B.tolist()):
        alone = model(model.stack(b.feats_BTF[row : row + 1, : length * 4]), b.lengths_B[row : row + 1])
        torch.testing.assert_close(together_BTD[row, :length], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [0, 8])
def test_what_stands_in_the_padding_does_not_matter(window: int) -> None:
    """Even where padding is not zero, nothing of it reaches a valid frame, or the gradient of a weight."""
    model = encoder(attention_window=window)
    b = batch([20, 5])
    outputs, gradients = [], []
    for filler in (0.0, 50.0):
        feats = b.feats_BTF.clone()
        feats[1, 20:] = filler
        y_MD = model(model.stack(feats), b.lengths_B)[valid_mask(b.lengths_B, 20)]
        model.zero_grad()
        y_MD.square().sum().backward()
        outputs.append(y_MD.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(gradients[1]).all(), "a block of padding alone must not make NaN"


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_attention_in_a_block_sees_only_that_block(positions: str) -> None:
    """A change in the second block of W frames leaves the first and the third as they are, and each block is attention on its own."""
    torch.manual_seed(0)
    w, attention = 6, Attention(16, 2, positions, 6)
    x = torch.randn(2, 3 * w + 2, 16)
    rotary = rotary_table(x.shape[1], 8, x.device) if positions == "rotary" else None
    y = attention(x, None, rotary, 0.0)
    changed = x.clone()
    changed[:, w + 1] = torch.randn(16)
    moved = (attention(changed, None, rotary, 0.0) - y).abs().amax((0, 2)) > 1e-6
    assert moved[w : 2 * w].all()
    assert not moved[:w].any() and not moved[2 * w :].any()
    if positions == "relative":
        torch.testing.assert_close(y[:, w : 2 * w], attention(x[:, w : 2 * w], None, None, 0.0), atol=1e-5, rtol=0)


def test_an_utterance_shorter_than_the_window_is_attended_to_in_full() -> None:
    """One block that holds everything is full attention."""
    b = batch([8, 5])
    torch.testing.assert_close(*(m(m.stack(b.feats_BTF), b.lengths_B) for m in (encoder(attention_window=8), encoder())))


def test_relative_positions_are_shaws_formula() -> None:
    """score(i, j) = (q_i · k_j + q_i · r_{j−i}) / √E, distances clamped to the reach."""
    torch.manual_seed(0)
    attention = Attention(8, 1, "relative", 0)
    nn.init.normal_(attention.relative.weight, std=1.0)
    x = torch.randn(1, 5, 8)
    q, k, v = attention.qkv(attention.norm(x))[0].chunk(3, -1)
    r = attention.relative.weight
    scores = torch.stack([torch.stack([q[i] @ k[j] + q[i] @ r[j - i + RELATIVE_REACH] for j in range(5)]) for i in range(5)]) / 8**0.5
    torch.testing.assert_close(attention(x, None, None, 0.0)[0], attention.out(scores.softmax(-1) @ v), atol=1e-5, rtol=1e-5)


def test_distances_beyond_the_reach_share_one_embedding() -> None:
    """Attention over more frames than the table has rows must neither fail nor wrap around."""
    torch.manual_seed(0)
    attention = Attention(4, 1, "relative", 0)
    t = RELATIVE_REACH + 40
    bias_TT = attention._relative_bias(torch.ones(1, 1, t, 4), t)[0, 0]
    assert bias_TT.shape == (t, t)
    assert bias_TT[0, RELATIVE_REACH] == bias_TT[0, -1] != bias_TT[0, RELATIVE_REACH - 1]
    assert bias_TT[-1, 0] == bias_TT[-1, 39 - 1] != bias_TT[-1, 40]


@pytest.mark.parametrize("t", [1, 2, 7, 8, 9, 100, RELATIVE_REACH + 1, RELATIVE_REACH + 90])
def test_relative_bias_is_a_lookup_of_distances_and_laid_out_as_a_gpu_wants_it(t: int) -> None:
    """A view of the products with all distances is what a gather takes out of them one by one, its gradient included; rows and their
    begin are aligned, or torch's memory-efficient attention copies the bias."""
    torch.manual_seed(0)
    attention = Attention(16, 2, "relative", 0)
    q = torch.randn(2, 2, t, 8, requires_grad=True)
    place_T = torch.arange(t)
    row_TT = (place_T[None, :] - place_T[:, None]).clamp(-RELATIVE_REACH, RELATIVE_REACH) + RELATIVE_REACH
    looked_up = (q @ attention.relative.weight.T / 8**0.5).gather(-1, row_TT.expand(2, 2, t, t))
    pull = torch.randn_like(looked_up)
    for n in (t, kernels.aligned(t)):
        bias = attention._relative_bias(q, n)
        assert bias.shape[-1] == n
        assert bias.storage_offset() % 8 == 0 and not any(stride % 8 for stride in bias.stride()[:-1])
        torch.testing.assert_close(bias[..., :t], looked_up)
        of = [q, attention.relative.weight]
        grads, theirs = (torch.autograd.grad((x * pull).sum(), of, retain_graph=True) for x in (bias[..., :t], looked_up))
        for mine, other in zip(grads, theirs, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    """R_i q · R_j k = q · R_{j−i} k: the reason for rotary positions."""
    torch.manual_seed(0)
    q, k = torch.randn(8), torch.randn(8)
    table = rotary_table(30, 8, torch.device("cpu"))
    scores = rotate(q.expand(30, 8), *table) @ rotate(k.expand(30, 8), *table).T
    for distance in (-7, 0, 3):
        line = scores.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand_as(line), atol=1e-4, rtol=0)


def test_no_batch_norm() -> None:
    """BiRQ runs a masked and an unmasked pass: running statistics would mix them, so the encoder has none, and no other buffer."""
    model = encoder()
    assert not any("BatchNorm" in type(m).__name__ for m in model.modules())
    assert not list(model.buffers())
    model.train()
    b = batch([12, 12])
    both, one = model(model.stack(b.feats_BTF), b.lengths_B), model(model.stack(b.feats_BTF[:1]), b.lengths_B[:1])
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("n_layers", "width", "heads", "window", "millions"), [(5, 1024, 8, 200, 137.4), (10, 768, 6, 0, 155.3), (10, 1024, 8, 200, 274.7)]
)
def test_parameter_counts_of_the_paper(n_layers: int, width: int, heads: int, window: int, millions: float) -> None:
    """The three encoder sizes of the paper: it prints 137, 155 and 275 million."""
    paper = Shape(2, width, n_layers, heads, 4, 15, 2, "relative", window, n_mels=80)
    assert round(count_parameters(paper) / 1e6, 1) == millions


def test_layers_out_are_the_outputs_of_layers_1_to_k() -> None:
    """The probe and the label path must mean the same by `layer k`."""
    model = encoder(n_layers=3)
    b = batch([10, 7])
    outs = model.layers_out(b.feats_BTF, b.lengths_B)
    assert len(outs) == 3
    for k, out in enumerate(outs, start=1):
        torch.testing.assert_close(out, model(model.stack(b.feats_BTF), b.lengths_B, n_layers=k))
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="of 3"):
            model(model.stack(b.feats_BTF), b.lengths_B, n_layers=wrong)


def test_stack_puts_neighbours_side_by_side_without_a_copy() -> None:
    """Encoder frame t holds log-mel frames n·t to n·t + n − 1, in order."""
    model = encoder()
    feats = torch.arange(8 * N_MELS, dtype=torch.float32).view(1, 8, N_MELS)
    stacked = model.stack(feats)
    assert stacked.shape == (1, 2, 4 * N_MELS)
    assert torch.equal(stacked[0, 1], feats[0, 4:8].flatten())
    assert stacked.data_ptr() == feats.data_ptr()
    with pytest.raises(ValueError, match="n_stack = 4"):
        model.stack(feats[:, :7])


def test_dropout_is_off_where_labels_are_made() -> None:
    """`dropout=False` in training gives what evaluation gives; otherwise labels would be noise of another kind."""
    model = encoder()
    model.dropout = 0.5
    b = batch([10])
    x = model.stack(b.feats_BTF)
    model.train()
    free, dropped = model(x, b.lengths_B, dropout=False), model(x, b.lengths_B)
    assert not torch.allclose(free, dropped)
    assert torch.equal(free, model.eval()(x, b.lengths_B))


def test_norms_in_bf16_keep_the_stream_in_bf16_and_leave_float32_alone() -> None:
    """Half the bytes between products; the sums inside a norm stay float32, so the error is bf16's own. A CPU's numbers do not change."""
    b = batch([40, 40])
    outputs = {}
    for norms in ("float32", "bf16"):
        model = encoder(norms=norms)
        stacked = model.stack(b.feats_BTF)
        exact = model(stacked, b.lengths_B)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model(stacked, b.lengths_B)
        outputs[norms] = exact, mixed.dtype, float((mixed.float() - exact).norm() / exact.norm())
    torch.testing.assert_close(outputs["float32"][0], outputs["bf16"][0], rtol=0, atol=0)
    assert outputs["float32"][1] == torch.float32 and outputs["bf16"][1] == torch.bfloat16
    assert 0 < outputs["bf16"][2] < 2 * outputs["float32"][2] < 0.05
