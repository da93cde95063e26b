"""Labels of a random-projection quantizer: 1000 frames, 320 -> 16 -> the nearest of 8192 codes, one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import Contender, Part, peak_mib, race
from birq.model.quantizer import RandomQuantizer
from birq.speech import resampling

FRAMES, WIDTH, CODE_WIDTH, CODES = 1000, 320, 16, 8192
CALLS = 10
Labeller = Callable[[torch.Tensor], torch.Tensor]  # [M, D] -> [M]


def ours() -> RandomQuantizer:
    return RandomQuantizer(WIDTH, CODE_WIDTH, CODES, 1, torch.Generator().manual_seed(0))


def frames(n: int = FRAMES) -> torch.Tensor:
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(1))


def by_birq() -> Labeller:
    quantizer = ours()
    return lambda x: quantizer.nearest(x)[:, 0]


def by_speechbrain() -> Labeller:
    """SpeechBrain's quantizer with the same projection and codes."""
    resampling.torchaudio()  # SpeechBrain imports it unguarded
    from speechbrain.nnet.quantisers import RandomProjectionQuantizer

    quantizer, same = RandomProjectionQuantizer(WIDTH, CODE_WIDTH, CODES), ours()
    quantizer.P.copy_(same.projection[0])
    quantizer.CB.copy_(same.codebook[0])
    # it takes one utterance's frames at a time as [1, M, D]: its distances are [1, V, M, h]
    return lambda x: quantizer(x[None])[0]


def by_lucidrains() -> Labeller:
    """vector-quantize-pytorch with the same projection and codes; its LayerNorm on the input is off, as birq has none."""
    from vector_quantize_pytorch import RandomProjectionQuantizer

    quantizer, same = RandomProjectionQuantizer(dim=WIDTH, codebook_size=CODES, codebook_dim=CODE_WIDTH, norm=False), ours()
    quantizer.rand_projs.copy_(same.projection)
    quantizer.vq.codebook = same.codebook[0]
    quantizer.eval()
    return lambda x: quantizer(x[None])[0]


def by_cdist() -> Labeller:
    same = ours()
    projection, codebook = same.projection[0], same.codebook[0]
    return lambda x: torch.cdist(torch.nn.functional.normalize(x @ projection, dim=-1), codebook).argmin(-1)


def by_gemm() -> Labeller:
    """The floor: both matrix products, the second into memory that is there already; no label comes out."""
    same = ours()
    projection, codes_hV = same.projection[0], same.codebook[0].T
    out = torch.empty(FRAMES, CODES)
    return lambda x: torch.mm(x @ projection, codes_hV, out=out)


def exact(x: torch.Tensor) -> torch.Tensor:
    """Eq. 2 in float64: nearest code of the projected frame, brought to unit length."""
    same = ours()
    v = torch.nn.functional.normalize(x.double() @ same.projection[0].double(), dim=-1)
    return torch.cat([torch.cdist(part, same.codebook[0].double()).argmin(-1) for part in v.split(1000)])


CONTENDERS = {
    "SpeechBrain RandomProjectionQuantizer": by_speechbrain,
    "vector-quantize-pytorch": by_lucidrains,
    "normalize + cdist + argmin": by_cdist,
    "birq": by_birq,
    "floor: the two matrix products": by_gemm,
}


@torch.no_grad()
def agreement(n: int) -> dict[str, float]:
    """Share of labels that equal the float64 ones, by contender."""
    x = frames(n)
    want = exact(x)
    equal_share = {}
    for name, make in CONTENDERS.items():
        if not name.startswith("floor"):
            labeller = make()
            equal_share[name] = float((torch.cat([labeller(p) for p in x.split(FRAMES)]) == want).double().mean())
    return equal_share


def memory_of(name: str) -> Callable[[], None]:
    """For `peak_mib`: one warm call of the contender."""
    torch.set_num_threads(1)
    labeller, x = CONTENDERS[name](), frames()
    with torch.no_grad():
        labeller(x[:2])  # loads libraries and buffers

    def call() -> None:
        with torch.no_grad():
            labeller(x)

    return call


@torch.no_grad()
def run(scratch: Path, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    x = frames()
    labellers = {name: make() for name, make in CONTENDERS.items()}

    def call(name: str) -> Callable[[], None]:
        return lambda: [torch.no_grad()(labellers[name])(x) for _ in range(CALLS)] and None

    work = f"{CALLS} times {FRAMES} frames (a batch of 400 s), {WIDTH} -> {CODE_WIDTH} -> {CODES} codes, one thread"
    part = race("labels", work, [Contender(name, call(name)) for name in CONTENDERS], 3 if quick else 11)
    part.facts = {"agrees_with_float64": agreement(4000 if quick else 40_000)}
    part.facts["peak_mib"] = {name: peak_mib("benchmarks.labels:memory_of", name)["peak"] for name in CONTENDERS}
    return [part]
