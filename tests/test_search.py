"""The beam search with a language model, against a sum over all alignments; the search stage: weights from dev, n-best, confidences."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import test_decode
import tiny
import torch

from birq.errors import BirqError
from birq.evaluate.rates import count_errors
from birq.pipeline.stage import Job
from birq.recognise import lm as language_model
from birq.recognise.beam import Beam
from birq.recognise.greedy import greedy
from birq.recognise.lm import ARPA, END_WORD, FACTS, WORDS
from birq.settings.decoding import Lm, Search
from birq.settings.params import load
from birq.stages import decode, search
from birq.text import arpa
from birq.text.ngram import BEGIN, END, UNKNOWN, NGram

CHARACTERS = [" ", "a", "b"]
PIECES = ["▁a", "▁b", "a", "b"]
SENTENCES = ["a", "b a", "ab", "a b", "aa b", "ba ab", "b b a"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz "
EVERYTHING = (-1e9, -30.0)  # nats below which beams and units are dropped: none of those here
EVERY_BEAM = 10_000


def model(folder: Path, order: int = 2) -> NGram:
    made = NGram(SENTENCES, order)
    write(made, folder)
    return made


def write(made: NGram, folder: Path) -> list[str]:
    """As the lm stage does; its words."""
    made.write(folder / "standard.arpa")
    return arpa.copy(folder / "standard.arpa", folder / ARPA, str, ALPHABET, END_WORD).words


def searcher(folder: Path, made: NGram, vocab: list[str], section: Search) -> Beam:
    """The search with the section's first weight and bonus."""
    words = [w for w in made.vocabulary if w not in (END, UNKNOWN)]
    return Beam(vocab, folder / ARPA, words, section, section.weights[0], section.bonuses[0])


def beam(folder: Path, made: NGram, vocab: list[str], weight: float, bonus: float, **more: Any) -> Beam:
    return searcher(folder, made, vocab, Search(weights=[weight], bonuses=[bonus], **more))


def logp(seed: int, t: int, vocab: list[str]) -> np.ndarray:
    raw = torch.randn(t, len(vocab) + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return raw.log_softmax(-1).float().numpy()


def by_hand(logp_TV: np.ndarray, vocab: list[str], made: NGram, section: Search) -> dict[str, float]:
    """Score of every text: the sum over all its alignments, then the n-gram of its words and of the end, and the bonus."""
    total: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(len(vocab) + 1), repeat=len(logp_TV)):
        units = [u for i, u in enumerate(path) if u != len(vocab) and (i == 0 or u != path[i - 1])]
        text = " ".join("".join(vocab[u] for u in units).replace("▁", " ").split())
        total[text] += math.exp(sum(float(logp_TV[t, u]) for t, u in enumerate(path)))
    scores = {}
    for text, p in total.items():
        seen = [w if w in made.vocabulary else UNKNOWN for w in text.split()]
        lm = sum(math.log10(made.probability(w, (BEGIN, *seen[:i]))) for i, w in enumerate([*seen, END]))
        lm += section.unknown * seen.count(UNKNOWN)
        scores[text] = math.log(p) + section.weights[0] * lm * math.log(10) + section.bonuses[0] * len(seen)
    return scores


