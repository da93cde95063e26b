"""The study: its params, its place in the DAG, its statistics, its record and its page. tests/pipeline/test_study_runs.py runs it."""

from __future__ import annotations

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from birq.errors import BirqError
from birq.pipeline import dag, digests
from birq.report.study import compare, figures, notes, page, predictions, published, record, tables, verb
from birq.report.study.compare import PROBE, WER, difference
from birq.report.study.record import Sitting
from birq.report.tables import pipes
from birq.settings import params

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "study.json"
PARTS = {
    "screening": {"names": ["best_rq", "hubert", "birq_k2"], "seeds": [0, 1]},
    "final": {"names": ["best_rq", "phones"], "seeds": [0, 7], "words": True},
}


def settings(parts: dict[str, Any], **study: Any) -> params.Params:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    variants = {"birq_k2": {"method": "birq", "birq.label_layer": 2}}
    return params.parse(tree | {"variants": variants, "study": {"parts": parts} | study})


# ---- params


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ({"names": ["hubert9"], "seeds": [0]}, ["study.parts.a.names", "'hubert9'", "birq, best_rq, scratch", "birq_k2"]),
        ({"names": ["birq", "birq"], "seeds": [0]}, ["study.parts.a", "names", "'birq' stands there twice", "remove one"]),
        ({"names": ["birq"], "seeds": [0, 3, 0]}, ["study.parts.a", "seeds", "0 stands there twice", "remove one"]),
        ({"names": ["birq"], "seeds": []}, ["study.parts.a.seeds", "at least 1"]),
        ({"names": ["birq"], "seeds": [-1]}, ["study.parts.a.seeds.0", "-1", "greater than or equal to 0"]),
        ({"names": ["birq"]}, ["study.parts.a.seeds", "missing"]),
        ({"names": ["birq"], "seeds": [0], "words": "some"}, ["study.parts.a.words", "'some'", "boolean"]),
        ({"names": ["birq"], "seed": [0]}, ["study.parts.a.seed", "unknown key"]),
    ],
)
def test_a_bad_part_is_named_with_the_way_out(part: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(BirqError) as error:
        settings({"a": part})
    assert all(name in str(error.value) for name in names), str(error.value)


def test_a_bad_name_of_a_part_and_of_the_base_are_refused() -> None:
    with pytest.raises(BirqError, match=r"study\.parts\.Part 1"):
        settings({"Part 1": PARTS["screening"]})
    with pytest.raises(BirqError, match=r"study\.against: 'wav2vec' is neither a method nor in variants; legal: birq, "):
        settings(PARTS, against="wav2vec")


def test_labels_of_a_deeper_layer_than_there_is_are_refused_for_names_of_the_study_too() -> None:
    tree = settings(PARTS).model_dump(mode="json")
    tree["kmeans"]["layer"] = 9
    with pytest.raises(BirqError, match=r"kmeans\.layer: 9 is above the depth"):
        params.parse(tree)


# ---- the DAG


def test_only_the_study_needs_its_runs() -> None:
    """Without the study, the DAG is what it is without `study.parts`; with it, a run that both name is one node."""
    p = settings(PARTS)
    alone = [n.name for n in dag.nodes(settings({}))]
    assert [n.name for n in dag.nodes(p)] == alone == [n.name for n in dag.every(settings({}))]
    every = [n.name for n in dag.every(p)]
    assert len(every) == len(set(every)) and set(alone) < set(every)
    more = set(every) - set(alone)
    assert {n for n in more if n.startswith(("finetune", "decode", "score"))} == {
        f"{stage}/{run}" for stage in ("finetune", "decode", "score") for run in ("best_rq-7", "phones-0", "phones-7")
    }
    assert {"probe/hubert-1", "pretrain/hubert1-1", "labels/hubert1-1", "probe/birq_k2-0", "study"} <= more
    assert "pretrain/birq_k2-7" not in more, "a seed of another part"


def test_the_study_reads_what_its_parts_ask_for() -> None:
    """Probes of all runs; scores only where a part has words."""
    found = {stage: {n.run for n in nodes} for stage, nodes in dag.find("study", settings(PARTS)).inputs.items()}
    scored = {"best_rq-0", "best_rq-7", "phones-0", "phones-7"}
    probed = scored | {f"{name}-{seed}" for name in PARTS["screening"]["names"] for seed in (0, 1)}
    assert found == {"pretrain": probed, "probe": probed, "finetune": scored, "score": scored}


def test_a_run_of_the_study_alone_is_one_of_these_params() -> None:
    """`birq pretrain --method birq_k2 --seed 1` is legal, a seed of another part is not."""
    p = settings(PARTS)
    assert dag.node("pretrain", {"method": "birq_k2", "seed": "1"}, p).name == "pretrain/birq_k2-1"
    with pytest.raises(BirqError, match=r"params\.yaml lists no --method birq_k2 --seed 7 for pretrain"):
        dag.node("pretrain", {"method": "birq_k2", "seed": "7"}, p)
    with pytest.raises(BirqError, match=r"study\.parts is empty.*preset study-screen"):
        dag.node("study", {}, settings({}))


def test_under_dvc_the_verb_makes_every_run_of_the_study() -> None:
    """Those of dvc.yaml too: its stages would fine-tune what the study only probes. A run of another seed is not in dvc.yaml either."""
    p = settings(PARTS)
    made = [n.name for n in dag.on_the_way(dag.find("study", p))]
    assert set(made) == {n.name for n in dag.upstream(dag.find("study", p)) if n.method}
    assert made.index("pretrain/hubert1-0") < made.index("labels/hubert-0") < made.index("pretrain/hubert-0") < made.index("probe/hubert-0")
    assert [n.name for n in dag.on_the_way(dag.find("probe/best_rq-7", p))] == ["pretrain/best_rq-7"], "run.seeds has no 7"
    assert dag.on_the_way(dag.find("probe/best_rq-0", p)) == []


def test_what_decides_a_run_of_the_study_reaches_dvc() -> None:
    """Params, code and corpora of all that its verb makes: else DVC would keep a study of other labels."""
    content = digests.content(dag.find("study", settings(PARTS)))
    assert {"pretrain-birq_k2", "labels-hubert1", "probe-phones", "finetune-best_rq", "corpus-synth", "features-synth"} <= set(
        content["before"]
    )
    assert content["before"]["labels-hubert"]["params"]["kmeans.layer"] == settings({}).kmeans.layer


def test_the_key_of_the_study_has_the_params_of_its_runs() -> None:
    """Its record shows them, so it must be made again when one changes, whatever the bytes of its inputs do."""
    sections = dag.find("study", settings(PARTS)).sections
    assert {"study", "variants", "kmeans.clusters", "finetune", "probe", "corpora.synth", "birq.label_layer"} <= set(sections)
    assert "relabel.layer" not in sections


# ---- statistics


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_of_three_seeds() -> None:
    """By hand: differences .1, .1, .2 have the mean .1333 and the deviation .0577; Student's t of 2 degrees at 97.5 % is 4.303."""
    d = difference(by_seed(0.5, 0.6, 0.7), by_seed(0.4, 0.5, 0.5), 0.95)
    assert d is not None and d.low is not None and d.high is not None
    assert d.mean == pytest.approx(0.13333, abs=1e-5)
    assert (d.high - d.mean, d.mean - d.low) == pytest.approx((0.14343, 0.14343), abs=1e-4)


def test_few_seeds_have_no_interval() -> None:
    """Two seeds give an interval of 12.7 standard errors, which would be read as knowledge."""
    d = difference(by_seed(0.5, 0.6), by_seed(0.4, 0.5), 0.95)
    assert d is not None and d.mean == pytest.approx(0.1) and d.low is None


def test_only_seeds_that_both_have_are_compared() -> None:
    """Forms are paired by seed: another seed has another quantizer and other batches."""
    d = difference(by_seed(0.5), by_seed(0.4, 0.9), 0.95)
    assert d is not None and d.mean == pytest.approx(0.1)
    assert difference({1: 0.5}, by_seed(0.4), 0.95) is None


def row(form: str, seed: int, probe: float, wer: float | None = None, part: str = "final") -> dict[str, Any]:
    """A run with two layers; the second is the one that decides."""
    words = None if wer is None else {"split": "test", "wer": wer, "wer_low": wer - 0.01, "wer_high": wer + 0.01}
    words = words and words | {"cer": wer / 2, "cer_low": wer / 2, "cer_high": wer / 2, "dev_loss": 2 * wer}
    layers = [{"layer": k, "linear": probe - 0.01 * (2 - k), "abx_within": 0.1, "effective_rank": 20.0 + seed} for k in range(3)]
    keys = {stage: f"{part}{form}{seed}{stage}".ljust(32, "0") for stage in ("pretrain", "probe")}
    made = {"commit": "0123456789abcdef", "dirty": False, "device": "cpu", "machine": "x86_64", "cpus": 2, "torch": "2.9.0", "accepted": []}
    return {
        "part": part, "form": form, "seed": seed, "steps": 0 if form == "scratch" else 600, "seconds": 60.0 + seed, "split": "dev",
        "why_not": None, "layers": layers, "words": words, "keys": keys, "made": made,
    }  # fmt: skip


def made(rows: list[dict[str, Any]], **numbers: Any) -> dict[str, Any]:
    parts = {}
    for r in rows:
        about = {"against": "best_rq", "layer": 2, "confidence": 0.95, "params": {"pretrain.steps": 600} | numbers, "forms": {}}
        parts.setdefault(r["part"], about)["forms"][r["form"]] = {"method": r["form"], "changed": {}}
    return {"format": record.FORMAT, "parts": parts, "rows": rows}


WORDS = [
    *(row("best_rq", s, 0.50 + 0.01 * s, 0.40 - 0.01 * s) for s in range(3)),
    *(row("birq", s, 0.54 + 0.01 * s, 0.38 - 0.01 * s) for s in range(3)),
    *(row("phones", s, 0.60 + 0.01 * s, 0.30 - 0.01 * s) for s in range(3)),
    row("scratch", 0, 0.40, 0.45),
]


def test_the_share_of_the_ceiling() -> None:
    """By hand: from 50 to 54 is two fifths of the way to 60; from 40 to 38 per cent of WER is a fifth of the way to 30."""
    (part,) = compare.parts(made(WORDS))
    birq, base = part.form("birq"), part.base
    assert birq is not None and base is not None
    assert compare.ceiling_share(part, birq, PROBE) == pytest.approx(0.4)
    assert compare.ceiling_share(part, birq, WER) == pytest.approx(0.2)
    assert compare.ceiling_share(part, base, PROBE) is None
    assert "40 %" in tables.text([part]) and "20 %" in tables.text([part])


def test_the_share_of_what_labels_can_add() -> None:
    """By hand: (x − anchors) / (phones − shuffled) is 4, 4 and 7 twentieths in three seeds: mean .25, deviation .0866, and Student's t of
    2 degrees at 97.5 % is 4.303. Seeds are paired: one that a form lacks counts for none."""
    floor = [row("shuffled", s, 0.40 + 0.01 * s) for s in range(3)]
    rows = [r for r in WORDS if r["form"] != "birq"] + [row("birq", s, 0.54 + 0.01 * s + 0.03 * (s == 2)) for s in (0, 1, 2, 7)]
    (part,) = compare.parts(made(rows + floor))
    share = compare.student_share(part, part.form("birq"), PROBE)
    assert (share.mean, share.high - share.mean, share.mean - share.low) == pytest.approx((0.25, 0.21515, 0.21515), abs=1e-4)
    assert compare.student_share(part, part.base, PROBE) is None
    assert compare.student_share(compare.parts(made(WORDS))[0], part.form("birq"), PROBE) is None
    said = tables.text([part])
    assert "of phones - shuffled" in said and "+25 % [+3, +47]" in said and "(form - best_rq) / (phones - shuffled)" in said
    (few,) = compare.parts(made([r for r in rows + floor if r["seed"] < 2]))
    assert tables._student(few, few.form("birq")) == "+20 %", "two seeds have no interval"


def test_a_part_without_phone_times_is_told_by_words() -> None:
    """Recorded speech often has none. The table of words says why there is no probe, and statements are about words."""
    rows = copy.deepcopy([r for r in WORDS if r["form"] != "phones"])
    for r in rows:
        r["why_not"] = "no alignments of an4: phone times come with synth corpora"
        for of_layer in r["layers"]:
            del of_layer["linear"], of_layer["abx_within"]
    parts = compare.parts(made(rows))
    assert [t.title for t in tables.of_part(parts[0])] == ["final: layer 2 by other measures", "final: words, after fine-tuning"]
    said = tables.text(parts)
    assert "There is no linear probe beside them: no alignments of an4: phone times come with synth corpora." in said
    assert said.count("no alignments") == 1 and "ABX" not in said and "of the ceiling" not in said
    assert tables.statements(parts[0]) == ["final, word error rate: below best_rq: birq."]
    shown = page.render(parts)
    assert "word error rate: below best_rq: birq." in shown and "no alignments of an4" in shown and "probe by layer" not in shown
    assert sorted(figures.of_part(parts[0])) == ["final-wer-cost", "final-wer-differences"]


def test_labels_at_the_end_of_training_are_a_table_where_they_are_known() -> None:
    """Means over seeds, by hand; runs that were recorded without them, and forms without training, are left out."""
    rows = copy.deepcopy(WORDS)
    assert "labels at the end" not in tables.text(compare.parts(made(rows)))
    for r in rows:
        if r["form"] == "birq" and r["seed"] < 2:
            r["training"] = {"enhanced_perplexity": 10.0 + 4 * r["seed"], "anchor_perplexity": 60.0, "masked_accuracy": 0.25}
        if r["form"] == "scratch":
            r["training"] = {}
    (part,) = compare.parts(made(rows))
    table = tables.training(part)
    assert table.head[3:] == ["perplexity, enhanced", "perplexity, predicted", "masked accuracy %"]
    assert [list(cells) for cells in table.rows] == [["birq", "", "2", "12.0", "60.0", "25.0"]]
    assert table.title in tables.text([part]) and table.title in page.render([part])


def test_the_probe_by_step_is_shown_where_there_are_snapshots() -> None:
    """Means over seeds, by hand, the finished encoder last. A form without snapshots, and a part without any, show nothing of it."""
    rows = copy.deepcopy(WORDS)
    parts = compare.parts(made(rows))
    assert "by step" not in tables.text(parts) + page.render(parts) and "final-steps" not in figures.of_part(parts[0])
    for r in rows:
        if r["form"] in ("best_rq", "birq"):
            r["snapshots"] = [
                {"step": step, "layers": [{"layer": k, "linear": 0.1 * k + step / 1000 + 0.02 * r["seed"]} for k in (1, 2)]}
                for step in (60, 240)
            ]
    found = made(rows)
    (part,) = compare.parts(json.loads(record.text(found)))
    table = tables.by_step(part)
    assert table.head == ["form", "step", "seeds", "layer 1", "layer 2"]
    assert [list(cells) for cells in table.rows] == [
        ["birq", "60", "3", "18.0", "28.0"], ["birq", "240", "3", "36.0", "46.0"], ["birq", "600", "3", "54.0", "55.0"],
        ["best_rq", "60", "3", "18.0", "28.0"], ["best_rq", "240", "3", "36.0", "46.0"], ["best_rq", "600", "3", "50.0", "51.0"],
    ]  # fmt: skip
    shown = page.render([part])
    assert table.title in tables.text([part], markdown=True) and table.title in shown and 'id="fig-final-steps"' in shown
    drawn = {(v["form"], v["kind"], v["layer"], v["step"], v["value"]) for v in _values(figures.by_step(part))}
    assert {("birq", "form", 1, 60, 18.0), ("birq", "form", 2, 600, 55.0), ("birq", "against", 2, 240, 46.0)} <= drawn
    assert not any(form in ("phones", "scratch") for form, *_ in drawn)


def _values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [v for values in spec["datasets"].values() for v in values] if "datasets" in spec else spec["data"]["values"]


def test_word_errors_by_labelled_minutes_have_a_line_a_form() -> None:
    """Variants that differ in their minutes alone are one form; where all have the same minutes there is nothing to draw."""
    found = made([row(form, s, 0.5, wer) for form, wer in (("best_rq", 0.4), ("best_rq_10", 0.6), ("birq", 0.5)) for s in (0, 1)])
    about = found["parts"]["final"]
    assert figures.by_minutes(compare.parts(found)[0]) is None
    about["params"]["finetune.labelled_minutes"] = 60.0
    about["forms"]["best_rq_10"] = {"method": "best_rq", "changed": {"finetune.labelled_minutes": 10.0}}
    (part,) = compare.parts(found)
    drawn = figures.by_minutes(part)["data"]["values"]
    assert {(v["form"], v["minutes"], v["value"]) for v in drawn} == {
        ("best_rq", 60.0, 40.0),
        ("best_rq", 10.0, 60.0),
        ("birq", 60.0, 50.0),
    }
    assert "final-minutes" in figures.of_part(part)


def test_words_are_compared_after_the_same_labelled_minutes() -> None:
    """By hand: 10 minutes against 10, 60 against 60; where nothing has those minutes, nothing is said. Encoders know no transcripts."""
    wers = {"best_rq": 0.40, "best_rq_10": 0.60, "birq": 0.35, "birq_10": 0.61, "birq_30": 0.5, "phones": 0.30, "scratch_10": 0.70}
    probes = {"birq": 0.54, "birq_10": 0.54, "birq_30": 0.54, "phones": 0.60}
    found = made([row(form, s, probes.get(form, 0.50) + 0.01 * s, wer + 0.01 * s) for form, wer in wers.items() for s in range(3)])
    about = found["parts"]["final"]
    about["params"][compare.MINUTES] = 60.0
    for form in wers:
        method, _, minutes = form.rpartition("_") if form[-1] == "0" else (form, "", "")
        about["forms"][form] = {"method": method, "changed": {compare.MINUTES: float(minutes)} if minutes else {}}
    (part,) = compare.parts(found)
    words = {f.name: compare.less(part, f, WER) for f in part.forms}
    assert {name: d and round(100 * d.mean, 6) for name, d in words.items()} == {
        "best_rq": None, "best_rq_10": None, "birq": -5.0, "birq_10": 1.0, "birq_30": None, "phones": -10.0, "scratch_10": 10.0,
    }  # fmt: skip
    probed = {f.name: compare.less(part, f, PROBE) for f in part.forms}
    assert {n: round(100 * d.mean, 6) for n, d in probed.items() if d} == {
        "birq": 4.0, "birq_10": 4.0, "birq_30": 4.0, "phones": 10.0, "scratch_10": 0.0,
    }  # fmt: skip
    by_hand = {"birq": 0.5, "birq_10": None, "birq_30": None, "phones": 1.0, "scratch_10": None}
    assert {n: compare.ceiling_share(part, part.form(n), WER) for n in by_hand} == pytest.approx(by_hand)
    assert "final, word error rate: above best_rq after the same labelled minutes: birq_10 and scratch_10." in tables.statements(part)
    assert "Differences are from best_rq after the same labelled minutes." in tables.text([part])
    drawn = [v for layer in figures.differences(part, WER)["layer"] for v in layer["data"]["values"]]
    ticks = {(v["form"], round(v["value"], 6)) for v in drawn if "form" in v}
    assert ticks == {("birq", -5.0), ("birq_10", 1.0), ("phones", -10.0), ("scratch_10", 10.0)}
    found["rows"] = [r for r in found["rows"] if r["form"].endswith("_10")]
    (ten,) = compare.parts(found)
    assert "WER less best_rq [95 %]" in tables.text([ten]), "the method at 10 minutes is there, under another name"
    assert tables.notes([ten], ()) == []


def test_correlations_are_over_all_runs_that_are_scored() -> None:
    """dev loss was made twice the WER: both correlations are 1. The probe falls as WER rises; what never changes has none."""
    (part,) = compare.parts(made([*WORDS, row("birq", 9, 0.55)]))
    found = {c.measure.key: c for c in compare.correlations([part])}
    assert set(found) == {"linear", "effective_rank", "dev_loss"} and found["linear"].runs == len(WORDS)
    assert (found["dev_loss"].pearson, found["dev_loss"].spearman) == pytest.approx((1, 1))
    assert found["linear"].pearson < -0.9 and found["linear"].spearman < -0.9


# ---- the record


def sitting(rows: list[dict[str, Any]], **numbers: Any) -> Sitting:
    found = made(rows, **numbers)
    reads = {(part, form): dict(about["params"]) for part, about in found["parts"].items() for form in about["forms"]}
    return Sitting(found, reads, [])


def test_a_sitting_replaces_its_own_rows_and_keeps_the_others(tmp_path: Path) -> None:
    """Same part, form and seed: the later one counts. Rows of other sittings, whose artifacts are gone, stay."""
    path = tmp_path / "study.json"
    record.add(path, sitting(WORDS))
    again, more = row("birq", 1, 0.7), row("hubert", 0, 0.6)
    record.add(path, sitting([again, more, row("birq", 0, 0.3, part="other")]))
    rows = record.read(path)["rows"]
    assert len(rows) == len(WORDS) + 2 and again in rows and more in rows and WORDS[3] in rows and WORDS[4] not in rows
    lines = path.read_text().splitlines()
    assert sum(line.startswith('  {"part"') for line in lines) == len(rows), "a run a line, so that git shows which are new"
    record.add(path, sitting([again]))
    assert record.read(path)["rows"] == rows


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (sitting([row("birq", 5, 0.5)], **{"pretrain.steps": 1800}), ["final, birq", "pretrain.steps = 600", "1800", "another name"]),
        # a form that is new in the record must not be compared with forms of other params either
        (sitting([row("hubert", 5, 0.5)], **{"pretrain.steps": 1800}), ["final, hubert", "pretrain.steps = 600", "1800"]),
    ],
)
def test_rows_of_other_params_are_refused(tmp_path: Path, later: Sitting, said: list[str]) -> None:
    """A mean over them would be one of different things. Nothing is written then."""
    path = tmp_path / "study.json"
    record.add(path, sitting(WORDS))
    before = path.read_text()
    with pytest.raises(BirqError) as error:
        record.add(path, later)
    assert all(text in str(error.value) for text in [str(path), *said]), str(error.value)
    assert path.read_text() == before


