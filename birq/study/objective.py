"""A method's constants before anything is made: sizes of labels that lie in a file are taken from params, or assumed."""

from __future__ import annotations

import importlib
from typing import Any

from birq.model.quantized import constants
from birq.settings.methods import Method
from birq.settings.params import Params, numbers

PHONES = 40  # of English, about


def objective(params: Params, method: Method) -> Any:
    """`params`: those of the run."""
    values = numbers(params, method)
    if method.labels_from:
        q, sections = params.random_projection, method.label_sections
        n, size = (q.n_codebooks, q.codebook_size) if "random_projection.codebook_size" in sections else (1, PHONES)
        values |= {"label_codebooks": n, "label_codebook_size": params.kmeans.clusters if "kmeans.clusters" in sections else size}
    return constants(importlib.import_module(method.module), values)
