"""The methods of pre-training: one row each. The DAG, the keys, the command line and the report follow from this table.

A new method is a new row; docs/architecture.md shows one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FROM_ANEW = "none"  # pretrain.starts_from of a run that begins with weights as they are drawn
Predicts = Literal["nothing", "input codes", "input and layer codes", "labels from a file"]


@dataclass(frozen=True)
class Method:
    """A method's prediction target, its params, and the source of its labels."""

    name: str
    title: str  # in tables and figures
    predicts: Predicts
    sections: tuple[str, ...]  # sections or keys of params.yaml, besides those that every encoder reads
    module: str  # holds `Model`, the encoder with the parts of the method, and its `Constants`
    task: str | None = "birq.train.pretraining"  # module that trains it; the imports of both are the method's code
    # labels from a file: of "features", of the "corpus" (its phone times), or of the encoder of the method that is named
    labels_from: str | None = None
    labeller: str | None = None  # module that makes them; its imports are the code of the stage `labels`
    label_sections: tuple[str, ...] = ()  # sections or keys of params.yaml that it reads; the training does not
    own_task: str | None = None  # where `task` puts another run's weights into the encoder first: what trains it then

    @property
    def trains(self) -> bool:
        """False for an encoder that is left as it was drawn."""
        return self.task is not None

    @property
    def label_layer(self) -> str | None:
        """The key of params.yaml that says which layer makes its labels; None where no encoder does."""
        return next((key for key in self.label_sections if key.endswith(".layer")), None)

    @property
    def modules(self) -> tuple[str, ...]:
        """The roots of its code."""
        return tuple(m for m in (self.module, self.task, self.own_task) if m)

    @property
    def branched(self) -> Method:
        """The same, from the finished encoder of another run."""
        return replace(self, task="birq.train.branch", own_task=self.task)


# the probe reads an untrained encoder through them
QUANTIZER_KEYS = ("n_codebooks", "codebook_size", "codebook_dim", "distance", "view", "view_window_frames")
QUANTIZERS = tuple(f"random_projection.{key}" for key in QUANTIZER_KEYS)
KMEANS = ("kmeans.clusters", "kmeans.fit_minutes")


def _from_file(name: str, title: str, labels_from: str, labeller: str, label_sections: tuple[str, ...]) -> Method:
    """BEST-RQ's prediction with other labels: the same encoder, masks, weight of the loss and budget."""
    sections = ("pretrain", *QUANTIZERS, "random_projection.anchor_weight")
    code = {"module": "birq.model.offline", "task": "birq.train.offline", "labeller": f"birq.labels.{labeller}"}
    return Method(name, title, "labels from a file", sections, labels_from=labels_from, label_sections=label_sections, **code)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("birq", "BiRQ", "input and layer codes", ("pretrain", "random_projection", "birq"), "birq.model.objectives"),
        Method("best_rq", "BEST-RQ", "input codes", ("pretrain", "random_projection"), "birq.model.prediction"),
        Method("scratch", "no pre-training", "nothing", QUANTIZERS, "birq.model.quantized", task=None),
        _from_file("cmvn_kmeans", "k-means of CMVN", "features", "cmvn", (*KMEANS, "model.n_stack")),
        _from_file("hubert1", "HuBERT, 1st iteration", "features", "kmeans", (*KMEANS, "kmeans.view", "model.n_stack")),
        _from_file("hubert", "HuBERT", "hubert1", "kmeans", (*KMEANS, "kmeans.layer")),
        _from_file("relabel", "BEST-RQ, relabelled", "best_rq", "relabel", (*QUANTIZERS, "relabel.layer")),
        _from_file("relabel2", "BEST-RQ, relabelled twice", "relabel", "relabel", (*QUANTIZERS, "relabel.layer")),
        _from_file("relabel_birq", "BiRQ, relabelled", "birq", "relabel", (*QUANTIZERS, "relabel.layer")),
        _from_file("phones", "phones (ceiling)", "corpus", "phones", ("model.n_stack",)),
        _from_file("shuffled", "phones shifted in time (floor)", "corpus", "shuffled", ("model.n_stack",)),
    )
}