def test_a_variant_that_has_changed_is_refused(tmp_path: Path) -> None:
    path, first = tmp_path / "study.json", sitting([row("deep", 0, 0.5)])
    first.record["parts"]["final"]["forms"]["deep"] = {"method": "birq", "changed": {"birq.label_layer": 2}}
    second = copy.deepcopy(first)
    second.record["parts"]["final"]["forms"]["deep"]["changed"]["birq.label_layer"] = 4
    record.add(path, first)
    with pytest.raises(BirqError, match=r"final, deep: recorded with birq.label_layer = 2, here it is 4"):
        record.add(path, second)


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 9, "parts": {}, "rows": []}', '{"metrics": []}'])
def test_another_file_is_not_taken_for_a_record(tmp_path: Path, text: str) -> None:
    """It would be overwritten."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(BirqError, match=r"other\.json"):
        record.add(path, sitting(WORDS))
    assert path.read_text() == text


# ---- tables and page


def look(**asked: Any) -> str:
    none = {"part": None, "against": None, "layer": None, "markdown": False, "into": None, "source": RECORD, "html": None, "prose": None}
    return verb.look(None, **none | asked)


def test_the_record_is_the_tables_of_the_page(request: pytest.FixtureRequest) -> None:
    """docs/study.md ends with what `birq compare --from` makes of the record. `pytest tests/test_study.py --write-docs` writes it."""
    path, made = ROOT / "docs" / "study.md", look(markdown=True).strip()
    text, marks = path.read_text(), ("<!-- study:begin -->\n", "\n<!-- study:end -->")
    before, _, rest = text.partition(marks[0])
    shown, _, after = rest.partition(marks[1])
    if request.config.getoption("--write-docs"):
        path.write_text(f"{before}{marks[0]}{made}{marks[1]}{after}")
    else:
        assert shown == made


def test_what_is_asked_for_and_not_there_is_refused_with_what_is() -> None:
    assert "less birq, layer 2" in look(against="birq", layer=2)
    with pytest.raises(BirqError, match="--part last: has no run here; these have: screening"):
        look(part="last")
    with pytest.raises(BirqError, match="--against best: has no run here; these have: phones, "):
        look(against="best")
    with pytest.raises(BirqError, match="--layer 9: legal are 1 to 4"):
        look(layer=9)
    with pytest.raises(BirqError, match=r"nowhere\.json: no such record"):
        look(source=Path("nowhere.json"))


def test_what_lacks_is_said() -> None:
    parts = compare.parts(made([row("birq", 0, 0.5)]))
    said = tables.text(parts, lacking=["probe/best_rq-0", "score/birq-0"])
    assert "final: no differences, best_rq has no run in it." in said and "fewer than 3 seeds support no statement" in said
    assert "Not there, or made under other params, inputs or code: probe/best_rq-0 and score/birq-0." in said


def test_the_page_holds_everything_by_itself(tmp_path: Path) -> None:
    """Tables, figures, statements, keys and params; no script, nothing from the network, ids once."""
    look(html=tmp_path / "study.html")
    assert "best_rq_cepstra_refined" in (tmp_path / "study.html").read_text()
    shown = page.render(compare.parts(made(WORDS)), lacking=["probe/birq-9"])
    for text in (
        "of the ceiling",
        "What goes with WER",
        "Spearman",
        "pretrain.steps: 600",
        "pretrain finalbirq0pr",
        "prefers-color-scheme",
    ):
        assert text in shown, text
    for name in ("layers", "differences", "cost", "wer-differences", "wer-cost", "wer"):
        assert f'id="fig-final-{name}"' in shown
    assert "final, linear phone probe, layer 2: above best_rq: phones and birq." in shown
    assert "made under other params, inputs or code: probe/birq-9" in shown
    assert "<script" not in shown and not re.findall(r'(?:src|href)="(?!#)', shown) and "@import" not in shown
    ids = re.findall(r'\bid="([^"]+)"', shown)
    assert len(ids) == len(set(ids)) and {r for r in re.findall(r"url\(#([^)]+)\)", shown)} <= set(ids)


def test_names_at_the_edge_of_a_figure_do_not_overlap() -> None:
    """Twenty forms with nearly equal figures: every name has a line of its own, in the order of the marks, inside of the figure."""
    height, marks = 13 * 21, [{"form": f"f{i}", "y": 50 + 0.001 * i} for i in range(20)]
    places = [m["place"] for m in figures._edge(marks, height, 49.0, 51.0)]
    step = figures.LABEL * 2.0 / height
    assert all(b - a >= step - 1e-9 for a, b in pairwise(places))
    assert places[0] >= 49 and places[-1] <= 51


def test_twenty_forms_have_twenty_names_in_every_figure() -> None:
    """In whichever place: none is cut off or left out."""
    names = [f"form_number_{i:02d}" for i in range(20)]
    rows = [row(n, s, 0.5 + 0.001 * i, 0.4) for i, n in enumerate(["best_rq", *names]) for s in range(3)]
    (part,) = compare.parts(made(rows))
    for svg in figures.of_part(part).values():
        assert all(f">{name}<" in svg for name in names)


def test_published_rates_stand_beside_ours() -> None:
    """A row for every part with words; a method that a part lacks has none. By hand: BiRQ is 2.0 below BEST-RQ in each of three seeds."""
    parts = compare.parts(made([*WORDS, row("birq", 0, 0.5, part="probed")]))
    table = published.beside(parts)
    assert [list(cells) for cells in table.rows[len(published.SETTINGS) :]] == [
        ["this study, final", "test, 3 seeds", "45.0", "39.0", "–", "37.0", "−2.0 [−2.0, −2.0]", "–"]
    ]
    assert table.rows[0][2:] == ["8.4 / 24.4", "7.1 / 20.5", "6.3 / 18.6", "6.6 / 19.1", "−0.5 / −1.4", "–"]
    shown = page.render(parts)
    assert all(found.title in shown for found in published.tables().values())
    assert all(f">{text}<" in shown for text in ("3.9 / 8.8", "16.3 / 34.0", "BiRQ, 300 epochs", "2.05"))


@pytest.mark.parametrize("name", published.tables())
def test_published_tables_stand_in_one_place(name: str, request: pytest.FixtureRequest) -> None:
    """docs/method.md shows those of birq/report/study/published.py. `pytest tests/test_study.py --write-docs` writes them."""
    path, table = ROOT / "docs" / "method.md", published.tables()[name]
    marks = (f"<!-- published:{name}:begin -->\n", f"<!-- published:{name}:end -->")
    before, _, rest = path.read_text().partition(marks[0])
    shown, _, after = rest.partition(marks[1])
    made = "\n".join(pipes(table.head, table.rows, left=table.left)) + "\n"
    if request.config.getoption("--write-docs"):
        path.write_text(f"{before}{marks[0]}{made}{marks[1]}{after}")
    else:
        assert shown == made


# ---- predictions


def predicted(**compared: Any) -> dict[str, Any]:
    about = {"form": "birq", "against": "best_rq"} | compared
    return {"one": {"says": "`birq` <teaches> more.", "parts": ["final"], "compared": [about]}}


@pytest.mark.parametrize(
    ("compared", "verdict", "shown"),
    [
        ({"more_than": 0.0}, "holds", "+4.0 [+2.8, +5.2]"),
        ({"more_than": 3.0}, "not decided", "+4.0 [+2.8, +5.2]"),
        ({"less_than": 0.0}, "does not hold", "+4.0 [+2.8, +5.2]"),
        ({"more_than": 6.0}, "does not hold", "+4.0 [+2.8, +5.2]"),
        ({"more_than": 2.0, "less_than": 6.0}, "holds", "+4.0 [+2.8, +5.2]"),
        ({"more_than": 0.0, "seeds": [0, 2]}, "not decided", "+4.0"),  # two seeds have no interval
        ({"measure": "wer", "less_than": 0.0}, "holds", "−2.0 [−2.0, −2.0]"),
        ({"measure": "abx_across", "less_than": 0.0}, "not decided", "no run"),
        ({"form": "hubert", "more_than": 0.0}, "not decided", "no run"),
        # phones is 6 above birq, best_rq and scratch are below it; one that fails is enough
        ({"against": "others", "more_than": 0.0}, "does not hold", "−6.0 [−7.2, −4.8]"),
        ({"form": "phones", "against": "others", "more_than": 0.0}, "not decided", "+6.0 [+4.8, +7.2]"),  # scratch has one seed
    ],
)
def test_a_prediction_is_judged_by_its_interval(compared: dict[str, Any], verdict: str, shown: str) -> None:
    """By hand: differences 3.5, 4.0, 4.5 have the deviation 0.5; Student's t of 2 degrees at 97.5 % is 4.303, so the half width is 1.24."""
    rows = [row("birq", r["seed"], 0.535 + 0.015 * r["seed"], 0.38 - 0.01 * r["seed"]) if r["form"] == "birq" else r for r in WORDS]
    rows = copy.deepcopy(rows)
    found = made(rows) | {"predictions": predicted(**compared)}
    (judged,) = predictions.look(found, compare.parts(found))
    assert (judged.verdict, predictions.shown(judged)) == (verdict, shown)


