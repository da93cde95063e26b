"""The training steps that are compared: SpeechBrain's BEST-RQ recipe, birq's, and the matrix products that birq's cannot do without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness import ROOT
from benchmarks.training import Change, changed, load, model_of
from birq.model import kernels
from birq.model.encoder import Encoder
from birq.speech import resampling
from birq.train.loop import adamw, precision

Step = Callable[[], float]  # one optimiser step; returns the loss
WARM_LENGTHS = (1248, 1236, 1240, 1252, 1228, 1244, 1232, 1248)  # 10 ms frames: one bucket of a sorted corpus


@dataclass
class Batch:
    feats_BTF: Tensor
    lengths_B: Tensor  # in stacked frames
    mask_t: Tensor  # masked stacked frames, the same for all utterances, as SpeechBrain's recipe has it

    def inputs(self, n_stack: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features, lengths [B] and mask [B, T] in frames of an encoder that stacks `n_stack`, 4 or less."""
        finer = 4 // n_stack
        mask_BT = torch.zeros(len(self.lengths_B), self.feats_BTF.shape[1] // 4, dtype=torch.bool)
        mask_BT[:, self.mask_t] = True
        return self.feats_BTF, self.lengths_B * finer, mask_BT.repeat_interleave(finer, dim=1)

    @property
    def seconds(self) -> float:
        return float(self.lengths_B.sum()) * 0.04


def batch(n_utterances: int) -> Batch:
    """Normalised log-mel of about 12.4 s per utterance, 60 % of the frames masked in spans of 40 ms (the recipe's 0.15 x 4)."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor([WARM_LENGTHS[i % len(WARM_LENGTHS)] for i in range(n_utterances)])
    feats_BTF = torch.randn(n_utterances, int(frames.max()), 80, generator=generator)
    shortest = int(frames.min()) // 4
    mask_t = torch.randperm(shortest, generator=generator)[: int(0.15 * 4 * shortest)].sort().values
    return Batch(feats_BTF, frames // 4, mask_t)


# ---- SpeechBrain


def front_end() -> nn.Module:
    """The recipe's two strided convolutions: [B, T, 80] -> [B, T/4, 640]."""
    resampling.torchaudio()  # SpeechBrain imports it unguarded
    from speechbrain.lobes.models.convolution import ConvolutionFrontEnd

    sizes: dict[str, Any] = {"out_channels": (128, 32), "kernel_sizes": (3, 3), "strides": (2, 2), "residuals": (False, False)}
    convolutions = ConvolutionFrontEnd(input_shape=(8, 10, 80), num_blocks=2, num_layers_per_block=1, **sizes)
    return nn.Sequential(convolutions, nn.Flatten(2))


def speechbrain_step(b: Batch, d_model: int, n_layers: int, dropout: float) -> Step:
    """compute_forward, compute_objectives and the optimiser of recipes/LibriSpeech/self-supervised-learning/BEST-RQ, from features on."""
    front = front_end()
    from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper, TransformerASR
    from speechbrain.nnet.quantisers import RandomProjectionQuantizer

    torch.manual_seed(0)
    transformer = TransformerASR(
        tgt_vocab=2048,
        input_size=640,
        d_model=d_model,
        nhead=4,
        num_encoder_layers=n_layers,
        num_decoder_layers=0,
        d_ffn=4 * d_model,
        dropout=dropout,
        activation=nn.GELU,
        conformer_activation=nn.GELU,
        encoder_module="conformer",
        attention_type="RelPosMHAXL",
        normalize_before=True,
        causal=False,
    )
    encoder, quantizer, head = EncoderWrapper(transformer), RandomProjectionQuantizer(320, 16, 8192), nn.Linear(d_model, 8192)
    model = nn.ModuleList([front, encoder, head]).train()
    used = [p for n, p in model.named_parameters() if "custom_tgt_module" not in n]
    optimiser = torch.optim.AdamW(used, lr=8e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01)
    share_B = b.lengths_B / b.lengths_B.max()
    frames_t = (b.mask_t[:, None] * 4 + torch.arange(4)).flatten()

    def step() -> float:
        feats_BTF = b.feats_BTF.clone()
        n, t, f = feats_BTF.shape
        targets = quantizer(feats_BTF.view(n, t // 4, 4 * f)[:, b.mask_t, :])
        feats_BTF[:, frames_t, :] = torch.normal(mean=0.0, std=0.1, size=(n, len(frames_t), f))
        logits = head(encoder(front(feats_BTF), share_B))[:, b.mask_t, :]
        loss = nn.functional.cross_entropy(logits.reshape(-1, 8192), targets.reshape(-1))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(used, 10.0)
        optimiser.step()
        return float(loss.detach())

    return step


# ---- birq


class LeanFrontEnd(nn.Module):
    """SpeechBrain's front end, the same function of the same weights: convolution, LayerNorm over bins and channels, leaky ReLU, dropout,
    twice. Channels lie last, so nothing is transposed, and one utterance follows another, so intermediate values stay in cache."""

    def __init__(self, theirs: nn.Module):
        super().__init__()
        convolutions = [m for m in theirs.modules() if isinstance(m, nn.Conv2d)]
        # over time and bins, where SpeechBrain's are over bins and time
        self.weights = nn.ParameterList(c.weight.detach().mT.contiguous(memory_format=torch.channels_last) for c in convolutions)
        self.biases = nn.ParameterList(c.bias.detach().clone() for c in convolutions)
        self.norms = nn.ModuleList(copy.deepcopy(m) for m in theirs.modules() if isinstance(m, nn.LayerNorm))
        (self.dropout,) = {m.p for m in theirs.modules() if isinstance(m, nn.Dropout)}

    def forward(self, feats_BTF: Tensor) -> Tensor:
        return torch.cat([self._one(x) for x in feats_BTF.split(1)])

    def _one(self, feats_BTF: Tensor) -> Tensor:
        x_BTFC = feats_BTF[..., None]
        for weight, bias, norm in zip(self.weights, self.biases, self.norms, strict=True):
            x_BCTF = F.pad(x_BTFC.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect")
            x_BTFC = norm(F.conv2d(x_BCTF, weight, bias, stride=2).permute(0, 2, 3, 1))
            x_BTFC = kernels.dropout(F.leaky_relu(x_BTFC), self.dropout if self.training else 0.0)
        return x_BTFC.flatten(2)


class _Unstacked(nn.Module):
    """A front end of convolutions where birq's encoder has its first linear layer: it takes stacked frames apart again."""

    def __init__(self, front: nn.Module, d_model: int):
        super().__init__()
        self.front, self.project = front, nn.Linear(640, d_model)

    def forward(self, x_BTS: Tensor) -> Tensor:
        b, t, s = x_BTS.shape
        return self.project(self.front(x_BTS.reshape(b, 4 * t, s // 4)))


def birq_step(
    b: Batch,
    method: str,
    change: Change,
    front: nn.Module | None = None,
    device: str = "cpu",
    prepared: Callable[[Encoder], None] = lambda _: None,
) -> Step:
    """A step of pre-training as birq.train does it, bf16 on a GPU. `change`: differences from params.yaml; `front`: in place of stacking;
    `prepared`: a function applied to the encoder before."""
    params = changed(load(ROOT / "params.yaml"), change | {"features.n_mels": 80})
    section, pretrainer = params.pretrain, model_of(params, method)
    if front is not None:
        pretrainer.encoder.project = _Unstacked(front, pretrainer.encoder.shape.d_model)
    pretrainer.to(device)
    prepared(pretrainer.encoder)
    weights = list(pretrainer.parameters())
    optimiser = adamw([{"params": weights}], section)
    given = [x.to(device) for x in b.inputs(params.model.n_stack)]

    def step() -> float:
        with precision(torch.device(device)):
            losses = pretrainer(*given, torch.Generator(device).manual_seed(0))
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        nn.utils.clip_grad_norm_([p for p in weights if p.grad is not None], section.clip_norm)
        optimiser.step()
        return float(losses.total.detach())

    return step


# ---- the floor


class _Products(TorchDispatchMode):
    """Sizes and strides of every two-dimensional matrix product, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket
        if name is torch.ops.aten.mm or name is torch.ops.aten.addmm:
            self.seen.append(tuple(torch.empty_strided(x.shape, x.stride(), device="meta") for x in args[-2:]))  # type: ignore[arg-type]
        return function(*args, **(kwargs or {}))


def linear_floor(step: Step) -> Step:
    """The matrix products of a step's linear layers, and of its quantizer, alone: no attention, no convolution over time, no norm."""
    with _Products() as products:
        step()
    memory: dict[tuple[Any, ...], Tensor] = {}

    def real(x: Tensor, role: str) -> Tensor:
        key = (role, tuple(x.shape), x.stride())
        if key not in memory:
            extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
            memory[key] = torch.randn(extent).as_strided(x.shape, x.stride())
        return memory[key]

    calls = [(real(a, "a"), real(b, "b"), real(torch.empty(len(a), b.shape[1], device="meta"), "out")) for a, b in products.seen]

    def run() -> float:
        for a, b, out in calls:
            torch.mm(a, b, out=out)
        return 0.0

    return run
