"""From audio in memory to text: `birq.load("data/finetune/birq-0").transcribe(samples, 16000)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch

from birq.recognise.beam import Beam
from birq.recognise.greedy import greedy
from birq.saved import recogniser
from birq.speech.batches import sequential
from birq.speech.utterances import InMemory
from birq.use import encoder
from birq.use.cutting import Piece, join, pieces
from birq.use.samples import checked
from birq.use.words import Word, timed

BATCH_SECONDS = 240.0
Name = TypeVar("Name")


@dataclass(frozen=True)
class Heard:
    """What a piece says: words with times in the recording, and its n best texts with their scores, best first.

    Greedy decoding has one text, without a score. cut_s, end_s: of the piece.
    """

    words: list[Word]
    n_best: list[tuple[str, float | None]]
    cut_s: float
    end_s: float


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording, and the pieces that it was cut into."""

    words: list[Word]
    pieces: list[Heard]

    @classmethod
    def of(cls, heard: Sequence[Heard]) -> Transcript:
        """All pieces of a recording, in order."""
        return cls(join((h.cut_s, h.words) for h in heard), list(heard))

    @property
    def text(self) -> str:
        return " ".join(w.text for w in self.words)

    @property
    def seconds(self) -> float:
        """How long the recording is."""
        return self.pieces[-1].end_s if self.pieces else 0.0


@dataclass
class Recogniser(recogniser.Recogniser):
    """A saved recogniser that takes samples."""

    beam: Beam | None = field(default=None, kw_only=True)  # the search with a language model; None: greedy decoding
    folders: list[Path] = field(default_factory=list, kw_only=True)  # from which model and language model were loaded

    @overload
    def transcribe(self, recordings: np.ndarray, rate_hz: int) -> Transcript: ...
    @overload
    def transcribe(self, recordings: Sequence[tuple[np.ndarray, int]], *, batch_seconds: float = ...) -> list[Transcript]: ...
    def transcribe(self, recordings, rate_hz=None, *, batch_seconds=BATCH_SECONDS):  # type: ignore[no-untyped-def]
        """What is said in a recording, or in each of several, given as pairs: mono samples [n] in [-1, 1], and their rate in Hz.

        The text of up to 35 s is that of the pipeline's decode, or of its search, for the same audio; longer recordings are cut where they
        are quietest. A recording of less than one encoder frame has the text "".
        Errors: BirqError for samples of another shape, type or range.
        """
        many = [(recordings, rate_hz)] if rate_hz is not None else recordings
        cut = ((i, piece) for i, (samples, rate) in enumerate(many) for piece in pieces([checked(samples)], rate))
        heard: dict[int, list[Heard]] = {i: [] for i in range(len(many))}
        for i, h in self.hear(cut, batch_seconds):
            heard[i].append(h)
        made = [Transcript.of(h) for h in heard.values()]
        return made[0] if rate_hz is not None else made

    def encode(self, samples: np.ndarray, rate_hz: int, layer: int | None = None) -> np.ndarray:
        """Outputs of a layer of the fine-tuned encoder, from 1 (None: the last), for mono samples [n] in [-1, 1]: [N, D] float32."""
        return encoder.vectors(self.model.encoder, self.front_end, samples, rate_hz, layer)

    def hear(self, cut: Iterable[tuple[Name, Piece]], batch_seconds: float = BATCH_SECONDS) -> Iterator[tuple[Name, Heard]]:
        """Decode pieces, each with a name for it, in their order, in batches of about `batch_seconds`; more of them are not held."""
        for _, group in groupby(_numbered(cut, batch_seconds), key=lambda g: g[0]):
            names, held = zip(*(named for _, named in group), strict=True)
            yield from zip(names, self._batch(list(held), batch_seconds), strict=True)

    @torch.inference_mode()
    def _batch(self, cut: list[Piece], batch_seconds: float) -> list[Heard]:
        utterances = InMemory([(p.samples, p.rate_hz) for p in cut], self.front_end)
        index = np.flatnonzero(utterances.n_frames >= self.front_end.n_stack)
        found = [Heard([], [("", None)], p.cut_s, p.end_s) for p in cut]
        if not len(index):
            return found
        longest = self.front_end.seconds(utterances.n_frames.max())
        device, blank = encoder.device_of(self.model), self.model.blank
        for batch in sequential(utterances, index, self.front_end, max(batch_seconds, longest)):
            logp_BTV, lengths_B = self.model(batch.feats_BTF.to(device), batch.lengths_B.to(device))
            rows = logp_BTV.float().cpu().numpy()
            best = greedy(logp_BTV, lengths_B, blank)
            for i, row, n, ids in zip(batch.index.tolist(), rows, lengths_B.tolist(), best, strict=True):
                found[i] = self._heard(row[:n], ids, cut[i])
        return found

    def _heard(self, logp_TV: np.ndarray, ids: list[int], piece: Piece) -> Heard:
        frame_s = self.front_end.encoder_shift_ms / 1000
        # a log-mel frame is longer than its shift: the shift's middle is the frame's
        about = self.front_end.about
        first_s = piece.begin_s + (about["frame_length_ms"] - about["frame_shift_ms"]) / 2000
        if self.beam is None:
            words = timed(logp_TV, ids, self.tokenizer, frame_s, first_s)
            return Heard(words, [(" ".join(w.text for w in words), None)], piece.cut_s, piece.end_s)
        found = self.beam(logp_TV)
        ids = self.tokenizer.encode(found.texts[0])
        words = timed(logp_TV, ids, self.tokenizer, frame_s, first_s, found.word_confidences)
        return Heard(words, list(zip(found.texts, found.scores, strict=True)), piece.cut_s, piece.end_s)


def _numbered(cut: Iterable[tuple[Name, Piece]], batch_seconds: float) -> Iterator[tuple[int, tuple[Name, Piece]]]:
    """Pieces with the number of their batch."""
    number, seconds = 0, 0.0
    for name, piece in cut:
        if seconds and seconds + piece.seconds > batch_seconds:
            number, seconds = number + 1, 0.0
        seconds += piece.seconds
        yield number, (name, piece)
