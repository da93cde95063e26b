"""Audio to log-mel: Kaldi's filterbank, batched over frames, and the stage that writes shards with parallel workers."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birq import audio, pool, shards
from birq.corpora import manifests
from birq.errors import BirqError
from birq.progress import Progress
from birq.stage import Job, Part

if TYPE_CHECKING:
    import torch

CHUNK_FRAMES = 512  # the buffers of one chunk stay near a core, and calls are few
BAND = 16  # mel bins per product: a triangle covers few FFT bins, so narrow products skip most zeros
PREEMPHASIS = 0.97
HOURS_PER_WORKER = 0.5  # of audio: below it, starting a process takes longer than the work
KILLED = "features: a worker process was killed (out of memory?); finished shards are kept, run again"


# ---- the kernel


def mel_weights(n_mels: int, n_fft: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> torch.Tensor:
    """Triangles on Kaldi's mel scale, 1127 ln(1 + f/700), float32 [n_fft/2 + 1, n_mels]; `high_hz` <= 0 counts from half the rate."""
    import torch

    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz if high_hz > 0 else sample_rate_hz / 2 + high_hz))
    step = (high - low) / (n_mels + 1)
    # in float32 like Kaldi: where a triangle has a single FFT bin near its foot, the rounding is seen in the logarithm
    left_F, centre_F, right_F = (low + torch.arange(k, n_mels + k) * step for k in range(3))
    mel_K1 = (1127.0 * (1.0 + (sample_rate_hz / n_fft) * torch.arange(n_fft // 2) / 700.0).log())[:, None]
    weights_KF = torch.minimum((mel_K1 - left_F) / (centre_F - left_F), (right_F - mel_K1) / (right_F - centre_F)).clamp(min=0)
    return torch.nn.functional.pad(weights_KF, (0, 0, 0, 1))  # Kaldi leaves the Nyquist bin out


class Fbank:
    """Log-mel filterbank in nat, as `torchaudio.compliance.kaldi.fbank` makes it without dither, for samples in [-1, 1].

    Povey window, DC removal, pre-emphasis 0.97, power spectrum, natural logarithm floored at float32's epsilon; whole frames only.
    The operations that touch samples come in Kaldi's order: a different order changes the rounding, and 1e-3 nat is lost in the quiet
    bins of loud frames.
    """

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        n_mels: int = 80,
        frame_length_ms: float = 25.0,
        frame_shift_ms: float = 10.0,
        low_hz: float = 20.0,
        high_hz: float = 0.0,
    ):
        import torch

        self.n_mels = n_mels
        self.length = int(sample_rate_hz * frame_length_ms * 0.001)
        self.shift = int(sample_rate_hz * frame_shift_ms * 0.001)
        if self.length < 2 or self.shift < 1:
            raise BirqError(f"features.frame_length_ms, frame_shift_ms: {frame_length_ms:g} and {frame_shift_ms:g} are below one sample")
        self.n_fft = 1 << (self.length - 1).bit_length()
        self.floor = torch.finfo(torch.float32).eps
        # its first value is 0, so what pre-emphasis does to a frame's first sample never matters
        self.window = torch.hann_window(self.length, periodic=False).pow(0.85)
        weights_KF = mel_weights(n_mels, self.n_fft, sample_rate_hz, low_hz, high_hz)
        self.bands = []
        for first in range(0, n_mels, BAND):
            band_KF = weights_KF[:, first : first + BAND]
            used = band_KF.any(dim=1).nonzero().flatten().tolist() or [0]
            bins = slice(used[0], used[-1] + 1)
            self.bands.append((bins, slice(first, first + band_KF.shape[1]), band_KF[bins].contiguous()))

    def n_frames(self, n_samples: int) -> int:
        """Whole frames in so many samples."""
        return 0 if n_samples < self.length else 1 + (n_samples - self.length) // self.shift

    def __call__(self, wave: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Samples [n] in [-1, 1] -> log-mel float32 [T, n_mels]."""
        import torch

        wave = torch.as_tensor(np.ascontiguousarray(wave) if isinstance(wave, np.ndarray) else wave, dtype=torch.float32).contiguous()
        with torch.inference_mode():
            frames_TW = wave.as_strided((self.n_frames(len(wave)), self.length), (self.shift, 1))
            out_TF = torch.empty(len(frames_TW), self.n_mels)
            rows = min(CHUNK_FRAMES, len(frames_TW))
            clean_TW, past_TW = torch.empty(rows, self.length), torch.empty(rows, self.length)
            padded_TN = torch.zeros(rows, self.n_fft)
            for start in range(0, len(frames_TW), CHUNK_FRAMES):
                chunk = frames_TW[start : start + CHUNK_FRAMES]
                n = len(chunk)
                self._chunk(chunk, clean_TW[:n], past_TW[:n, 1:], padded_TN[:n], out_TF[start : start + n])
        return out_TF

    def _chunk(self, frames_TW: Any, clean_TW: Any, past_TW: Any, padded_TN: Any, out_TF: Any) -> None:
        import torch

        torch.sub(frames_TW, frames_TW.mean(dim=1, keepdim=True), out=clean_TW)
        torch.mul(clean_TW[:, :-1], PREEMPHASIS, out=past_TW)
        clean_TW[:, 1:].sub_(past_TW)
        torch.mul(clean_TW, self.window, out=padded_TN[:, : self.length])
        parts_TK = torch.view_as_real(torch.fft.rfft(padded_TN)).flatten(1)  # real and imaginary in turn
        parts_TK.mul_(parts_TK)
        power_TK = parts_TK[:, 0::2] + parts_TK[:, 1::2]
        for bins, mels, weights_KF in self.bands:
            torch.mm(power_TK[:, bins], weights_KF, out=out_TF[:, mels])
        out_TF.clamp_(min=self.floor).log_()


@lru_cache(maxsize=4)
def _kernel(**settings: Any) -> Fbank:
    return Fbank(**settings)


def kernel_settings(settings: Any) -> dict[str, Any]:
    """What of params' features section, or of a mapping with the same keys, decides the log-mel values."""
    return {n: settings[n] if isinstance(settings, dict) else getattr(settings, n) for n in shards.KERNEL}


def fbank(wave: np.ndarray | torch.Tensor, settings: Any = None) -> torch.Tensor:
    """Samples [n] in [-1, 1] -> log-mel in nat, float32 [T, n_mels], under params' features section (None: Kaldi's defaults, 80 bins)."""
    return _kernel(**(kernel_settings(settings) if settings is not None else {}))(wave)


# ---- one shard, in a worker


@dataclass(frozen=True)
class _Utterance:
    id: str
    speaker: str
    text: str | None
    path: str
    offset_s: float
    duration_s: float | None  # None: to the end


@dataclass(frozen=True)
class _Task:
    corpus: Path
    split: str
    number: int
    utterances: tuple[_Utterance, ...]
    folder: Path
    settings: dict[str, Any]
    storage: str

    @property
    def shard(self) -> Path:
        return self.folder / self.split / f"{self.number:05d}.parquet"

    @property
    def facts(self) -> Path:
        return self.shard.with_suffix(".json")


def _make_shard(task: _Task) -> dict[str, Any]:
    """Write a shard, unless a run before this one did, and say what is in it."""
    if task.facts.exists() and task.shard.exists():
        return json.loads(task.facts.read_text(encoding="utf-8"))
    meta = shards.metadata(storage=task.storage, **task.settings)
    total_F, square_F = np.zeros(task.settings["n_mels"]), np.zeros(task.settings["n_mels"])
    facts: dict[str, Any] = {"utterances": 0, "frames": 0, "seconds": 0.0, "labelled_utterances": 0, "labelled_seconds": 0.0}

    def rows() -> Iterator[dict[str, Any]]:
        for u in task.utterances:
            wave = audio.read(u.path, task.settings["sample_rate_hz"], u.offset_s, u.duration_s)
            logmel_TF = fbank(wave, task.settings).numpy()
            if not len(logmel_TF) or not np.isfinite(logmel_TF).all():
                why = f"{len(wave)} samples are less than one frame" if not len(logmel_TF) else "samples that are not finite numbers"
                raise BirqError(f"{u.path} ({u.id}): {why}; it changed after the corpus was checked; delete {task.corpus} and run again")
            stored_TF = shards.encode(logmel_TF, meta)
            exact_TF = stored_TF.astype(np.float64)
            np.add(total_F, exact_TF.sum(axis=0), out=total_F)
            np.add(square_F, np.einsum("tf,tf->f", exact_TF, exact_TF), out=square_F)
            seconds = len(wave) / task.settings["sample_rate_hz"]
            facts["utterances"] += 1
            facts["frames"] += len(logmel_TF)
            facts["seconds"] += seconds
            facts["labelled_utterances"] += u.text is not None
            facts["labelled_seconds"] += seconds if u.text is not None else 0.0
            yield {"id": u.id, "speaker": u.speaker, "text": u.text, "duration_s": seconds, "fbank": stored_TF}

    shards.write_shard(task.shard, rows(), meta)
    total_F, square_F = total_F * meta["step_nat"], square_F * meta["step_nat"] ** 2
    facts |= {"speakers": sorted({u.speaker for u in task.utterances}), "total": total_F.tolist(), "square": square_F.tolist()}
    part = task.facts.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    os.rename(part, task.facts)
    return facts


# ---- the stage


def _tasks(corpus: Path, splits: list[str], folder: Path, settings: Any) -> Iterator[_Task]:
    seen: set[str] = set()
    common = {"folder": folder, "settings": kernel_settings(settings), "storage": settings.storage}
    for split in splits:
        number, held = 0, []
        for cut in manifests.iter_cuts(corpus, split):
            if cut.id in seen:
                raise BirqError(f"{corpus / split}.jsonl: utterance id {cut.id!r} occurs twice; ids must be unique within a corpus")
            seen.add(cut.id)
            held.append(_utterance(cut))
            if len(held) == settings.shard_utterances:
                yield _Task(corpus, split, number, tuple(held), **common)
                number, held = number + 1, []
        if held:
            yield _Task(corpus, split, number, tuple(held), **common)


def _utterance(cut: Any) -> _Utterance:
    said = cut.supervisions[0] if cut.supervisions else None
    whole = cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-6
    return _Utterance(
        id=cut.id,
        speaker=(said.speaker if said else None) or "unknown",
        text=said.text if said else None,
        path=str(cut.recording.sources[0].source),
        offset_s=float(cut.start),
        duration_s=None if whole else float(cut.duration),
    )


def summarise(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """One split's line of splits.json, from its shards' facts in order."""
    return {
        "utterances": sum(f["utterances"] for f in facts),
        "speakers": len({s for f in facts for s in f["speakers"]}),
        "hours": sum(f["seconds"] for f in facts) / 3600,
        "labelled_utterances": sum(f["labelled_utterances"] for f in facts),
        "labelled_hours": sum(f["labelled_seconds"] for f in facts) / 3600,
        "frames": sum(f["frames"] for f in facts),
        "shards": len(facts),
    }


def statistics(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Frames, mean and variance per bin, from the shards' sums; padding is in none of them."""
    n_frames = sum(f["frames"] for f in facts)
    if not n_frames:
        return {"n_frames": 0}
    mean_F = np.sum([f["total"] for f in facts], axis=0) / n_frames
    var_F = np.sum([f["square"] for f in facts], axis=0) / n_frames - mean_F**2
    return {"n_frames": n_frames, "mean": mean_F.tolist(), "var": np.maximum(var_F, 0).tolist()}


def _shards(job: Job, part: Part | None) -> tuple[int, Iterator[tuple[_Task, dict[str, Any]]]]:
    """Number of workers, and the shards as they are done, with progress shown: all of them, or every N-th for part (I, N)."""
    settings, corpus, name = job.read("features"), job.input("corpus"), job.wildcards["corpus"]
    first, step = (0, 1) if part is None else (part[0] - 1, part[1])
    splits, counts = manifests.splits(corpus), manifests.info(corpus)["splits"]
    total = sum(counts[s]["utterances"] for s in splits) // step
    n_shards = sum(-(-counts[s]["utterances"] // settings.shard_utterances) for s in splits)
    hours = sum(counts[s]["hours"] for s in splits) / step
    workers = max(1, min(len(os.sched_getaffinity(0)), -(-n_shards // step), 1 + int(hours / HOURS_PER_WORKER)))

    def made() -> Iterator[tuple[_Task, dict[str, Any]]]:
        title = f"features {name}" + (f" part {part[0]}/{part[1]}" if part else "")
        progress, done, seconds, before = Progress(title, total, "utterance"), 0, 0.0, time.monotonic()
        tasks = islice(_tasks(corpus, splits, job.scratch, settings), first, None, step)
        for task, facts in pool.results(_make_shard, tasks, workers, KILLED):
            done, seconds = done + facts["utterances"], seconds + facts["seconds"]
            progress.update(done, hours=seconds / 3600, speed_h_per_h=seconds / max(time.monotonic() - before, 1e-3))
            yield task, facts
        progress.close()

    return workers, made()


def compute_part(job: Job, part: Part) -> None:
    """Part (I, N) of the stage's shards, left in the scratch folder, where `compute` finds them. Other machines make the other parts."""
    for _ in _shards(job, part)[1]:
        pass


def compute(job: Job) -> None:
    """The stage: a corpus' cuts to shards per split, `stats.json` of the train split, `splits.json`.

    A killed run finds its finished shards in the scratch folder. Errors: BirqError for an id that occurs twice, audio that has become
    unreadable, a worker that was killed.
    """
    workers, made = _shards(job, None)
    found: dict[str, dict[int, tuple[_Task, dict[str, Any]]]] = {s: {} for s in manifests.splits(job.input("corpus"))}
    for task, facts in made:
        found[task.split][task.number] = (replace(task, utterances=()), facts)  # what was read need not be kept
    ordered = {split: [by_number[n] for n in sorted(by_number)] for split, by_number in found.items()}
    for tasks in ordered.values():
        for task, _ in tasks:
            target = job.out / task.split / task.shard.name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(task.shard, target)  # scratch keeps its own, should publishing be interrupted
            except OSError:
                shutil.copyfile(task.shard, target)
    facts_of = {split: [f for _, f in tasks] for split, tasks in ordered.items()}
    summary = {split: summarise(facts) for split, facts in facts_of.items() if facts}
    _write_json(job.out / "splits.json", summary)
    _write_json(job.out / "stats.json", statistics(facts_of.get("train", [])))
    job.notes.update(device="cpu", workers=workers, hours=sum(s["hours"] for s in summary.values()))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