def test_a_prediction_is_shown_with_what_was_found() -> None:
    """In the tables, on the page, and among the negative results where it does not hold; its text is text."""
    found = made(WORDS) | {"predictions": predicted(less_than=-1.0)}
    parts = compare.parts(found)
    judged = predictions.look(found, parts)
    said = tables.text(parts, predictions.table(judged))
    assert said.startswith("Predictions: expected and found") and "below -1" in said and "does not hold" in said
    shown = page.render(parts, judged)
    assert "<code>birq</code> &lt;teaches&gt; more." in shown and 'class="l bad"' in shown
    assert "Prediction one does not hold in final: birq less best_rq is +4.0 [+4.0, +4.0], expected below −1." in shown
    assert "Negative results" in shown and 'id="negative"' not in page.render(compare.parts(made([row("best_rq", 0, 0.5)])))


def test_a_prediction_is_shown_once_where_it_was_not_run() -> None:
    """In each of its parts that have its forms, and in none else."""
    found = made(WORDS) | {"predictions": predicted(more_than=0.0)}
    found["predictions"]["one"]["parts"] = ["never", "final"]
    assert [f.part for f in predictions.look(found, compare.parts(found))] == ["final"]
    found["predictions"]["one"]["parts"] = ["never", "later"]
    assert [(f.part, f.difference) for f in predictions.look(found, compare.parts(found))] == [("never", None)]


