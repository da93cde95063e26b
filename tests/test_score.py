"""Error counts, bootstrap intervals, the paired test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jiwer
import kaldialign
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from birq.errors import BirqError
from birq.evaluate import rates
from birq.evaluate.bootstrap import interval, resampled_sums, sums_by
from birq.evaluate.compare import compare, compare_methods, paired
from birq.evaluate.stuck import stuck
from birq.pipeline.stage import Job
from birq.settings.params import load
from birq.stages import score

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def sentences(n: int, error_rate: float, seed: int) -> tuple[list[str], list[str]]:
    """References and hypotheses with about `error_rate` of the words wrong; harder utterances are wrong more often."""
    texts = np.random.default_rng(0)
    rng = np.random.default_rng(seed)
    refs, hyps = [], []
    for _ in range(n):
        ref = [WORDS[i] for i in texts.integers(0, 10, int(texts.integers(3, 12)))]
        rate = error_rate * 2 * texts.random()
        hyp = [w if rng.random() > rate else rng.choice([*WORDS, ""]) for w in ref]
        refs.append(" ".join(ref))
        hyps.append(" ".join(w for w in hyp if w))
    return refs, hyps


def utterances(refs: list[str], hyps: list[str], speakers: int = 10) -> pa.Table:
    n = len(refs)
    decoded = pa.table(
        {
            "id": [f"u{i:04d}" for i in range(n)],
            "speaker": [f"s{i % speakers}" for i in range(n)],
            "duration_s": [2.0] * n,
            "text": refs,
            "hypothesis": hyps,
        }
    )
    return rates.score_split("test", decoded, load().score)[1]


def test_counts_of_known_alignments() -> None:
    """Each edit is of one kind, so the counts of hand-made pairs are known."""
    refs = ["a b c", "a b c", "a b c", "a b c", "", "a b", ""]
    hyps = ["a b c", "a x c", "a c", "a b b c", "x y", "", ""]
    words, chars = rates.count_errors(refs, hyps)
    assert words.tolist() == [[3, 0, 0, 0], [3, 1, 0, 0], [3, 0, 1, 0], [3, 0, 0, 1], [0, 0, 0, 2], [2, 0, 2, 0], [0, 0, 0, 0]]
    assert chars[4].tolist() == [0, 0, 0, 3]  # "x y": the space is a character too
    assert chars[5].tolist() == [3, 0, 3, 0]


def test_white_space_is_no_error() -> None:
    """Words are what stands between spaces, however many."""
    words, chars = rates.count_errors(["a  b "], [" a b"])
    assert words[0].tolist() == [2, 0, 0, 0]
    assert chars[0].tolist() == [3, 0, 0, 0]


def test_sums_equal_jiwer_and_kaldialign() -> None:
    """A corpus' rate is total errors over total words, so the per-utterance counts must add up to two other programs' totals."""
    refs, hyps = sentences(200, 0.3, 1)
    words, chars = rates.count_errors(refs, hyps)
    wer = words[:, 1:].sum() / words[:, 0].sum()
    assert wer == pytest.approx(jiwer.wer(refs, hyps), abs=1e-12)
    assert chars[:, 1:].sum() / chars[:, 0].sum() == pytest.approx(jiwer.cer(refs, hyps), abs=1e-12)
    other = sum(kaldialign.edit_distance(r.split(), h.split())["total"] for r, h in zip(refs, hyps, strict=True))
    assert words[:, 1:].sum() == other


def test_interval_equals_kaldialign() -> None:
    """Both are bootstraps over utterances of the same rate; percentile and normal intervals agree for many utterances."""
    refs, hyps = sentences(600, 0.3, 1)
    words, chars = rates.count_errors(refs, hyps)
    ours = rates.rates(words, chars, [f"s{i}" for i in range(600)], 0.95, 4000, 0)
    theirs = kaldialign.bootstrap_wer_ci([r.split() for r in refs], [h.split() for h in hyps], replications=4000)
    width = theirs["ci95max"] - theirs["ci95min"]
    assert ours["wer"] == pytest.approx(theirs["wer"], abs=0.05 * width)
    assert ours["wer_low"] == pytest.approx(theirs["ci95min"], abs=0.1 * width)
    assert ours["wer_high"] == pytest.approx(theirs["ci95max"], abs=0.1 * width)


def test_interval_covers_as_often_as_it_says() -> None:
    """A 90 % interval of samples of a known rate holds that rate about 90 times in 100."""
    rng, held = np.random.default_rng(3), 0
    for trial in range(200):
        words = rng.integers(5, 15, 150)
        counts = np.stack([rng.binomial(words, 0.25), words], axis=1)
        drawn = resampled_sums(counts, 300, trial)
        low, high = interval(drawn[:, 0] / drawn[:, 1], 0.9)
        held += low <= 0.25 <= high
    assert 0.83 <= held / 200 <= 0.96  # three deviations


def test_resamples_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks bound memory; the stream of random numbers is one."""
    counts = np.arange(40).reshape(20, 2)
    whole = resampled_sums(counts, 50, 7)
    monkeypatch.setattr("birq.evaluate.bootstrap.DRAWS_AT_ONCE", 60)
    assert np.array_equal(whole, resampled_sums(counts, 50, 7))


