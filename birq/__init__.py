"""birq: from a speech corpus to a word error rate, with BiRQ pre-training in between."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def load(model: Any = None, language_model: Any = None) -> Any:
    """A recogniser that takes samples: `birq.load("data/finetune/birq-0").transcribe(samples, 16000).text`, `.encode(samples, 16000)`.

    Of a pre-trained encoder, such as `data/pretrain/birq-0`: `.encode(samples, 16000, layer=3)` and `.label(samples, 16000)`.
    See `birq.use.models`. It is imported by name: `import birq` alone must stay cheap, and no stage's key may hold it.
    """
    return importlib.import_module("birq.use.models").either(model, language_model)
