"""Pre-training that begins with the finished encoder of another run, `pretrain.starts_from`.

The encoder's weights are all that it takes. Heads, quantizers, optimiser, schedule, batches and masks begin as in any training of the seed,
so that runs that start from one encoder differ by their method alone.
"""

from __future__ import annotations

import importlib
from typing import Any

from birq.model.prediction import BestRq
from birq.pipeline.stage import Job
from birq.saved import encoder
from birq.speech.batches import Utterances
from birq.speech.frontend import FrontEnd


def train(job: Job, model: BestRq, utterances: Utterances, front_end: FrontEnd, values: dict[str, Any]) -> None:
    """As the method's own `train`, which is imported by name, as part of the method's code. A resumed run takes those of its checkpoint."""
    assert job.method.own_task is not None
    model.encoder.load_state_dict(encoder.load(job.input("pretrain")).encoder.state_dict())
    importlib.import_module(job.method.own_task).train(job, model, utterances, front_end, values)
