"""`birq transcribe`: files and folders in, transcripts out. What one file lacks does not stop the others."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from birq import files
from birq.corpora import tree
from birq.errors import BirqError
from birq.progress import Progress, say
from birq.speech.streams import AudioError, shown
from birq.train.runtime.devices import choose_attention
from birq.use import models, sound
from birq.use.cutting import LONGEST_S, Piece, pieces
from birq.use.formats import FORMATS
from birq.use.recogniser import BATCH_SECONDS, Heard, Recogniser, Transcript

STDIN = "-"
SHORTEST_S = 5.0  # of the longest piece


@dataclass(frozen=True)
class Source:
    """A file to hear. name: as messages and outputs call it; stem: of its outputs, with the folders below the one that was given."""

    path: Path
    name: str
    stem: Path


@dataclass
class Run:
    """One call of the verb."""

    recogniser: Recogniser
    formats: Sequence[str]
    out: Path | None = None  # None: to standard output
    longest_s: float = LONGEST_S
    batch_seconds: float = BATCH_SECONDS
    skip: bool = False  # files whose outputs are there and younger
    overwrite: bool = False  # outputs that are there; else they are left alone, and said
    problems: int = 0

    def __call__(self, given: Sequence[str]) -> int:
        """Transcribe all of it. Returns the number of files that were not transcribed to their end."""
        with contextlib.ExitStack() as stack:
            todo = self._distinct(self._sources(given, stack))
            for source, heard, problem in self._found(todo):
                self._finish(source, Transcript.of(heard), problem, alone=len(todo) == 1)
        return self.problems

    def _problem(self, text: str) -> None:
        self.problems += 1
        say(f"error: {text}")

    # ---- what to hear

    def _sources(self, given: Sequence[str], stack: contextlib.ExitStack) -> Iterator[Source]:
        """Files as given, and the audio and video files of folders."""
        for name in given:
            path = Path(name)
            if name == STDIN:
                kept = sound.standard_input()
                stack.callback(kept.unlink)
                yield Source(kept, "standard input", Path("stdin"))
            elif path.is_dir():
                found = tree.read(path)
                for problem in found.problems:
                    self._problem(f"{shown(path / problem.path)}: {problem.reason}" + (f" ({problem.detail})" if problem.detail else ""))
                heard = list(found.ending((*tree.SUFFIXES, *tree.UNREAD)))
                if not heard:
                    self._problem(f"{shown(path)}: no audio file in it")
                yield from (Source(path / f, shown(path / f), Path(f).with_suffix("")) for f in heard)
            else:
                yield Source(path, shown(path), Path(path.stem))

    def _distinct(self, sources: Iterator[Source]) -> list[Source]:
        """Without those that are done, and without a second file that would overwrite the output of a first one."""
        if self.out is None:
            return list(sources)
        by_stem: dict[Path, Source] = {}
        for source in sources:
            if (other := by_stem.setdefault(source.stem, source)) is not source:
                self._problem(f"{source.name}: its output would overwrite that of {other.name}; transcribe it into another folder")
        return [s for s in by_stem.values() if not (self.skip and self._done(s)) and self._free(s)]

    def _done(self, source: Source) -> bool:
        try:
            return all(self._output(source, f).stat().st_mtime >= source.path.stat().st_mtime for f in self.formats)
        except OSError:
            return False

    def _free(self, source: Source) -> bool:
        """Whether nothing would be overwritten: a text of that name may be the user's own."""
        there = [] if self.overwrite else [path for f in self.formats if os.path.lexists(path := self._output(source, f))]
        if there:
            self._problem(f"{source.name}: {shown(there[0])} is there; --overwrite replaces it, --skip leaves out what is done")
        return not there

    def _output(self, source: Source, kind: str) -> Path:
        assert self.out is not None
        return self.out / source.stem.with_name(f"{source.stem.name}.{kind}")

    # ---- hear it

    def _found(self, sources: Sequence[Source]) -> Iterator[tuple[Source, list[Heard], str]]:
        """Every source, in order, when all of it is heard, and what is wrong with it."""
        progress, seconds = Progress("transcribe", len(sources), "file"), 0.0
        heard: list[Heard] = []
        for (i, problem), h in self.recogniser.hear(self._pieces(sources), self.batch_seconds):
            if problem is None:
                heard.append(h)
                progress.update(i, minutes_of_speech=(seconds + h.end_s) / 60)
            else:
                seconds += heard[-1].end_s if heard else 0.0
                yield sources[i], heard, problem
                heard = []
        if sources:
            progress.update(len(sources), minutes_of_speech=seconds / 60)
            progress.close()

    def _pieces(self, sources: Sequence[Source]) -> Iterator[tuple[tuple[int, str | None], Piece]]:
        """Pieces of all sources by their number; a last, empty piece of each carries what is wrong with it, or nothing."""
        rate_hz = self.recogniser.front_end.about["sample_rate_hz"]
        for i, source in enumerate(sources):
            problem = ""
            try:
                yield from (((i, None), piece) for piece in _cut(source.path, rate_hz, self.longest_s))
            except AudioError as e:
                problem = str(e).replace(str(source.path), "the file")
            yield (i, problem), Piece(sound.NOTHING, rate_hz, 0.0, 0.0)

    # ---- write it

    def _finish(self, source: Source, transcript: Transcript, problem: str, alone: bool) -> None:
        if problem:
            self._problem(
                f"{source.name}: {problem}" + (f"; the {transcript.seconds:.1f} s before it are transcribed" * bool(transcript.pieces))
            )
            if not transcript.pieces:
                return
        if self.out is None:
            text = FORMATS[self.formats[0]](transcript, source.name)
            if self.formats[0] == "txt" and not alone:
                text = f"{source.name}\t{text}"
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        for kind in self.formats:
            path = self._output(source, kind)
            try:
                files.write_text(path, FORMATS[kind](transcript, source.name))
            except OSError as e:
                self._problem(f"{source.name}: {path} cannot be written ({e.strerror})")
                return


