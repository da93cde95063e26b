"""The model card: models, data, use and limits."""

from __future__ import annotations

from typing import Any

from birq.report.claims import scope
from birq.report.decoding import greedy_and_lm
from birq.report.gather import Facts
from birq.report.verdict import lead, statement_kind
from birq.report.words import amount, listed


def _data(facts: Facts) -> str:
    parts = []
    for c in facts.corpora:
        speech = "speech made by a synthesiser" if c.info.get("synthetic") else "recorded speech"
        train = c.info["splits"].get("train")
        size = f"{amount(float(train['hours']))} of {train['speakers']} speakers to train on" if train else "no training split"
        parts.append(f"{c.name}: {speech}, {size} (licence: {c.info['licence']}; source: {c.info['source']})")
    run = next((r for r in facts.runs if r.pretrain_curve), facts.runs[0])
    heard = f" Pre-training used {amount(run.unlabelled_hours)} without transcripts." if run.pretrain_curve else ""
    return ". ".join(parts) + f".{heard} Fine-tuning used {amount(run.labelled_hours)} of transcribed speech."


def _models(facts: Facts) -> str:
    config = facts.runs[0].config
    m, f = config["model"], config["features"]
    size = f"{config['n_parameters'] / 1e6:.2f} M parameters, " if config.get("n_parameters") else ""
    rate = 1000 / (f["frame_shift_ms"] * m["n_stack"])
    seeds = f"seed{'' if len(facts.seeds) == 1 else 's'} {listed([str(s) for s in facts.seeds])}"
    return (
        f"A Conformer encoder ({size}{m['n_layers']} layers of width {m['d_model']}, {rate:g} frames per second) "
        f"on {f['n_mels']} log-mel bins at {f['sample_rate_hz'] / 1000:g} kHz, with a linear CTC layer; "
        f"{greedy_and_lm([r.scores[facts.main_split] for r in facts.runs])}. "
        f"Methods: {listed([facts.title(n) for n in facts.names])}; {seeds}."
    )


def _limits(facts: Facts) -> str:
    text = (
        "Languages, accents, microphones, rooms and vocabularies other than those of the corpora above were not tested. "
        "Error rates differ between speakers; the intervals by speaker show how much. The ranking of methods may change with scale."
    )
    if not any(facts.synthetic):
        return text
    return f"The models were trained and tested on synthetic speech. Their rates do not carry over to people speaking. {text}"


def card(facts: Facts, health: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Headings and texts."""
    held = [h for h in health if h["held"] is not None]
    about = [scope(len(facts.seeds), statement_kind(facts))] if facts.comparisons else []
    codes = ""
    if held:
        codes = (
            " The enhanced codes stayed within bounds in all runs."
            if all(h["held"] for h in held)
            else " Enhanced codes left their bounds."
        )
    licences = listed(sorted({str(c.info["licence"]) for c in facts.corpora}))
    return [
        ("Models", _models(facts)),
        ("Data", _data(facts)),
        ("Result", " ".join([*lead(facts), *about]) + codes),
        ("Intended use", "Research on self-supervised pre-training: comparing methods under equal data, model, steps and fine-tuning."),
        ("Not for", "Transcribing people's speech where an error has a cost; identifying speakers; judging them."),
        ("Limits", _limits(facts)),
        ("Licence", f"Code: Apache-2.0. Data: {licences}; weights trained on it may be bound by its terms."),
    ]