def test_speakers_that_differ_widen_the_interval() -> None:
    """Utterances of one speaker are not independent: where speakers differ, drawing speakers must spread more than drawing utterances."""
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(8), 50)
    words = np.zeros((400, 4), np.int64)
    words[:, 0] = 10
    words[:, 1] = rng.binomial(10, np.linspace(0.05, 0.5, 8)[speaker])
    r = rates.rates(words, words, [str(s) for s in speaker], 0.95, 1000, 0)
    assert r["wer_speaker_high"] - r["wer_speaker_low"] > 3 * (r["wer_high"] - r["wer_low"])
    assert r["wer_speaker_low"] < r["wer_low"] < r["wer"] < r["wer_high"] < r["wer_speaker_high"]
    assert r["speakers"] == 8


def test_one_speaker_has_no_speaker_interval() -> None:
    """One draw from one speaker is always that speaker: an interval of width 0 would claim certainty."""
    words = np.array([[4, 1, 0, 0]] * 5)
    r = rates.rates(words, words, ["s"] * 5, 0.95, 100, 0)
    assert r["wer_speaker_low"] is None and r["wer_speaker_high"] is None


def test_utterances_without_words_do_not_break_the_interval() -> None:
    """A resample may draw nothing but empty references; it has no rate and stands aside."""
    words = np.array([[0, 0, 0, 1], [3, 1, 0, 0]])
    r = rates.rates(words, words, ["a", "b"], 0.95, 500, 0)
    assert r["wer"] == pytest.approx(2 / 3)
    assert np.isfinite([r["wer_low"], r["wer_high"]]).all()


def test_sums_by_label() -> None:
    """Grouping moves counts, it neither makes nor loses any."""
    out = sums_by(["b", "a", "b"], np.array([[1, 2], [3, 4], [5, 6]]))
    assert out.tolist() == [[3, 4], [6, 8]]


# ---- paired


def test_paired_of_a_system_with_itself_is_nothing() -> None:
    """Both sides make the same errors on every resample."""
    refs, hyps = sentences(50, 0.3, 1)
    t = utterances(refs, hyps)
    r = paired(t, t, 500, 0.95, 0)
    assert (r["difference"], r["low"], r["high"], r["p"], r["speaker_p"]) == (0, 0, 0, 1, 1)


def test_paired_is_antisymmetric() -> None:
    """a − b and b − a are one measurement with two signs."""
    refs, a = sentences(80, 0.3, 1)
    b = sentences(80, 0.2, 2)[1]
    ab = paired(utterances(refs, a), utterances(refs, b), 500, 0.95, 0)
    ba = paired(utterances(refs, b), utterances(refs, a), 500, 0.95, 0)
    assert ab["difference"] == -ba["difference"] and ab["p"] == ba["p"]
    assert ab["low"] == pytest.approx(-ba["high"]) and ab["speaker_low"] == pytest.approx(-ba["speaker_high"])


def test_paired_sees_what_separate_intervals_hide() -> None:
    """The same utterances on both sides cancel their difficulty: a small, steady gain shows although the intervals overlap."""
    refs, b = sentences(300, 0.5, 1)
    a = [h if i % 8 else r for i, (r, h) in enumerate(zip(refs, b, strict=True))]  # every eighth utterance repaired
    ta, tb = utterances(refs, a), utterances(refs, b)
    r = paired(ta, tb, 2000, 0.95, 0)
    alone = [rates.score_split("test", t, load().score)[0] for t in (ta, tb)]
    assert r["difference"] == pytest.approx(alone[0]["wer"] - alone[1]["wer"])
    assert alone[0]["wer_high"] > alone[1]["wer_low"]
    assert r["high"] < 0 and r["p"] < 0.01