def _cut(path: Path, rate_hz: int, longest_s: float) -> Iterator[Piece]:
    blocks = sound.blocks(path, rate_hz)
    first = next(blocks, None)
    if first is None:
        raise AudioError("empty", "no samples")
    rate, block = first
    damage: list[AudioError] = []

    def heard() -> Iterator[np.ndarray]:
        """To the damage, if there is any: the last piece ends there."""
        yield block
        try:
            yield from (b for _, b in blocks)
        except AudioError as e:
            damage.append(e)

    yield from pieces(heard(), rate, longest_s)
    if damage:
        raise damage[0]


def command(
    given: Sequence[str],
    formats: Sequence[str],
    out: Path | None,
    piece_seconds: float,
    skip: bool,
    overwrite: bool,
    *,
    model: str | None,
    lm: str | None,
    greedy: bool,
    lm_weight: float | None,
    word_bonus: float | None,
    beam: int | None,
    n_best: int,
) -> int:
    """The verb: exit status 0, or 1 where a file was not transcribed to its end. Errors: BirqError for options that do not go together."""
    if strange := [f for f in formats if f not in FORMATS]:
        raise BirqError(f"--format {strange[0]}: legal are {', '.join(FORMATS)}, several with commas between")
    if out is None and len(formats) > 1:
        raise BirqError(f"--format {','.join(formats)}: several go into a folder only; add --output FOLDER")
    if out is not None and out.exists() and not out.is_dir():
        raise BirqError(f"--output {out}: is a file; name a folder")
    if not SHORTEST_S <= piece_seconds < math.inf:
        raise BirqError(f"--piece-seconds {piece_seconds:g}: must be at least {SHORTEST_S:g}, to find a quiet place in a piece")
    if min(n_best, beam or 1) < 1:
        raise BirqError(f"--n-best {n_best}, --beam {beam}: must be at least 1")
    weights = models.Weights(lm_weight, word_bonus, beam, n_best)
    recogniser = models.load(model, False if greedy else lm, weights)
    if recogniser.beam is None and weights != models.Weights():
        raise BirqError("--n-best, --beam, --lm-weight and --word-bonus are the search's, and there is no language model to search with")
    choose_attention()
    recogniser.model.to("cuda" if torch.cuda.is_available() else "cpu")
    say("  ".join(["transcribe", *map(str, recogniser.folders), *["greedy"] * (recogniser.beam is None)]))
    return int(Run(recogniser, formats, out, piece_seconds, skip=skip, overwrite=overwrite)(given) > 0)
