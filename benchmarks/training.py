"""A training on the params and features at hand, step by step, shared by the experiments."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks.steps import Steps, device_of
from birq.model.encoder import Shape
from birq.model.prediction import AnchorObjective, BestRq
from birq.model.quantized import build, constants
from birq.settings import yamlfile
from birq.settings.methods import METHODS
from birq.settings.params import Params, numbers, parse
from birq.speech.batches import Feed
from birq.speech.shards import open_split, read_front_end
from birq.train.pretraining import PretrainTask, Watched, pretraining_feed
from birq.train.runtime import devices

__all__ = ["ON_ONE_THREAD", "Params", "Training", "by_section", "changed", "feed", "load", "model_of", "objective_of", "shape_of"]

# changes to params.yaml for a timed or compared step
ON_ONE_THREAD = {"birq.gradient_cosine_every_steps": 0, "pretrain.cpu_threads": 1}
EPOCHS_STEPS = 1000  # stands for any number of epochs
Change = dict[str, Any]  # keys of params.yaml as birq.label_share, and their values


def load(path: str | Path = "params.yaml") -> Params:
    """params.yaml as the birq that this process imports reads it. It may be an earlier one, which lacks keys of today: their defaults are
    what it did."""
    tree = yamlfile.read(Path(path), yamlfile.plain())
    known = {name: getattr(field.annotation, "model_fields", None) for name, field in Params.model_fields.items()}
    if "noise" not in known["birq"]:
        tree["birq"]["gumbel_noise"] = tree["birq"]["noise"] != "none"
    for section in list(tree):
        if section not in known:
            del tree[section]
        elif known[section] is not None:
            tree[section] = {key: value for key, value in tree[section].items() if key in known[section]}
    for key in ("steps", "warmup_steps"):  # in epochs, of a split that is not read for a step's time
        if isinstance(tree["pretrain"][key], str):
            tree["pretrain"][key] = EPOCHS_STEPS
    return parse(tree, path)


def by_section(change: Change) -> dict[str, dict[str, Any]]:
    """The same change as params.yaml nests it."""
    tree: dict[str, dict[str, Any]] = {}
    for dotted, value in change.items():
        section, key = dotted.split(".")
        tree.setdefault(section, {})[key] = value
    return tree


def changed(params: Params, change: Change) -> Params:
    """Params with some values replaced."""
    tree = params.model_dump()
    for section, values in by_section(change).items():
        tree[section] |= values
    return Params.model_validate(tree)


def shape_of(params: Params) -> Shape:
    return Shape(**params.model.shape, n_mels=params.features.n_mels)


def objective_of(params: Params, method: str) -> AnchorObjective:
    """The constants of a method's objective."""
    row = METHODS[method]
    return constants(importlib.import_module(row.module), numbers(params, row))


def model_of(params: Params, method: str, seed: int = 0) -> BestRq:
    """A method's model as pre-training begins with it."""
    module = importlib.import_module(METHODS[method].module)
    return build(module, shape_of(params), objective_of(params, method), seed, params.pretrain.dropout).train()


class Training(Steps):
    """One method's model, optimiser and figures. `change`: differences from params.yaml."""

    def __init__(self, params: Params, method: str, change: Change, seed: int = 0):
        params = changed(params, change)
        getattr(devices, "choose_attention", lambda: None)()  # earlier commits have no choice
        section, device, values = params.pretrain, device_of(params.pretrain), numbers(params, METHODS[method])
        model = model_of(params, method, seed).to(device)
        watched = Watched(**{k: values[k] for k in Watched.__dataclass_fields__ if k in values})
        task = PretrainTask(model, section, "benchmark", device, seed, params.features.frame_shift_ms, watched=watched)
        super().__init__(model, task, section, seed)


def feed(params: Params, seed: int = 0) -> Feed:
    """Every utterance of the pre-training corpora, as the stage feeds them."""
    folders = [Path("data/features") / c for c in params.run.pretrain_corpora]
    split = open_split(folders, "train")
    return pretraining_feed(split, read_front_end(folders, split, params.model.n_stack), params.pretrain, seed)