def test_one_part_is_shown_with_what_was_expected_of_it() -> None:
    """A prediction about other parts has its runs there, so it is not `no run` here."""
    said = look(part="minutes")
    assert "finalists_4" in said and "no run" not in said and "codebooks_1" not in said
    found = made(WORDS) | {"predictions": predicted(more_than=0.0)}
    found["predictions"]["one"]["parts"] = ["other", "final"]
    assert [f.part for f in predictions.look(found, compare.parts(found), "final")] == ["final"]
    assert predictions.look(found, compare.parts(found), "third") == []


def test_forms_that_gain_nothing_are_negative_results() -> None:
    """More word errors, or less of the phones; what is better is none."""
    rows = [*WORDS, *(row("worse", s, 0.45 + 0.01 * s, 0.43 - 0.01 * s) for s in range(3))]
    (part,) = compare.parts(made(rows))
    assert tables.disappointments(part) == [
        "final, linear phone probe, layer 2: below best_rq: worse.",
        "final, word error rate: above best_rq: worse.",
    ]


def test_what_was_expected_is_not_changed_after_the_runs(tmp_path: Path) -> None:
    """A record keeps its predictions, also in a sitting without any, and takes new ones."""
    path = tmp_path / "study.json"
    record.add(path, sitting(WORDS))
    first = Sitting(made(WORDS) | {"predictions": predicted(more_than=1.0)}, {}, [])
    first.reads.update(sitting(WORDS).reads)
    record.add(path, first)
    record.add(path, sitting(WORDS))
    assert record.read(path)["predictions"] == predicted(more_than=1.0)
    before = path.read_text()
    again = Sitting(made(WORDS) | {"predictions": predicted(more_than=0.0)}, first.reads, [])
    with pytest.raises(BirqError, match=r"study\.predictions\.one: is recorded otherwise.*another name"):
        record.add(path, again)
    assert path.read_text() == before
    path.write_text(before.replace('"more_than": 1.0', '"at_least": 1.0'))
    with pytest.raises(BirqError, match=r"study\.json: predictions\.one\.compared\.0\.at_least: "):
        record.read(path)


