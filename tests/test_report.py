"""The report: its statements follow from the scores, and its page is one file."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_artifacts as artifacts

from birq.errors import BirqError
from birq.evaluate.compare import compare_probes
from birq.pipeline import dag
from birq.report import build, charts, claims, dagdraw, glossary, health, plots, tables, verdict
from birq.report.aligned import align, counts
from birq.report.gather import Facts, gather
from birq.report.page import render
from birq.report.phones import by_phone
from birq.report.utterances import heard
from birq.settings import params

ROOT = Path(__file__).parent.parent
PAIR = {
    "a": "birq", "b": "best_rq", "kind": "methods", "seeds_a": [0, 1, 2], "seeds_b": [0, 1, 2], "difference": -0.02,
    "low": -0.03, "high": -0.01, "speaker_low": -0.04, "speaker_high": -0.005, "p": 0.01, "speaker_p": 0.02,
    "pretrain_seconds_a": 200.0, "pretrain_seconds_b": 200.0, "time_ratio": 1.0, "equal_time": True, "equal_time_in": None,
}  # fmt: skip


def make(root: Path, methods: dict[str, float], seeds: tuple[int, ...], **options) -> Path:
    inputs = artifacts.everything(root, methods, seeds, **options)
    out = root / "data/report"
    out.mkdir(parents=True)
    write(inputs, out, methods, seeds)
    return out


def write(inputs: dict[str, list[Path]], out: Path, methods: Iterable[str], seeds: tuple[int, ...] = (0,)) -> None:
    p = artifacts.params(methods=list(methods), seeds=list(seeds))
    build.report(inputs, out, p.report, p.run, dag.nodes(tracked()), 3)


def tracked() -> params.Params:
    return params.load(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Three methods, three seeds, clear differences, pre-training times that differ."""
    return make(tmp_path_factory.mktemp("report"), artifacts.SKILL, (0, 1, 2))


@pytest.fixture(scope="module")
def facts(report: Path) -> Facts:
    root = report.parent.parent
    inputs = {s: sorted((root / "data" / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    return gather(inputs, "test", 20, ["synth"], ["synth"], 3)


# ---- alignments


def test_an_alignment_loses_no_word_and_counts_as_the_scores_do(report: Path):
    """Reading one side of the columns gives the sentence back, and S, D, I are those by which the utterance was scored."""
    rows = pq.read_table(report.parent / "score/birq-0/utterances.parquet").to_pylist()
    assert sum(r["errors"] for r in rows) > 50
    for r in rows:
        pairs = align([r["text"]], [r["hypothesis"]])[0]
        assert [p.reference for p in pairs if p.kind != "I"] == r["text"].split()
        assert [p.hypothesis for p in pairs if p.kind != "D"] == r["hypothesis"].split()
        assert counts(pairs) == {"S": r["substitutions"], "D": r["deletions"], "I": r["insertions"]}


@pytest.mark.parametrize(("reference", "hypothesis"), [("", "a b"), ("a b", ""), ("", ""), ("a a a", "a"), ("a b c d", "x b y d e")])
def test_an_alignment_is_the_cheapest(reference: str, hypothesis: str):
    """Its errors are jiwer's edit distance, empty sides included; no alignment has fewer."""
    out = jiwer.process_words([reference], [hypothesis])
    assert sum(counts(align([reference], [hypothesis])[0]).values()) == out.substitutions + out.deletions + out.insertions


# ---- statements


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, "lower"),
        ({"high": 0.001}, "none"),
        ({"speaker_high": 0.0}, "none"),
        ({"speaker_low": None, "speaker_high": None}, "lower"),
        ({"low": 0.01, "high": 0.03, "speaker_low": 0.001, "speaker_high": 0.04}, "higher"),
        ({"low": 0.01, "high": 0.03}, "none"),
    ],
)
def test_a_difference_is_significant_only_if_both_intervals_exclude_zero(change: dict, word: str):
    """A claim must hold for other utterances and for other speakers. Seen from b it is the mirror."""
    assert claims.outcome(PAIR | change) == word
    mirror = {"lower": "higher", "higher": "lower"}.get(word, word)
    assert claims.outcome(claims.turned(PAIR | change)) == mirror
    assert claims.turned(claims.turned(PAIR | change)) == PAIR | change


