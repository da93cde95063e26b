"""The language model: its own n-gram, other makers' ARPA files, and the stage that makes or takes one."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from birq.errors import BirqError
from birq.pipeline import dag, sources
from birq.pipeline.stage import Job
from birq.recognise.lm import ARPA, END_WORD, FACTS, WORDS
from birq.settings.params import Lm, load
from birq.speech import shards
from birq.stages import lm
from birq.text import arpa
from birq.text.ngram import BEGIN, END, FALLBACK, UNKNOWN, NGram, counts, discounts

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = ["the cat sat", "the cat ran", "a dog sat", "the dog", "", "sat the cat sat", "a a a a a"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz' "


def many(n: int = 400) -> list[str]:
    """Sentences with a steep distribution of words, so that counts of counts give discounts."""
    rng = random.Random(3)
    words = [f"w{'abcdefghij'[i % 10]}{'abcdefghij'[i // 10]}" for i in range(100)]
    return [" ".join(words[min(99, int(rng.paretovariate(0.6)) - 1)] for _ in range(rng.randint(1, 9))) for _ in range(n)]


# ---- the n-gram


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("sentences", [SENTENCES, many()], ids=["few", "many"])
def test_every_context_leaves_a_distribution(order: int, sentences: list[str]) -> None:
    """Discounts give back just what they take, so the words after any context, seen or not, have probability 1 together."""
    model = NGram(sentences, order)
    contexts = {context for backoff in model.backoffs for context in backoff} | {("never", "seen"), (BEGIN,), (BEGIN, "never")}
    for context in sorted(contexts)[:300]:
        total = sum(model.probability(w, context) for w in model.vocabulary)
        assert total == pytest.approx(1, abs=1e-9), context
        assert all(model.probability(w, context) > 0 for w in model.vocabulary)


def test_discounts_are_chen_and_goodmans() -> None:
    """By hand: 5, 3, 2 and 1 n-grams of counts 1 to 4 give Y = 5/11; too few counts of counts give the fallback."""
    found = [1] * 5 + [2] * 3 + [3] * 2 + [4]
    y = 5 / 11
    assert discounts(found) == pytest.approx((1 - 2 * y * 3 / 5, 2 - 3 * y * 2 / 3, 3 - 4 * y / 2))
    assert discounts([1, 1, 2]) == FALLBACK


def test_lower_orders_count_contexts() -> None:
    """Kneser-Ney's point: `cat` follows one word, `sat` three, however often; an n-gram at the beginning has no other context."""
    unigrams, bigrams, trigrams = counts(SENTENCES, 3)
    assert unigrams[("cat",)] == 1 and unigrams[("sat",)] == 3 and (BEGIN,) not in unigrams
    assert bigrams[(BEGIN, "the")] == 3 and bigrams[("the", "cat")] == 2  # after <s> and after sat
    assert trigrams[("a", "a", "a")] == 3 and bigrams[(BEGIN, END)] == 1


def test_a_bigram_by_hand() -> None:
    """`a b` once: counts of 1 alone, so the fallback takes a half of each; 4 words to predict: a, b, </s>, <unk>."""
    model = NGram(["a b"], 2)
    unigram = {w: 0.5 / 3 + (3 * 0.5 / 3) / 4 for w in ("a", "b", END)} | {UNKNOWN: (3 * 0.5 / 3) / 4}
    assert {w: model.probability(w, ()) for w in model.vocabulary} == pytest.approx(unigram)
    assert model.probability("b", ("a",)) == pytest.approx(0.5 + 0.5 * unigram["b"])
    assert model.probability("a", ("a",)) == pytest.approx(0.5 * unigram["a"])


def test_it_knows_its_text_better_than_another() -> None:
    """More context fits the text better: perplexity on the training text falls with the order."""

    def nats(model: NGram) -> float:
        out = 0.0
        for text in SENTENCES:
            words = (BEGIN, *text.split(), END)
            out -= sum(math.log(model.probability(words[i], words[:i])) for i in range(1, len(words)))
        return out

    assert nats(NGram(SENTENCES, 4)) < nats(NGram(SENTENCES, 3)) < nats(NGram(SENTENCES, 2))