@pytest.mark.parametrize(
    ("compared", "said"),
    [
        ({"form": "hubert9", "more_than": 0.0}, "study.predictions.one.form: 'hubert9' is neither"),
        ({"against": "hubert9", "more_than": 0.0}, "study.predictions.one.against: 'hubert9' is neither"),
        ({}, "needs more_than, less_than or both"),
        ({"more_than": 1.0, "less_than": 1.0}, "more_than: 1.0 is not below less_than, 1.0"),
        ({"more_than": 1.0, "measure": "cer"}, "'linear', 'abx_across' or 'wer'"),
    ],
)
def test_a_bad_prediction_is_refused(compared: dict[str, Any], said: str) -> None:
    with pytest.raises(BirqError) as error:
        settings(PARTS, predictions=predicted(**compared))
    assert said in str(error.value), str(error.value)
    assert settings(PARTS, predictions=predicted(against="others", more_than=0.0)).study.predictions["one"].parts == ["final"]


def test_the_record_has_the_predictions_of_the_presets() -> None:
    """Their sentences are those of docs/study.md, word for word. A part that was not run has none in the record."""
    kept, told = record.read(RECORD), {}
    for preset in sorted((ROOT / "presets").glob("study-*.yaml")):
        told |= yaml.safe_load(preset.read_text())["study"].get("predictions", {})
    assert kept["predictions"] == {name: one for name, one in told.items() if set(one["parts"]) <= set(kept["parts"])}
    assert len(kept["predictions"]) >= 12
    text = (ROOT / "docs" / "study.md").read_text()
    assert all(re.search(rf"^\d+\. {re.escape(p['says'])}$", text, re.MULTILINE) for p in told.values())


