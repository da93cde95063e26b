"""What makes training fast or small must not change what it computes."""

from __future__ import annotations

import itertools
import json
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import batch, every_other, job, noise, objective, params, pretrainer, shape
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from birq.errors import BirqError
from birq.model import prediction
from birq.model.encoder import Encoder
from birq.model.objectives import BiRq
from birq.stages import pretrain
from birq.train.runtime.ahead import Ahead
from birq.train.runtime.flops import pretraining_per_frame
from birq.train.runtime.hardware import PEAK_TFLOPS, card, peak_tflops, prepare


def losses_and_gradients(p, lengths=(40, 31, 17)) -> tuple[float, dict[str, torch.Tensor]]:
    b = batch(list(lengths))
    torch.manual_seed(3)
    p.zero_grad()
    losses = p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise())
    losses.total.backward()
    return losses.total.item(), {n: w.grad.clone() for n, w in p.named_parameters()}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recomputed_activations_give_the_same_bits(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block's second forward pass sees the same input and draws the same dropout as its first."""
    p = pretrainer(n_layers=3, label_layer=2)
    p.encoder.dropout = dropout
    total, grads = losses_and_gradients(p)
    monkeypatch.setenv("BIRQ_RECOMPUTE", "1")
    assert prepare(p.encoder) == ["BIRQ_RECOMPUTE"] and p.encoder.recompute
    again, recomputed = losses_and_gradients(p)
    assert again == total and all(torch.equal(g, recomputed[n]) for n, g in grads.items())


def test_recomputing_holds_fewer_activations() -> None:
    """Otherwise it would be a third more work for nothing."""
    kept = {}
    for recompute in (False, True):
        p = pretrainer(n_layers=4, label_layer=2)
        p.encoder.recompute, saved = recompute, []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=saved: to.append(x.numel()) or x, lambda x: x):
            b = batch([40, 31, 17])
            p(b.feats_BTF, b.lengths_B, every_other(b.lengths_B), noise())
        kept[recompute] = sum(saved)
    assert kept[True] < kept[False] / 4


def test_blocks_are_compiled_once_for_all_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling again for every length takes longer than it saves, and after eight torch goes on with the slow code. All of a block is in
    one graph, the convolution over time too, whose kernel may be longer than an utterance."""
    torch.manual_seed(0)
    p = BiRq(Encoder(shape(n_layers=2, conv_kernel=31)), objective(label_layer=2), 0)
    names = set(p.state_dict())
    lengths = [(40, 31, 17), (25, 60), (33, 33, 12, 9), (21, 50), (18,) * 20, (70, 90, 80)]
    eager = [losses_and_gradients(p, some) for some in lengths]
    monkeypatch.setenv("BIRQ_COMPILE", "1")
    assert prepare(p.encoder) == ["BIRQ_COMPILE"]
    counters.clear()
    for some, (total, grads) in zip(lengths, eager, strict=True):
        again, compiled = losses_and_gradients(p, some)
        if some == lengths[0]:
            graphs = counters["stats"]["unique_graphs"]
        assert again == pytest.approx(total, abs=1e-5)
        for name, grad in grads.items():
            torch.testing.assert_close(compiled[name], grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert 0 < graphs == counters["stats"]["unique_graphs"] and not counters["graph_break"]
    assert set(p.state_dict()) == names, "a checkpoint of either must suit the other"


@pytest.mark.parametrize("name", ["BIRQ_COMPILE", "BIRQ_RECOMPUTE"])
def test_a_setting_that_is_neither_0_nor_1_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`true` must not silently mean no."""
    monkeypatch.setenv(name, "true")
    with pytest.raises(BirqError, match=f"{name}=true: must be 0 or 1"):
        prepare(pretrainer().encoder)


class Largest(TorchDispatchMode):
    """The most values that any result of an operation had."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.values = max(self.values, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out


def test_no_tensor_over_all_masked_frames_and_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantizer, head, labels, noise and their gradients exist for a chunk of frames only, forward and backward."""
    p, codes = pretrainer(codebook_size=4096, n_codebooks=2), 2 * 4096
    b = batch([1200, 900])
    mask = every_other(b.lengths_B)
    monkeypatch.setitem(prediction.CHUNK_VALUES, "cpu", 100 * codes)
    with Largest() as seen:
        p(b.feats_BTF, b.lengths_B, mask, noise()).total.backward()
    assert int(mask.sum()) * codes > 8 * seen.values


