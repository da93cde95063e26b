"""Pre-training: masks, a method's objective and its figures, as a task of the training loop.

Shape suffixes: B utterances, T frames, F mel bins, M masked frames, N codebooks, V codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birq.errors import Diverged
from birq.model.masking import Masked, batch_masks, masked, span_frames, stacked_start_probability
from birq.model.prediction import AnchorObjective, BestRq, Forward, Share
from birq.pipeline.stage import Job
from birq.settings.params import Pretrain
from birq.speech.batches import Batch, Feed, Utterances
from birq.speech.frontend import FrontEnd
from birq.train.distributed import ALONE, Group, joined
from birq.train.epochs import resolved
from birq.train.loop import adamw, feed_of, precision, step_seed
from birq.train.refining import Refiners, Refining
from birq.train.runtime.devices import for_training
from birq.train.runtime.flops import pretraining_per_frame
from birq.train.runtime.hardware import prepare
from birq.train.schedule import warmup_cosine
from birq.train.snapshots import SnapshotTraining, steps_of

COLLAPSED_STEPS = 100


@dataclass(frozen=True)
class Watched:
    """Settings of the checks beside the losses, from the section `birq` of params.yaml."""

    min_perplexity: float = 1.0  # of the enhanced codes; below it, the run stops
    gradient_cosine_every_steps: int = 0  # 0: never


@dataclass
class MaskedBatch(Batch):
    """A batch whose masked frames are known."""

    masked: Masked | None = None


class CodeCounts:
    """How often each code was used since the last line of the curve. Counted where the codes are."""

    def __init__(self, n_codebooks: int, codebook_size: int, device: torch.device | None = None):
        self.count_NV = torch.zeros(n_codebooks, codebook_size, dtype=torch.int64, device=device)
        self.first_N = torch.arange(n_codebooks, device=device) * codebook_size

    @classmethod
    def from_counts(cls, count_NV: Tensor, device: torch.device | None = None) -> CodeCounts:
        """Counts that were taken elsewhere."""
        counts = cls(*count_NV.shape, device)
        counts.count_NV.copy_(count_NV)
        return counts

    def add(self, codes_MN: Tensor) -> None:
        codes = (codes_MN + self.first_N).flatten()
        self.count_NV.view(-1).index_add_(0, codes, torch.ones_like(codes))

    def perplexity(self) -> float:
        """exp of the entropy of the usage, mean over codebooks; 1 = one code, V = all equally."""
        p_NV = self.count_NV / self.count_NV.sum(1, keepdim=True).clamp_min(1)
        return float(torch.special.entr(p_NV.double()).sum(1).exp().mean())

    def used_share(self) -> float:
        return float((self.count_NV > 0).double().mean())


class PretrainTask:
    """Masks, the objective and its figures."""

    def __init__(
        self,
        model: BestRq,
        section: Pretrain,
        name: str,
        device: torch.device,
        seed: int,
        frame_shift_ms: float,
        group: Group = ALONE,
        mean_frames: float = 0.0,
        watched: Watched | None = None,
        refining: Refining | None = None,
        epoch_steps: int = 1,
    ):
        """`mean_frames`: encoder frames of an utterance, on which attention's share hangs. `epoch_steps`: of the first epoch."""
        self.model, self.section, self.device, self.seed = model, section, device, seed
        self.name, self.group, self.watched = name, group, watched or Watched()
        self.by_utterance = section.reduction == "utterances"
        n_stack = model.encoder.shape.n_stack
        self.start_probability = stacked_start_probability(section.mask_start_probability, n_stack)
        self.span = span_frames(section.mask_span_ms, frame_shift_ms, n_stack)
        self.flops_per_audio_second = self._flops(mean_frames, frame_shift_ms)
        self.collapsed_since: int | None = None
        self.cosine: float | Tensor | None = None
        self.refiners = Refiners(model, refining or Refining(), name, epoch_steps)
        self._begin()

    def _begin(self) -> None:
        o = self.model.objective
        names = ["loss", "enhanced", "anchor", "masked", "utterances", "labelled", "correct", "faithful", "agreeing"]
        sizes = {"anchor": o.label_sizes, "enhanced": o.label_sizes}
        if self.model.distilled is not None:
            names, sizes = [*names, "distil_masked", "distilled", "distance"], sizes | {"distilled": (1, o.distil_codes)}
        self.sums: dict[str, float | Tensor] = dict.fromkeys(names, 0.0)  # on the device, float64
        self.codes = {labels: CodeCounts(*size, self.device) for labels, size in sizes.items()}

    def _flops(self, mean_frames: float, frame_shift_ms: float) -> float:
        shape, masked_share = self.model.encoder.shape, 1 - (1 - self.start_probability) ** self.span
        per_frame = pretraining_per_frame(shape, self.model.objective, mean_frames, masked_share)
        return per_frame * 1000 / (frame_shift_ms * shape.n_stack)

    def ready(self, batches: list[Batch], step: int, epoch: int) -> list[Batch]:
        """With their masks, which follow from (seed, epoch, utterance).

        For a GPU, also with the utterances that get enhanced labels, drawn on the CPU. On a CPU the model draws them between other numbers.
        """
        out: list[Batch] = []
        for part, b in enumerate(batches):
            n_frames = b.feats_BTF.shape[1] // self.model.encoder.shape.n_stack
            mask_BT = batch_masks(b.ids, b.lengths_B.tolist(), n_frames, self.start_probability, self.span, self.seed, epoch)
            seed = None if self.device.type == "cpu" else self._noise_seed(step, part)
            share = (b.first, b.n_all_ranks or len(b.ids))
            m = self.model.masked(mask_BT, b.lengths_B, share, seed) if self._enhanced(step) else masked(mask_BT, b.lengths_B)
            out.append(MaskedBatch(**vars(b), masked=m))
        return out

    def _objective(self, step: int) -> AnchorObjective:
        """Follows from the number of the step alone, so that a resumed run takes the same."""
        return self.model.objective.at(step / self.section.steps)

    def _enhanced(self, step: int) -> bool:
        """Whether there are enhanced labels in a step."""
        return getattr(self._objective(step), "enhanced_weight", 0.0) > 0

    def _begin_distillation(self, step: int) -> None:
        """Before the first step with the further codebook, this takes its codes; until then no gradient has moved it."""
        further, before = self.model.distilled, step > 0 and self._objective(step - 1).distil_weight
        if further is not None and not before and self._objective(step).distil_weight:
            further.begin(self.model.anchor_quantizer)

    def _noise_seed(self, step: int, part: int) -> int:
        return step_seed(self.seed, step) + part + 1

    def _shares(self, batches: list[Batch], masks: list[Masked]) -> list[Share | None]:
        """This rank's share of each micro-batch, with the masked and the predicted frames of all ranks; a single process has no shares."""
        if self.group.size == 1:
            return [None] * len(batches)
        sizes = [b.n_all_ranks or len(b.ids) for b in batches]
        starts = np.cumsum([0, *sizes])
        counts_2B = torch.zeros(2, int(starts[-1]), dtype=torch.int64)
        for batch, m, start in zip(batches, masks, starts, strict=False):
            begin = int(start) + batch.first
            counts_2B[:, begin : begin + len(batch.ids)] = torch.stack([m.mask_BT.sum(1), m.predicted_B])
        parts = self.group.add(counts_2B).split(sizes, dim=1)
        return [Share(p[0], b.first, self.group.total, p[1]) for p, b in zip(parts, batches, strict=True)]

    def _forward(
        self, batch: Batch, m: Masked, step: int, part: int, share: Share | None, objective: AnchorObjective | None = None
    ) -> Forward:
        generator = torch.Generator(self.device).manual_seed(self._noise_seed(step, part))
        given = (batch.feats_BTF, batch.lengths_B, batch.label_feats_BTF)
        feats_BTF, lengths_B, label_feats_BTF = (None if x is None else x.to(self.device, non_blocking=True) for x in given)
        with precision(self.device):
            return self.model(feats_BTF, lengths_B, m, generator, share, objective or self._objective(step), label_feats_BTF)

    def backward(self, batches: list[Batch], step: int, epoch: int) -> None:
        if not all(isinstance(b, MaskedBatch) for b in batches):
            batches = self.ready(batches, step, epoch)
        masks = [b.masked for b in batches]  # type: ignore[attr-defined]
        shares = self._shares(batches, masks)
        self._begin_distillation(step)
        every = self.watched.gradient_cosine_every_steps
        if every and self._enhanced(step) and (step == 0 or (step + 1) % every == 0):
            self.cosine = self._gradient_cosine(batches[0], masks[0], step, 0, shares[0])
        if self.by_utterance:
            total = sum(b.n_all_ranks or len(b.ids) for b in batches)
        else:
            total = max(1, sum(share.n_predicted if share else m.n_predicted for m, share in zip(masks, shares, strict=True)))
        for part, (batch, m, share) in enumerate(zip(batches, masks, shares, strict=True)):
            losses = self._forward(batch, m, step, part, share)
            # The model gives means over the micro-batch's masked frames; times their number, sums. Over the step's masked frames that is
            # the mean (frames); over its utterances it is eq. 5 to 7, sums over an utterance's masked frames and their mean (utterances).
            # Both point the same way. Adam takes no notice of a constant factor, but clip_norm and the logged loss do.
            # Statistics of z and the mean label's entropy are those of a micro-batch, whatever the number of ranks that share it
            (losses.total * (losses.n_masked / total)).backward()
            self._sum_up(losses, len(batch.ids))
            self.refiners.add(losses)
        self.refiners.after_step(self.seed, step + 1, self.group)  # the optimiser's part changes no quantizer, so it may come later

    def _gradient_cosine(self, *forward: Any) -> Tensor:
        """Cosine of ∇F and ∇G over the encoder's parameters, both with the same masks, noise and dropout."""
        params, o = [p for p in self.model.encoder.parameters() if p.requires_grad], self._objective(forward[2])
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            upper = self._forward(*forward, replace(o, enhanced_weight=1.0, entropy_weight=0.0, anchor_weight=0.0)).total
            upper = torch.autograd.grad(upper, params, allow_unused=True)
        lower = self._forward(*forward, replace(o, enhanced_weight=0.0, anchor_weight=1.0)).total
        lower = torch.autograd.grad(lower, params, allow_unused=True)
        pairs = [(a.flatten(), b.flatten()) for a, b in zip(upper, lower, strict=True) if a is not None and b is not None]
        a, b = (self.group.total(torch.cat(side)) for side in zip(*pairs, strict=True))
        return torch.nn.functional.cosine_similarity(a, b, dim=0)

    def _sum_up(self, losses: Forward, n_utterances: int) -> None:
        """Nothing leaves the device, so that no step waits for the one before it."""
        s, m = self.sums, losses.n_masked
        s["utterances"] += n_utterances
        s["masked"] += len(losses.anchor_codes_MN)
        s["loss"] += losses.total.detach().double() * m
        s["anchor"] += losses.anchor.double() * m
        s["correct"] += losses.n_correct.double()
        self.codes["anchor"].add(losses.anchor_codes_MN)
        if losses.enhanced is not None and losses.enhanced_codes_MN is not None:
            s["labelled"] += len(losses.enhanced_codes_MN)
            s["enhanced"] += losses.enhanced.double() * losses.n_labelled
            s["faithful"] += losses.n_faithful.double()  # type: ignore[union-attr]
            s["agreeing"] += losses.n_agreeing.double()  # type: ignore[union-attr]
            self.codes["enhanced"].add(losses.enhanced_codes_MN)
        if losses.distilled is not None and losses.distance is not None and losses.distilled_codes_M1 is not None:
            s["distil_masked"] += len(losses.distilled_codes_M1)
            s["distilled"] += losses.distilled.double() * m
            s["distance"] += losses.distance.double() * m
            self.codes["distilled"].add(losses.distilled_codes_M1)

    def _totals(self) -> tuple[dict[str, float], dict[str, CodeCounts]]:
        """Sums and counts of all ranks together."""
        sums = self.group.add(torch.tensor([float(v) for v in self.sums.values()], dtype=torch.float64))
        counts = {labels: self.group.add(c.count_NV.cpu().clone()) for labels, c in self.codes.items()}
        return dict(zip(self.sums, sums.tolist(), strict=True)), {k: CodeCounts.from_counts(c) for k, c in counts.items()}

    def _cosine(self) -> float | None:
        return None if self.cosine is None else float(self.cosine)

    def figures(self, step: int) -> dict[str, float | None]:
        s, codes = self._totals()
        (n, _), enhanced = self.model.objective.label_sizes, s["labelled"] > 0
        m, labelled = max(1.0, s["masked"]), max(1.0, s["labelled"])
        line: dict[str, float | None] = {
            "loss": s["loss"] / (max(1.0, s["utterances"]) if self.by_utterance else m),  # the others are per frame in either case
            "enhanced_loss": s["enhanced"] / labelled if enhanced else None,
            "anchor_loss": s["anchor"] / m,
            "masked_accuracy": s["correct"] / m / n,
            "label_fidelity": s["faithful"] / labelled / n if enhanced else None,
            "enhanced_perplexity": codes["enhanced"].perplexity() if enhanced else None,
            "anchor_perplexity": codes["anchor"].perplexity(),
            "enhanced_used_share": codes["enhanced"].used_share() if enhanced else None,
            "anchor_used_share": codes["anchor"].used_share(),
            "agreement": s["agreeing"] / labelled / n if enhanced else None,
            "gradient_cosine": self._cosine(),
            **self.refiners.figures(),
            **self._distilled(s, codes),
        }
        self.cosine = None
        self._begin()
        self._watch(step, line)
        return line

    def _distilled(self, s: dict[str, float], codes: dict[str, CodeCounts]) -> dict[str, float | None]:
        """Of the further codebook, empty until it begins; none for a model without one."""
        if self.model.distilled is None:
            return {}
        m = s["distil_masked"]
        return {
            "distilled_loss": s["distilled"] / m if m else None,
            "distilled_distance": s["distance"] / m if m else None,
            "distilled_perplexity": codes["distilled"].perplexity() if m else None,
        }

    def _watch(self, step: int, line: dict[str, float | None]) -> None:
        loss, perplexity = line["loss"], line["enhanced_perplexity"]
        if loss is None or not math.isfinite(loss):
            raise Diverged(f"{self.name}: loss is not finite at step {step}; try a lower pretrain.learning_rate or a longer warm-up")
        if perplexity is None or perplexity >= self.watched.min_perplexity or step <= self.section.warmup_steps:
            self.collapsed_since = None
            return
        self.collapsed_since = self.collapsed_since or step
        if step - self.collapsed_since >= COLLAPSED_STEPS:
            raise Diverged(
                f"{self.name}: the enhanced labels have collapsed (perplexity {perplexity:.2f} below birq.min_perplexity = "
                f"{self.watched.min_perplexity} since step {self.collapsed_since}); raise birq.entropy_weight (1 holds), lower "
                "birq.label_gradient or pretrain.learning_rate, or use birq.label_norm: standardise. "
                "The last checkpoint stays in the work folder"
            )

    def after_step(self, step: int, stop: Callable[[], bool]) -> dict[str, Any]:
        return {}

    def due(self, step: int) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        sums, codes = self._totals()
        counts = {labels: c.count_NV for labels, c in codes.items()}
        figures = {"collapsed_since": self.collapsed_since, "cosine": self._cosine(), "sums": sums, "counts": counts}
        return figures | {"refiners": self.refiners.state(self.group)}

    def restore(self, state: dict[str, Any]) -> None:
        self._begin()
        self.collapsed_since, self.cosine = state["collapsed_since"], state["cosine"]
        self.refiners.restore(state["refiners"], self.group)
        if self.group.writes:
            self.sums = dict(state["sums"])
            self.codes = {labels: CodeCounts.from_counts(count_NV, self.device) for labels, count_NV in state["counts"].items()}