def test_paired_agrees_with_kaldialign() -> None:
    """One-sided share of resamples in which b is better, from another program."""
    refs, a = sentences(200, 0.30, 1)
    b = sentences(200, 0.27, 2)[1]
    r = paired(utterances(refs, a), utterances(refs, b), 4000, 0.95, 0)
    k = kaldialign.bootstrap_wer_ci([t.split() for t in refs], [h.split() for h in a], [h.split() for h in b], replications=4000)
    one_sided = k["p_s2_improv_over_s1"]
    assert r["p"] == pytest.approx(2 * min(one_sided, 1 - one_sided), abs=0.05)


def test_p_is_uniform_enough_under_no_difference() -> None:
    """Two systems of equal quality come out below p = 0.1 about once in ten times."""
    rng, small = np.random.default_rng(5), 0
    base = utterances(*sentences(100, 0.3, 1))
    for trial in range(100):
        a, b = (base.set_column(base.schema.get_field_index("errors"), "errors", pa.array(rng.binomial(6, 0.3, 100))) for _ in range(2))
        small += paired(a, b, 300, 0.95, trial)["p"] < 0.1
    assert 2 <= small <= 20


def test_seeds_are_pooled() -> None:
    """The mean of the seeds' rates is the pooled rate; a seed given twice changes nothing."""
    refs, a1 = sentences(60, 0.3, 1)
    a2, b = sentences(60, 0.3, 2)[1], sentences(60, 0.2, 3)[1]
    t1, t2, tb = (utterances(refs, h) for h in (a1, a2, b))
    one, two, both = (paired(x, tb, 300, 0.95, 0) for x in (t1, t2, [t1, t2]))
    assert both["difference"] == pytest.approx((one["difference"] + two["difference"]) / 2)
    assert paired([t1, t1], tb, 300, 0.95, 0)["low"] == pytest.approx(one["low"])


def trained(rng: np.random.Generator, base: pa.Table, seeds: int, rate: float, noise: float, speakers: int = 10) -> dict[int, pa.Table]:
    """Models of one method by seed: each has a true error rate of its own, drawn around the method's."""
    words = base["words"].to_numpy()
    hard = np.linspace(-0.1, 0.1, speakers)[np.arange(len(words)) % speakers]
    index = base.schema.get_field_index("errors")
    rates = rate + noise * rng.normal(size=seeds)
    return {i: base.set_column(index, "errors", pa.array(rng.binomial(words, np.clip(r + hard, 0, 1)))) for i, r in enumerate(rates)}


@pytest.mark.parametrize("seeds", [3, 5])
def test_seed_noise_alone_does_not_make_methods_different(seeds: int) -> None:
    """Two methods of equal mean whose seeds spread by 3 points: at 95 % about 5 of 100 comparisons may exclude 0; over the test set
    alone many do, which is the mistake that the seed effect prevents."""
    rng, base = np.random.default_rng(seeds), utterances(*sentences(150, 0.3, 1))
    covered = test_only = 0
    for trial in range(150):
        r = compare(trained(rng, base, seeds, 0.3, 0.03), trained(rng, base, seeds, 0.3, 0.03), 300, 0.95, trial)
        assert r["kind"] == "methods"
        covered += r["low"] <= 0 <= r["high"]
        test_only += r["test_low"] <= 0 <= r["test_high"]
    assert covered / 150 >= 0.91  # 0.95 less two deviations
    assert test_only / 150 < 0.8


def test_a_true_difference_of_methods_shows() -> None:
    """Ten points with seeds that spread by one: three seeds find it nearly always, with the right sign."""
    rng, base = np.random.default_rng(2), utterances(*sentences(150, 0.3, 1))
    rows = [compare(trained(rng, base, 3, 0.25, 0.01), trained(rng, base, 3, 0.35, 0.01), 300, 0.95, t) for t in range(40)]
    assert sum(r["high"] < 0 and r["speaker_high"] < 0 for r in rows) >= 34
    assert all(r["difference"] < 0 for r in rows)


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (2, 5)])
def test_fewer_than_three_seeds_compare_models(seeds: tuple[int, int]) -> None:
    """The intervals are then those of the test set, and the row says that it is about models."""
    rng, base = np.random.default_rng(4), utterances(*sentences(60, 0.3, 1))
    a, b = (trained(rng, base, n, 0.3, 0.02) for n in seeds)
    r = compare(a, b, 300, 0.95, 0)
    assert (r["kind"], r["seeds_a"], r["seeds_b"]) == ("models", list(range(seeds[0])), list(range(seeds[1])))
    assert r.items() >= paired(list(a.values()), list(b.values()), 300, 0.95, 0).items()
    assert (r["low"], r["high"]) == (r["test_low"], r["test_high"])


