"""The steps of trainings whose length is in epochs, before any batch is made: from hours of speech, to about one in a hundred."""

from __future__ import annotations

from pathlib import Path

from birq.pipeline import dag
from birq.settings.corpora import Corpus
from birq.settings.params import Optimisation, Params
from birq.speech.shards import open_split
from birq.train.epochs import in_steps

LIBRISPEECH_HOURS = {  # openslr.org/12; the names of Libri-light's
    "train-clean-100": 100.6,
    "train-clean-360": 363.6,
    "train-other-500": 496.7,
    "dev-clean": 5.4,
    "dev-other": 5.3,
    "test-clean": 5.4,
    "test-other": 5.1,
    "libri-light-10h": 10.0,
    "libri-light-1h": 1.0,
    "libri-light-10min": 1 / 6,
}


def librispeech_hours(parts: list[str]) -> float:
    """As published; a part that is not LibriSpeech's own counts nothing."""
    return sum(LIBRISPEECH_HOURS.get(part, 0.0) for part in parts)


def _train_share(corpus: Corpus) -> float:
    """The part of a corpus' speech that its train split gets, if speakers talk equally long."""
    if corpus.kind == "synth":
        return corpus.train_hours / (corpus.train_hours + corpus.dev_hours + corpus.test_hours)
    if corpus.kind != "librispeech":
        return 1 - corpus.dev_share - corpus.test_share
    drawn = (0.0 if corpus.dev_parts else corpus.dev_share) + (0.0 if corpus.test_parts else corpus.test_share)
    train = librispeech_hours(corpus.train_parts)
    whole = train + librispeech_hours([*corpus.dev_parts, *corpus.test_parts])
    return (1 - drawn) * (train / whole if whole else 1.0)


def train_hours(params: Params, role: str, hours: dict[str, float]) -> float:
    """Of the train splits of the corpora with a role, from their features where these are made. `hours`: of whole corpora, by name."""
    total = 0.0
    for name in dag.corpora_for(role, params):
        folder = Path("data/features") / name
        made = folder.exists()
        total += float(open_split([folder], "train").duration_s.sum()) / 3600 if made else hours[name] * _train_share(params.corpora[name])
    return total


def lengths_in_steps(params: Params, stage: str, hours: dict[str, float], utterance_seconds: float) -> Optimisation:
    """The section of pretrain or finetune with its lengths in steps. A batch lacks half an utterance of its seconds on average."""
    section: Optimisation = getattr(params, stage)

    def epoch_steps() -> float:
        speech = train_hours(params, stage, hours)
        speech = min(speech, params.finetune.labelled_minutes / 60) if stage == "finetune" else speech
        return speech * 3600 / max(section.batch_seconds - utterance_seconds / 2, section.batch_seconds / 2)

    return in_steps(section, epoch_steps)
