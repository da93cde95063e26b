"""`birq export`: a model in one folder, with all that it needs elsewhere, and a card that says what it is.

The folder is what `birq.load` and `birq transcribe --model` take: weights, config, tokenizer, and in lm/ the language model.
"""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from birq import files
from birq.errors import BirqError
from birq.pipeline.artifact import read_provenance
from birq.recognise import lm
from birq.saved import recogniser
from birq.text import tokenizer
from birq.use import models
from birq.use.recogniser import Recogniser

CARD, MADE_FROM, CONFIG = "README.md", "made_from.json", "config.json"
MODEL_FILES = (recogniser.FILE, CONFIG, tokenizer.FILE, tokenizer.MODEL_FILE)
LM_FILES = (lm.ARPA, lm.WORDS, lm.FACTS)
INTERVALS = (("wer_low", "wer_high"), ("wer_speaker_low", "wer_speaker_high"))  # over utterances, over speakers


def export(out: Path, model: str | None = None, with_lm: bool = True, with_onnx: bool = False, with_hf: bool = False) -> list[str]:
    """Write the folder, whole or not at all; returns the names of its files.

    with_onnx: model.onnx and tokens.txt as well. with_hf: a folder `huggingface` as well.
    Errors: BirqError for a folder that is not empty, a model that cannot be loaded, and an output that cannot be written.
    """
    folder = Path(model) if model is not None else models.best()
    loaded = models.load(folder, False)  # a model that cannot be loaded here cannot be loaded elsewhere
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BirqError(f"{out}: is there and not empty; name a new folder, or remove it")
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        fresh.mkdir(parents=True)
        for name in MODEL_FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, fresh / name)
        found = models.own_lm(folder) if with_lm else None
        if found:
            (fresh / "lm").mkdir()
            for name in LM_FILES:
                if (found / name).is_file():
                    shutil.copyfile(found / name, fresh / "lm" / name)
            (fresh / "lm" / models.SEARCH).write_text(json.dumps(models.tuned(folder), indent=1) + "\n", encoding="utf-8")
        if with_onnx:
            from birq.use import onnx  # torch's exporter takes seconds

            onnx.write(fresh, loaded)
        about = _about(folder)
        (fresh / MADE_FROM).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (fresh / CARD).write_text(_card(folder, about, _use(with_lm=found is not None)), encoding="utf-8")
        if with_hf:
            _huggingface(fresh, loaded, _card(folder, about, IN_TRANSFORMERS))
        if out.exists():
            out.rmdir()
        fresh.rename(out)
    except OSError as e:
        raise BirqError(f"{out}: cannot be written ({e.strerror}: {e.filename})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())


def _huggingface(fresh: Path, loaded: Recogniser, card: str) -> None:
    try:
        from birq.use import huggingface
    except ImportError as e:
        raise BirqError(f"--hf needs transformers, version 5 or later ({e}); install birq[hf]") from None
    huggingface.write(fresh / huggingface.FOLDER, loaded, card)


# ---- where it comes from


def _about(folder: Path) -> dict[str, Any]:
    """Keys, params, corpora, seconds and rates, as far as the model's project tells them."""
    about: dict[str, Any] = {}
    home = models.project(folder)
    for stage in ("pretrain", "finetune"):
        place = home / stage / folder.name
        try:
            record = read_provenance(place)
        except BirqError:  # an exported model has none
            continue
        about["birq"], about["commit"] = record["birq"], (record["environment"].get("git") or {}).get("commit")
        corpora = [name.partition("/")[2] for name in record["parts"]["inputs"] if name.startswith("features/")]
        about[stage] = {"key": record["key"], "params": record["parts"]["params"], "corpora": corpora, "notes": record["notes"]}
    if not about and (folder / MADE_FROM).is_file():
        return dict(files.read_json(folder / MADE_FROM))
    names = dict.fromkeys(c for stage in ("pretrain", "finetune") for c in about.get(stage, {}).get("corpora", ()))
    known = {name: home / "corpus" / name / "corpus.json" for name in names}
    about["corpora"] = {name: files.read_json(path) for name, path in known.items() if path.is_file()}
    scores = home / "score" / folder.name / "scores.json"
    about["scores"] = files.read_json(scores) if scores.is_file() else {}
    return about


# ---- the card


IN_TRANSFORMERS = """The code is custom, since transformers has no class with this encoder, and it needs `pip install birq`.

```python
import birq.use.huggingface  # before transformers, where torch has no CUDA
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model="FOLDER", trust_remote_code=True)
print(recognise({"raw": samples, "sampling_rate": 16000})["text"])
```

FOLDER is this folder, or its name on the Hub. Decoding is greedy."""


def _card(folder: Path, about: dict[str, Any], use: str) -> str:
    config = files.read_json(folder / CONFIG)
    licences = sorted({str(c["licence"]) for c in about["corpora"].values()}) if about.get("corpora") else []
    sections = [
        ("Use", use),
        ("Model", _model(config, about)),
        ("Data", _data(config, about)),
        ("Word error rates", _rates(about)),
        (
            "Intended use",
            "Research. Not for transcribing people's speech where an error has a cost, nor for identifying or judging speakers.",
        ),
        ("Limits", _limits(about)),
        ("Licence", f"Code: Apache-2.0. Data: {'; '.join(licences) or 'not told'}. Weights trained on it may be bound by its terms."),
        ("Made from", _made(about)),
    ]
    head = "---\npipeline_tag: automatic-speech-recognition\ntags:\n- birq\n- ctc\n---\n"
    title = f"# {config['method']}, seed {config['seed']}: a recogniser made by birq\n"
    return head + "\n" + title + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections)