def test_methods_with_other_seeds_are_compared_too() -> None:
    """Without shared seeds each method has a spread of its own; the interval still covers seeds, so it is wider than the test set's."""
    rng, base = np.random.default_rng(6), utterances(*sentences(60, 0.3, 1))
    a, b = trained(rng, base, 3, 0.3, 0.03), trained(rng, base, 4, 0.3, 0.03)
    r = compare(a, b, 2000, 0.95, 0)
    assert r["kind"] == "methods" and r["seed_differences"] is None
    assert r["low"] < r["test_low"] < r["test_high"] < r["high"]
    same = compare(a, {i: b[i] for i in range(3)}, 300, 0.95, 0)
    assert sum(same["seed_differences"]) / 3 == pytest.approx(same["difference"])


def test_different_speech_is_not_compared() -> None:
    """A pair needs the same utterances; anything else is a mistake worth an error."""
    refs, hyps = sentences(20, 0.3, 1)
    with pytest.raises(BirqError, match="same speech"):
        paired(utterances(refs, hyps), utterances(refs[:-1], hyps[:-1]), 100, 0.95, 0)


# ---- the stage


SEARCHED = {"weight": 0.5, "bonus": 1.0, "beam": 32, "tuned_on": "dev", "grid": []}


def job(tmp_path: Path, name: str = "score", search: dict[str, Any] | None = None) -> Job:
    """`search`: what a search with a language model says of itself; None: there was none."""
    (tmp_path / "lm").mkdir(exist_ok=True)
    (tmp_path / "lm" / "search.json").write_text(json.dumps(search or {"lm": {"source": "none"}}))
    return tiny.job("score", tmp_path / name, {"decode": [tmp_path], "search": [tmp_path / "lm"]}, load())


def decoded(path: Path, refs: list[str], hyps: list[str]) -> None:
    table = pa.table(
        {
            "id": [f"{path.stem}{i:03d}" for i in range(len(refs))],
            "speaker": [f"s{i % 4}" for i in range(len(refs))],
            "duration_s": [3.0] * len(refs),
            "text": refs,
            "hypothesis": hyps,
        }
    )
    pq.write_table(table, path)


