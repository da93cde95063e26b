"""benchmarks.training for birq as it was up to 4f4994a: modules in its root, one section of params for all methods, BEST-RQ as w1 = 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from birq.shards import open_split, read_stats
from birq.train.pretrain import PretrainTask, pretraining_feed
from birq.train.state import build_pretrainer

from benchmarks.steps import Steps, device_of
from birq import params as birq_params

ON_ONE_THREAD = {"gradient_cosine_every_steps": 0, "cpu_threads": 1}
MERGED = ("random_projection", "birq")  # sections of today that were part of `pretrain`
LATER_SECTIONS = ("variants", "kmeans", "relabel", "study", "lm", "search")  # sections of today that were not there
# keys of today that were not there
LATER = {
    "model": ("norms", "input_mean"),
    "tokenizer": ("language",),
    "pretrain": ("reduction", "starts_from", "snapshots"),
    "birq": ("noise", "begins_share"),
}
LATER["random_projection"] = ("view", "view_window_frames", "distance", "projection", "codebook", "refine_every_steps")
LATER["random_projection"] += ("similarity_weight", "similarity_temperature")
LATER["random_projection"] += ("distil_weight", "distil_codes", "distil_layers", "distil_begins_share")
LATER["birq"] += ("label_projection", "label_codebook")
LATER["finetune"] = ("anneal_stairs",)
LATER["decode"] = ("keep_mb",)
LATER["probe"] = ("train_minutes", "penalty", "abx_tokens")
LATER["report"] = ("audio_samples",)


def load(path: str | Path = "params.yaml") -> Any:
    """Today's params.yaml, or one of then, as that birq reads it. Variants are left out."""
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for section in LATER_SECTIONS:
        tree.pop(section, None)
    tree["birq"]["gumbel_noise"] = tree["birq"]["noise"] != "none"
    for section, keys in LATER.items():
        tree[section] = {k: v for k, v in tree[section].items() if k not in keys}
    for section in MERGED:
        tree["pretrain"] |= tree.pop(section, {})
    return birq_params.parse(tree, path)


class Training(Steps):
    """One method's model, optimiser and figures. `change`: differences from the section `pretrain`."""

    def __init__(self, params: Any, method: str, change: dict[str, Any], seed: int = 0):
        section = params.pretrain.model_copy(update=change | ({"enhanced_weight": 0.0} if method == "best_rq" else {}))
        tree = {name: getattr(params, name).model_dump(mode="json") for name in ("model", "features")}
        device = device_of(section)
        model = build_pretrainer({"seed": seed, **tree, "pretrain": section.model_dump(mode="json")}).train().to(device)
        task = PretrainTask(model, section, "benchmark", device, seed, params.features.frame_shift_ms)
        super().__init__(model, task, section, seed)


def feed(params: Any, seed: int = 0) -> Any:
    """Every utterance of the pre-training corpora, as the stage fed them."""
    folders = [Path("data/features") / c for c in params.run.pretrain_corpora]
    shape = (params.model.n_stack, params.features.frame_shift_ms)
    return pretraining_feed(open_split(folders, "train"), *read_stats(folders), params.pretrain, *shape, seed)
