"""One page that holds the whole report: no network, no file beside it. Its layout is templates/page.html.

Its script, templates/browser.js, adds the error browser; without scripts the page shows the worst utterances instead.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

from birq.report import claims, decoding, verdict
from birq.report.aligned import align, counts
from birq.report.card import card
from birq.report.gather import Facts
from birq.report.glossary import TERMS
from birq.report.phones import by_phone
from birq.report.templates import environment
from birq.report.utterances import Heard, browsed, by_speaker, confusions


def figure(name: str, svg: str) -> str:
    """An SVG inside the page. Its ids get the figure's name: inside one page they must be unique, or one figure clips another."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    return f'<figure id="fig-{name}">{svg[svg.index("<svg") :]}</figure>'


def _utterances(facts: Facts) -> list[dict[str, Any]]:
    """Per name, its first run and that run's worst utterances as (utterance, alignment, counts); the headline's name first.

    It is what a reader without scripts sees of the errors.
    """
    out = []
    for name in verdict.ordered(facts):
        run = facts.runs_of(name)[0]
        aligned = align([u["text"] or "" for u in run.worst], [u["hypothesis"] or "" for u in run.worst])
        out.append({"run": run, "utterances": [(u, p, counts(p)) for u, p in zip(run.worst, aligned, strict=True)]})
    return out


def _embedded(value: Any) -> Markup:
    """JSON inside a script element: no text of the data can end it."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _environments(facts: Facts) -> dict[str, str]:
    """Description of each distinct machine and its packages -> a letter."""
    described = dict.fromkeys(describe(record["environment"]) for _, record in facts.records())
    return {text: chr(ord("A") + i) if i < 26 else "…" for i, text in enumerate(described)}


def describe(env: dict[str, Any]) -> str:
    packages = " ".join(f"{p} {v}" for p, v in env["packages"].items())
    kind = env.get("processor") or env["machine"]  # older records name no processor
    return f"Python {env['python']}, {kind}, {env['cpus']} CPUs: {packages}"


def _params(facts: Facts) -> str:
    """All parameters of the artifacts, a section after the other."""
    parts: dict[str, Any] = {}
    for _, record in facts.records():
        parts |= record["parts"]["params"]
    plain = {k: v for k, v in sorted(parts.items()) if not isinstance(v, dict)}
    blocks = ["\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in plain.items())] if plain else []
    for section, values in sorted(parts.items()):
        if isinstance(values, dict):
            blocks.append("\n".join([f"{section}:", *(f"  {k}: {json.dumps(v, ensure_ascii=False)}" for k, v in values.items())]))
    return "\n\n".join(blocks)


def render(facts: Facts, health: list[dict[str, Any]], svgs: dict[str, str], models: list[Heard], samples: dict[str, Any]) -> str:
    """index.html. svgs: figures by name, as `plots.write` returns them. models: what the error browser shows; samples: of whose audio."""
    text = (
        environment()
        .get_template("page.html")
        .render(
            facts=facts,
            health=health,
            figures={name: figure(name, svg) for name, svg in svgs.items()},
            claims=claims,
            decoding=decoding,
            verdict=verdict,
            size=facts.runs[0].scores[facts.main_split],
            worst=_utterances(facts),
            browsed=_embedded(browsed(models) | {"samples": samples}),
            samples=samples,
            speakers=by_speaker(facts, verdict.ordered(facts)),
            phones=by_phone(facts, verdict.ordered(facts)),
            models=models,
            confusions=confusions,
            pipeline=facts.pipeline,
            environments=_environments(facts),
            describe=describe,
            params=_params(facts),
            card=card(facts, health),
            terms=TERMS,
        )
    )
    return text.strip() + "\n"
