"""The report: metrics, comparisons, figures and one page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from birq.evaluate.compare import compare_methods, compare_probes
from birq.pipeline.dag import Node
from birq.report import dagdraw, page, plots, samples, verdict
from birq.report.claims import with_cost
from birq.report.decoding import fields
from birq.report.gather import Facts, Run, gather
from birq.report.health import health
from birq.report.utterances import Heard, heard
from birq.report.verdict import accepted
from birq.report.words import mean
from birq.settings.params import Report
from birq.settings.params import Run as RunSection

COUNTS = ("words", "substitutions", "deletions", "insertions", "characters", "char_substitutions", "char_deletions", "char_insertions")


def records(facts: Facts) -> list[dict[str, Any]]:
    """metrics.json: one record per name in run.methods, seed and split; rates are fractions, hours and seconds as their names say."""
    out = []
    for r in facts.runs:
        for split, s in r.scores.items():
            rates = {f"{k}{end}": s.get(f"{k}{end}") for k in ("wer", "cer") for end in ("", "_low", "_high")}
            out.append(
                {"method": r.name, "seed": r.seed, "split": split}
                | rates
                | {k: s.get(k) for k in ("wer_speaker_low", "wer_speaker_high", *COUNTS, "utterances", "speakers", "hours")}
                | {
                    "confidence": facts.score_params["confidence"],
                    "unlabelled_hours": r.unlabelled_hours,
                    "labelled_hours": r.labelled_hours,
                    "pretrain_seconds": r.seconds("pretrain") if r.pretrained else None,
                    "label_seconds": r.label_seconds or None,  # part of pretrain_seconds
                    "finetune_seconds": r.seconds("finetune"),
                    **probed(facts, r),
                    "dev_loss": r.dev_loss,
                    **fields(s),
                    "keys": {stage: record["key"] for stage, record in r.provenance.items()},
                }
            )
    return out


def probed(facts: Facts, run: Run) -> dict[str, Any]:
    """The primary measure of pre-training: the linear probe's accuracy at the layer of `birq.label_layer`, its intervals, and its ABX."""
    row = run.layer(facts.probed_layer)
    ends = ("", "_low", "_high", "_speaker_low", "_speaker_high")
    found = {f"probe{end}": row.get(f"linear{end}") for end in ends}
    return {"probe_split": run.probe["split"], "probe_layer": facts.probed_layer, "abx_across": row.get("abx_across")} | found


def by_method(facts: Facts) -> dict[str, dict[str, float | str | None]]:
    """wer.json, which DVC shows of an experiment: per name in run.methods, means over seeds, in per cent; rates of the main split.

    wer_lm: with the language model; not there without one.
    probe: accuracy of the linear phone probe, the primary measure of pre-training, on the split that was probed.

    The interval is one text, `[36.2, 38.8]`: two columns more per method would push the parameters off the screen.
    """
    out: dict[str, dict[str, float | str | None]] = {}
    for name in facts.names:
        scores = [r.scores[facts.main_split] for r in facts.runs_of(name)]
        values = {k: [s[k] for s in scores] for k in ("wer", "wer_low", "wer_high", "cer")}
        means = {k: None if any(x is None for x in v) else 100 * mean(v) for k, v in values.items()}
        low, high = means["wer_low"], means["wer_high"]
        with_lm = [s["lm"]["wer"] for s in scores if s.get("lm")]
        out[name] = {
            "wer": None if means["wer"] is None else round(means["wer"], 2),
            "interval": None if low is None or high is None else f"[{low:.1f}, {high:.1f}]",
            "cer": None if means["cer"] is None else round(means["cer"], 2),
            "probe": round(100 * mean(found), 2) if (found := facts.accuracies(name)) else None,
        } | ({"wer_lm": round(100 * mean(with_lm), 2)} if with_lm else {})
    return out


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _compared(facts: Facts) -> Facts:
    """With the paired comparisons of all names."""
    if len(facts.names) < 2:
        return facts
    how = facts.score_params
    how = (how["confidence"], how["bootstrap_samples"], how["seed"])
    rates = compare_methods({(r.name, r.seed): r.score_folder for r in facts.runs}, facts.main_split, *how)
    probes = compare_probes({(r.name, r.seed): r.probe_folder for r in facts.runs}, facts.probed_layer, *how)
    return replace(facts, comparisons=with_cost(facts, rates), probe_comparisons=with_cost(facts, probes))


def _samples(inputs: dict[str, list[Path]], facts: Facts, model: Heard, n: int) -> dict[str, dict[str, Any]]:
    """Audio and log-mel of `n` utterances, from the one with the fewest errors of a model to the one with the most."""
    ids = samples.chosen(*(model.table[c].to_pylist() for c in ("id", "duration_s", "errors")), n)
    named = [{f.name: f for f in inputs[stage]} for stage in ("corpus", "features")]
    return samples.samples(*([folders[name] for name in facts.finetune_corpora] for folders in named), facts.main_split, ids)


def report(inputs: dict[str, list[Path]], out: Path, section: Report, run: RunSection, nodes: list[Node], probed_layer: int) -> None:
    """Write metrics.json, wer.json, comparisons.json, plots/ and index.html into `out`.

    inputs: folders by stage. nodes: of the pipeline, for its drawing. probed_layer: of the primary measure of pre-training.

    Errors: BirqError for an artifact that is damaged or lacks `report.main_split`.
    """
    corpora = list(run.pretrain_corpora), list(run.finetune_corpora)
    facts = gather(inputs, section.main_split, section.worst_utterances, *corpora, probed_layer)
    facts = _compared(replace(facts, pipeline=dagdraw.svg(nodes)))
    codes = [h for h in map(health, facts.runs) if h]
    _dump(out / "metrics.json", records(facts))
    _dump(out / "wer.json", by_method(facts))
    rest = {"main_split": facts.main_split, "synthetic": facts.synthetic, "comparisons": facts.comparisons, "health": codes}
    rest |= {"probe_comparisons": facts.probe_comparisons}
    _dump(out / "comparisons.json", rest | {"accepted": accepted(facts)})
    svgs = plots.write(facts, out / "plots")
    models = heard(facts, verdict.ordered(facts))
    shown = _samples(inputs, facts, models[0], section.audio_samples)
    (out / "index.html").write_text(page.render(facts, codes, svgs, models, shown), encoding="utf-8")
