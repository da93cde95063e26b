"""Which model is meant, and its language model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from birq import files
from birq.errors import BirqError
from birq.recognise import lm
from birq.recognise.beam import Beam
from birq.saved import encoder, recogniser
from birq.settings.decoding import Search
from birq.text.tokenizer import Tokenizer
from birq.use.encoder import Encoder
from birq.use.recogniser import Recogniser

MADE = Path("data/finetune")  # of a project
SEARCH = "search.json"  # weights of a language model, chosen on dev


@dataclass(frozen=True)
class Weights:
    """Of a search; None: as they were chosen on dev, else the defaults of params.yaml."""

    weight: float | None = None
    bonus: float | None = None
    beam: int | None = None
    n_best: int = 1


def either(model: Path | str | None = None, language_model: Path | str | bool | None = None) -> Recogniser | Encoder:
    """A recogniser as `load` gives it; of a folder that was only pre-trained, its encoder. Errors: as `load`."""
    if model is not None and (Path(model) / encoder.FILE).is_file() and not (Path(model) / recogniser.FILE).is_file():
        return Encoder.load(Path(model))
    return load(model, language_model)


def load(model: Path | str | None = None, language_model: Path | str | bool | None = None, weights: Weights = Weights()) -> Recogniser:
    """A recogniser: that of a folder, or the one of this project with the lowest dev WER.

    language_model: a folder with lm.arpa and words.txt; None: that of the model, where there is one and its library is installed;
    False: none, so greedy decoding; True: that of the model, or an error.
    Errors: BirqError for a folder that holds no recogniser, and a language model of other units.
    """
    folder = Path(model) if model is not None else best()
    made = _recogniser(folder)
    made.folders.append(folder)
    if language_model is False:
        return made
    found = Path(language_model) if language_model not in (None, True) else own_lm(folder)
    if found is None:
        if language_model is True:
            raise BirqError(f"{folder} has no language model; name a folder that holds {lm.ARPA} and {lm.WORDS}")
        return made
    try:
        made.beam = _beam(found, tuned(folder) if found == own_lm(folder) else {}, weights, made.tokenizer)
    except BirqError:
        if language_model is None and not _installed():
            return made
        raise
    made.folders.append(found)
    return made


def _recogniser(folder: Path) -> Recogniser:
    if not folder.is_dir():
        raise BirqError(f"{folder}: no such folder; a model is a folder such as {MADE}/birq-0")
    if not (folder / recogniser.FILE).is_file():
        if (folder / encoder.FILE).is_file():
            raise BirqError(f"{folder}: an encoder that was only pre-trained; give the fine-tuned one, {MADE}/{folder.name}")
        raise BirqError(f"{folder}: holds no {recogniser.FILE}; a model is a folder such as {MADE}/birq-0")
    try:
        return Recogniser.load(folder)
    except (KeyError, TypeError, RuntimeError, AttributeError) as e:
        why = str(e).splitlines()[0] if not isinstance(e, KeyError) else f"config.json has no {e}"
        raise BirqError(f"{folder}: a model of another version of birq ({why}); load it with the birq that made it") from None


def best() -> Path:
    """The project's recogniser with the lowest dev WER. Errors: BirqError where there is none."""
    found = {path.parent: dev_wer(path.parent) for path in sorted(MADE.glob(f"*/{recogniser.FILE}"))}
    if not found:
        raise BirqError(f"no model: {MADE} holds none. Make one with `snakemake --cores all`, or name a folder with --model")
    return min(found, key=lambda folder: found[folder])


def dev_wer(folder: Path) -> float:
    """The lowest WER on dev while a model was fine-tuned, a share; infinite where nothing tells it."""
    try:
        lines = (folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        return min(float(wer) for line in lines if (wer := json.loads(line).get("dev_wer")) is not None)
    except (OSError, ValueError):
        return float("inf")


# ---- its language model


def own_lm(folder: Path) -> Path | None:
    """The language model in a model's folder, or of the project in which the model lies."""
    return next((place for place in (folder / "lm", project(folder) / "lm") if (place / lm.ARPA).is_file()), None)


def project(folder: Path) -> Path:
    """`data` of `data/finetune/birq-0`."""
    return Path(os.path.normpath(folder / ".." / ".."))


def tuned(folder: Path) -> dict[str, float]:
    """Weight and bonus that were chosen on dev for a model."""
    for path in (folder / "lm" / SEARCH, project(folder) / "search" / folder.name / SEARCH):
        if path.is_file():
            return {key: value for key, value in files.read_json(path).items() if key in ("weight", "bonus", "beam")}
    return {}


def _installed() -> bool:
    try:
        lm.library()
    except BirqError:
        return False
    return True


def _beam(folder: Path, tuned: dict[str, float], asked: Weights, tokenizer: Tokenizer) -> Beam:
    try:
        words = (folder / lm.WORDS).read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as e:
        raise BirqError(f"{folder}: no language model ({e.strerror}: {lm.WORDS}); it is a folder such as data/lm") from None
    except UnicodeDecodeError as e:
        raise BirqError(f"{folder / lm.WORDS}: not UTF-8 ({e})") from None
    if not (folder / lm.ARPA).is_file():
        raise BirqError(f"{folder}: holds no {lm.ARPA}; a language model is a folder such as data/lm")
    strange = [w for w in words if not set(w) <= set(tokenizer.alphabet)]
    if not words or len(strange) > len(words) / 2:
        shown = f", such as {strange[0]!r}" if strange else ""
        raise BirqError(
            f"{folder}: the language model of another tokenizer: {len(strange)} of its {len(words)} words{shown} "
            f"cannot be spelled with the model's alphabet {tokenizer.alphabet!r}"
        )
    section = Search()
    weight, bonus, beam = (
        given if given is not None else tuned.get(key, default)
        for given, key, default in (
            (asked.weight, "weight", section.weights[0]),
            (asked.bonus, "bonus", section.bonuses[0]),
            (asked.beam, "beam", section.beam),
        )
    )
    return Beam(tokenizer.vocab, folder / lm.ARPA, words, Search(beam=int(beam), n_best=asked.n_best), float(weight), float(bonus))
