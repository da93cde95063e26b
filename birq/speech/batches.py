"""From utterances to batches: bucketed by length, packed to a budget of seconds, the same on every run of (seed, epoch)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from birq.errors import BirqError
from birq.speech.frontend import FrontEnd

WINDOW = 16384  # utterances sorted together: wide enough for little padding, narrow enough to mix


class Utterances(Protocol):
    """A source of utterances: shards, or memory."""

    ids: list[str]
    speakers: list[str]
    texts: list[str | None]
    n_frames: np.ndarray  # int64, log-mel frames of each
    duration_s: np.ndarray  # float64
    n_mels: int
    step: float  # nat per stored unit

    def __len__(self) -> int: ...

    def raw(self, i: int) -> np.ndarray:
        """Stored values [T, F] of utterance i."""
        ...


@dataclass
class Batch:
    """Some utterances, padded with exact zeros to a common length."""

    feats_BTF: torch.Tensor  # float32, normalised per bin by front_end.input_mean and the corpus' deviation; T is a multiple of n_stack
    lengths_B: torch.Tensor  # int64, in stacked frames: n_frames // n_stack; the remaining frames are cropped
    ids: list[str]
    texts: list[str | None]
    index: np.ndarray  # positions in the split
    seconds: float  # of audio in the micro-batch, all ranks, padding not counted
    first: int = 0  # utterances that other ranks hold before these, of the same micro-batch
    n_all_ranks: int | None = None  # utterances of the micro-batch, all ranks; None: only those here
    label_feats_BTF: torch.Tensor | None = None  # what labels are made from, by the corpus' mean; None: feats_BTF


def _cuts(sorted_frames: np.ndarray, budget: int) -> list[int]:
    """Ends of the runs that fill `budget` greedily; the last end is len(sorted_frames)."""
    total = np.cumsum(sorted_frames).tolist()
    ends, base, start = [], 0, 0
    while start < len(total):
        start = bisect_right(total, base + budget, start)
        base = total[start - 1]
        ends.append(start)
    return ends


def _pack(order: np.ndarray, frames: np.ndarray, budget: int) -> list[np.ndarray]:
    ends = _cuts(frames[order], budget)
    return [order[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _even_out(groups: list[np.ndarray], frames: np.ndarray, budget: int) -> None:
    """Share the last two groups evenly where the last is less than half full: the gradient of a few seconds is mostly noise."""
    if len(groups) < 2 or 2 * frames[groups[-1]].sum() >= budget:
        return
    both = np.concatenate(groups[-2:])
    both = both[np.argsort(frames[both], kind="stable")]
    total = np.cumsum(frames[both])
    cut = int(np.searchsorted(total, total[-1] / 2)) + 1
    if cut < len(both) and total[cut - 1] <= budget:
        groups[-2:] = [both[:cut], both[cut:]]


def plan(n_frames: np.ndarray, batch_frames: int, *, seed: int, epoch: int, window: int = WINDOW) -> list[np.ndarray]:
    """Batches of one epoch: every utterance in exactly one, none above `batch_frames` (padding not counted).

    Utterances are shuffled, sorted by length within windows and packed greedily. The rest of a window goes into the next one, so only
    the epoch's last batch can be short. Below half the budget it shares evenly with the one before it. Where one window holds everything,
    the sorted order is jittered by about a batch, so that batches differ between epochs. Then the order of the batches is shuffled.
    Errors: BirqError if an utterance is longer than a batch.
    """
    n_frames = np.asarray(n_frames, dtype=np.int64)
    if not len(n_frames):
        return []
    if n_frames.max() > batch_frames:
        raise BirqError(f"utterance {n_frames.argmax()} has {n_frames.max()} frames, a batch only {batch_frames}: raise batch_seconds")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    order = rng.permutation(len(n_frames))
    groups: list[np.ndarray] = []
    left = order[:0]
    for start in range(0, len(order), window):
        here = np.concatenate([left, order[start : start + window]])
        here = here[np.argsort(n_frames[here], kind="stable")]
        if len(order) <= window:
            here = here[np.argsort(np.arange(len(here)) + rng.uniform(0, batch_frames / n_frames.mean(), len(here)))]
        groups += _pack(here, n_frames, batch_frames)
        left = groups.pop()
    groups.append(left)
    _even_out(groups, n_frames, batch_frames)
    return [groups[i] for i in rng.permutation(len(groups))]


def shares(sorted_frames: np.ndarray, ranks: int) -> list[int]:
    """Ends of the runs in which `ranks` ranks share a micro-batch, lengths ascending, so that the largest padded share is smallest.

    Neighbours have similar lengths, so there is little padding. With fewer utterances than ranks, the first shares are empty.
    """

    def ends(budget: int) -> list[int]:
        out = [len(sorted_frames)]
        while out[-1]:
            out.append(max(0, out[-1] - budget // int(sorted_frames[out[-1] - 1])))
        return out[:-1]

    if ranks == 1 or not len(sorted_frames):
        return [len(sorted_frames)] * ranks
    low = int(sorted_frames[-1])
    high = low * -(-len(sorted_frames) // ranks)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(ends(middle)) <= ranks else (middle + 1, high)
    share_ends = ends(low)
    return [0] * (ranks - len(share_ends)) + share_ends[::-1]


def collate(utterances: Utterances, index: np.ndarray, front_end: FrontEnd) -> Batch:
    """Read and normalise the utterances at `index`: (raw * step - mean) / std, zeros beyond each length.

    An utterance's own mean is that of the stored values in float64, over the frames that the encoder gets. Of no utterances, a batch of
    one frame and no rows.
    """
    n_stack = front_end.n_stack
    lengths = utterances.n_frames[index] // n_stack
    longest = int(lengths.max(initial=1)) * n_stack
    feats_BTF = np.empty((len(index), longest, utterances.n_mels), np.float32)
    own_BTF = np.zeros_like(feats_BTF) if front_end.input_mean == "utterance" else None
    scale_F = torch.from_numpy(np.float32(utterances.step) / front_end.std_F)
    shift_F = torch.from_numpy(front_end.mean_F / front_end.std_F)
    out_BTF = torch.from_numpy(feats_BTF)
    for b, (i, n) in enumerate(zip(index.tolist(), (lengths * n_stack).tolist(), strict=True)):
        raw_TF = utterances.raw(i)[:n]
        feats_BTF[b, :n] = raw_TF
        out_BTF[b, :n].mul_(scale_F).sub_(shift_F)  # while the row is in cache
        feats_BTF[b, n:] = 0
        if own_BTF is not None:
            own_BTF[b, :n] = (raw_TF - raw_TF.mean(0, dtype=np.float64)) * scale_F.numpy()
    return Batch(
        feats_BTF=out_BTF if own_BTF is None else torch.from_numpy(own_BTF),
        lengths_B=torch.from_numpy(lengths.copy()),
        ids=[utterances.ids[i] for i in index],
        texts=[utterances.texts[i] for i in index],
        index=np.asarray(index),
        seconds=front_end.seconds(utterances.n_frames[index].sum()),
        label_feats_BTF=None if own_BTF is None else out_BTF,
    )


def _check(utterances: Utterances, index: np.ndarray, front_end: FrontEnd, **limits: float) -> None:
    """Errors: BirqError for an utterance above a limit in seconds, below one stacked frame, or for nothing at all."""
    if not len(index):
        raise BirqError("no utterances to make batches of: the split is empty; check the corpus' splits in its corpus.json")
    frames = utterances.n_frames[index]
    longest, shortest = index[frames.argmax()], index[frames.argmin()]
    for key, seconds in limits.items():
        if frames.max() > front_end.n_frames(seconds):
            name, length = utterances.ids[longest], front_end.seconds(frames.max())
            raise BirqError(f"utterance {name} lasts {length:.2f} s, but {key} is {seconds:g}: raise it, or lower features.max_seconds")
    if frames.min() < front_end.n_stack:
        name, least = utterances.ids[shortest], front_end.n_stack
        raise BirqError(f"utterance {name} has {frames.min()} frames, fewer than model.n_stack = {least}: raise features.min_seconds")


class Feed:
    """Micro-batches for training: one list per optimiser step, `batch_seconds` of audio in all, `micro_batch_seconds` in each at most.

    `index`: which utterances take part. Of `ranks` processes, number `rank` gets its share of every micro-batch, which may hold no
    utterance: steps and micro-batches are the same for any number of ranks. Errors: BirqError if an utterance is longer than a micro-batch.
    """

    def __init__(
        self,
        utterances: Utterances,
        index: np.ndarray,
        front_end: FrontEnd,
        *,
        batch_seconds: float,
        micro_batch_seconds: float,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.rank, self.ranks = rank, ranks
        self.utterances, self.index, self.front_end = utterances, np.asarray(index, dtype=np.int64), front_end
        self.seed = seed
        _check(utterances, self.index, front_end, batch_seconds=batch_seconds, micro_batch_seconds=micro_batch_seconds)
        self.batch_frames, self.micro_frames = front_end.n_frames(batch_seconds), front_end.n_frames(micro_batch_seconds)
        self._planned: tuple[int, list[np.ndarray]] = (-1, [])

    def _plan(self, epoch: int) -> list[np.ndarray]:
        if self._planned[0] != epoch:
            groups = plan(self.utterances.n_frames[self.index], self.batch_frames, seed=self.seed, epoch=epoch)
            self._planned = (epoch, [self.index[g] for g in groups])
        return self._planned[1]

    def n_batches(self, epoch: int) -> int:
        """Optimiser steps in an epoch; it may differ by one or two between epochs."""
        return len(self._plan(epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Batch]]:
        """The epoch's steps from `start` on, read lazily; they depend on (seed, epoch) alone, so a resumed run sees the same ones."""
        n_frames = self.utterances.n_frames
        for group in self._plan(epoch)[start:]:
            group = group[np.argsort(n_frames[group], kind="stable")]
            parts = _pack(group, n_frames, self.micro_frames)
            _even_out(parts, n_frames, self.micro_frames)
            yield [self._share(p) for p in parts]

    def _share(self, part: np.ndarray) -> Batch:
        n_frames = self.utterances.n_frames[part]
        first, end = (0, *shares(n_frames, self.ranks))[self.rank : self.rank + 2]
        batch = collate(self.utterances, part[first:end], self.front_end)
        return replace(batch, seconds=self.front_end.seconds(n_frames.sum()), first=first, n_all_ranks=len(part))


