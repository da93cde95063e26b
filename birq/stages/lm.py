"""The lm stage: an n-gram of words, from the transcripts that fine-tuning hears, from a text file, or from an ARPA file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from birq.downloads import ngrams
from birq.errors import BirqError
from birq.pipeline.stage import Job
from birq.progress import say
from birq.recognise.lm import ARPA, END_WORD, FACTS, WORDS, library
from birq.settings.decoding import Lm, with_lm
from birq.settings.paths import expanded
from birq.speech.batches import labelled_subset
from birq.speech.shards import open_split
from birq.text import arpa, normal
from birq.text.ngram import NGram


def compute(job: Job) -> None:
    """Write lm.json and, where there is a language model, lm.arpa and words.txt: the words that the search may find.

    Errors: BirqError for a file that is no n-gram of words over the alphabet, and where the library that searches is not installed: it is
    better known before the trainings than after them.
    """
    section: Lm = job.read("lm")
    facts: dict[str, Any] = {"source": "none"}
    if with_lm(section, job.read("tokenizer").alphabet):
        library()
        facts |= _model(job, section)
        say(f"{job.name}  {facts['order']}-gram of {facts['words']:,} words, {sum(facts['n_grams']):,} n-grams; {_unknown(facts)}")
    elif section.kind != "none":
        say(f"{job.name}  tokenizer.alphabet has no space, so there are no words for a language model: decoding is greedy alone")
    (job.out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    job.notes.update(facts)


def _model(job: Job, section: Lm) -> dict[str, Any]:
    alphabet, language = job.read("tokenizer").alphabet, job.read("tokenizer").language
    train = open_split(job.inputs["features"], "train")
    heard = [train.texts[i] for i in labelled_subset(train, job.read("finetune.labelled_minutes"), seed=0)]
    path = _file(section)
    facts: dict[str, Any] = {"source": section.source if section.kind == "published" else section.kind}
    if path and arpa.is_arpa(path):
        facts |= {"source": "arpa"} if section.kind == "file" else {}
        standard = path
    else:
        texts = _Lines(path, normal.Normaliser(alphabet, language)) if path else heard
        standard = job.scratch / "standard.arpa"
        _trained(texts, section, alphabet).write(standard)
        facts |= {"sentences": texts.kept, "left_out": texts.left_out} if path else {"sentences": len(heard)}
    made = arpa.copy(standard, job.out / ARPA, partial(normal.lower, language=language), alphabet, END_WORD)
    (job.out / WORDS).write_text("".join(f"{w}\n" for w in made.words), encoding="utf-8")
    facts |= {"order": len(made.n_grams), "n_grams": made.n_grams, "words": len(made.words), "outside_alphabet": made.outside}
    facts["unknown_share"] = _unknown_share(heard, made.words)
    if facts["unknown_share"] > arpa.HALF:
        units = f"an n-gram of characters ({', '.join(map(repr, made.words[:5]))}); the search needs one of whole words"
        why = units if made.of_letters else "is it of another language, or of other units than words?"
        raise BirqError(f"{path}: {_unknown(facts)}: {why}")
    return facts


def _file(section: Lm) -> Path | None:
    """What the n-gram is made from, if it is a file; a published one is downloaded where it is missing."""
    if section.kind == "published":
        return ngrams.fetch(section)
    return expanded(section.source) if section.kind == "file" else None


def _trained(texts: Any, section: Lm, alphabet: str) -> NGram:
    try:
        return NGram(texts, section.order)
    except ValueError:
        raise BirqError(f"lm.source: {section.source!r} has no sentence with words over tokenizer.alphabet {alphabet!r}") from None


class _Lines:
    """Sentences of a text file, one a line, in the normal form of transcripts; lines with other characters are left out and counted."""

    def __init__(self, path: Path, normaliser: normal.Normaliser):
        self.path, self.normaliser, self.kept, self.left_out = path, normaliser, 0, 0

    def __iter__(self) -> Iterator[str]:
        with arpa.opened(self.path) as file:
            for line in file:
                text = self.normaliser(line).text
                if self.normaliser.outside(text) or not text:
                    self.left_out += bool(line.strip())
                    continue
                self.kept += 1
                yield text


def _unknown_share(texts: list[str], words: list[str]) -> float:
    """Share of the words of the transcripts that the language model does not know."""
    known, said = set(words), [w for t in texts for w in t.split()]
    return round(sum(w not in known for w in said) / max(1, len(said)), 6)


def _unknown(facts: dict[str, Any]) -> str:
    return f"{100 * facts['unknown_share']:.1f} % of the words in the transcripts of fine-tuning are not in it"