def test_the_file_says_what_the_model_says_whatever_the_order_of_sentences(tmp_path: Path) -> None:
    """The ARPA file must give the model's probabilities by the rule of back-off, and the same sentences the same bytes."""
    model = NGram(many(), 3)
    model.write(tmp_path / "a.arpa")
    NGram(reversed(many()), 3).write(tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()
    table = {tuple(f[1].split()): f for f in (line.split("\t") for line in (tmp_path / "a.arpa").read_text().splitlines()) if len(f) > 1}

    def log10(word: str, context: tuple[str, ...]) -> float:
        if (*context, word) in table:
            return float(table[*context, word][0])
        backoff = table.get(context)
        return (float(backoff[2]) if backoff and len(backoff) > 2 else 0.0) + log10(word, context[1:])

    rng = random.Random(0)
    for _ in range(300):
        context, word = tuple(rng.choices(model.vocabulary[2:], k=2)), rng.choice(model.vocabulary)
        assert log10(word, context) == pytest.approx(math.log10(model.probability(word, context)), abs=1e-5)


# ---- ARPA files

GOOD = """
\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<UNK>
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\tTHE\t-0.2
-0.7\tDON'T\t0

\\2-grams:
-0.1\t<s> THE
-0.2\tTHE DON'T
-0.3\tDON'T </s>

\\end\\
"""


def lower(text: str) -> str:
    return text.lower()


def test_an_upper_case_gzipped_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """LibriSpeech's are: the words in lower case, the numbers untouched."""
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(GOOD.encode()))
    made = arpa.copy(tmp_path / "lm.arpa.gz", tmp_path / "out.arpa", lower, ALPHABET, END_WORD)
    assert made == arpa.Model([5, 3], ["don't", "the"], 0, of_letters=False)
    text = GOOD.lower().lstrip("\n").replace("</s>", END_WORD).replace("1=5", "1=6").replace("1-grams:\n", "1-grams:\n0\t</s>\n")
    assert (tmp_path / "out.arpa").read_text() == text


