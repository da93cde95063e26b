"""The model card: what the models heard, what they are for, where they end."""

from __future__ import annotations

from typing import Any

from birq.report.gather import NAMES, Facts
from birq.report.verdict import amount, lead, listed


def _data(facts: Facts) -> str:
    parts = []
    for c in facts.corpora:
        speech = "speech made by a synthesiser" if c.info.get("synthetic") else "recorded speech"
        train = c.info["splits"].get("train")
        size = f"{amount(float(train['hours']))} from {train['speakers']} voices to train on" if train else "no training split"
        parts.append(f"{c.name}: {speech}, {size} (licence: {c.info['licence']}; source: {c.info['source']})")
    run = next((r for r in facts.runs if r.pretrain_curve), facts.runs[0])
    heard = f" Pre-training heard {amount(run.unlabelled_hours)} without transcripts;" if run.pretrain_curve else ""
    return ". ".join(parts) + f".{heard} fine-tuning had {amount(run.labelled_hours)} of transcripts."


def _models(facts: Facts) -> str:
    config = facts.runs[0].config
    m, f = config["model"], config["features"]
    size = f"{config['n_parameters'] / 1e6:.2f} M parameters, " if config.get("n_parameters") else ""
    rate = 1000 / (f["frame_shift_ms"] * m["n_stack"])
    return (
        f"A Conformer encoder ({size}{m['n_layers']} layers of width {m['d_model']}, {rate:g} frames per second) "
        f"on {f['n_mels']} log-mel bins at {f['sample_rate_hz'] / 1000:g} kHz, with a linear CTC layer; "
        f"greedy decoding, no language model. "
        f"Methods: {listed([NAMES.get(n, n) for n in facts.methods])}; seeds {listed([str(s) for s in facts.seeds])}."
    )


def _limits(facts: Facts) -> str:
    text = (
        "Other languages, accents, microphones, rooms and vocabularies than the corpus above were not tested. "
        "Errors fall unevenly on speakers; the intervals by speaker show how much. The ranking of methods may change with scale."
    )
    if not any(facts.synthetic):
        return text
    return f"Trained and tested on synthetic speech, with a synthesiser's voices: the rates do not carry over to people speaking. {text}"


def card(facts: Facts, health: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Headings and texts, from the facts of the run."""
    held = [h for h in health if h["held"] is not None]
    codes = ""
    if held:
        codes = " The enhanced codes held in all runs." if all(h["held"] for h in held) else " The enhanced codes did not hold in all runs."
    licences = listed(sorted({str(c.info["licence"]) for c in facts.corpora}))
    return [
        ("Models", _models(facts)),
        ("Data", _data(facts)),
        ("Result", lead(facts) + codes),
        ("Intended use", "Research on self-supervised pre-training: comparing methods under equal data, model, steps and fine-tuning."),
        ("Not for", "Transcribing people's speech where an error has a cost; identifying speakers; judging them."),
        ("Limits", _limits(facts)),
        ("Licence", f"Code: Apache-2.0. Data: {licences}; weights trained on it may be bound by its terms."),
    ]
