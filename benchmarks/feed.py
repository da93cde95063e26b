"""An epoch of training batches: lengths bucketed, read from disk, padded. And the plan of an epoch of a large corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.harness import Contender, Part, peak_mib, race
from birq.speech import fbank as features
from birq.speech import shards
from birq.speech.batches import Feed, plan
from birq.speech.frontend import FrontEnd
from birq.speech.shards import open_split

BATCH_SECONDS = 400.0
LIBRISPEECH = 281_241  # utterances in the 960 h of LibriSpeech's train splits
FIVE_THOUSAND_HOURS = 1_500_000


# ---- an epoch from disk


class OnDisk:
    """The same log-mel three times: birq's shards, lhotse's numpy files, lhotse's lilcom archive; and once more as one flat file."""

    def __init__(self, scratch: Path, quick: bool):
        from lhotse import CutSet, LilcomChunkyWriter, NumpyFilesWriter

        self.source, files = inputs.speech(scratch, 60 if quick else 392)
        self.copies = 1 if quick else 2
        logmels = [features.fbank(w).numpy() for w in inputs.waves(files)]
        (scratch / "lilcom").mkdir()
        self.cuts: dict[str, CutSet] = {}
        for name, writer in {
            "numpy": NumpyFilesWriter(scratch / "numpy"),
            "lilcom": LilcomChunkyWriter(scratch / "lilcom" / "feats"),
        }.items():
            with writer:
                self.cuts[name] = CutSet.from_cuts([_cut(f"{c}-{i}", x, writer) for c in range(self.copies) for i, x in enumerate(logmels)])
        rows = [
            {"id": f"{c}-{i}", "speaker": "s", "text": None, "duration_s": len(x) / 100, "fbank": x}
            for c in range(self.copies)
            for i, x in enumerate(logmels)
        ]
        shards.write_shard(scratch / "birq" / "train" / "00000.parquet", rows, shards.metadata())
        self.split = open_split([scratch / "birq"], "train")
        with open(scratch / "flat", "wb") as f:
            for i in range(len(self.split)):
                f.write(self.split.raw(i).tobytes())
        self.flat = np.memmap(scratch / "flat", np.int16, mode="r").reshape(-1, 80)
        every = np.concatenate(logmels)
        self.mean_F, self.std_F = every.mean(0), every.std(0)

    def feed(self) -> Feed:
        sizes = {"batch_seconds": BATCH_SECONDS, "micro_batch_seconds": BATCH_SECONDS}
        front_end = FrontEnd({"frame_shift_ms": 10.0, "n_mels": 80}, self.mean_F, self.std_F, n_stack=4)
        return Feed(self.split, np.arange(len(self.split)), front_end, **sizes, seed=0)

    def global_mvn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """lhotse's own normalisation, with the statistics that birq's feed uses."""
        from lhotse.dataset.signal_transforms import GlobalMVN

        transform = GlobalMVN(feature_dim=80)
        transform.norm_means.copy_(torch.from_numpy(self.mean_F))
        transform.norm_stds.copy_(torch.from_numpy(self.std_F))
        return transform


def _cut(name: str, logmel_TF: np.ndarray, writer):
    """A lhotse cut whose features the writer has stored."""
    from lhotse import Features, MonoCut, SupervisionSegment

    seconds = len(logmel_TF) / 100
    stored = Features(
        type="fbank",
        num_frames=len(logmel_TF),
        num_features=80,
        frame_shift=0.01,
        sampling_rate=inputs.RATE,
        start=0,
        duration=seconds,
        storage_type=writer.name,
        storage_path=str(writer.storage_path),
        storage_key=writer.write(name, logmel_TF),
        recording_id=name,
        channels=0,
    )
    supervision = SupervisionSegment(id=name, recording_id=name, start=0, duration=seconds, channel=0, text="")
    return MonoCut(id=name, start=0, duration=seconds, channel=0, features=stored, supervisions=[supervision])


class Lhotse:
    """DynamicBucketingSampler and K2SpeechRecognitionDataset on precomputed features, a new epoch at every call."""

    def __init__(self, cuts, transforms: list[Callable[[torch.Tensor], torch.Tensor]] | None = None) -> None:
        from lhotse.dataset import K2SpeechRecognitionDataset

        self.cuts, self.dataset, self.number = cuts, K2SpeechRecognitionDataset(input_transforms=transforms), 0

    def __call__(self) -> int:
        from lhotse.dataset import DynamicBucketingSampler

        self.number += 1
        sampler = DynamicBucketingSampler(self.cuts, max_duration=BATCH_SECONDS, num_buckets=30, shuffle=True, seed=self.number)
        return sum(int(self.dataset[cuts]["supervisions"]["num_frames"].sum()) for cuts in sampler)


class Ours:
    """birq's feed, a new epoch at every call: planned, read, normalised, padded."""

    def __init__(self, feed: Feed):
        self.feed, self.number = feed, 0

    def __call__(self) -> int:
        self.number += 1
        return sum(int(b.lengths_B.sum()) for batches in self.feed.epoch(self.number) for b in batches)


def from_memmap(disk: OnDisk, groups: list[np.ndarray], scaled: bool) -> Iterator[torch.Tensor]:
    """The floor: batches known beforehand, rows of one flat int16 file copied as float32, scaled or not, and padded."""
    n_frames_N = disk.split.n_frames
    begin = np.cumsum(n_frames_N) - n_frames_N
    scale_F, shift_F = torch.from_numpy(np.float32(disk.split.step) / disk.std_F), torch.from_numpy(disk.mean_F / disk.std_F)
    for group in groups:
        n_frames = n_frames_N[group]
        feats_BTF = np.empty((len(group), n_frames.max(), 80), np.float32)
        for row_TF, i, n in zip(feats_BTF, group, n_frames, strict=True):
            row_TF[:n] = disk.flat[begin[i] : begin[i] + n]
            if scaled:
                torch.from_numpy(row_TF[:n]).mul_(scale_F).sub_(shift_F)
            row_TF[n:] = 0
        yield torch.from_numpy(feats_BTF)