# ---- prose


NOTES = """# A study of `labels`

    birq compare # of <all>

Why? See [there](other.md#part), [below](#the-tables), [above](#fixed-before-it), ![a picture](x.png) and [the paper](https://arxiv.org/abs/2509.15430).

## Fixed before: it

| a | b |
|---|---:|
| x | 1 |

```text
# no heading
<!-- study:other -->
```

## The tables

<!-- study:begin -->
### generated
<!-- study:end -->

## Limits

One <b>size</b>.
"""


def test_the_page_takes_the_prose_of_a_study(tmp_path: Path) -> None:
    """Sections in their order, the tables in the place of the generated ones; links that lead out of the page are text, and so is HTML."""
    path = tmp_path / "notes.md"
    path.write_text(NOTES)
    shown = page.render(compare.parts(made(WORDS)), notes=notes.read(path))
    assert "<h1>A study of labels</h1>" in shown and "birq compare # of &lt;all&gt;" in shown
    assert "See there," in shown and "a picture" in shown and "x.png" not in shown
    assert '<a href="#notes-the-tables">below</a>' in shown and 'href="https://arxiv.org/abs/2509.15430"' in shown
    assert '<div class="scroll"><table>\n<thead>\n<tr>\n<th>a</th>' in shown and "generated" not in shown
    assert "One &lt;b&gt;size&lt;/b&gt;." in shown and "# no heading" in shown
    assert shown.index('id="notes-fixed-before-it"') < shown.index('id="final"') < shown.index('id="notes-limits"')
    assert '<a href="#notes-limits">Limits</a>' in shown and 'id="fixed"' not in shown
    targets = set(re.findall(r'href="#([^"]+)"', shown))
    assert targets <= set(re.findall(r'\bid="([^"]+)"', shown)), "every entry of the contents leads somewhere"


