"""The linear frame probe: which phone a frame belongs to, by multinomial logistic regression from a frozen layer.

It is trained on frames of training voices and tested on other utterances. The problem is convex, so the result does not depend on a seed.

    minimise over W, b   mean over training frames of −ln softmax(W u + b)[phone]  +  penalty / 2 · ‖W‖²

u is the layer's output, whitened with the training frames' statistics: standardised per dimension, turned onto the principal axes, and
each axis divided by its deviation. Without the turn, the penalty asks more of an encoder whose dimensions are correlated: the same penalty
then put BEST-RQ below an untrained encoder, and a weaker one above it. Whitened, accuracy changes by less than 0.4 points over a factor of
100 (docs/measures.md).

Shape suffixes: M frames, D width, U utterances, L layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.linear_model import LogisticRegression

from birq.evaluate.bootstrap import interval, ratio, resampled_sums, sums_by
from birq.evaluate.layers import moments
from birq.settings.params import Score

RIDGE = 1e-3  # of the standardised variance, 1 on average: axes with less hold hardly more than rounding
MAX_ITERATIONS = 1000  # of L-BFGS; 40 to 60 suffice
CONFUSIONS = pa.schema([("layer", pa.int32()), ("phone", pa.string()), ("found", pa.string()), ("frames", pa.int32())])
TABLE = pa.schema([("layer", pa.int32()), ("id", pa.string()), ("speaker", pa.string()), ("frames", pa.int32()), ("correct", pa.int32())])
KEYS = ("linear", "linear_low", "linear_high", "linear_speaker_low", "linear_speaker_high")


class Whitening:
    """Of a layer's outputs, with the statistics of the frames given."""

    def __init__(self, x_MD: np.ndarray):
        self.mean_D, self.std_D = moments(x_MD)
        z_MD = ((x_MD - self.mean_D) / self.std_D).astype(np.float64)
        variance_D, axes_DD = np.linalg.eigh(z_MD.T @ z_MD / len(z_MD))
        self.axes_DD = (axes_DD / np.sqrt(variance_D.clip(0) + RIDGE)).astype(np.float32)

    def __call__(self, x_MD: np.ndarray) -> np.ndarray:
        return ((x_MD - self.mean_D) / self.std_D) @ self.axes_DD


def fit(u_MD: np.ndarray, phone_M: np.ndarray, penalty: float) -> LogisticRegression:
    """The optimum on whitened frames; scikit-learn weighs the summed loss against half the squared weights."""
    return LogisticRegression(C=1 / (penalty * len(u_MD)), max_iter=MAX_ITERATIONS).fit(u_MD, phone_M)


def found_phones(train_MD: np.ndarray, train_phone_M: np.ndarray, x_MD: np.ndarray, penalty: float) -> np.ndarray:
    """The phone that the probe finds for each test frame [M]. A phone that training lacks is never found.

    penalty: nats per frame and squared weight. The training frames must hold two phones.
    """
    white = Whitening(train_MD)
    return fit(white(train_MD), train_phone_M, penalty).predict(white(x_MD))


def confusions(found: Sequence[np.ndarray], phone_M: np.ndarray) -> pa.Table:
    """Frames per layer, phone and phone found, the right ones too; most frames first. found: of layers 0 to K, phones [M]."""
    rows = []
    for k, found_M in enumerate(found):
        counted = Counter(zip(phone_M.tolist(), found_M.tolist(), strict=True))
        rows += [(k, *pair, n) for pair, n in sorted(counted.items(), key=lambda item: (-item[1], item[0]))]
    return pa.Table.from_pylist([dict(zip(CONFUSIONS.names, row, strict=True)) for row in rows], CONFUSIONS)


def table(correct: Sequence[np.ndarray], utterance_M: np.ndarray, ids: list[str], speakers: list[str]) -> pa.Table:
    """Frames and correct frames per layer and utterance. correct: of layers 0 to K, bool [M]; utterance_M: positions in `ids`."""
    frames_U = np.bincount(utterance_M, minlength=len(ids))
    rows = [
        {"layer": [k] * len(ids), "id": ids, "speaker": speakers, "frames": frames_U}
        | {"correct": np.bincount(utterance_M[found_M], minlength=len(ids))}
        for k, found_M in enumerate(correct)
    ]
    if not rows:
        return TABLE.empty_table()
    made = pa.concat_tables([pa.table(row).cast(TABLE) for row in rows]).sort_by([("layer", "ascending"), ("id", "ascending")])
    return made.combine_chunks()


def figures(counts: pa.Table, how: Score) -> list[dict[str, Any]]:
    """Per layer: accuracy as a fraction, its interval by utterance, and by speaker (None below two speakers). counts: as `table`.

    All layers are resampled together. The intervals cover the choice of the test speech, not the training of the encoder.
    """
    layers = np.unique(counts["layer"])
    correct_UL = counts["correct"].to_numpy().reshape(len(layers), -1).T.astype(np.int64)
    first = slice(0, len(correct_UL))
    frames_U = counts["frames"].to_numpy()[first].astype(np.int64)
    counts_UC = np.concatenate([correct_UL, frames_U[:, None]], axis=1)
    drawn = [resampled_sums(counts_UC, how.bootstrap_samples, how.seed)]
    by_speaker = sums_by(counts["speaker"].to_pylist()[first], counts_UC)
    if len(by_speaker) > 1:
        drawn.append(resampled_sums(by_speaker, how.bootstrap_samples, how.seed))
    total_C = counts_UC.sum(0)
    rows = []
    for k in range(len(layers)):
        ends = [end for d_RC in drawn for end in interval(ratio(d_RC[:, k], d_RC[:, -1]), how.confidence)]
        rows.append(dict.fromkeys(KEYS) | dict(zip(KEYS, [float(total_C[k] / total_C[-1]), *ends], strict=False)))
    return rows
