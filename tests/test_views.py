"""Views of the input, from which labels are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct

from birq.errors import BirqError
from birq.model import views
from birq.model.encoder import Shape
from birq.settings.params import parse
from tests.tiny import batch, pretrainer, tree

N_FRAMES = torch.tensor([40, 24, 8])


def noise() -> torch.Tensor:
    x_BTF = torch.randn(3, 40, 20, generator=torch.Generator().manual_seed(1))
    return x_BTF * (torch.arange(40) < N_FRAMES[:, None])[:, :, None]


def test_the_mean_of_a_worked_out_case() -> None:
    """1, 2, 6 less their mean 3; with a window of three frames, less the means 1.5, 3 and 4. Padding stays zero."""
    x = torch.tensor([[[1.0], [2.0], [6.0], [0.0]]])
    assert views.mean_removed(x, torch.tensor([3])).flatten().tolist() == [-2, -1, 3, 0]
    assert views.mean_removed(x, torch.tensor([3]), window_frames=3).flatten().tolist() == [-0.5, -1, 2, 0]


def test_the_variance_of_a_worked_out_case() -> None:
    """1, 2, 6 have the mean 3 and the variance 14/3; in windows of three frames the variances 1/4, 14/3 and 4. A constant stays zero."""
    x, n = torch.tensor([[[1.0, 7.0], [2.0, 7.0], [6.0, 7.0], [0.0, 0.0]]]), torch.tensor([3])
    whole, window = views.variance_normalised(x, n), views.variance_normalised(x, n, window_frames=3)
    assert torch.allclose(whole[0, :, 0], torch.tensor([-2.0, -1.0, 3.0, 0.0]) / (14 / 3) ** 0.5, atol=1e-5)
    assert torch.allclose(window[0, :, 0], torch.tensor([-0.5 * 2, -1 / (14 / 3) ** 0.5, 2 / 2, 0.0]), atol=1e-4)
    assert whole[..., 1].abs().max() == window[..., 1].abs().max() == 0


def test_cmvn_does_not_hear_how_far_a_voice_swings() -> None:
    """Log-mel times a constant is another dynamic range: cepstra follow, CMVN takes it out, up to the small constant in its variance."""
    x = noise()
    assert torch.allclose(views.view("cmvn", 3 * x, N_FRAMES), views.view("cmvn", x, N_FRAMES), atol=5e-3)
    assert torch.allclose(views.view("cepstra", 3 * x, N_FRAMES), 3 * views.view("cepstra", x, N_FRAMES), atol=1e-4)
    valid = torch.arange(40) < N_FRAMES[:, None]
    variance_V = views.view("cmvn", x, N_FRAMES)[0][valid[0]].var(0, unbiased=False)
    assert torch.allclose(variance_V, torch.ones(3 * views.N_CEPSTRA), atol=1e-2)


def test_a_window_wider_than_the_utterance_is_the_whole_utterance() -> None:
    """Then every window holds the same frames."""
    for normal in (views.mean_removed, views.variance_normalised):
        assert torch.allclose(normal(noise(), N_FRAMES, 1000), normal(noise(), N_FRAMES), atol=1e-5)


def test_cepstra_are_those_of_the_textbook() -> None:
    """DCT-II by another library, mean removed, and slopes by numpy on the one utterance without padding."""
    x = noise()[:1]
    c = dct(x[0].double().numpy(), norm="ortho", axis=1)[:, : views.N_CEPSTRA]
    c -= c.mean(0)

    def slope(c: np.ndarray) -> np.ndarray:
        wide = np.pad(c, ((2, 2), (0, 0)), mode="edge")
        return (wide[3:-1] - wide[1:-3] + 2 * (wide[4:] - wide[:-4])) / 10

    expected = np.concatenate([c, slope(c), slope(slope(c))], axis=1)
    np.testing.assert_allclose(views.view("cepstra", x, N_FRAMES[:1])[0].numpy(), expected, atol=1e-5)


def test_a_line_has_its_slope() -> None:
    """Regression over a straight line gives the line's slope, away from the ends."""
    line = (3.0 * torch.arange(12.0))[None, :, None]
    assert torch.allclose(views.deltas(line, torch.tensor([12]))[0, 2:-2], torch.tensor(3.0))


@pytest.mark.parametrize("name", [*views.VIEWS, "log_mel"])
@pytest.mark.parametrize("window", [0, 9])
def test_views_do_not_depend_on_padding_or_batch_mates(name: str, window: int) -> None:
    """A label is a property of its utterance."""
    together = views.stacked(name, noise(), N_FRAMES // 4, 4, window)
    for row, n in enumerate((N_FRAMES // 4).tolist()):
        alone = views.stacked(name, noise()[row : row + 1, : 4 * n], torch.tensor([n]), 4, window)
        assert torch.allclose(together[row, :n], alone[0], atol=1e-6)
        assert together[row, :n].shape[1] == views.width(name, 20, 4)


@pytest.mark.parametrize("name", list(views.VIEWS))
def test_a_constant_colouring_changes_no_label(name: str) -> None:
    """A channel adds a constant to every log-mel bin; with the mean removed it is gone. Of plain log-mel, labels change."""
    b = batch([20, 13, 9])
    channel_F = torch.linspace(-1, 1, b.feats_BTF.shape[2])
    valid = (torch.arange(b.feats_BTF.shape[1]) < 4 * b.lengths_B[:, None])[:, :, None]
    coloured = torch.where(valid, b.feats_BTF + channel_F, 0.0)
    inside = (torch.arange(b.feats_BTF.shape[1] // 4) < b.lengths_B[:, None])[:, :, None]

    def same(view: str) -> float:
        p = pretrainer(view=view)
        same_BTN = p.anchor_labels(b.feats_BTF, b.lengths_B) == p.anchor_labels(coloured, b.lengths_B)
        return float(same_BTN[inside.expand_as(same_BTN)].float().mean())

    assert same(name) > 0.99 and same("log_mel") < 0.9


def test_the_encoder_sees_log_mel_whatever_the_view() -> None:
    """A view changes labels, not the input of the encoder."""
    b = batch([20, 13, 9])
    one, other = pretrainer(), pretrainer(view="cepstra")
    assert isinstance(one.encoder.shape, Shape)
    x = one.encoder.stack(b.feats_BTF)
    assert torch.equal(one.encoder(x, b.lengths_B), other.encoder(x, b.lengths_B))
    assert other.anchor_quantizer.projection.shape[1] == 39


def test_a_window_without_effect_is_refused() -> None:
    """An option that does nothing would be believed to do something."""
    with pytest.raises(BirqError, match=r"view_window_frames: 300 needs a view"):
        parse(tree(random_projection__view_window_frames=300))