@pytest.mark.parametrize("vocab", [CHARACTERS, PIECES], ids=["characters", "pieces"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_sum_over_all_alignments(vocab: list[str], order: int, seed: int, tmp_path: Path) -> None:
    """With beams enough and nothing dropped, prefix search is exact: every text has the score of all its alignments, and the best wins.

    Spaces at the ends and double ones are the same text, and no text at all is one. Seed 0 has weight and bonus 0, where that is CTC alone.
    """
    made = model(tmp_path, order)
    section = Search(beam=EVERY_BEAM, n_best=EVERY_BEAM, weights=[0.3 * seed], bonuses=[-0.7 * seed], unknown=-3.0)
    logp_TV = logp(seed, 5, vocab)
    want = by_hand(logp_TV, vocab, made, section)
    found = searcher(tmp_path, made, vocab, section)(logp_TV, *EVERYTHING)
    got = dict(zip(found.texts, found.scores, strict=True))
    assert len(got) == len(found.texts) == len(want) > 60
    assert got == pytest.approx(want, abs=2e-3)
    assert found.texts[0] == max(want, key=want.__getitem__)


@pytest.mark.parametrize("width", [1, 16])
def test_sharp_outputs_of_known_words_are_decoded_greedily(width: int, tmp_path: Path) -> None:
    """Where each frame has one likely unit, there is one likely alignment, for the search as for the argmax; a beam of 1 is enough."""
    made = model(tmp_path)
    text = " ".join(SENTENCES)
    path = [u for c in text for u in (CHARACTERS.index(c), 3)]
    logp_TV = np.full((len(path), 4), -12.0, np.float32)
    logp_TV[np.arange(len(path)), path] = -1e-4
    (ids,) = greedy(torch.from_numpy(logp_TV)[None], torch.tensor([len(path)]), 3)
    assert "".join(CHARACTERS[i] for i in ids) == text
    assert beam(tmp_path, made, CHARACTERS, 0.0, 0.0, beam=width, n_best=1)(logp_TV).texts == [text]


def test_the_language_model_decides_between_words_that_sound_alike(tmp_path: Path) -> None:
    """`a` or `b` at even odds after `aa `: the model has seen `aa b` alone."""
    made = model(tmp_path)
    logp_TV = np.full((7, 4), -12.0, np.float32)
    for t, unit in enumerate([1, 3, 1, 0]):
        logp_TV[t, unit] = 0.0
    logp_TV[4:6, 3] = 0.0
    logp_TV[6, [1, 2]] = math.log(0.5)
    for weight, want in ((1.0, "aa b"), (0.5, "aa b")):
        found = beam(tmp_path, made, CHARACTERS, weight, 0.0)(logp_TV)
        assert found.texts[0] == want and found.confidence > 0.5
        assert found.word_confidences[0] > 0.99 > found.word_confidences[1] >= found.confidence - 1e-9


def test_silence_is_an_empty_hypothesis(tmp_path: Path) -> None:
    made = model(tmp_path)
    logp_TV = np.full((6, 4), -9.0, np.float32)
    logp_TV[:, 3] = 0.0
    assert beam(tmp_path, made, CHARACTERS, 0.5, 1.0, n_best=1)(logp_TV).texts == [""]


def test_without_the_library_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no wheel for every platform, so it is an extra."""
    monkeypatch.setitem(__import__("sys").modules, "ctc_beam_decoder", None)
    with pytest.raises(BirqError, match=r"pip install ctc-beam-decoder.*lm\.source: none"):
        language_model.library()


def test_units_that_the_library_has_meanings_for_are_refused(tmp_path: Path) -> None:
    made = model(tmp_path)
    with pytest.raises(BirqError, match=r"tokenizer\.alphabet: \['\|'\] cannot be searched for.*lm\.source: none"):
        beam(tmp_path, made, ["a", "|"], 0.5, 0.0)


# ---- the stage


def lm_of(folder: Path, source: str = "transcripts") -> Path:
    folder.mkdir()
    facts: dict[str, Any] = {"source": source}
    if source != "none":
        made = NGram(["a b", "b", "ab ba", "b ab"], 3)
        words = write(made, folder)
        (folder / WORDS).write_text("".join(f"{w}\n" for w in words))
        facts |= {"order": 3, "n_grams": [1], "words": len(words), "unknown_share": 0.0}
    (folder / FACTS).write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features, a recogniser, its decoded splits with and without kept log probabilities, and a language model."""
    folder = tmp_path_factory.mktemp("search")
    test_decode.features(folder / "features", dev=9, test=13)
    test_decode.recogniser(folder / "finetune")
    for name, mb in (("decode", 100.0), ("decode-none", 0.0)):
        made = test_decode.job(folder, f"{name}-job", folder / "features", keep_mb=mb)
        decode.compute(made)
        made.out.rename(folder / name)
    lm_of(folder / "lm")
    return folder


def job(home: Path, out: Path, decoded: str = "decode", lm: Path | None = None, **section: Any) -> Job:
    params = load()
    params = params.model_copy(update={"search": params.search.model_copy(update=section), "lm": Lm(source="transcripts")})
    inputs = {"finetune": [home / "finetune"], "decode": [home / decoded], "lm": [lm or home / "lm"], "features": [home / "features"]}
    return tiny.job("search", out, inputs, params)


def test_log_probabilities_are_kept_where_they_are_small_enough(home: Path) -> None:
    """Kept or not is a matter of time and disk: the hypotheses with the language model are the same bytes, and so are the greedy ones."""
    assert (home / "decode" / "dev.npy").exists() and not (home / "decode-none" / "dev.npy").exists()
    found = []
    for decoded in ("decode", "decode-none"):
        j = job(home, home / f"of-{decoded}", decoded)
        search.compute(j)
        found.append([(j.out / name).read_bytes() for name in ("dev.parquet", "test.parquet", "search.json")])
        assert (home / decoded / "dev.parquet").read_bytes() == (home / "decode" / "dev.parquet").read_bytes()
    assert found[0] == found[1]


def test_another_weight_does_not_run_the_network(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kept log probabilities, neither the features nor the model is opened."""
    monkeypatch.setattr("birq.saved.recogniser.Recogniser.load", None)
    monkeypatch.setattr("birq.saved.outputs.batches", None)
    monkeypatch.setattr(search, "open_split", None)
    search.compute(job(home, tmp_path / "out", weights=[0.33]))


def test_the_pair_with_the_fewest_errors_on_dev_is_taken(home: Path, tmp_path: Path) -> None:
    """The whole grid stands in the artifact, and its best row is what dev's own table gives; test takes no part."""
    j = job(home, tmp_path / "out", weights=[0.0, 0.5, 2.0], bonuses=[-2.0, 0.0, 3.0])
    search.compute(j)
    facts = json.loads((j.out / "search.json").read_text())
    assert len(facts["grid"]) == 9 and facts["tuned_on"] == "dev"
    best = min(facts["grid"], key=lambda g: g["wer"])
    assert (facts["weight"], facts["bonus"]) == (best["weight"], best["bonus"])
    table = pq.read_table(j.out / "dev.parquet")
    words_N4, _ = count_errors(table["text"].to_pylist(), table["hypothesis"].to_pylist())
    assert words_N4[:, 1:].sum() / words_N4[:, 0].sum() == pytest.approx(best["wer"], abs=1e-6)
    assert len({g["wer"] for g in facts["grid"]}) > 1, "the weights make no difference here: the test cannot fail"


def test_one_pair_is_not_tuned(home: Path, tmp_path: Path) -> None:
    """Then dev is not needed."""
    decoded = test_decode.job(home, str(tmp_path / "decode"), home / "features", splits=["test"])
    decode.compute(decoded)
    params = load()
    params = params.model_copy(update={"search": Search(weights=[0.4], bonuses=[0.5])})
    inputs = {"finetune": [home / "finetune"], "decode": [decoded.out], "lm": [home / "lm"], "features": [home / "features"]}
    j = tiny.job("search", tmp_path / "out", inputs, params)
    search.compute(j)
    facts = json.loads((j.out / "search.json").read_text())
    assert (facts["weight"], facts["bonus"], facts["tuned_on"], facts["grid"]) == (0.4, 0.5, None, [])


def test_hypotheses_come_with_n_best_and_confidences(home: Path, tmp_path: Path) -> None:
    """Best first, shares in [0, 1], a confidence for each word; ids, references and order are the greedy table's."""
    j = job(home, tmp_path / "out", weights=[0.5], bonuses=[0.0], n_best=3)
    search.compute(j)
    for split in ("dev", "test"):
        rows = pq.read_table(j.out / f"{split}.parquet").to_pylist()
        before = pq.read_table(home / "decode" / f"{split}.parquet").to_pylist()
        assert [(r["id"], r["text"], r["frames"]) for r in rows] == [(r["id"], r["text"], r["frames"]) for r in before]
        for r in rows:
            assert r["nbest"][0] == r["hypothesis"] and 1 <= len(r["nbest"]) == len(r["nbest_scores"]) <= 3
            assert r["nbest_scores"] == sorted(r["nbest_scores"], reverse=True) and 0 < r["confidence"] <= 1
            assert len(r["word_confidences"]) == len(r["hypothesis"].split())
            assert all(r["confidence"] - 1e-3 <= c <= 1 for c in r["word_confidences"])
        assert any(len(r["nbest"]) == 3 for r in rows)


def test_without_a_language_model_there_is_nothing_to_search(home: Path, tmp_path: Path) -> None:
    j = job(home, tmp_path / "out", lm=lm_of(tmp_path / "none", "none"))
    search.compute(j)
    assert [p.name for p in j.out.iterdir()] == ["search.json"]


def test_a_cut_file_of_log_probabilities_is_named(home: Path, tmp_path: Path) -> None:
    for name in ("dev.parquet", "test.parquet", "test.npy"):
        (tmp_path / name).write_bytes((home / "decode" / name).read_bytes())
    np.save(tmp_path / "dev.npy", np.zeros((3, 4), np.float32))
    inputs = {"finetune": [home / "finetune"], "decode": [tmp_path], "lm": [home / "lm"], "features": [home / "features"]}
    with pytest.raises(BirqError, match=r"dev\.npy: 3 frames, not \d+; delete"):
        search.compute(tiny.job("search", tmp_path / "out", inputs, load()))


def test_params_that_cannot_be_followed_are_refused() -> None:
    """Before the first stage, not after the trainings."""
    from birq.settings.decoding import check_search

    transcripts = Lm(source="transcripts")
    with pytest.raises(ValueError, match=r"chosen on dev, but decode\.splits = \['test'\]"):
        check_search(transcripts, Search(weights=[0.1, 0.2]), ["test"], "ab ")
    with pytest.raises(ValueError, match=r"tokenizer\.alphabet has no space"):
        check_search(Lm(source="words.arpa"), Search(), ["dev"], "ab")
    check_search(transcripts, Search(weights=[0.1, 0.2]), ["test"], "ab")  # no words, no search
    check_search(Lm(), Search(weights=[0.1, 0.2]), ["test"], "ab")
    check_search(transcripts, Search(), ["test"], "ab ")