@pytest.mark.parametrize(("sign", "word"), [(-1, "lower"), (1, "higher")])
def test_the_headline_follows_the_scores(facts: Facts, sign: int, word: str):
    """The sentence comes from the intervals, whichever method is named first."""
    pair = PAIR if sign < 0 else {**claims.turned(PAIR), "a": "birq", "b": "best_rq"}
    for c in (pair, claims.turned(pair)):
        here = replace(facts, comparisons=[c])
        assert f"significantly {word} than BEST-RQ" in verdict.headline(here)
        assert f"Significantly {word} than BEST-RQ" in verdict.lead(here)[1]
        numbers = "−2.0 points (−3.0 to −1.0 by utterance, −4.0 to −0.5 by speaker)"
        swapped = "+2.0 points (+1.0 to +3.0 by utterance, +0.5 to +4.0 by speaker)"
        assert (numbers if sign < 0 else swapped) in verdict.lead(here)[1]
        assert "synthetic speech" in verdict.headline(here)
    undecided = replace(facts, comparisons=[PAIR | {"high": 0.01}])
    assert "no significant difference from BEST-RQ" in verdict.headline(undecided)
    assert not re.search("significantly", " ".join(verdict.lead(undecided)))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_seeds_give_statements_about_models(tmp_path: Path, seeds: tuple[int, ...]):
    """With one or two seeds, training is not covered: page, headline and table speak of models, and say so."""
    out = make(tmp_path, artifacts.SKILL, seeds, n=60)
    rows = json.loads((out / "comparisons.json").read_text())["comparisons"]
    assert {r["kind"] for r in rows} == {"models"} and rows[0]["seeds_a"] == list(seeds)
    who = "of seed 0" if len(seeds) == 1 else "of seeds 0 and 1"
    s = "s" if len(seeds) > 1 else ""
    page, table = (out / "index.html").read_text(), tables.from_file(out / "metrics.json")
    assert f"<h1>The BiRQ model{s} {who}: " in page
    assert f"the BEST-RQ model{s} {who}" in page and f"the model{s} without pre-training {who}" in page
    assert sum(line.startswith(f"the {m} model{s} {who} ") for m in artifacts.SKILL for line in table.splitlines()) == 6
    for text in (page, table):
        assert "The statements are about these models, not about methods" in text
        assert not re.search(r"\bbetter\b|statements are about methods", text)
        assert ("not known from this run" in text) == (len(seeds) == 1)
        assert ("standard deviation" in text) == (len(seeds) > 1)


def test_three_seeds_give_statements_about_methods(report: Path):
    """From three seeds on the intervals cover seeds too, so the sentence may be about methods."""
    rest = json.loads((report / "comparisons.json").read_text())
    assert {c["kind"] for c in rest["comparisons"]} == {"methods"}
    assert "The statements are about methods. They rest on 3 seeds" in (report / "index.html").read_text()
    assert "\nbirq has a significantly lower WER than scratch: " in tables.from_file(report / "metrics.json")


# ---- cost


def test_a_comparison_shows_the_pretraining_time_of_both(report: Path):
    """260 s and 205 s are not equal: headline, comparison and table say so, and that equal time was not tried."""
    first, second, third = json.loads((report / "comparisons.json").read_text())["comparisons"]
    assert (first["pretrain_seconds_a"], first["pretrain_seconds_b"]) == (260.0, 205.0)
    assert first["time_ratio"] == pytest.approx(260 / 205)
    assert first["equal_time"] is False and first["equal_time_in"] is None
    assert (second["pretrain_seconds_b"], second["time_ratio"], second["equal_time"]) == (None, None, False) and not third["equal_time"]
    page, table = (report / "index.html").read_text(), tables.from_file(report / "metrics.json")
    (headline,) = re.findall("<h1>(.*)</h1>", page)
    assert (
        "(pre-training time × 1.27, equal time not tried)" in headline
        and "(pre-training time +4.3 min)" in headline
        and "better" not in page
    )
    assert "4.3 min / 3.4 min" in page and page.count(f">{claims.NOT_TRIED}<") == 6  # of WER, of the probe
    assert f"pre-training took 1.27 times as long; {claims.NOT_TRIED}" in table


def test_equal_time_is_named_where_it_was_tried(tmp_path: Path):
    """A variant with the other method's time is the fair opponent; its row is pointed at. Within 5 % times are equal."""
    skill = artifacts.SKILL | {"best_rq_long": 0.31}
    out = make(tmp_path, skill, (0,), n=30, seconds={"best_rq_long": 260 * 1.04})
    rows = {(c["a"], c["b"]): c for c in json.loads((out / "comparisons.json").read_text())["comparisons"]}
    assert rows["birq", "best_rq_long"]["equal_time"] is True
    assert rows["birq", "best_rq"]["equal_time_in"] == ["birq", "best_rq_long"]
    assert rows["best_rq", "best_rq_long"]["equal_time_in"] is None
    page = (out / "index.html").read_text()
    assert "see BiRQ and BEST-RQ (best_rq_long)" in page
    assert "for equal time see birq against best_rq_long" in tables.from_file(out / "metrics.json")


# ---- limits