WORDS_BAD = "\n".join(f"-1.0\t{w}\t0" for w in ["a", "b", "c"])
BAD: dict[str, tuple[str, str]] = {
    "spaces for tabs": (GOOD.replace("\tTHE\t", " THE "), r"line 10: '-0.5 THE -0.2' has spaces for tabs; .*sed -E"),
    "cut in the middle": (GOOD[: GOOD.index("-0.2\tTHE DON")], r"line 14: the file ends without \\end\\.*fetch it again"),
    "cut at a section": (GOOD.replace("-0.7\tDON'T\t0\n", ""), r"'\\\\2-grams:' in the middle of the 1-grams"),
    "more than the head promises": (GOOD.replace("2=3", "2=2"), r"\"-0\.3\\tDON'T </s>\", where \\end\\ is due"),
    "a text": ("the cat sat\n" * 1001, r"no \\data\\ so far: this is no ARPA file"),
    "no number": (GOOD.replace("-0.5\tTHE", "x\tTHE"), r"line 10: .*does not begin with a log probability"),
    "a probability above 1": (GOOD.replace("-0.5\tTHE", "0.5\tTHE"), r"line 10: .*does not begin with a log probability"),
    "two words among the unigrams": (GOOD.replace("\tTHE\t", "\tTHE CAT\t"), r"line 10: .* is no 1-gram"),
    "a word in two cases": (GOOD.replace("DON'T\t", "the\t"), r"line 11: 'the' is there in another case"),
    "order 1": ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\ta\n\\end\\\n", r"an n-gram of order 1; orders 2 to 6"),
    "no beginning of a sentence": (GOOD.replace("\t<s>\t", "\tBEGIN\t"), r"has no <s>"),
    "pieces": (GOOD.replace("THE", "▁THE"), r"an n-gram of pieces, such as '▁the'"),
    "another alphabet": (
        GOOD.replace("THE", "ДА").replace("DON'T", "НЕТ"),
        r"2 of 2 words have characters outside .*'а'.*another lang",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_line_and_way_out(name: str, tmp_path: Path) -> None:
    """KenLM's own messages name a byte, or nothing at all where the units are wrong: a WER of 100 % would say it."""
    text, match = BAD[name]
    (tmp_path / "lm.arpa").write_text(text, encoding="utf-8")
    with pytest.raises(BirqError, match=match) as e:
        arpa.copy(tmp_path / "lm.arpa", tmp_path / "out.arpa", lower, ALPHABET, END_WORD)
    assert str(tmp_path / "lm.arpa") in str(e.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A download that was cut off, a binary model, another encoding, nothing at all."""
    files = {
        "cut.arpa.gz": (gzip.compress(GOOD.encode())[:-20], "cut off or damaged"),
        "damaged.arpa.gz": (gzip.compress(GOOD.encode())[:30] + b"\0" * 40, "cut off or damaged"),
        "binary.arpa": (b"mmap lm http://kheafield.com/code format version 5\n\0", "binary file of KenLM"),
        "latin.arpa": (GOOD.replace("THE", "CAFÉ").encode("latin-1"), "not UTF-8"),
        "none.arpa": (None, "No such file"),
    }
    for name, (data, match) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(BirqError, match=match) as e:
            arpa.copy(tmp_path / name, tmp_path / "out", lower, ALPHABET, END_WORD)
        assert str(tmp_path / name) in str(e.value)


# ---- the stage


def job(home: Path, name: str, source: str = "transcripts", said: Sequence[str] = SENTENCES, **more: Any) -> Job:
    """Of a corpus whose train split holds some sentences, its dev and test splits other words."""
    for split, texts in (("train", [*said, None]), ("dev", ["unheard words"]), ("test", ["secret"])):
        rows = [
            {"id": f"{split}{i}", "speaker": f"s{i % 2}", "text": t, "duration_s": 1.0, "fbank": np.zeros((98, 80), np.float32)}
            for i, t in enumerate(texts)
        ]
        shards.write_shard(home / "features" / split / "00000.parquet", rows, shards.metadata())
    (home / "features" / "splits.json").write_text(json.dumps({split: {"shards": 1} for split in ("train", "dev", "test")}))
    params = load()
    params = params.model_copy(update={"lm": Lm(source=source, **more)})
    return tiny.job("lm", home / name, {"features": [home / "features"]}, params)


def made(job: Job) -> tuple[dict[str, Any], list[str]]:
    lm.compute(job)
    words = job.out / WORDS
    return json.loads((job.out / FACTS).read_text()), words.read_text().split() if words.exists() else []


def test_transcripts_are_those_of_the_train_split_alone(tmp_path: Path) -> None:
    """A word of dev or test in the language model would be a leak into the error rate."""
    j = job(tmp_path, "lm")
    facts, words = made(j)
    assert words == ["a", "cat", "dog", "ran", "sat", "the"]
    assert facts["source"] == "transcripts" and facts["order"] == 3 and facts["sentences"] == 6  # an empty one, and one without a text
    assert facts["unknown_share"] == 0
    NGram([s for s in SENTENCES if s], 3).write(tmp_path / "same.arpa")
    arpa.copy(tmp_path / "same.arpa", tmp_path / "for-search.arpa", lower, ALPHABET, END_WORD)
    assert (j.out / ARPA).read_bytes() == (tmp_path / "for-search.arpa").read_bytes()


def test_only_what_fine_tuning_hears(tmp_path: Path) -> None:
    """Two seconds of labelled speech are two transcripts."""
    j = job(tmp_path, "lm")
    params = j.node.project
    params = params.model_copy(update={"finetune": params.finetune.model_copy(update={"labelled_minutes": 2 / 60})})
    facts, _ = made(tiny.job("lm", tmp_path / "few", {"features": [tmp_path / "features"]}, params))
    assert facts["sentences"] == 2


def test_a_text_file_gets_the_normal_form_of_transcripts(tmp_path: Path) -> None:
    """One normaliser for references, language model and so for hypotheses; what it cannot write is left out and counted."""
    (tmp_path / "text.gz").write_bytes(gzip.compress("The CAT sat.\n\nA dog — the dog!\nIn 1999\nsat, ran\n".encode()))
    facts, words = made(job(tmp_path, "lm", str(tmp_path / "text.gz"), order=2))
    assert words == ["a", "cat", "dog", "ran", "sat", "the"]
    assert (facts["source"], facts["sentences"], facts["left_out"], facts["order"]) == ("file", 3, 1, 2)


def test_none_is_no_language_model(tmp_path: Path) -> None:
    """Then the artifact says so, and needs no library."""
    assert made(job(tmp_path, "lm", "none")) == ({"source": "none"}, [])


def test_transcripts_without_words_have_no_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thai and Japanese have no spaces: the default must not stop their users, and says what it does."""
    j = job(tmp_path, "lm")
    params = j.node.project.model_copy(update={"tokenizer": j.node.project.tokenizer.model_copy(update={"alphabet": "กขค"})})
    assert made(tiny.job("lm", tmp_path / "thai", {"features": [tmp_path / "features"]}, params)) == ({"source": "none"}, [])
    assert "no space, so there are no words for a language model: decoding is greedy alone" in capsys.readouterr().err


def test_a_model_that_does_not_know_the_transcripts_is_refused(tmp_path: Path) -> None:
    """It is of another language or of other units, whose letters are the same."""
    (tmp_path / "lm.arpa").write_text(GOOD.replace("THE", "LE").replace("DON'T", "CHAT"))
    with pytest.raises(BirqError, match=r"lm\.arpa: 100\.0 % of the words in the transcripts of fine-tuning are not in it.*language"):
        lm.compute(job(tmp_path, "lm", str(tmp_path / "lm.arpa")))


SPELLED = ["rubout g m e", "e g g", "m e"]


@pytest.mark.parametrize("source", ["transcripts", "an n-gram of them"])
def test_words_that_are_spelled_are_words(tmp_path: Path, source: str) -> None:
    """AN4 spells names. Whether an n-gram has the right units, the transcripts tell, not the length of its words."""
    if source != "transcripts":
        source = str(tmp_path / "spelled.arpa")
        NGram(SPELLED, 2).write(Path(source))
    assert made(job(tmp_path, "lm", source, said=SPELLED))[1] == ["e", "g", "m", "rubout"]


def test_an_n_gram_of_characters_is_refused(tmp_path: Path) -> None:
    NGram([" ".join(s.replace(" ", "|")) for s in SENTENCES if s], 2).write(tmp_path / "characters.arpa")
    with pytest.raises(BirqError, match=r"characters\.arpa: 70\.0 % of the words .* an n-gram of characters \('a', 'c', 'd', 'e', 'g'\)"):
        lm.compute(job(tmp_path, "lm", str(tmp_path / "characters.arpa")))


def test_the_file_is_in_the_key_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another text under the same name is another language model; where there is no file, the stage says so, not the key."""
    monkeypatch.chdir(tmp_path)

    def digest(source: str) -> str | None:
        return sources.digest(dag.Node(dag.STAGES["lm"], {}, load(ROOT / "params.yaml").model_copy(update={"lm": Lm(source=source)})))

    Path("text").write_text("the cat\n")
    first = digest("text")
    Path("text").write_text("the dogs\n")
    assert first and digest("text") not in (first, None)
    assert digest("nowhere") is None and digest("transcripts") is None and digest("none") is None


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BirqError, match=r"nowhere\.txt: not readable .*lm\.source names it"):
        lm.compute(job(tmp_path, "lm", str(tmp_path / "nowhere.txt")))
    (tmp_path / "digits.txt").write_text("1\n22\n")
    with pytest.raises(BirqError, match=r"digits\.txt' has no sentence with words over tokenizer\.alphabet"):
        lm.compute(job(tmp_path, "lm2", str(tmp_path / "digits.txt")))