def _use(with_lm: bool) -> str:
    more = " The language model in `lm/` needs `ctc-beam-decoder` (`birq[lm]`); without it, decoding is greedy." if with_lm else ""
    return (
        f"    birq transcribe talk.wav --model FOLDER\n\n```python\nimport birq\n\n"
        f'text = birq.load("FOLDER").transcribe(samples, 16000).text\n```\n\nFOLDER is this folder.{more}'
    )


def _model(config: dict[str, Any], about: dict[str, Any]) -> str:
    m, f = config["model"], config["features"]
    size = about.get("pretrain", {}).get("notes", {}).get("n_parameters")
    shape = f"{f'{size / 1e6:.2f} M parameters, ' if size else ''}{m['n_layers']} layers of width {m['d_model']}"
    frames = f"{1000 / (f['frame_shift_ms'] * m['n_stack']):g} frames per second"
    source = f"{f['n_mels']} log-mel bins at {f['sample_rate_hz'] / 1000:g} kHz"
    taught = f"pre-trained by `{config['method']}`" if config.get("hours_unlabelled") else "not pre-trained"
    return f"A Conformer encoder ({shape}, {frames}) on {source}, {taught}, with a linear CTC layer."


def _data(config: dict[str, Any], about: dict[str, Any]) -> str:
    unlabelled = f"Pre-trained on {config['hours_unlabelled']:.1f} h without transcripts. " if config.get("hours_unlabelled") else ""
    lines = [f"{unlabelled}Fine-tuned on {config['labelled_hours']:.2f} h with transcripts.", ""]
    for name, c in about.get("corpora", {}).items():
        kind = "speech made by a synthesiser" if c.get("synthetic") else "recorded speech"
        lines.append(f"- {name}: {kind}; licence: {c['licence']}; source: {c['source']}")
    return "\n".join(lines).rstrip()


def _rates(about: dict[str, Any]) -> str:
    if not about.get("scores"):
        return "Not scored."
    lines = ["| split | decoding | WER, % | 95 % over utterances | over speakers | utterances |", "|---|---|---:|---:|---:|---:|"]
    for split, scores in about["scores"].items():
        for decoder, row in (("greedy", scores), ("language model", scores.get("lm"))):
            if row:
                spans = [f"{100 * row[low]:.1f} to {100 * row[high]:.1f}" if row.get(low) is not None else "–" for low, high in INTERVALS]
                lines.append(f"| {split} | {decoder} | {100 * row['wer']:.1f} | {' | '.join(spans)} | {row['utterances']} |")
    return "\n".join(lines)


def _limits(about: dict[str, Any]) -> str:
    text = "Languages, accents, microphones, rooms and vocabularies other than those of the corpora above were not tested."
    if any(c.get("synthetic") for c in about.get("corpora", {}).values()):
        return f"Trained or tested on synthetic speech: the rates do not carry over to people speaking. {text}"
    return text


def _made(about: dict[str, Any]) -> str:
    if "finetune" not in about:
        return "Its project was not there when it was exported."
    lines = [f"- birq {about['birq']}, commit {about['commit']}"]
    for stage in ("pretrain", "finetune"):
        if stage in about:
            notes = about[stage]["notes"]
            spent = (
                f", {notes['train_seconds'] / 60:.1f} minutes on {notes['ranks']} x {notes['device']}" if notes.get("train_seconds") else ""
            )
            lines.append(f"- {stage}: key `{about[stage]['key']}`{spent}")
    return "\n".join([*lines, f"- params of both stages: `{MADE_FROM}` of the export", "- energy was not measured"])
