"""The pretended device: its tensors, its operations, its driver."""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from benchmarks.pretended import attention
from benchmarks.pretended.seen import SEEN, track, waits, where

KNOWN = "2.13."
DEVICE = torch.device("cuda", 0)
_generators: set[int] = set()  # addresses: torch's dispatcher wraps a generator anew


def unknown_torch() -> str | None:
    """Why this cannot be used here, or None."""
    if not torch.__version__.startswith(KNOWN):
        return f"the pretended device knows torch {KNOWN}x, this is {torch.__version__}"
    return "a real CUDA device is here" if torch.cuda.is_available() else None


# ---- the tensor


class Cuda(Tensor):
    """A tensor on the pretended device; `elem` holds its data."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor):
        layout = {"strides": elem.stride(), "storage_offset": elem.storage_offset(), "dtype": elem.dtype, "device": "meta"}
        out = Tensor._make_wrapper_subclass(cls, elem.shape, **layout)
        out.elem = elem
        track(elem)
        return out

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"Cuda({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, protocol):  # into a checkpoint as one loaded with map_location="cpu" comes out of it
        return self.detach().elem.__reduce_ex__(protocol)

    def numpy(self, *, force=False):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.backward:  # outside of Disable...: activations that are computed again need their casts
            gradient = kwargs.get("gradient")
            return torch.autograd.graph._engine_run_backward(
                (args[0],),
                (torch.ones_like(args[0]) if gradient is None else gradient,),
                bool(kwargs.get("retain_graph")),
                False,
                (),
                allow_unreachable=True,
                accumulate_grad=True,
            )
        if torch.is_autocast_enabled("cuda"):
            args, kwargs = _autocast(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})


# ---- autocast: the lists for CUDA of aten/src/ATen/autocast_mode.h, as far as birq needs them


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOWER = _words("linear conv1d conv2d matmul __matmul__ __rmatmul__ mm bmm addmm mv baddbmm addbmm einsum")
FLOAT32 = _words(
    "acos asin exp expm1 log log10 log2 log1p reciprocal rsqrt pow __pow__ __rpow__ softplus layer_norm group_norm cosine_similarity "
    "nll_loss kl_div l1_loss mse_loss dist cdist logsumexp prod softmax log_softmax cumsum sum norm vector_norm"
)
WIDEST = _words("addcdiv addcmul atan2 cross dot index_put scatter_add tensordot cat stack")
_CASTS: dict[int, tuple[Tensor, Tensor]] = {}


def _cast(x: Cuda, dtype: torch.dtype) -> Tensor:
    if not x.is_floating_point() or x.dtype in (dtype, torch.float64):
        return x
    if dtype != torch.float32 and x.dtype == torch.float32 and x.is_leaf and x.requires_grad:
        if id(x) not in _CASTS:
            _CASTS[id(x)] = (x, x.to(dtype))
        return _CASTS[id(x)][1]
    return x.to(dtype)


def _autocast(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    name = getattr(func, "__name__", "")
    if name in LOWER:
        dtype = torch.get_autocast_dtype("cuda")
    elif name in FLOAT32 or (name in WIDEST and len({x.dtype for x in _tensors((args, kwargs), Cuda) if x.is_floating_point()}) > 1):
        dtype = torch.float32
    else:
        return args, kwargs
    return tree_map_only(Cuda, lambda x: _cast(x, dtype), (args, kwargs))


def _tensors(tree: Any, kind: type = Tensor) -> list[Any]:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, kind)]


# ---- operations

WAITS = {
    "aten::_local_scalar_dense": "item",
    "aten::is_nonzero": "item",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique2": "unique",
    "aten::equal": "equal",
    "aten::bincount": "bincount",
    "aten::repeat_interleave": "repeat_interleave",
}
INDEXED = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")
MIXED = {"aten::copy_", "aten::set_", "aten::_ctc_loss", "aten::_ctc_loss_backward", *INDEXED}  # may have tensors of the CPU too


def _meta(x: Tensor) -> Tensor:
    return x if x.is_meta else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _moved(func: Any, args: Any, kwargs: Any, to_cuda: bool) -> Any:
    """A copy between the devices."""
    x, kwargs = args[0], {**kwargs, "device": torch.device("cpu")}
    if to_cuda:
        if not getattr(x, "_pinned", False) and x.numel() > 1:
            waits("copy of memory that is not pinned")
        elem = func(x, **kwargs)
        elem = elem.clone() if elem is x else elem
        return Cuda(_meta(elem) if SEEN.sizes_only and elem.is_floating_point() else elem)
    waits("copy to the CPU")
    elem = torch.zeros(x.shape, dtype=x.dtype) if x.elem.is_meta else x.elem
    return func(elem, **kwargs).clone()


def _check(name: str, func: Any, args: Any, kwargs: Any, wrapped: list[Any]) -> None:
    """Errors that a GPU would raise, and waits for it."""
    plain = [x for x in _tensors((args, kwargs)) if not isinstance(x, Cuda) and x.device.type == "cpu"]
    if wrapped and name not in MIXED and any(x.dim() for x in plain):
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} at {where()}")
    generator = next((x for x in (*args, kwargs.get("generator")) if isinstance(x, torch._C.Generator)), None)
    if generator is not None and generator._cdata not in _generators:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu': {name} at {where()}")
    if name in WAITS:
        waits(WAITS[name])
    if name == "aten::_ctc_loss" and any(isinstance(x, Cuda) for x in args[2:4]):
        waits("lengths to the CPU")
    if name == "aten::copy_" and isinstance(args[0], Cuda) != isinstance(args[1], Cuda) and args[1].numel():
        waits("copy between the devices")
    for i in args[1] if name in INDEXED else ():
        if i is not None and (not isinstance(i, Cuda) or i.dtype == torch.bool):
            waits("index of bools" if isinstance(i, Cuda) else "index of the CPU")
    if name in ("aten::mm", "aten::addmm", "aten::bmm") and wrapped[0].dtype == torch.float32:
        SEEN.float32[where()] += 1


def _without_data(name: str, args: Any, kwargs: Any, makes: bool) -> tuple[Any, Any]:
    """The call for sizes alone. Masks become the indices that they stand for, while they have data."""
    if name in INDEXED:
        indices: list[Tensor | None] = []
        for i in args[1]:
            indices += [i] if i is None or i.dtype != torch.bool else list(i.nonzero(as_tuple=True))
        args = (args[0], indices, *args[2:])
    args, kwargs = tree_map_only(Tensor, _meta, (args, kwargs))
    return args, {**kwargs, "device": torch.device("meta")} if makes else kwargs


def _dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    name, device = func._schema.name, kwargs.get("device")
    wrapped = _tensors((args, kwargs), Cuda)
    to_cuda = device is not None and torch.device(device).type in ("cuda", "meta")
    if not wrapped and not to_cuda:
        return func(*args, **kwargs)
    if name == "aten::_has_compatible_shallow_copy_type":
        return False
    if func._can_decompose() and torch.is_inference_mode_enabled():  # there, composite operations arrive whole
        with _Mode():
            return func.decompose(*args, **kwargs)
    if name == "aten::_to_copy" and (to_cuda != bool(wrapped) if to_cuda else device is not None):
        return _moved(func, args, kwargs, to_cuda)
    _check(name, func, args, kwargs, wrapped)
    if name == "aten::_local_scalar_dense":
        return 1.0 if args[0].elem.is_meta else func(args[0].elem)

    given, options = tree_map_only(Cuda, lambda x: x.elem, (args, kwargs))
    if device is not None:
        options = {**options, "device": torch.device("cpu")}
    floats = kwargs.get("dtype") in (None, torch.float32, torch.bfloat16, torch.float64) and name not in ("aten::randperm", "aten::arange")
    inputs = [x.elem for x in wrapped]
    sizes_only = SEEN.sizes_only and (any(x.is_meta for x in inputs) or (not wrapped and floats))
    if sizes_only:
        if name.endswith("_") and isinstance(args[0], Cuda) and not args[0].elem.is_meta:
            args[0].elem.zero_()  # what is written into it has no data
        given, options = _without_data(name, given, options, makes=device is not None or not wrapped)
    attends = "scaled_dot_product" in name and not sizes_only
    out = attention.numbers(func, name, given, options) if attends else func(*given, **options)
    SEEN.work.add(func, args, inputs, _tensors(out))
    with torch.inference_mode(False):  # a view of an ordinary tensor must be one
        out = tree_map_only(Tensor, Cuda, out)
    lists = name.startswith("aten::_foreach") or name == "aten::_fused_adamw_"
    return out if not wrapped or lists or not func._schema.returns else return_and_correct_aliasing(func, args, kwargs, out)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})


# ---- the driver


class _Generator(torch.Generator):
    _device, _offset = torch.device("cpu"), 0

    def __new__(cls, device="cpu"):
        self = super().__new__(cls)
        self._device = torch.device(device)
        if self._device.type == "cuda":
            _generators.add(self._cdata)
            weakref.finalize(self, _generators.discard, self._cdata)
        return self

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self._device

    def get_offset(self) -> int:
        return self._offset

    def set_offset(self, offset: int):
        self._offset = offset
        return self.manual_seed((self.initial_seed() + 0x9E3779B9 * offset) % 2**63)


def _pin(self, device=None):
    out = self.clone()
    out._pinned = True
    return out


def install(*, sizes_only: bool = False, devices: int = 1, name: str = "NVIDIA H100 80GB HBM3") -> None:
    """From here on this process has a CUDA device, and its main thread's factories make tensors on it."""
    SEEN.sizes_only = sizes_only
    c = torch.cuda
    for function, value in {
        "_lazy_init": None,
        "is_available": True,
        "device_count": devices,
        "current_device": 0,
        "set_device": None,
        "empty_cache": None,
        "get_device_name": name,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "manual_seed_all": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "is_current_stream_capturing": False,
    }.items():
        setattr(c, function, lambda *_, value=value, **__: value)
    c.synchronize = lambda d=None: waits("synchronize")
    c.max_memory_allocated = lambda d=None: SEEN.peak
    c.reset_peak_memory_stats = lambda d=None: setattr(SEEN, "peak", SEEN.live)
    c.amp.common.amp_definitely_not_available = lambda: False
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.Generator, torch.Tensor.pin_memory = _Generator, _pin  # type: ignore[misc, assignment]
    real_clear, real_to, real_dropout = torch.clear_autocast_cache, Tensor.to, F.dropout
    torch.clear_autocast_cache = lambda: (_CASTS.clear(), real_clear())[1]

    def to(self, *args, **kwargs):
        def numbered(x):
            return DEVICE if isinstance(x, (torch.device, str)) and torch.device(x).type == "cuda" else x

        return real_to(self, *map(numbered, args), **{k: numbered(v) for k, v in kwargs.items()})

    def dropout(input, p=0.5, training=True, inplace=False):
        return torch.native_dropout(input, p, True)[0] if input.is_cuda and training and 0 < p < 1 else real_dropout(input, p, training)

    Tensor.to, F.dropout, F.scaled_dot_product_attention = to, dropout, attention.sdpa  # type: ignore[assignment, method-assign]
    import torch.utils._foreach_utils as foreach

    foreach._foreach_supported_types.append(Cuda)
    foreach._get_foreach_kernels_supported_devices = lambda: ["cuda", "meta"]
    _Mode().__enter__()
