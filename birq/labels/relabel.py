"""Codes of a layer of a finished encoder through a random quantizer. Of BEST-RQ, which then relabels itself, the paper's own baseline.

The layer is standardised with its statistics over all frames, and the quantizer is that of the seed: where sizes agree, the one through
which the probe reads the encoder's layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from birq.labels.frames import Making, of_layer
from birq.model.moments import moments
from birq.model.quantized import Quantization, QuantizedEncoder
from birq.model.quantizer import standardise
from birq.pipeline.stage import Job
from birq.progress import Progress
from birq.saved import encoder
from birq.speech.shards import Split


def make(job: Job, split: Split) -> Making:
    """As many codebooks as random_projection says."""
    layer, sizes = job.read("relabel.layer"), Quantization(**vars(job.read("random_projection")))
    source = of_layer(job, split, layer)
    shape = encoder.load(job.input("pretrain")).encoder
    quantizer = QuantizedEncoder(shape, sizes, int(job.wildcards["seed"])).quantizer.to(source.device)

    def outputs() -> Iterator[list[Tensor]]:
        progress, done = Progress(f"{job.name}, statistics", len(source.usable), "utterance"), 0
        for index, _, x_MD in source.batches(source.usable):
            yield [x_MD]
            done += len(index)
            progress.update(done)
        progress.close()

    ((mean_D, std_D),) = moments(outputs())

    @torch.inference_mode()
    def code(x_MD: Tensor) -> np.ndarray:
        return quantizer.nearest(standardise(x_MD, mean_D, std_D)).cpu().numpy()

    about = {"made": f"random codes of {source.named}"}
    return Making(source.front_end.n_stack, sizes.n_codebooks, sizes.codebook_size, source.coded(code), about)