def sequential(
    utterances: Utterances, index: np.ndarray, front_end: FrontEnd, batch_seconds: float, rank: int = 0, ranks: int = 1
) -> Iterator[Batch]:
    """Every utterance once, longest first, for decoding. Ranks take turns by batch, and all get the same number of batches.

    Errors as for `Feed`.
    """
    index = np.asarray(index, dtype=np.int64)
    _check(utterances, index, front_end, batch_seconds=batch_seconds)
    order = index[np.argsort(-utterances.n_frames[index], kind="stable")]
    groups = _pack(order, utterances.n_frames, front_end.n_frames(batch_seconds))
    groups += [order[:0]] * (-len(groups) % ranks)
    for group in groups[rank::ranks]:
        yield collate(utterances, group, front_end)


def labelled_subset(split: Utterances, minutes: float, seed: int) -> np.ndarray:
    """Positions of transcribed utterances, ascending, at least `minutes` of speech if the split has so much.

    Speakers take turns in a seeded order, so few minutes still hold many voices. A smaller subset is part of a larger one.
    Errors: BirqError if no utterance has a transcript.
    """
    labelled = np.array([i for i, text in enumerate(split.texts) if text], dtype=np.int64)
    if not len(labelled):
        raise BirqError("no labelled speech in the train split: fine-tuning needs a corpus with transcripts in run.finetune_corpora")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x1ABE1])))
    labelled = labelled[np.argsort(np.array([split.ids[i] for i in labelled]), kind="stable")]  # shard order does not matter
    labelled = labelled[rng.permutation(len(labelled))]
    _, speaker = np.unique(np.array([split.speakers[i] for i in labelled]), return_inverse=True)
    speaker_rank = rng.permutation(speaker.max() + 1)[speaker]
    by_speaker = np.argsort(speaker_rank, kind="stable")
    counts = np.bincount(speaker_rank)
    turn = np.empty(len(speaker_rank), np.int64)
    turn[by_speaker] = np.arange(len(speaker_rank)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = labelled[np.lexsort((speaker_rank, turn))]
    seconds = np.cumsum(split.duration_s[order])
    n = int(np.searchsorted(seconds, minutes * 60 - 1e-9)) + 1
    return np.sort(order[:n])