def from_params(kind: type, values: dict[str, Any]) -> Any:
    """Settings of this module from the params that a method reads; the others keep their defaults."""
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})


def pretraining_feed(utterances: Utterances, front_end: FrontEnd, section: Pretrain, seed: int, group: Group = ALONE) -> Feed:
    """Every utterance, transcribed or not."""
    return feed_of(utterances, np.arange(len(utterances)), front_end, section, seed, group)


def train(
    job: Job,
    model: BestRq,
    utterances: Utterances,
    front_end: FrontEnd,
    values: dict[str, Any],
    make_task: Callable[..., PretrainTask] = PretrainTask,
) -> None:
    """Train a method's model to the end; curve and snapshots go into the artifact. `values`: the params that the method reads, by key."""
    section, seed = job.read("pretrain"), int(job.wildcards["seed"])
    device = for_training(section.cpu_threads, job.notes)
    with joined(device) as group:
        model = model.to(device)
        job.notes["settings"] = prepare(model.encoder)
        section = resolved(job, section, utterances, np.arange(len(utterances)), front_end, group)
        feed = pretraining_feed(utterances, front_end, section, seed, group)
        mean_frames = float(utterances.n_frames.mean()) / front_end.n_stack
        watched, refining = (from_params(kind, values) for kind in (Watched, Refining))
        about = {"mean_frames": mean_frames, "watched": watched, "refining": refining, "epoch_steps": feed.n_batches(0)}
        task = make_task(model, section, job.name, device, seed, front_end.frame_shift_ms, group, **about)
        optimiser = adamw([{"params": list(model.parameters())}], section)
        schedule = warmup_cosine(section.steps, section.warmup_steps, section.final_rate_share)
        snapshots_at = steps_of(section.snapshots, section.steps)
        position = SnapshotTraining(job, model, optimiser, schedule, feed, task, section, seed, snapshots_at=snapshots_at).run()
    job.notes.update(steps=position.step, hours_seen=position.audio_seconds / 3600, train_seconds=position.seconds)