def test_the_page_of_the_record_holds_what_a_reviewer_asks_for(tmp_path: Path) -> None:
    """Made by the command that docs/study.md names."""
    out = tmp_path / "study.html"
    look(html=out, prose=ROOT / "docs" / "study.md")
    shown = out.read_text()
    for text in (
        "do BiRQ's labels teach an encoder more", "<strong>Primary measure.</strong>", "<strong>The difference that matters.</strong>",
        "Expected and found", "Negative results", "What may be wrong with it", "arXiv 2606.30671, by hours of labelled speech",
        "birq preset study-screen", "not decided", "21b5052404",
    ):  # fmt: skip
        assert text in shown, text
    ids = re.findall(r'\bid="([^"]+)"', shown)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', shown)) <= set(ids)
    assert "<script" not in shown and "src=" not in shown and "@import" not in shown and "study:begin" not in shown


def test_notes_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    with pytest.raises(BirqError, match=r"--notes .*notes\.md: is for the page; add --page"):
        look(prose=path)
    with pytest.raises(BirqError, match=r"--notes .*notes\.md: not readable"):
        look(prose=path, html=tmp_path / "study.html")
    path.write_text("Text.\n\n## A section\n")
    with pytest.raises(BirqError, match=r"--notes .*notes\.md: begins with no heading"):
        look(prose=path, html=tmp_path / "study.html")
    assert not (tmp_path / "study.html").exists()


def test_a_record_names_no_place_of_a_machine() -> None:
    """Where a corpus lies decides no row, so a record can be made on two machines; what it holds is in the keys."""
    assert record._named("corpora.mp3.root", "/home/someone/mp3") == "mp3"
    assert record._named("corpora.mp3.alignments", ["/home/someone/phones.tsv.gz"]) == ["phones.tsv.gz"]
    assert record._named("corpora.mp3.audio", None) is None and record._named("corpora.mp3.dev_share", 0.1) == 0.1
    for about in record.read(RECORD)["parts"].values():
        assert not [v for v in about["params"].values() if isinstance(v, str) and v.startswith(("/", "~"))]


def test_a_record_is_plain_json() -> None:
    found = made(WORDS)
    assert json.loads(record.text(found)) == found
