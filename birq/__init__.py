"""birq: from a speech corpus to a word error rate, with BiRQ pre-training in between."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def load(model: Any = None, language_model: Any = None) -> Any:
    """A recogniser that takes samples: `birq.load("data/finetune/birq-0").transcribe(samples, 16000).text`.

    See `birq.use.models.load`. It is imported by name: `import birq` alone must stay cheap, and no stage's key may hold it.
    """
    return importlib.import_module("birq.use.models").load(model, language_model)