def epoch(scratch: Path, quick: bool) -> Part:
    disk = OnDisk(scratch, quick)
    feed = disk.feed()
    groups = plan(disk.split.n_frames, int(BATCH_SECONDS * 100), seed=0, epoch=0)
    ours, theirs = Ours(feed), {name: Lhotse(cuts) for name, cuts in disk.cuts.items()}
    hours = disk.split.duration_s.sum() / 3600
    part = race(
        "feed",
        f"one epoch of {hours:.2f} h ({disk.source}), {len(disk.split)} utterances in batches of {BATCH_SECONDS:.0f} s, one thread",
        [
            Contender("lhotse, lilcom", theirs["lilcom"]),
            Contender("lhotse, numpy files", theirs["numpy"]),
            Contender("lhotse, numpy files, GlobalMVN", Lhotse(disk.cuts["numpy"], [disk.global_mvn()])),
            Contender("birq", ours),
            Contender("floor: raw memmap, scaled and padded", lambda: sum(len(b) for b in from_memmap(disk, groups, True))),
            Contender("floor: raw memmap, padded", lambda: sum(len(b) for b in from_memmap(disk, groups, False))),
        ],
        3 if quick else 21,
    )
    part.facts = {"hours": hours, "frames_lhotse": theirs["numpy"](), "frames_birq": 4 * ours()}
    return part


# ---- the plan alone


def padding(groups: list[np.ndarray], n_frames: np.ndarray) -> float:
    """Frames of padding per frame of speech."""
    return float(sum(int(n_frames[g].max()) * len(g) for g in groups) / n_frames.sum() - 1)


def padding_of_fixed_shapes(n_frames: np.ndarray, budget: int, shapes: int) -> float:
    """`padding` if every batch had one of so many shapes, each for an equal share of the speech; empty rows of a batch count."""
    ascending = np.sort(n_frames)
    total = np.cumsum(ascending)
    longest = ascending[np.searchsorted(total, total[-1] * np.arange(1, shapes + 1) / shapes)]
    held = np.diff(np.searchsorted(ascending, longest, side="right"), prepend=0)
    rows = budget // longest
    return float((-(-held // rows) * rows * longest).sum() / n_frames.sum() - 1)


def lhotse_batches(n_frames: np.ndarray) -> list[np.ndarray]:
    """The batches that DynamicBucketingSampler makes of these lengths."""
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.dataset import DynamicBucketingSampler

    recordings = [Recording(str(i), [], inputs.RATE, int(n) * 160, int(n) / 100) for i, n in enumerate(n_frames)]
    cuts = CutSet.from_cuts(MonoCut(r.id, 0, r.duration, 0, recording=r) for r in recordings)
    sampler = DynamicBucketingSampler(cuts, max_duration=BATCH_SECONDS, num_buckets=30, shuffle=True, seed=0)
    return [np.array([int(c.id) for c in batch]) for batch in sampler]


def planning(quick: bool) -> Part:
    n_lhotse = 3000 if quick else LIBRISPEECH // 10
    small, large = inputs.librispeech_like_frames(n_lhotse), inputs.librispeech_like_frames(LIBRISPEECH)
    huge = inputs.librispeech_like_frames(FIVE_THOUSAND_HOURS)
    made: dict[str, list[np.ndarray]] = {}

    def keep(name: str, make: Callable[[], list[np.ndarray]]) -> Callable[[], None]:
        return lambda: made.update({name: make()})

    budget = int(BATCH_SECONDS * 100)
    names = (f"lhotse sampler, {n_lhotse:,}", f"birq, {n_lhotse:,}", f"birq, {LIBRISPEECH:,}", f"birq, {FIVE_THOUSAND_HOURS:,}")
    makes = [lambda: lhotse_batches(small)] + [lambda n=n: plan(n, budget, seed=0, epoch=0) for n in (small, large, huge)]
    contenders = [Contender(name, keep(name, make)) for name, make in zip(names, makes, strict=True)]
    part = race(
        "plan", f"batches of {BATCH_SECONDS:.0f} s from LibriSpeech-like lengths, by number of utterances", contenders, 2 if quick else 5
    )
    part.facts = {"padding": {n: padding(made[n], x) for n, x in zip(names, (small, small, large, huge), strict=True)}}
    part.facts["padding_with_fixed_shapes"] = {f"{k} shapes": padding_of_fixed_shapes(large, budget, k) for k in (8, 16, 32, 64)}
    part.facts["peak_mib"] = {
        f"birq, {n:,}": peak_mib("benchmarks.feed:memory_of_plan", n)["peak"] for n in (LIBRISPEECH, FIVE_THOUSAND_HOURS)
    }
    part.facts["hours"] = {
        f"{n:,}": float(x.sum() / 360_000) for n, x in ((n_lhotse, small), (LIBRISPEECH, large), (FIVE_THOUSAND_HOURS, huge))
    }
    return part


def memory_of_plan(n: int) -> Callable[[], None]:
    n_frames = inputs.librispeech_like_frames(n)
    return lambda: plan(n_frames, int(BATCH_SECONDS * 100), seed=0, epoch=0) and None


def run(scratch: Path, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    return [epoch(scratch, quick), planning(quick)]
