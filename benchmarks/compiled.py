"""What Inductor makes of a Conformer block for an H100, on a machine without one: kernels and bytes by its own count; not their speed.

    python -m benchmarks.compiled            # needs the package triton, which torch's CUDA builds bring along

The block is traced on the CPU, without data; the graphs forward and backward are then lowered as if their tensors were on the card, up to
the text of the Triton kernels. Bytes: every kernel reads each of its buffers once and writes each once. Twice, with the convolution over
time as it is compiled (a sum of shifted copies), and with torch's own between compiled parts. torch's copies its inputs to time last before
every kernel: `TORCHS_PASSES` is an assumption, neither read from its source nor measured.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map_only

from benchmarks.bounds import BYTES_PER_SECOND
from benchmarks.emulated import MODELS
from benchmarks.pretended.device import DEVICE, unknown_torch
from birq.model import kernels
from birq.model.encoder import Block, Shape

BATCHES = {"12 x 512": (128, 310)}  # utterances, frames, as in benchmarks/emulated.py
# assumed passes over the convolution's input in torch's kernels. Forward: a copy and the sum (each reads and writes). Backward: a copy of
# the input and one of the gradient, the gradient of the input, and the gradient of the weights, which reads both
TORCHS_PASSES = {False: 4, True: 8}
OPAQUE_PASSES = {False: 2, True: 3}  # as Inductor counts a call that it does not know


@dataclass
class Lowered:
    """A graph: launches of Triton's kernels, of others, and bytes."""

    backward: bool
    triton: int
    others: int
    bytes: int


class _Lowered(Exception):
    """In place of running what was compiled."""