def test_probes_are_compared_in_pairs_on_the_same_frames(report: Path, facts: Facts):
    """The rows of the table say for accuracy what WER's say: more is better, and the test covers utterances, speakers and seeds."""
    rows = json.loads((report / "comparisons.json").read_text())["probe_comparisons"]
    assert [(c["a"], c["b"]) for c in rows] == [("birq", "best_rq"), ("birq", "scratch"), ("best_rq", "scratch")]
    best = rows[2]
    assert best["kind"] == "methods" and (best["frames"], best["utterances"], best["speakers"]) == (2000, 40, 4)
    assert best["difference"] == pytest.approx(0.11, abs=0.03) and claims.outcome(best) == "higher"
    shown = facts.accuracies("best_rq"), facts.accuracies("scratch")
    assert best["seed_differences"] == pytest.approx([a - b for a, b in zip(*shown, strict=True)])
    page = (report / "index.html").read_text()
    assert 'BEST-RQ: <span class="good">significantly higher probe accuracy than</span> no pre-training' in page
    assert "accuracy of the linear phone probe at layer 3" in page


def test_probes_of_other_frames_or_without_the_layer_are_not_compared(tmp_path: Path):
    """An encoder of another frame rate was tested on other frames, and a shallow one has no such layer: pairs are left out, not wrong."""
    inputs = artifacts.everything(tmp_path, {"birq": 0.3, "best_rq": 0.4, "scratch": 0.5}, (0,), n=20)
    folders = {("birq", 0): inputs["probe"][0], ("best_rq", 0): inputs["probe"][1], ("scratch", 0): inputs["probe"][2]}
    how = (0.95, 100, 0)
    assert len(compare_probes(folders, 3, *how)) == 3 and compare_probes(folders, 7, *how) == []
    path = inputs["probe"][0] / "utterances.parquet"
    table = pq.read_table(path)
    twice = pa.array([2 * n for n in table["frames"].to_pylist()], pa.int32())
    pq.write_table(table.set_column(table.schema.get_field_index("frames"), "frames", twice), path)
    assert [(c["a"], c["b"]) for c in compare_probes(folders, 3, *how)] == [("best_rq", "scratch")]


def test_recorded_speech_is_not_called_synthetic(facts: Facts):
    """The corpus says what its speech is; the report repeats it."""
    recorded = replace(facts, corpora=[replace(c, info=c.info | {"synthetic": False}) for c in facts.corpora])
    assert "recorded speech" in verdict.headline(recorded)
    assert not any("synthetic" in note for note in verdict.caveats(recorded, []))


def test_pretraining_without_gain_is_a_limit(facts: Facts):
    """A reader must not take a method's name for a gain that was not measured."""
    even = [PAIR | {"a": "birq", "b": "scratch", "low": -0.05, "high": 0.01}, PAIR | {"a": "scratch", "b": "best_rq"}]
    (note,) = [n for n in verdict.caveats(replace(facts, comparisons=even), []) if "gave no significantly" in n]
    assert "with BiRQ and BEST-RQ" in note
    won = [PAIR | {"a": "birq", "b": "scratch"}]
    assert not any("gave no significantly" in n for n in verdict.caveats(replace(facts, comparisons=won), []))


def test_codes_are_within_bounds_only_if_they_are_at_every_step(facts: Facts):
    """One step out of bounds in the middle counts, even if the last one is fine; a method without enhanced labels is not judged."""
    run = facts.runs_of("birq")[0]
    assert health.health(run)["held"] is True
    cases = (("enhanced_perplexity", 30.0, "fell"), ("enhanced_perplexity", 300.0, "rose"), ("label_fidelity", 0.5, "fidelity"))
    for key, value, why in cases:
        curve = [p | {key: value} if i == 40 else p for i, p in enumerate(run.pretrain_curve)]
        judged = health.health(replace(run, pretrain_curve=curve))
        assert judged["held"] is False
        assert why in judged["why"]
        assert f"step {curve[40]['step']}" in judged["why"]
    assert health.health(facts.runs_of("best_rq")[0])["held"] is None
    assert health.health(facts.runs_of("scratch")[0]) is None


def test_steps_before_the_enhanced_labels_begin_are_not_judged(facts: Facts):
    """Such lines have null in the enhanced figures: health, text and figures are those of the rest, and null to the end is no verdict."""
    (run, *others), late = (
        facts.runs_of("birq"),
        ("enhanced_loss", "enhanced_perplexity", "label_fidelity", "enhanced_used_share", "agreement"),
    )
    empty = dict.fromkeys(late)
    begun = replace(run, pretrain_curve=[p | empty if i < 40 else p for i, p in enumerate(run.pretrain_curve)])
    want = health.health(replace(run, pretrain_curve=run.pretrain_curve[40:]))
    assert health.health(begun) == want and want["held"] is True
    never = health.health(replace(run, pretrain_curve=[p | empty for p in run.pretrain_curve]))
    assert never["held"] is None and never["ratio_min"] is None
    some = replace(facts, runs=[begun, *others, *facts.runs_of("best_rq")])
    band = next(layer for layer in plots.perplexity(some)["layer"] if "low" in str(layer))["data"]["values"]
    assert len(band) == len(run.pretrain_curve), "the band covers the whole training, not what the first run has"
    for name in ("pretrain_losses", "label_fidelity", "perplexity"):
        assert plots.FIGURES[name](some)