# ---- the feed


def test_batches_come_in_order_and_an_error_where_it_happened() -> None:
    """Making batches ahead changes neither their order nor what a training sees of an unreadable shard."""

    def source():
        yield from range(5)
        raise BirqError("shard 7 is damaged")

    ahead = Ahead(source(), lambda x: 10 * x)
    assert list(itertools.islice(ahead, 5)) == [0, 10, 20, 30, 40]
    with pytest.raises(BirqError, match="shard 7 is damaged"):
        next(ahead)
    assert list(Ahead(iter([1, 2]))) == [1, 2]


def test_no_more_is_made_ahead_than_is_wanted_and_closing_ends_the_thread() -> None:
    """A fast feed must not fill the memory, and a stopped training must not leave a thread."""
    made = []
    ahead = Ahead(made.append(i) or i for i in itertools.count())
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(made) <= 5
    ahead.close()
    assert not any(t.name == "batches" and t.is_alive() for t in threading.enumerate())


def test_waiting_is_measured() -> None:
    """The log's share of time that training waits for data."""

    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    ahead = Ahead(slow())
    list(ahead)
    assert 0.1 < ahead.waited_seconds < 5


# ---- figures of the log


class Products(TorchDispatchMode):
    """Floating-point operations of every matrix product."""

    flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "bmm"):
            self.flops += 2 * out.numel() * args[-1].shape[-2]
        return out


@pytest.mark.parametrize("more", [{}, {"similarity_weight": 0.1}, {"distil_weight": 0.5, "distil_codes": 256, "distil_begins_share": 0.0}])
@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize("gradient", [0.0, 1.0])
def test_operations_by_formula_are_those_that_torch_counts(weight: float, gradient: float, more: dict) -> None:
    """MFU is as good as its formula: that of all matrix products that run, but for convolutions over time (0.3 % here) and the gradient at
    the features, which nobody asks for (0.5 %)."""
    forms = {"label_layer": 2, "enhanced_weight": weight, "label_gradient": gradient, "codebook_size": 256, "entropy_weight": 0.0}
    forms |= more
    p = BiRq(Encoder(shape(n_layers=3, d_model=64, ff_expansion=4)), objective(n_codebooks=2, **forms), seed=0)
    b = batch([96, 96])
    mask = every_other(b.lengths_B)
    with sdpa_kernel(SDPBackend.MATH), Products() as products:
        p(b.feats_BTF, b.lengths_B, mask, noise()).total.backward()
    formula = pretraining_per_frame(p.encoder.shape, p.objective, 96, float(mask.sum()) / (2 * 96)) * 2 * 96
    assert products.flops == pytest.approx(formula, rel=0.015)


def test_operations_of_a_branch_that_begins_late_are_the_mean_over_the_steps() -> None:
    """A quarter of the steps are BEST-RQ's, three quarters BiRQ's."""
    frame = 100.0, 0.5
    birq, best_rq, late = (
        pretraining_per_frame(shape(), objective(**change), *frame) for change in ({}, {"enhanced_weight": 0.0}, {"begins_share": 0.25})
    )
    assert late == pytest.approx(0.25 * best_rq + 0.75 * birq)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A1000", None),
        ("cpu", None),
    ],
)
def test_a_card_is_known_by_its_whole_name(name: str, key: str | None) -> None:
    """A name that contains another card's would give a wrong share of peak; an unknown card gives none."""
    assert card(name) == key
    assert peak_tflops(name) == (PEAK_TFLOPS[key] if key else None)


def test_timing_says_speed_memory_and_waiting(tmp_path: Path, features: Path) -> None:
    """On a CPU there is no share of peak; the rest is there for every line of the curve."""
    j = job("pretrain", tmp_path, {"features": [features]}, params(pretrain__steps=4, pretrain__log_every_steps=1))
    pretrain.compute(j)
    lines = [json.loads(line) for line in (j.out / "timing.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["mfu"] is None and line["peak_gib"] > 0 and line["audio_hours_per_hour"] > 0 for line in lines)
    assert all(0 <= line["waiting_share"] <= 1 for line in lines)
