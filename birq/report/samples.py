"""A few utterances to hear and to see on the page: audio as MP3, log-mel as grey levels, both inside the page.

Shape suffixes: T log-mel frames, F mel bins.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from birq.corpora import manifests
from birq.errors import BirqError
from birq.speech import pieces, shards

RATE_HZ = 16000  # of the audio on the page: MP3 knows few rates, features may have any
LONGEST_S = 20.0  # an utterance above it is not shown: the page stays small
FRAMES_AT_ONCE = 2  # their mean is one column of the picture


class _Piece(NamedTuple):
    offset_s: float
    duration_s: float
    channels: tuple[int, ...] | None


def chosen(ids: Sequence[str], seconds: Sequence[float], errors: Sequence[int], n: int) -> list[str]:
    """`n` utterances of at most 20 s, evenly from the one with the fewest errors to the one with the most; ties by id."""
    order = sorted((e, id) for id, s, e in zip(ids, seconds, errors, strict=True) if s <= LONGEST_S)
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int)) if order and n else []
    return [order[i][1] for i in places]


def _mp3(samples: np.ndarray) -> str:
    import soundfile

    peak = float(np.abs(samples).max(initial=0.0))
    out = io.BytesIO()
    soundfile.write(out, samples / peak if peak > 1 else samples, RATE_HZ, format="MP3")
    return base64.b64encode(out.getvalue()).decode()


def _picture(logmel_TF: np.ndarray) -> dict[str, Any]:
    """Grey levels of 0 to 255 as base64, row by row, the highest bin first."""
    n = len(logmel_TF) - len(logmel_TF) % FRAMES_AT_ONCE or len(logmel_TF)
    step = FRAMES_AT_ONCE if n >= FRAMES_AT_ONCE else 1
    mean_TF = logmel_TF[:n].reshape(-1, step, logmel_TF.shape[1]).mean(axis=1)
    low, high = np.quantile(mean_TF, [0.02, 0.995])
    grey_TF = np.clip((mean_TF - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    grey_FT = np.ascontiguousarray(grey_TF.T[::-1])
    return {"columns": grey_FT.shape[1], "rows": grey_FT.shape[0], "grey": base64.b64encode(grey_FT.tobytes()).decode()}


def _audio(corpus: Path, split: str, wanted: set[str]) -> dict[str, str | None]:
    """MP3 by id of a cut; None where the recording is not there any more, or its archive was dropped."""
    out: dict[str, str | None] = dict.fromkeys(wanted)
    left = set(wanted)
    for cut in manifests.iter_cuts(corpus, split):
        if cut.id not in left:
            continue
        left.discard(cut.id)
        source, wished = cut.recording.sources[0], [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
        channels = None if wished == list(source.channels) else tuple(source.channels.index(c) for c in wished)
        try:
            (samples,) = pieces.read(source.source, RATE_HZ, [_Piece(float(cut.start), float(cut.duration), channels)])
            out[cut.id] = _mp3(samples * (cut.custom or {}).get("gain", 1.0)) if len(samples) else None
        except (BirqError, OSError):
            pass
        if not left:
            break
    return out


def samples(corpora: Sequence[Path], features: Sequence[Path], split: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By id: `picture` of the log-mel, and `audio` as MP3 in base64 or None.

    corpora, features: folders of the corpora that are scored.
    """
    out: dict[str, dict[str, Any]] = {}
    for corpus, folder in zip(corpora, features, strict=True) if ids else ():
        opened = shards.open_split([folder], split)
        position = {id: i for i, id in enumerate(opened.ids)}
        # like ids of two corpora have the corpus' name in front
        own = {plain: id for id in ids if (plain := id.removeprefix(f"{corpus.name}/")) in position}
        audio = _audio(corpus, split, set(own))
        out |= {id: {"picture": _picture(opened.logmel(position[plain])), "audio": audio[plain]} for plain, id in own.items()}
    return out
