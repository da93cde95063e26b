"""Whether the enhanced codes stayed in use over the whole of a pre-training."""

from __future__ import annotations

from typing import Any

from birq.report.gather import Run

LAST = (
    *("anchor_perplexity", "anchor_used_share", "enhanced_perplexity", "enhanced_used_share"),
    *("label_fidelity", "agreement", "masked_accuracy"),
)


def health(run: Run) -> dict[str, Any] | None:
    """Figures at the last step and the worst ones of the run; None where nothing was pre-trained.

    ratio_min, ratio_max: enhanced over anchoring perplexity. held: at every logged step with enhanced labels the ratio was within 1/2 to 2
    and the fidelity above 1/2; None for a method without enhanced labels. Steps before they begin have null in these figures.
    """
    if not run.pretrain_curve:
        return None
    curve, last = run.pretrain_curve, run.pretrain_curve[-1]
    both = [p for p in curve if p.get("enhanced_perplexity") and p.get("anchor_perplexity")]
    ratios = [(p["enhanced_perplexity"] / p["anchor_perplexity"], p["step"]) for p in both]
    fidelities = [(p["label_fidelity"], p["step"]) for p in curve if p.get("label_fidelity") is not None]
    out: dict[str, Any] = {"method": run.name, "seed": run.seed, "steps": last["step"]} | {key: last.get(key) for key in LAST}
    out |= {"ratio_min": None, "ratio_max": None, "fidelity_min": min(fidelities)[0] if fidelities else None, "held": None, "why": None}
    if not ratios:
        return out
    (low, low_step), (high, high_step) = min(ratios), max(ratios)
    why = []
    if low < 0.5:
        why.append(f"their perplexity fell to {low:.2f} of the anchoring codes' at step {low_step}")
    if high > 2:
        why.append(f"their perplexity rose to {high:.2f} times the anchoring codes' at step {high_step}")
    if fidelities and min(fidelities)[0] <= 0.5:
        why.append(f"label fidelity was {min(fidelities)[0]:.2f} at step {min(fidelities)[1]}")
    return out | {"ratio_min": low, "ratio_max": high, "held": not why, "why": "; ".join(why) or None}
