"""A recogniser as ONNX: log-mel in, log probabilities of CTC out, with any number of utterances and frames.

The file also runs in sherpa-onnx, by its loader for FireRedASR-2 CTC models, whose features are Kaldi's with samples in 16 bits: it takes
2 ln 32768 from them, as the file's metadata say.

Shape suffixes: B utterances, T log-mel frames, N encoder frames, F mel bins, V units with the blank, D width, H heads, E head width.
"""

from __future__ import annotations

import copy
import logging
import math
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from birq import __version__
from birq.errors import BirqError
from birq.model import kernels
from birq.model.encoder import RELATIVE_REACH, Attention, rotary_table, rotate
from birq.speech.frontend import KALDI
from birq.use.recogniser import Recogniser

FILE, TOKENS = "model.onnx", "tokens.txt"
OPSET = 18
TOLERANCE = 1e-4  # of log probabilities, between torch and onnxruntime
SAMPLES_16_BIT = 2 * math.log(32768)  # what that scale of the samples adds to log-mel
LOWEST = math.log(np.finfo(np.float32).eps) - 1e-3  # log-mel of no sound at all, less a step of its storage
EXTRA = "install birq[onnx]: onnx, onnxscript and onnxruntime"


class Exported(nn.Module):
    """What is exported: statistics, stacking, encoder, CTC layer."""

    def __init__(self, recogniser: Recogniser):
        super().__init__()
        front_end = recogniser.front_end
        self.model = copy.deepcopy(recogniser.model).cpu().eval()
        self.n_stack, self.own_mean = front_end.n_stack, front_end.input_mean == "utterance"
        self.register_buffer("mean_F", torch.from_numpy(front_end.mean_F.copy()))
        self.register_buffer("std_F", torch.from_numpy(front_end.std_F.copy()))
        for module in self.model.modules():  # forms of the same numbers that ONNX has
            if isinstance(module, kernels.DepthwiseConvolution):
                module.forward = types.MethodType(_convolution, module)
            if isinstance(module, Attention):
                module.forward = types.MethodType(_attention, module)

    def forward(self, feats_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel in nat, of samples in [-1, 1], and numbers of frames -> log probabilities [B, N, V], numbers of encoder frames."""
        lengths_B = lengths_B // self.n_stack
        b, t, f = feats_BTF.shape
        n = (t + self.n_stack - 1) // self.n_stack
        x_BTF = F.pad(feats_BTF.clamp(min=LOWEST), (0, 0, 0, self.n_stack - 1))[:, : n * self.n_stack]
        mean = self.mean_F
        if self.own_mean:
            heard_BT1 = (torch.arange(n * self.n_stack) < lengths_B[:, None] * self.n_stack)[:, :, None]
            mean = (x_BTF * heard_BT1).sum(1, keepdim=True) / heard_BT1.sum(1, keepdim=True).clamp(min=1)
        x_BNS = ((x_BTF - mean) / self.std_F).reshape(b, n, self.n_stack * f)
        valid_BN = torch.arange(n) < lengths_B[:, None]
        encoder = self.model.encoder
        x_BND = encoder.project(x_BNS * valid_BN[:, :, None])
        rotary = None
        if encoder.shape.positions == "rotary":
            rotary = rotary_table(n, encoder.shape.d_model // encoder.shape.n_heads, x_BND.device)
        for block in encoder.blocks:
            x_BND = block(x_BND, valid_BN, valid_BN, rotary, 0.0)
        return F.log_softmax(self.model.head(x_BND), dim=-1), lengths_B


def _convolution(self: kernels.DepthwiseConvolution, x_BND: Tensor) -> Tensor:
    return nn.Conv1d.forward(self, x_BND.transpose(1, 2)).transpose(1, 2)


def _attention(self: Attention, x_BND: Tensor, valid_BN: Tensor, rotary: tuple[Tensor, Tensor] | None, dropout: float) -> Tensor:
    """As Attention.forward; blocks of `window` frames are cut for any length, without a question about it."""
    b, n, d = x_BND.shape
    q, k, v = self.qkv(self.norm(x_BND)).view(b, n, 3, self.n_heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
    if rotary is not None:
        q, k = rotate(q, *rotary), rotate(k, *rotary)
    seen_BN = valid_BN
    if self.window:
        w = self.window
        blocks = (n + w - 1) // w

        def cut(x_BHNE: Tensor) -> Tensor:
            padded = F.pad(x_BHNE, (0, 0, 0, w - 1))[:, :, : blocks * w]
            return padded.reshape(b, self.n_heads, blocks, w, self.width).transpose(1, 2).reshape(b * blocks, self.n_heads, w, self.width)

        q, k, v = cut(q), cut(k), cut(v)
        seen_BN = F.pad(valid_BN, (0, w - 1))[:, : blocks * w].reshape(b * blocks, w)
    seen_BN = seen_BN | ~seen_BN.any(-1, keepdim=True)  # what is only padding attends to itself: no row without a key
    mask: Tensor = seen_BN[:, None, None, :]
    if self.relative is not None:
        at = torch.arange(q.shape[2])
        distance_NN = (at[None] - at[:, None]).clamp(-RELATIVE_REACH, RELATIVE_REACH) + RELATIVE_REACH
        score_BHNR = q * self.width**-0.5 @ self.relative.weight.T
        bias = score_BHNR.gather(3, distance_NN.expand(q.shape[0], self.n_heads, -1, -1))
        mask = bias.masked_fill(~mask, -torch.inf)
    y_BHNE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if self.window:
        y_BHNE = y_BHNE.reshape(b, blocks, self.n_heads, w, self.width).transpose(1, 2).reshape(b, self.n_heads, blocks * w, self.width)
        y_BHNE = y_BHNE[:, :, :n]
    return self.out(y_BHNE.transpose(1, 2).reshape(b, n, d))


# ---- files


def write(folder: Path, recogniser: Recogniser) -> None:
    """Write model.onnx and tokens.txt, and hold the first against torch.

    Errors: BirqError where the packages are missing, or onnxruntime's log probabilities differ from torch's.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  by torch's exporter
    except ImportError as e:
        raise BirqError(f"ONNX needs more packages ({e}); {EXTRA}") from None
    exported = Exported(recogniser).eval()
    f = recogniser.front_end.n_mels
    example = (torch.zeros(2, 50, f), torch.tensor([50, 41]))
    free = torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported,
            example,
            dynamo=True,
            dynamic_shapes=({0: free, 1: free}, {0: free}),
            input_names=["log_mel", "log_mel_lengths"],
            output_names=["log_probabilities", "lengths"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(str(folder / FILE), external_data=False)
    made = onnx.load(folder / FILE)
    for key, value in _metadata(recogniser).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(made, folder / FILE)
    _check(exported, onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"]), f)
    units = [unit.replace(" ", "▁") for unit in recogniser.tokenizer.vocab] + ["<blk>"]
    (folder / TOKENS).write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(units)), encoding="utf-8")


def _metadata(recogniser: Recogniser) -> dict[str, str]:
    front_end = recogniser.front_end
    made = {"comment": f"birq {__version__}: {recogniser.config['method']}, seed {recogniser.config['seed']}"}
    made |= {key: str(value) for key, value in front_end.kernel.items()}
    if sherpa(recogniser):
        f = front_end.n_mels
        made |= {"model_type": "fire-red-asr-2-ctc", "subsampling_factor": str(front_end.n_stack)}
        made |= {"cmvn_mean": ",".join([repr(SAMPLES_16_BIT)] * f), "cmvn_inv_stddev": ",".join(["1"] * f)}
    return made


def sherpa(recogniser: Recogniser) -> bool:
    """Whether sherpa-onnx makes the features that the model wants: Kaldi's; it can be told a number of bins and a rate."""
    kernel = recogniser.front_end.kernel
    return all(kernel[key] == KALDI[key] for key in ("frame_length_ms", "frame_shift_ms", "low_hz", "high_hz"))


def _check(exported: Exported, session: Any, n_mels: int) -> None:
    rng = np.random.default_rng(0)
    for lengths in ([37], [400, 123, 8], [1501, 1500]):
        feats_BTF = (rng.standard_normal((len(lengths), max(lengths), n_mels)) * 3).astype(np.float32)
        feats_BTF += exported.mean_F.numpy()
        lengths_B = np.array(lengths, np.int64)
        with torch.inference_mode():
            wanted_BNV, n_B = exported(torch.from_numpy(feats_BTF), torch.from_numpy(lengths_B))
        got_BNV, _ = session.run(None, {"log_mel": feats_BTF, "log_mel_lengths": lengths_B})
        most = max(float(np.abs(wanted_BNV[i, :n].numpy() - got_BNV[i, :n]).max()) for i, n in enumerate(n_B.tolist()))
        if not most <= TOLERANCE:
            raise BirqError(f"onnxruntime's log probabilities differ from torch's by {most:.2g}, not by at most {TOLERANCE:g}")