def test_stage_writes_figures_and_table(tmp_path: Path) -> None:
    """What the report reads: counts add up, the worst come first, the same input gives the same bytes."""
    decoded(tmp_path / "dev.parquet", *sentences(30, 0.3, 1))
    decoded(tmp_path / "test.parquet", *sentences(40, 0.4, 2))
    outs = [job(tmp_path, n) for n in ("first", "second")]
    for j in outs:
        score.compute(j)
    scores = json.loads((outs[0].out / "scores.json").read_text())
    assert list(scores) == ["dev", "test"]
    for split, s in scores.items():
        assert s["wer"] == (s["substitutions"] + s["deletions"] + s["insertions"]) / s["words"]
        assert s["wer_low"] <= s["wer"] <= s["wer_high"] and s["cer_low"] <= s["cer"] <= s["cer_high"]
        assert s["utterances"] == (30 if split == "dev" else 40) and s["speakers"] == 4
    table = pq.read_table(outs[0].out / "utterances.parquet")
    assert table.schema.names == rates.UTTERANCES.names and len(table) == 70
    keys = list(zip((-e for e in table["errors"].to_pylist()), table["id"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    for name in ("scores.json", "utterances.parquet"):
        assert (outs[0].out / name).read_bytes() == (outs[1].out / name).read_bytes()


@pytest.mark.parametrize("text", ["", "to"])
@pytest.mark.parametrize(("same", "named"), [(30, True), (28, True), (27, False), (0, False)])
def test_a_model_that_says_nothing_or_always_the_same_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], same: int, named: bool, text: str
) -> None:
    """The commonest trouble with CTC has a name and things to try; references without words do not count."""
    refs, hyps = sentences(30, 0.3, 1)
    decoded(tmp_path / "dev.parquet", [*refs, ""], [*[text] * same, *(f"{i} {h}" for i, h in enumerate(hyps[same:])), "x"])
    score.compute(job(tmp_path, "out"))
    said = capsys.readouterr().err
    percent = round(100 * same / 30)
    trouble = f"says the same for {percent} % of the utterances, 'to'" if text else f"blanks only: {percent} % of its texts are empty"
    assert (f"dev  the model {'' if text else 'outputs '}{trouble}. CTC learns" in said) == named == ("docs/healthy.md" in said)


def test_a_corpus_of_one_text_is_no_trouble() -> None:
    assert stuck(["yes"] * 20, ["yes"] * 20) is None and stuck(["yes"] * 9 + ["no"], ["yes"] * 10) is None
    assert stuck([], []) is None and stuck(["one"], [""]) is None


def test_hypotheses_with_a_language_model_are_scored_beside_the_greedy_ones(tmp_path: Path) -> None:
    """Each table of hypotheses has its own errors, and the greedy figures are what they are without the other ones."""
    refs, greedy = sentences(30, 0.3, 1)
    decoded(tmp_path / "dev.parquet", refs, greedy)
    alone = job(tmp_path, "alone")
    score.compute(alone)
    facts = SEARCHED | {"lm": {"source": "transcripts", "order": 3, "words": 9}}
    both = job(tmp_path, "both", facts)
    decoded(tmp_path / "lm" / "dev.parquet", refs, [*refs[:-1], "something else"])
    score.compute(both)
    first, second = (json.loads((j.out / "scores.json").read_text())["dev"] for j in (alone, both))
    assert first.pop("lm") is None
    lm = second.pop("lm")
    assert first == second and lm["wer"] < second["wer"] / 5 and lm["words"] == second["words"]
    assert lm["search"] == {k: v for k, v in facts.items() if k != "grid"}
    rows = pq.read_table(both.out / "utterances.parquet").to_pylist()
    assert sum(r["lm_errors"] for r in rows) == lm["substitutions"] + lm["deletions"] + lm["insertions"]
    assert {r["lm_hypothesis"] for r in rows if r["lm_errors"]} == {"something else"}
    assert pq.read_table(alone.out / "utterances.parquet")["lm_errors"].null_count == 30


def test_hypotheses_of_other_utterances_are_refused(tmp_path: Path) -> None:
    refs, greedy = sentences(30, 0.3, 1)
    decoded(tmp_path / "dev.parquet", refs, greedy)
    j = job(tmp_path, "odd", SEARCHED | {"lm": {"source": "arpa"}})
    decoded(tmp_path / "lm" / "dev.parquet", refs[1:], greedy[1:])
    with pytest.raises(BirqError, match=r"are of other utterances; delete data/search and run again"):
        score.compute(j)


def test_methods_are_compared_from_score_folders(tmp_path: Path) -> None:
    """Every pair of methods once, seeds pooled."""
    folders = {}
    for n, (method, seed) in enumerate([("birq", 0), ("birq", 1), ("best_rq", 0), ("scratch", 0)]):
        home = tmp_path / f"{method}-{seed}"
        home.mkdir()
        decoded(home / "test.parquet", *sentences(40, 0.2 + 0.05 * n, n))
        j = job(home)
        score.compute(j)
        folders[method, seed] = j.out
    rows = compare_methods(folders, "test", 0.95, 200, 0)
    assert [(r["a"], r["b"]) for r in rows] == [("birq", "best_rq"), ("birq", "scratch"), ("best_rq", "scratch")]
    want = {"kind", "seeds_a", "seeds_b", "difference", "low", "high", "speaker_low", "speaker_high", "p", "words", "utterances"}
    assert {r["kind"] for r in rows} == {"models"} and rows[0]["seeds_a"] == [0, 1]
    assert all(want <= set(r) and r["low"] <= r["difference"] <= r["high"] for r in rows)
    with pytest.raises(BirqError, match=r"decode\.splits"):
        compare_methods(folders, "dev", 0.95, 200, 0)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    """A rate over no words does not exist; a file that is cut off is named."""
    with pytest.raises(BirqError, match="no decoded split"):
        score.compute(job(tmp_path, "a"))
    decoded(tmp_path / "dev.parquet", ["", ""], ["x", ""])
    with pytest.raises(BirqError, match="no reference holds a word"):
        score.compute(job(tmp_path, "b"))
    path = tmp_path / "dev.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BirqError, match=r"dev\.parquet"):
        score.compute(job(tmp_path, "c"))


def test_scoring_needs_no_torch() -> None:
    """Scores and comparisons start at once, also where the report runs without torch."""
    code = "import sys, birq.evaluate.rates, birq.evaluate.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
