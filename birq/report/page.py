"""One page that holds the whole report: no script, no network, no file beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any

from birq.report import dagdraw, markup, verdict
from birq.report.aligned import align, counts
from birq.report.card import card
from birq.report.gather import NAMES, Facts, Run
from birq.report.glossary import TERMS
from birq.report.markup import Markup
from birq.report.plots import COLOURS
from birq.report.style import CSS

Page = dict[str, Any]  # facts, health, svgs
SURE_CLASS = {"better than": "good", "worse than": "bad", "not told apart from": "even"}


def _tiles(facts: Facts) -> Markup:
    tiles = []
    for name in facts.methods:
        runs = facts.of(name)
        wers = [r.scores[facts.main_split]["wer"] for r in runs]
        value = verdict.rate(facts, name)
        spread = f"seeds {100 * min(wers):.1f} to {100 * max(wers):.1f}" if len(runs) > 1 and value is not None else "one seed"
        cer = verdict.percent(verdict.rate(facts, name, "cer"))
        tiles.append(
            f'<div class="tile" style="--c:{COLOURS.get(name, "#7a3fb0")}"><b>{escape(verdict.sentence_start(NAMES.get(name, name)))}</b>'
            f'<span class="big">{"–" if value is None else f"{value:.1f}"}<span class="unit"> % WER</span></span>'
            f"<br><small>CER {cer} · {spread}</small></div>"
        )
    return Markup(f'<div class="tiles">{"".join(tiles)}</div>')


def _header(page: Page) -> Markup:
    facts: Facts = page["facts"]
    notes = verdict.caveats(facts, page["health"])
    care = "".join(f"<li>{escape(n)}</li>" for n in notes)
    corpora = ", ".join(facts.finetune_corpora)
    return Markup(
        f'<header><div class="inner"><p class="kicker">birq · {escape(corpora)} · {escape(verdict.speech_kind(facts))} · '
        f"{escape(facts.main_split)}</p>"
        f"<h1>{escape(verdict.headline(facts))}</h1>"
        f'<p class="lead">{escape(verdict.lead(facts))}</p>{_tiles(facts)}'
        f'<div class="care"><b>Read this with care</b><ul>{care}</ul></div></div></header>'
    )


def _rates(facts: Facts, split: str) -> Markup:
    rows = []
    for r in facts.runs:
        s = r.scores[split]
        speaker = None if s["wer_speaker_low"] is None else f"{100 * s['wer_speaker_low']:.1f} – {100 * s['wer_speaker_high']:.1f}"
        wer, cer = (markup.rate(s[k], s[f"{k}_low"], s[f"{k}_high"]) for k in ("wer", "cer"))
        errors = f"{s['substitutions']:,} / {s['deletions']:,} / {s['insertions']:,}"
        hours = [markup.text(r.unlabelled_hours, 2), markup.text(r.labelled_hours, 2)]
        took = [markup.duration(r.seconds("pretrain")) if r.pretrain_curve else None, markup.duration(r.seconds("finetune"))]
        rows.append([markup.method(r.method), r.seed, wer, speaker, cer, errors, *hours, *took])
    head = ["Method", "Seed", "WER %", "by speaker", "CER %", "S / D / I", "Unlabelled h", "Labelled h", "Pre-training", "Fine-tuning"]
    return markup.table(head, rows)


def _results(page: Page) -> Markup:
    facts: Facts = page["facts"]
    sure = round(100 * facts.score_params["confidence"])
    s = facts.runs[0].scores[facts.main_split]
    size = f"{facts.main_split}: {verdict.counted(s['utterances'], 'utterance')}, {s['words']:,} words, "
    size += f"{verdict.counted(s['speakers'], 'speaker')}, {s['hours']:.2f} h."
    meaning = f"Pale numbers: {sure} % bootstrap interval, utterances drawn; “by speaker”: whole speakers drawn."
    out = _rates(facts, facts.main_split) + markup.paragraph(f"{size} {meaning}", "note")
    for split in facts.runs[0].scores:
        if split != facts.main_split:
            out += f"<details><summary>The same on {escape(split)}</summary>{_rates(facts, split)}</details>"
    return Markup(out)


def _comparisons(page: Page) -> Markup:
    if not page["facts"].comparisons:
        return markup.paragraph("One method only: nothing to compare.", "note")
    rows = []
    for c in page["facts"].comparisons:
        word = verdict.verdict(c)
        said = Markup(f'{markup.method(c["a"])} is <span class="{SURE_CLASS[word]}">{word}</span> {escape(NAMES.get(c["b"], c["b"]))}')
        spans = [
            f"{verdict.points(c[f'{p}low'])} to {verdict.points(c[f'{p}high'])}" if c.get(f"{p}low") is not None else None
            for p in ("", "speaker_")
        ]
        ps = [None if c.get(k) is None else f"{c[k]:.3g}" for k in ("p", "speaker_p")]
        rows.append(
            [said, Markup(f"<b>{verdict.points(c['difference'])}</b>"), spans[0], ps[0], spans[1], ps[1], c["utterances"], c["words"]]
        )
    head = ["", "WER difference, points", "by utterance", "p", "by speaker", "p", "Utterances", "Words"]
    note = (
        "Differences on the same utterances, errors averaged over seeds; negative: the method named first makes fewer errors. "
        "Told apart only where both intervals leave out 0. p is two-sided, from the same bootstrap; "
        "it is not corrected for the number of comparisons."
    )
    return markup.table(head, rows) + markup.paragraph(note, "note")


def _health(page: Page) -> Markup:
    if not page["health"]:
        return markup.paragraph("No method of this run is pre-trained.", "note")
    rows = []
    for h in page["health"]:
        held = (
            None
            if h["held"] is None
            else Markup('<span class="good">held</span>' if h["held"] else '<span class="bad">did not hold</span>')
        )
        ratio = None if h["ratio_min"] is None else f"{h['ratio_min']:.2f} to {h['ratio_max']:.2f}"
        numbers = [markup.text(h["anchor_perplexity"], 1), markup.text(h["enhanced_perplexity"], 1), ratio]
        shares = [markup.text(h[k], 2) for k in ("label_fidelity", "fidelity_min")]
        used = [None if h[k] is None else f"{100 * h[k]:.0f} %" for k in ("anchor_used_share", "enhanced_used_share")]
        accuracy = None if h["masked_accuracy"] is None else f"{100 * h['masked_accuracy']:.1f} %"
        rows.append([markup.method(h["method"]), h["seed"], held, *numbers, *shares, *used, accuracy, h["steps"]])
    head = ["Method", "Seed", "Enhanced codes", "Perplexity: anchoring", "enhanced", "ratio over the run", "Fidelity: last", "lowest"]
    head += ["Used: anchoring", "enhanced", "Accuracy", "Steps"]
    note = (
        "At the last step unless it says otherwise. Enhanced codes held if, at every logged step, their perplexity stayed within a factor "
        "of 2 of the anchoring codes' and label fidelity above one half."
    )
    return markup.table(head, rows, left=(0, 2)) + markup.paragraph(note, "note")


def _quality(page: Page) -> Markup:
    facts: Facts = page["facts"]
    rows = []
    for r in facts.runs:
        for q in r.probe["rows"]:
            of = "anchoring, input" if q["labels"] == "anchor" else f"layer {q['layer']}"
            chosen = q["labels"] == "enhanced" and q["layer"] == r.probe.get("label_layer") and r.method == "birq"
            label = Markup(f"<b>{of}</b> (enhanced labels)") if chosen else of
            above = None if q["pnmi"] is None else q["pnmi"] - q["pnmi_floor"]
            values = [markup.text(v, 3) for v in (q["phone_purity"], q["cluster_purity"], q["pnmi"], q["pnmi_floor"], above)]
            rest = [markup.text(q["perplexity"], 1), f"{100 * q['used_share']:.0f} %", markup.text(q["agreement"], 3)]
            rows.append([markup.method(r.method), r.seed, label, *values, *rest])
    head = [
        "Method",
        "Seed",
        "Labels from",
        "Phone purity",
        "Cluster purity",
        "PNMI",
        "floor",
        "above floor",
        "Perplexity",
        "Used",
        "Tie to anchoring",
    ]
    why = next((r.probe.get("why_not") for r in facts.runs if not r.probe["available"]), None)
    p = facts.runs[0].probe
    note = (
        f"{p['frames']:,} frames, {p['n_codebooks']} codebook{'s' if p['n_codebooks'] > 1 else ''} of {p['codebook_size']} codes. "
        "Compare PNMI only at equal codebook and frame count, as here. Layers are read with the same kind of random codebook whatever the "
        "method, so each layer of every encoder has a row. "
        "Tie to anchoring: normalised mutual information of the two label streams."
    )
    missing = markup.paragraph(f"Phones are not known here: {why}.", "note") if why else Markup("")
    body = markup.table(head, rows, left=(0, 2), group=0)
    return Markup(
        missing
        + f"<details><summary>Label quality by layer, as a table ({len(rows)} rows)</summary>{body}</details>"
        + markup.paragraph(note, "note")
    )


def _utterances(run: Run) -> Markup:
    parts = []
    for u in run.worst:
        pairs = align(u["text"] or "", u["hypothesis"] or "")
        found = counts(pairs)
        tally = ", ".join(f"{n} {kind}" for kind, n in found.items() if n) or "no errors"
        rate = f"{100 * u['errors'] / u['words']:.0f} % WER" if u["words"] else "empty reference"
        who = (
            f"{u['id']} · speaker {u['speaker']} · {u['duration_s']:.1f} s · {u['errors']} errors in {u['words']} words ({tally}) · {rate}"
        )
        parts.append(f'<div class="utt"><div class="who">{escape(who)}</div>{markup.alignment(pairs)}</div>')
    return Markup("".join(parts))


def _worst(page: Page) -> Markup:
    facts: Facts = page["facts"]
    who = verdict.protagonist(facts.methods)
    first = [facts.of(who)[0], *(facts.of(m)[0] for m in facts.methods if m != who)]
    key = (
        '<p class="note key">Reference above, hypothesis below. <span class="wS">S substituted</span><span class="wD">D deleted (×)</span>'
        f'<span class="wI">I inserted (+)</span> Most errors first, {escape(facts.main_split)}, the first seed of each method.</p>'
    )
    blocks = [
        f"<details{' open' if i == 0 else ''}><summary>{markup.method(r.method)}, seed {r.seed}: "
        f"the {len(r.worst)} utterances with the most errors</summary>"
        f"{_utterances(r)}</details>"
        for i, r in enumerate(first)
    ]
    return Markup(key + "".join(blocks))


def _corpora(page: Page) -> Markup:
    facts: Facts = page["facts"]
    rows = []
    for c in facts.corpora:
        roles = [
            r
            for r, names in (("pre-training", facts.pretrain_corpora), ("fine-tuning and test", facts.finetune_corpora))
            if c.name in names
        ]
        for split, s in c.info["splits"].items():
            labelled = f"{s['labelled_utterances']:,} · {s['labelled_hours']:.2f} h"
            kind = "synthetic" if c.info.get("synthetic") else "recorded"
            rows.append(
                [
                    c.name,
                    kind,
                    split,
                    s["utterances"],
                    s["speakers"],
                    markup.text(float(s["hours"]), 2),
                    labelled,
                    c.frames.get(split),
                    ", ".join(roles),
                ]
            )
    head = ["Corpus", "Speech", "Split", "Utterances", "Speakers", "Hours", "Transcribed", "Log-mel frames", "Used for"]
    out = markup.table(head, rows, left=(0, 1, 2, 8), group=0)
    for c in facts.corpora:
        reasons = "; ".join(f"{n} {reason}" for reason, n in c.quarantine.items())
        aside = f"{c.info['quarantined']} set aside" + (f" ({reasons})" if reasons else "")
        out = Markup(out + markup.paragraph(f"{c.name}: {aside}. Licence: {c.info['licence']}. Source: {c.info['source']}.", "note"))
    return out


def _pipeline(page: Page) -> Markup:
    facts: Facts = page["facts"]
    runs, corpora = len(facts.runs), len(facts.corpora)
    times = {n: runs if s.wildcards == ("method", "seed") else corpora if s.wildcards else 1 for n, s in dagdraw.STAGES.items()}
    note = "An arrow is drawn where no longer path says the same: report, for instance, also reads corpus, features and every run's curves."
    return Markup(f'<figure class="dag">{dagdraw.svg(times)}</figure>') + markup.paragraph(note, "note")


def _cost(page: Page) -> Markup:
    facts: Facts = page["facts"]
    rows = []
    for r in facts.runs:
        pre, fine = r.provenance["pretrain"], r.provenance["finetune"]
        seen = r.pretrain_curve[-1].get("hours_seen") if r.pretrain_curve else None
        speed = None if r.speed_hours_per_hour is None else f"{r.speed_hours_per_hour:,.0f}"
        parameters = r.config.get("n_parameters")
        took = markup.duration(r.seconds("pretrain")) if r.pretrain_curve else None
        steps = r.pretrain_curve[-1]["step"] if r.pretrain_curve else None
        last = r.finetune_curve[-1]["step"] if r.finetune_curve else None
        best = fine["notes"].get("best_step")
        device = pre["notes"].get("device") or fine["notes"].get("device")
        size = None if parameters is None else f"{parameters / 1e6:.2f} M"
        rows.append(
            [
                markup.method(r.method),
                r.seed,
                size,
                steps,
                markup.text(seen, 1 if seen and seen >= 1 else 2),
                speed,
                took,
                last,
                best,
                markup.duration(r.seconds("finetune")),
                device,
            ]
        )
    head = ["Method", "Seed", "Encoder", "Pre-training steps", "Speech heard, h", "h of speech per h", "took"]
    head += ["Fine-tuning steps", "kept", "took", "Device"]
    return markup.table(head, rows, left=(0, 10))


def _records(facts: Facts) -> list[tuple[str, dict[str, Any]]]:
    out = [(f"{stage}/{c.name}", c.provenance[stage]) for stage in ("corpus", "features") for c in facts.corpora]
    return out + [
        (f"{stage}/{r.method}-{r.seed}", r.provenance[stage]) for stage in ("pretrain", "finetune", "score", "probe") for r in facts.runs
    ]


def _provenance(page: Page) -> Markup:
    facts: Facts = page["facts"]
    environments: list[str] = []
    rows = []
    for name, record in _records(facts):
        env = record["environment"]
        packages = " ".join(f"{p} {v}" for p, v in env["packages"].items())
        described = f"Python {env['python']}, {env['machine']}, {env['cpus']} CPUs: {packages}"
        if described not in environments:
            environments.append(described)
        git = env.get("git")
        commit = (
            "no git"
            if not git
            else Markup(f"<code>{escape(git['commit'][:10])}</code>" + (' <span class="bad">+ changes</span>' if git["dirty"] else ""))
        )
        key = Markup(f'<code title="key {escape(record["key"])}, digest {escape(record["digest"])}">{escape(record["key"][:12])}</code>')
        mark = chr(ord("A") + environments.index(described)) if environments.index(described) < 26 else "…"
        device = record["notes"].get("device")
        rows.append([name, key, markup.duration(record["wall_seconds"]), device, env["host"], mark, commit])
    total = sum(record["wall_seconds"] for _, record in _records(facts))
    head = ["Artifact", "Key", "Took", "Device", "Host", "Environment", "Commit"]
    legend = markup.definitions((f"Environment {chr(ord('A') + i)}", e) for i, e in enumerate(environments[:26]))
    note = Markup(
        f"Together {markup.duration(total)} of wall time, stages that ran side by side counted one by one. "
        "<code>python -m birq verify</code> proves keys and files."
    )
    return Markup(markup.table(head, rows, left=(0, 1, 3, 4, 5, 6)) + legend + markup.paragraph(note, "note"))


def _params(page: Page) -> Markup:
    facts: Facts = page["facts"]
    parts: dict[str, Any] = {}
    for _, record in _records(facts):
        parts |= record["parts"]["params"]
    lines = "\n".join(
        f"{section}: {json.dumps(value, ensure_ascii=False)}" for section, value in sorted(parts.items()) if not isinstance(value, dict)
    )
    for section, value in sorted(parts.items()):
        if isinstance(value, dict):
            body = "\n".join(f"  {k}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            lines += f"\n\n{section}:\n{body}"
    return Markup(f"<details><summary>All parameters of these runs</summary><pre>{escape(lines.strip())}</pre></details>")


SECTIONS: list[tuple[str, str, Callable[[Page], str]]] = [
    (
        "results",
        "Results",
        lambda p: _results(p) + "<h3>Paired comparisons</h3>" + _comparisons(p) + markup.figures(p["svgs"], ["wer", "differences"]),
    ),
    (
        "pretraining",
        "Pre-training",
        lambda p: (
            markup.figures(p["svgs"], ["pretrain_losses", "masked_accuracy", "perplexity", "label_fidelity"])
            + "<h3>Health of the codes</h3>"
            + _health(p)
        ),
    ),
    ("finetuning", "Fine-tuning", lambda p: markup.figures(p["svgs"], ["dev_wer", "finetune"])),
    ("labels", "Labels", lambda p: markup.figures(p["svgs"], ["pnmi", "usage"]) + _quality(p)),
    ("errors", "Errors", _worst),
    ("cost", "Cost", _cost),
    ("corpus", "Corpus", _corpora),
    ("pipeline", "Pipeline", _pipeline),
    ("provenance", "Provenance", lambda p: _provenance(p) + _params(p)),
    ("card", "Model card", lambda p: markup.definitions(card(p["facts"], p["health"]))),
    ("glossary", "Glossary", lambda p: markup.definitions(TERMS.items())),
]


def render(facts: Facts, health: list[dict[str, Any]], svgs: dict[str, str]) -> str:
    """index.html. svgs: figures by name, as `plots.write` returns them."""
    page: Page = {"facts": facts, "health": health, "svgs": svgs}
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in SECTIONS)
    body = "".join(f'<section id="{anchor}"><h2>{escape(title)}</h2>{draw(page)}</section>' for anchor, title, draw in SECTIONS)
    title = verdict.headline(facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>{_header(page)}<nav><div class=inner>{links}</div></nav>\n"
        f"<main>{body}<footer>Made by birq from the artifacts named above. Figures as SVG and Vega-Lite, and their numbers as CSV, "
        "lie in plots/ beside this page; metrics.json holds one record per method, seed and split.</footer></main></body></html>\n"
    )
