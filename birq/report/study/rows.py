"""What one run of the study came to, read from its artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from birq.files import read_json
from birq.pipeline import artifact, dag, keys
from birq.pipeline.dag import Node
from birq.report.gather import read_lines
from birq.settings.params import Params, section

Row = dict[str, Any]
Present = Callable[[Node], bool]
IN_TRAINING = ("enhanced_perplexity", "anchor_perplexity", "label_fidelity", "masked_accuracy")
RATES = tuple(f"{rate}{end}" for rate in ("wer", "cer") for end in ("", "_low", "_high"))


def in_place() -> Present:
    """Whether a node's artifact is there, sound, and made under the present params, inputs and code, and so is all behind it."""
    known: dict[str, bool] = {}

    def present(node: Node) -> bool:
        if node.name not in known:
            known[node.name] = all(map(present, node.before)) and keys.in_place(node)
        return known[node.name]

    return present


def nodes(project: Params, name: str, seed: int, words: bool) -> dict[str, Node]:
    """The artifacts that a row is read from, by stage."""
    stages = ("pretrain", "probe", *(("finetune", "score") if words else ()))
    return {stage: dag.Node(dag.STAGES[stage], {"method": name, "seed": str(seed)}, project) for stage in stages}


def leaves(project: Params, name: str, words: bool) -> dict[str, Any]:
    """Every key that decides a row, with its value in params.yaml; those that a variant changes are left out."""
    seed = next(s for n, s in project.study.runs() if n == name)
    read = dict.fromkeys(s for n in dag.upstream(*nodes(project, name, seed, words).values()) for s in n.sections)
    out: dict[str, Any] = {}
    for dotted in (*read, *(("report.main_split",) if words else ())):
        value = section(project, dotted)
        out |= {f"{dotted}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {dotted: value}
    changed = project.variants.get(name, {})
    return {key: value for key, value in sorted(out.items()) if key not in changed}


def row(project: Params, part: str, name: str, seed: int, present: Present) -> tuple[Row | None, list[str]]:
    """A run's row, and the artifacts that it lacks. None without a probe; where only the error rates lack, they are null."""
    found = nodes(project, name, seed, project.study.parts[part].words)
    lacking = [n.name for n in found.values() if not present(n)]
    if any(found[stage].name in lacking for stage in ("pretrain", "probe")):
        return None, lacking
    records = {stage: artifact.read_provenance(n.folder) for stage, n in found.items() if n.name not in lacking}
    probe = read_json(found["probe"].folder / "probe.json")
    method, environment = project.method(name), records["pretrain"]["environment"]
    scored = {"finetune", "score"} <= set(records)
    out = {
        "part": part,
        "form": name,
        "seed": seed,
        "steps": _steps(project.of_run(name).pretrain.steps, records["pretrain"]["notes"]) if method.trains else 0,
        "seconds": round(artifact.seconds(records["pretrain"]), 3),
        "split": probe["split"],
        "why_not": probe["linear"]["why_not"],
        "layers": [_numbers(of_layer) for of_layer in probe["rows"]],
        "training": _training(found["pretrain"].folder) if method.trains else {},
        "words": _words(project, found, records) if scored else None,
        "keys": {stage: record["key"] for stage, record in records.items()},
        "made": {
            "birq": records["pretrain"]["birq"],
            "commit": (environment["git"] or {}).get("commit"),
            "dirty": (environment["git"] or {}).get("dirty"),
            "accepted": [stage for stage, record in records.items() if "accepted" in record],
            "device": records["pretrain"]["notes"].get("device"),
            "machine": environment.get("processor") or environment["machine"],  # older records name no processor
            "cpus": environment["cpus"],
            "torch": environment["packages"].get("torch"),
        },
    }
    if "snapshots" in probe:
        out["snapshots"] = [{"step": s["step"], "layers": [_numbers(of_layer) for of_layer in s["rows"]]} for s in probe["snapshots"]]
    return out, lacking


def _steps(length: int | str, notes: dict[str, Any]) -> int:
    """Of a length in epochs, the steps that it was."""
    return int(notes["steps"]) if isinstance(length, str) else length


def _training(folder: Path) -> dict[str, float]:
    """Of the labels, at the end of pre-training: the last line of its curve."""
    last = (read_lines(folder / "curve.jsonl") or [{}])[-1]
    return {key: last[key] for key in IN_TRAINING if last.get(key) is not None}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _words(project: Params, found: dict[str, Node], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Error rates on the main split with their intervals by utterance, and the CTC loss on dev of the model that was kept."""
    split, notes = project.report.main_split, records["finetune"]["notes"]
    scores = read_json(found["score"].folder / "scores.json")[split]
    return {"split": split} | {k: scores.get(k) for k in RATES} | {"dev_loss": _dev_loss(found["finetune"].folder, notes.get("best_step"))}


def _dev_loss(folder: Path, kept: int | None) -> float | None:
    return next((p.get("dev_loss") for p in read_lines(folder / "curve.jsonl") if p["step"] == kept), None)