def test_accepted_artifacts_are_shown(report: Path, tmp_path: Path):
    """`birq accept` declares an artifact good under changed code: the page and the table name it, when, and the modules."""
    assert "Accepted under changed code" not in (report / "index.html").read_text()
    root = tmp_path / "data"
    shutil.copytree(report.parent, root)
    path = root / "pretrain/birq-1/provenance.json"
    entry = {"when": "2026-11-29T10:00:00Z", "from": "0" * 32, "code": {"birq.model.x": ["a", "b"], "birq.train.<y>": ["c", "d"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accepted": [entry]}))
    inputs = {s: sorted((root / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    write(inputs, root / "report", artifacts.SKILL, (0, 1, 2))
    page = (root / "report/index.html").read_text()
    assert "Accepted under changed code" in page
    assert "pretrain/birq-1, on 2026-11-29T10:00:00Z: birq.model.x and birq.train.&lt;y&gt; changed after it was made." in page
    table = tables.from_file(root / "report/metrics.json")
    assert "pretrain/birq-1 was accepted under changed code on 2026-11-29T10:00:00Z: birq.model.x, birq.train.<y>" in table


# ---- files


def test_phones_add_up_to_the_probe(report: Path, facts: Facts):
    """Found frames over all phones are the probe's accuracy over seeds; the wrong phone is the one that the artifacts were made with."""
    rows = by_phone(facts, ["birq", "best_rq"])
    assert {r["phone"] for r in rows} == {"AA", "B", "IY", "SIL"} and all(r["frames"] == 500 for r in rows)
    for name in ("birq", "best_rq"):
        assert sum(r["found"][name] for r in rows) / 4 == pytest.approx(sum(facts.accuracies(name)) / 3, abs=1e-6)
        assert all(r["taken_for"][name][1] == pytest.approx(1 - r["found"][name]) for r in rows)
    assert {r["phone"]: r["taken_for"]["birq"][0] for r in rows} == {"AA": "B", "B": "IY", "IY": "SIL", "SIL": "AA"}
    assert [r["phone"] for r in rows] == ["AA", "B", "IY", "SIL"], "of equals by name"
    page = (report / "index.html").read_text()
    assert 'id="by-phone"' in page and "most often taken for" in page


def test_a_probe_without_confusions_leaves_the_phones_out(tmp_path: Path):
    """One that was made before they were kept, and accepted."""
    report = make(tmp_path, {"birq": 0.3, "scratch": 0.5}, (0,))
    for path in report.parent.glob("probe/*/confusions.parquet"):
        path.unlink()
    root = report.parent.parent
    inputs = {s: sorted((root / "data" / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    assert by_phone(gather(inputs, "test", 20, ["synth"], ["synth"], 3), ["birq", "scratch"]) == []


def test_metrics_hold_one_record_per_method_seed_and_split(report: Path, facts: Facts):
    """The records are the scores; wer.json is their mean over seeds in per cent, on the main split."""
    records = json.loads((report / "metrics.json").read_text())
    assert len({(r["method"], r["seed"], r["split"]) for r in records}) == len(records) == 3 * 3 * 2
    by_method = json.loads((report / "wer.json").read_text())
    for method in artifacts.SKILL:
        mine = [r["wer"] for r in records if r["method"] == method and r["split"] == "test"]
        assert by_method[method]["wer"] == pytest.approx(100 * sum(mine) / 3, abs=0.005 + 1e-9)
        counts = [pq.read_table(report.parent / f"probe/{method}-{seed}/utterances.parquet").to_pylist() for seed in (0, 1, 2)]
        shares = [sum(c["correct"] for c in rows if c["layer"] == 3) / 2000 for rows in counts]
        assert by_method[method]["probe"] == pytest.approx(100 * sum(shares) / 3, abs=0.005 + 1e-9)
    one = next(r for r in records if (r["method"], r["seed"], r["split"]) == ("birq", 1, "test"))
    run = facts.runs_of("birq")[1]
    assert one["keys"] == {stage: p["key"] for stage, p in run.provenance.items()}
    assert (one["unlabelled_hours"], one["labelled_hours"], one["pretrain_seconds"], one["finetune_seconds"]) == (4.2, 1.0, 260.0, 190.2)
    assert (one["probe_split"], one["probe_layer"]) == ("dev", 3) and one["probe_low"] < one["probe"] < one["probe_high"]
    assert one["dev_loss"] == next(p["dev_loss"] for p in run.finetune_curve if p["step"] == 1200)
    assert all(r["unlabelled_hours"] == 0 for r in records if r["method"] == "scratch"), "it was not pre-trained, so it heard none"


def test_pre_training_time_counts_labels_and_the_encoders_behind_them(tmp_path: Path):
    """HuBERT's second iteration costs its first one and two passes of labels too: at equal steps it took longer, and the report says so."""
    names = {"hubert": 0.3, "best_rq": 0.33}
    inputs = artifacts.everything(tmp_path, names, (0,), n=30, seconds={"hubert": 200.0})
    path = tmp_path / "data/pretrain/hubert-0/provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"input_seconds": 220.0}))
    (tmp_path / "report").mkdir()
    write(inputs, tmp_path / "report", names, (0,))
    rows = {r["method"]: r for r in json.loads((tmp_path / "report/metrics.json").read_text())}
    assert (rows["hubert"]["pretrain_seconds"], rows["hubert"]["label_seconds"]) == (420.0, 220.0)
    assert (rows["best_rq"]["pretrain_seconds"], rows["best_rq"]["label_seconds"]) == (205.0, None)
    table = tables.from_file(tmp_path / "report/metrics.json")
    assert "pretrain min of hubert: with those of the labels and encoders that it needs" in table and "best_rq: with" not in table
    assert "Pre-training of HuBERT: the time includes the labels" in (tmp_path / "report/index.html").read_text()


def test_the_page_needs_nothing_but_itself(report: Path):
    """No file or address to load: it opens from a mail, without network. tests/test_browser.py opens it in a browser."""
    page = (report / "index.html").read_text()
    assert not re.search(r"<script[^>]*src|<link|<img|<iframe|@import|\bsrc=|url\((?!#)|fetch\(|XMLHttp|https?://(?!www.w3.org/)", page)
    assert set(re.findall(r'href="([^"]+)"', page)) <= {f"#{i}" for i in re.findall(r'id="([^"]+)"', page)}
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "an id used twice lets one figure clip another"
    assert {r for r in re.findall(r"url\(#([^)]+)\)", page)} <= set(ids)


def test_the_page_shows_what_it_promises(report: Path, facts: Facts):
    """Result, pairs, figures, worst utterances, corpus, pipeline, provenance: each from the artifacts, none left out."""
    page = (report / "index.html").read_text()
    assert "word error rate on synthetic speech; significantly lower than " in page
    for name in plots.FIGURES:
        assert f'id="fig-{name}"' in page
    for u in facts.runs_of("birq")[0].worst:
        assert u["id"] in page
    for stage in {node.stage.name for node in dag.nodes(tracked())}:
        assert f'class="dag-name">{stage}<' in page
    for run in facts.runs:
        for record in run.provenance.values():
            assert record["key"][:12] in page
    for text in ("2 too short; 1 unreadable", "0123456789", "+ changes", "torch 2.13.0", "Intended use", "within bounds"):
        assert text in page


def test_text_from_data_is_escaped(report: Path, tmp_path: Path):
    """A host, a source or a transcript that looks like HTML stays text."""
    root = tmp_path / "data"
    shutil.copytree(report.parent, root)
    path = root / "score/birq-0/utterances.parquet"
    table = pq.read_table(path)
    text = [t if split == "dev" else "<b>x" for t, split in zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True)]
    changed = table.set_column(table.schema.get_field_index("text"), "text", pa.array(text))
    pq.write_table(changed, path)
    inputs = {s: sorted((root / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    odd = gather(inputs, "test", 20, ["synth"], ["synth"], 3)
    page = render(odd, [], dict.fromkeys(plots.FIGURES, "<svg/>"), heard(odd, odd.names), {})
    assert "node<7>" not in page and "node&lt;7&gt;" in page
    assert "<here>" not in page
    assert "<b>x" not in page and "&lt;b&gt;x" in page


def test_figures_come_as_specification_svg_and_numbers(report: Path):
    """Each figure can be drawn again elsewhere: the specification carries its data, the SVG parses; it has a caption for Snakemake."""
    for name in plots.FIGURES:
        spec = json.loads((report / f"plots/{name}.vl.json").read_text())
        assert "vega-lite" in spec["$schema"] and '"url"' not in json.dumps(spec)
        root = ElementTree.fromstring((report / f"plots/{name}.svg").read_text())
        assert root.tag.endswith("svg")
        assert (float(root.get("width")), float(root.get("height"))) == pytest.approx((charts.WIDTH, charts.HEIGHT), abs=80)
        assert (ROOT / f"workflow/report/{name}.rst").is_file()


def test_figures_keep_a_colour_per_method_whoever_else_is_shown(facts: Facts):
    """A method is known by its colour, so leaving another method out must not change it."""
    for shown in (facts, replace(facts, runs=facts.runs_of("best_rq"))):
        spec = json.dumps(plots.masked_accuracy(shown))
        scale = re.search(r'"domain": (\[[^]]*\]), "range": (\[[^]]*\])', spec)
        colours = dict(zip(json.loads(scale[1]), json.loads(scale[2]), strict=True))
        assert colours["BEST-RQ"] == facts.colours["best_rq"]


def test_csv_files_have_the_columns_that_dvc_plots(report: Path):
    """dvc.yaml names these columns; an empty cell, not a 0, stands for what a method does not have."""
    wanted = {
        "curves": {"method", "seed", "step", "masked_accuracy", "enhanced_perplexity", "anchor_perplexity", "label_fidelity"},
        "finetune": {"method", "seed", "step", "loss", "dev_wer", "dev_loss"},
        "wer": {"run", "wer", "wer_low", "wer_high"},
        "layers": {"method", "seed", "labels", "layer", "linear", "linear_low", "abx_across", "pnmi", "pnmi_floor", "kmeans_pnmi"},
        "usage": {"method", "seed", "labels", "rank", "share"},
    }
    for name, columns in wanted.items():
        with open(report / f"plots/{name}.csv", encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        assert rows and columns <= set(rows[0])
        if name == "curves":
            assert {r["enhanced_perplexity"] for r in rows if r["method"] == "best_rq"} == {""}
            assert len(rows) == 6 * 80


def test_the_table_is_printed_with_the_page_below(report: Path):
    """What a new user sees last: every run, the comparisons, the codes' health and where the page is."""
    lines = tables.from_file(report / "metrics.json").splitlines()
    assert lines[0].startswith("test: 120 utterances") and lines[0].endswith("synthetic speech")
    assert [line.split()[:2] for line in lines[4:13]] == [[m, s] for m in artifacts.SKILL for s in "012"]
    assert re.search(r"birq +0 +\d+\.\d \[\d+\.\d, \d+\.\d\]", lines[4])
    assert sum(" WER " in line and "points" in line for line in lines) == 3
    assert sum(" accuracy of the linear phone probe " in line and "points" in line for line in lines) == 3
    assert sum("layer 3: the primary measure of pre-training" in line for line in lines) == 1
    assert sum(line.startswith("codes of birq-") and line.endswith(": within bounds") for line in lines) == 3
    assert lines[-1] == str(report / "index.html")
    assert "\n".join(lines).isascii(), "not every terminal knows more"


def test_the_markdown_table_holds_the_same_figures(report: Path):
    """README's table is pasted from it, so it may say nothing else than the terminal does."""
    plain = tables.from_file(report / "metrics.json").splitlines()
    lines = tables.from_file(report / "metrics.json", markdown=True).splitlines()
    assert lines[0] == plain[0]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(r) for r in rows} == {10} and set("".join(rows[1])) == set("-:")
    cells = [re.split(r" {2,}", line) for line in plain[2:13]]
    assert [rows[0], *rows[2:]] == [cells[0], *cells[2:]]
    assert [line[2:] for line in lines if line.startswith("- ")] == [line for line in plain[13:-1] if line]
    assert "index.html" not in "\n".join(lines)


# ---- other runs


def test_a_collapsed_run_without_alignments_says_so(tmp_path: Path):
    """Nothing that went wrong is left out: collapse, missing phones, a single seed; and the figures that cannot be drawn say why."""
    out = make(tmp_path, {"best_rq": 0.3, "birq": 0.3}, (0,), collapse=True, aligned=False, n=30)
    page = (out / "index.html").read_text()
    assert "out of bounds" in page
    assert "Phone alignments are missing" in page and "There is no linear phone probe: no alignments of an4" in page
    assert "no alignments of an4" in (out / "plots/linear.svg").read_text()
    assert {m: w["probe"] for m, w in json.loads((out / "wer.json").read_text()).items()} == {"best_rq": None, "birq": None}
    assert "probe" not in tables.from_file(out / "metrics.json")
    assert "this run has one seed per method" in page
    assert "no alignments of an4" in (out / "plots/pnmi.svg").read_text()
    assert "OUT OF BOUNDS" in tables.from_file(out / "metrics.json")
    assert "no significant difference from the BEST-RQ model of seed 0" in page


def test_the_probe_by_step_is_a_table_where_there_are_snapshots(report: Path, tmp_path: Path):
    """Of the runs that have some, the finished encoder last."""
    inputs = artifacts.everything(tmp_path, {"birq": 0.28, "best_rq": 0.33}, (0,))
    path = next(f for f in inputs["probe"] if f.name == "birq-0") / "probe.json"
    probe = json.loads(path.read_text())
    probe["snapshots"] = [{"step": 1200, "rows": [{"layer": k, "linear": 0.3 + 0.01 * k} for k in range(1, 5)]}]
    path.write_text(json.dumps(probe))
    write(inputs, tmp_path, ("birq", "best_rq"))
    shown = (tmp_path / "index.html").read_text()
    table = shown[shown.index("<h3>Linear probe by step</h3>") :].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", line) for line in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], flags=re.S)]
    finished = [f"{100 * row['linear']:.1f} %" for row in probe["rows"][1:]]
    assert [cells[-6:] for cells in rows] == [["0", "1,200", "31.0 %", "32.0 %", "33.0 %", "34.0 %"], ["0", "2,000", *finished]]
    assert "probe by step" not in (report / "index.html").read_text()


def test_the_wer_with_a_language_model_stands_beside_the_greedy_one(tmp_path: Path):
    """Table, page, metrics, DVC's summary and model card: each shows both, and says how the weights were chosen."""
    out = make(tmp_path, {"birq": 0.3, "scratch": 0.4}, (0,), n=30, lm=True)
    records = json.loads((out / "metrics.json").read_text())
    assert all(0 < r["lm_wer"] < r["wer"] and r["lm_wer_low"] <= r["lm_wer"] <= r["lm_wer_high"] for r in records)
    assert {(r["lm_weight"], r["lm_bonus"], r["lm_tuned_on"], r["lm_source"]) for r in records} == {(0.5, 1.5, "dev", "transcripts")}
    shown = {r["method"]: r for r in records if r["split"] == "test"}
    assert json.loads((out / "wer.json").read_text())["birq"]["wer_lm"] == round(100 * shown["birq"]["lm_wer"], 2)
    text = tables.from_file(out / "metrics.json")
    assert re.split(r" {2,}", text.splitlines()[2])[2:4] == ["WER % [95 %]", "WER % LM [95 %]"]
    assert f"{100 * shown['scratch']['lm_wer']:.1f} [" in text
    how = "beam search (32 hypotheses) with a 3-gram of 1,357 words from the transcripts of fine-tuning"
    assert f"WER % LM: {how}; weight and bonus, chosen on dev: 0.5 and 1.5 of birq-0 and 0.5 and 1.5 of scratch-0" in text
    page = (out / "index.html").read_text()
    assert "<th>WER % with LM</th>" in page and f"With LM: {how}" in page and f"greedy decoding, and {how}" in page


def test_without_a_language_model_nothing_speaks_of_one(report: Path):
    """A column of nothing would only ask for space."""
    assert "LM" not in tables.from_file(report / "metrics.json")
    page = (report / "index.html").read_text()
    assert "with LM</th>" not in page and "greedy decoding, no language model" in page


def test_one_method_without_pretraining_has_a_report(tmp_path: Path):
    """Supervised training alone is a legal run: no curves, no comparisons, still every file."""
    out = make(tmp_path, {"scratch": 0.3}, (0,), n=30, synthetic=False)
    assert {p.stem for p in (out / "plots").glob("*.svg")} == set(plots.FIGURES)
    assert "nothing to compare" in (out / "index.html").read_text()
    assert "recorded speech" in (out / "index.html").read_text()
    assert (out / "plots/curves.csv").read_text().startswith("method,seed,step,")


def test_variants_have_titles_and_colours_of_their_own(tmp_path: Path):
    """A variant is a method with a name of its own: any number of them must be told apart, and the base method is named."""
    names = {"scratch": 0.4, "best_rq": 0.3} | {f"birq_k{k}": 0.3 for k in range(1, 5)}
    out = make(tmp_path, names, (0,), n=20)
    page = (out / "index.html").read_text()
    assert "<h1>The BiRQ (birq_k1) model of seed 0: " in page
    colours = re.findall(r'class="tile" style="--c:(#\w+)"', page)
    assert len(colours) == len(set(colours)) == len(names)
    assert {r["method"] for r in json.loads((out / "metrics.json").read_text())} == set(names)
    path = tmp_path / "data/pretrain/birq_k1-0/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "wav2vec"}))
    inputs = {s: sorted((tmp_path / "data" / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    with pytest.raises(BirqError, match=r"unknown method 'wav2vec'"):
        gather(inputs, "test", 5, ["synth"], ["synth"], 3)


def test_equal_artifacts_make_equal_reports(tmp_path: Path):
    """The store keeps one report per key, so its bytes may depend on nothing but the artifacts."""
    inputs = artifacts.everything(tmp_path, {"birq": 0.3, "best_rq": 0.4}, (0,), n=30)
    files = []
    for i in "ab":
        out = tmp_path / i
        out.mkdir()
        write(inputs, out, ("birq", "best_rq"))
        files.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert files[0] == files[1]


def test_damaged_and_missing_inputs_are_named(report: Path, tmp_path: Path):
    """The error names the file or split at fault and the way out."""
    root = tmp_path / "data"
    shutil.copytree(report.parent, root)
    inputs = {s: sorted((root / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    with pytest.raises(BirqError, match=r"no split 'train'.*report\.main_split"):
        gather(inputs, "train", 5, ["synth"], ["synth"], 3)
    (root / "pretrain/birq-0/curve.jsonl").write_text('{"step": 1')
    with pytest.raises(BirqError, match=r"birq-0/curve\.jsonl.*run again"):
        gather(inputs, "test", 5, ["synth"], ["synth"], 3)
    (root / "score/best_rq-0/scores.json").unlink()
    with pytest.raises(BirqError, match=r"best_rq-0/scores\.json.*missing"):
        gather(inputs, "test", 5, ["synth"], ["synth"], 3)


# ---- the pipeline's picture


def _reachable(pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    out = set(pairs)
    while more := {(a, d) for a, b in out for c, d in out if b == c} - out:
        out |= more
    return out


def in_order(nodes: list[dag.Node]) -> int:
    """Fewer arrows, the same order of work; every arrow points right; no box covers another. How many boxes there are."""
    boxes, pairs = dagdraw.boxes(nodes)
    assert _reachable(dagdraw.reduced(pairs)) == _reachable(pairs)
    columns = dagdraw.ranks(list(boxes), pairs)
    assert all(columns[a] < columns[b] for a, b in pairs)
    root = ElementTree.fromstring(dagdraw.svg(nodes))
    corners = [(float(r.get("x")), float(r.get("y"))) for r in root.iter() if r.tag.endswith("rect")]
    assert len(corners) == len(boxes)
    for i, (x, y) in enumerate(corners):
        assert all(abs(x - u) >= dagdraw.BOX_W or abs(y - v) >= dagdraw.BOX_H for u, v in corners[:i])
    return len(boxes)


STAGES = sum(not stage.asked for stage in dag.STAGES.values())  # the study is not in the picture of the whole


def test_the_picture_orders_the_stages_as_the_table_does():
    """One box a stage; without a method that learns from a file, there are no labels."""
    assert in_order(dag.nodes(tracked())) == STAGES - 1


def with_methods(*names: str) -> params.Params:
    """And two variants that start from BEST-RQ's encoder."""
    tree = tracked().model_dump(mode="json")
    tree["variants"] = {name: {"method": m, "pretrain.starts_from": "best_rq"} for name, m in (("more", "relabel"), ("again", "best_rq"))}
    return params.parse(tree | {"run": tree["run"] | {"methods": list(names)}})


def test_labels_that_another_method_made_are_drawn_in_their_order():
    """HuBERT's second iteration learns from labels of the first one's encoder: a stage comes twice on one path, and nothing recurses."""
    loaded = with_methods("best_rq", "hubert")
    order = [n.name for n in dag.nodes(loaded)]
    chain = ["features/synth", "labels/hubert1-0", "pretrain/hubert1-0", "labels/hubert-0", "pretrain/hubert-0", "finetune/hubert-0"]
    assert [n for n in order if n in chain] == chain
    assert not {"labels/best_rq-0", "finetune/hubert1-0"} & set(order), "only the second iteration was asked for"
    assert {n.name for n in dag.find("pretrain/hubert-0", loaded).before} == {"features/synth", "labels/hubert-0"}
    assert in_order(dag.nodes(loaded)) == STAGES + 2, "labels and pretrain come twice"


@pytest.mark.parametrize(
    ("names", "boxes"),
    [
        (("phones",), 0),
        (("relabel",), 1),
        (("relabel2",), 3),
        (("phones", "relabel"), 2),
        (("hubert", "phones", "relabel"), 2),
        (("best_rq", "more"), 1),
        (("best_rq", "again"), 0),
    ],
)
def test_a_picture_of_methods_that_wait_for_each_other_has_no_circle(names: tuple[str, ...], boxes: int):
    """Labels come before some encoders and after others: a box that held both would wait for itself."""
    assert in_order(dag.nodes(with_methods(*names))) == STAGES + boxes


def test_the_readmes_picture_is_the_present_pipeline():
    """`python -m birq dag > docs/dag.svg` writes it; how often a stage runs is up to params.yaml."""
    drawn = (ROOT / "docs/dag.svg").read_text(encoding="utf-8")
    assert re.sub(r"\d+ ×", "n ×", drawn) == re.sub(r"\d+ ×", "n ×", dagdraw.svg(dag.nodes(tracked())))


def test_the_glossary_page_says_what_the_report_says():
    """One wording in both places; `glossary.markdown()` writes the page."""
    assert (ROOT / "docs/glossary.md").read_text(encoding="utf-8") == glossary.markdown()


def test_the_report_starts_without_torch():
    """Its machine may have none, and importing it takes longer than the whole report."""
    code = "import sys, birq.report.build, birq.report.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