@contextmanager
def pretended_card(seen: list[Lowered]) -> Iterator[None]:
    """What Inductor asks of torch.cuda and of Triton's driver."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.graph import GraphLowering
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    card = {"multi_processor_count": 132, "major": 9, "minor": 0, "regs_per_multiprocessor": 65536, "max_threads_per_multi_processor": 2048}
    card |= {"max_threads_per_block": 1024, "warp_size": 32, "name": "NVIDIA H100", "gcnArchName": "", "total_memory": 80 << 30}
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0), "_lazy_init": None}
    answers |= {"get_device_properties": types.SimpleNamespace(**card), "synchronize": None}
    answers |= {"_exchange_device": 0, "_maybe_exchange_device": 0}
    answers |= {"get_compute_capability": 90, "raise_if_triton_unavailable": None, "set_device": None, "is_bf16_supported": True}
    answers |= {"get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None}

    def to_module(graph: Any) -> types.ModuleType:
        code, nodes = graph.codegen()[0].value, graph.scheduler.nodes
        others = sum(type(n).__name__.startswith("Extern") for n in nodes)
        seen.append(Lowered(graph.is_backward, code.count(".run("), others, graph.count_bytes()[0]))
        module = types.ModuleType("lowered")
        module.__file__, module.call = __file__, _stop  # type: ignore[attr-defined]
        return module

    def _stop(*_: Any) -> None:
        raise _Lowered

    target = types.SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0)
    driver.set_active(target)
    patches = [mock.patch.object(GraphLowering, "compile_to_module", to_module)]
    for where in (torch.cuda, CudaInterface, CudaInterface.Worker):
        patches += [mock.patch.object(where, k, lambda *_, v=v, **__: v) for k, v in answers.items() if hasattr(where, k)]
    # writes into a part of a buffer are tried on pretended tensors there, for the shape alone; the CPU's build has no guard for that device
    patches += [mock.patch("torch._inductor.fx_passes.reinplace._inplace_generalized_scatter", lambda whole, *_: whole)]
    patches += [mock.patch("torch._functorch.config.force_non_lazy_backward_lowering", True)]
    patches += [mock.patch("torch._functorch.config.enable_autograd_cache", False)]
    patches += [mock.patch("torch._inductor.config.fx_graph_cache", False), mock.patch("torch._inductor.config.compile_threads", 1)]
    for p in patches:
        p.start()
    try:
        yield
    finally:
        for p in reversed(patches):
            p.stop()


def _on_card(x: FakeTensor) -> Tensor:
    with x.fake_mode:
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=DEVICE)


def _backend(gm: Any, inputs: Any) -> Any:
    """Inductor, with the traced graph moved to the card."""
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    def inner(graph: Any, given: Any, **options: Any) -> Any:
        for node in graph.graph.nodes:
            if "val" in node.meta:
                node.meta["val"] = tree_map_only(FakeTensor, _on_card, node.meta["val"])
            node.args, node.kwargs = tree_map_only(torch.device, lambda _: DEVICE, (node.args, node.kwargs))
        return compile_fx_inner(graph, [_on_card(x) if isinstance(x, FakeTensor) else x for x in given], **options)

    return compile_fx(gm, inputs, inner_compile=inner)


@torch.library.custom_op("birq_benchmarks::convolution", mutates_args=())
def _convolution(x: Tensor, weight: Tensor) -> Tensor:
    """torch's own, as one call that Inductor does not look into."""
    return F.conv1d(x.transpose(1, 2), weight, padding=weight.shape[2] // 2, groups=len(weight)).transpose(1, 2)


@torch.library.custom_op("birq_benchmarks::convolution_backward", mutates_args=())
def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    sizes = ((1,), (weight.shape[2] // 2,), (1,), False, (0,), len(weight), (True, True, False))
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(grad.transpose(1, 2), x.transpose(1, 2), weight, None, *sizes)
    return grad_x.transpose(1, 2), grad_weight


def _time_last(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)


_convolution.register_fake(lambda x, weight: _time_last(x))
_convolution_backward.register_fake(lambda grad, x, weight: (_time_last(x), torch.empty_like(weight)))
_convolution.register_autograd(
    lambda ctx, grad: _convolution_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class _Block(nn.Module):
    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, valid: Tensor, keys: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.block(x, valid, keys, rotary, 0.0)


def lowered(model: str, norms: str, torchs_convolution: bool) -> list[Lowered]:
    """The graphs of a block, forward and backward, dropout off."""
    values = {"attention_window": 0} | MODELS[model]
    shape, (b, t) = Shape(**values, n_mels=80, norms=norms), BATCHES[model]
    seen: list[Lowered] = []
    forward = (lambda self, x: _convolution(x, self.weight)) if torchs_convolution else kernels.DepthwiseConvolution.forward
    with FakeTensorMode(), pretended_card(seen), mock.patch.object(kernels.DepthwiseConvolution, "forward", forward):
        low, half = torch.bfloat16, shape.d_model // shape.n_heads // 2
        x = torch.empty(b, t, shape.d_model, dtype=low if norms == "bf16" else torch.float32, requires_grad=True)
        keys = torch.empty(b, 1, 1, kernels.aligned(t), dtype=low)
        rotary = (torch.empty(t, half, dtype=low), torch.empty(t, half, dtype=low)) if shape.positions == "rotary" else None
        torch._dynamo.reset()
        with suppress(_Lowered):
            torch.compile(_Block(Block(shape)), dynamic=True, backend=_backend)(x, torch.empty(b, t, dtype=torch.bool), keys, rotary)
    if torchs_convolution:
        n = 2 * b * t * shape.d_model * shape.conv_expansion
        for graph in seen:
            graph.bytes += n * (TORCHS_PASSES[graph.backward] - OPAQUE_PASSES[graph.backward])
            graph.others += 4 if graph.backward else 1  # an opaque call counts as one
    return seen


def main() -> None:
    """Print a table."""
    if why := unknown_torch():
        sys.exit(f"error: {why}")
    try:
        import triton  # noqa: F401
    except ImportError:
        sys.exit("error: Inductor writes for a GPU only where the package triton is: pip install triton")
    print("| step, blocks compiled, bf16 | norms | convolution over time | kernels | GB moved | ms at 2.4 TB/s |")
    print("|---|---|---|---:|---:|---:|")
    for model in BATCHES:
        for norms in ("float32", "bf16"):
            for torchs in (True, False):
                graphs, layers = lowered(model, norms, torchs), MODELS[model]["n_layers"]
                launches, moved = (layers * sum(v) for v in ([g.triton + g.others for g in graphs], [g.bytes for g in graphs]))
                name = "torch's, between compiled parts" if torchs else "a sum of shifted copies"
                cells = [model, norms, name, f"{launches:,}", f"{moved / 1e9:.0f}", f"{1000 * moved / BYTES_PER_SECOND:.0f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
