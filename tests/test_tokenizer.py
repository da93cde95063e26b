"""Tokenizer: nothing is lost on the way to ids and back."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import pytest

from birq.errors import BirqError
from birq.text import tokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
WORDS = ["go", "turn", "the", "light", "on", "in", "kitchen", "seven", "eight", "nine", "don't", "stop", "call", "anna", "street", "june"]
WORDS += ["third", "of", "nineteen", "ninety"]


def transcripts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(200)]


def settings(kind, vocab_size=40, alphabet=ALPHABET):
    return SimpleNamespace(kind=kind, vocab_size=vocab_size, alphabet=alphabet)


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_decode_undoes_encode(kind, tmp_path):
    """Any text over the alphabet, seen in training or not, must survive, or references and hypotheses would differ by the tokenizer."""
    made = tokenizer.build(settings(kind), transcripts())
    made.save(tmp_path)
    loaded, rng = tokenizer.load(tmp_path), random.Random(1)
    for _ in range(200):
        text = " ".join("".join(rng.choices(ALPHABET[:-1], k=rng.randint(1, 8))) for _ in range(rng.randint(1, 6)))
        ids = loaded.encode(text)
        assert loaded.decode(ids) == text and ids == made.encode(text)
        assert all(0 <= i < loaded.size for i in ids)
    assert loaded.size == len(loaded.vocab) == (28 if kind == "characters" else 40)
    assert loaded.decode([]) == "" and loaded.encode("") == []


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_same_texts_same_files(kind, tmp_path):
    """Artifacts are compared by hash."""
    for name in "ab":
        (tmp_path / name).mkdir()
        tokenizer.build(settings(kind), transcripts()).save(tmp_path / name)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_characters_are_sorted_whatever_the_alphabet_order():
    """A model trained under one spelling of the alphabet must not read garbage under another."""
    assert tokenizer.characters("cab a").vocab == tokenizer.characters(" abc").vocab == [" ", "a", "b", "c"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_legal_sizes_are_named_and_true(kind):
    """An error that names a limit must name the real one: the limit itself works, one beyond does not."""
    for wrong, words in ((5000, r"legal maximum is (\d+)"), (8, r"legal minimum is (\d+)")):
        with pytest.raises(BirqError, match=rf"tokenizer.vocab_size: {wrong} .*{words}") as error:
            tokenizer.build(settings(kind, wrong), transcripts())
        limit = int(re.search(words, str(error.value))[1])
        assert tokenizer.build(settings(kind, limit), transcripts()).size == limit
        with pytest.raises(BirqError):
            tokenizer.build(settings(kind, limit + (1 if wrong > limit else -1)), transcripts())


@pytest.mark.parametrize("kind", tokenizer.KINDS)
def test_unknown_characters_are_named(kind):
    """A character without a token cannot be learned; it must not vanish silently."""
    made = tokenizer.build(settings(kind), transcripts())
    with pytest.raises(BirqError, match=r"\['7', 'é'\] not in tokenizer.alphabet"):
        made.encode("café 7")
    with pytest.raises(BirqError, match=r"\['7'\] not in tokenizer.alphabet"):
        tokenizer.build(settings(kind), ["seven 7"])


def test_no_transcripts_is_an_error():
    """Without labelled speech there is nothing to fine-tune on; the first stage to need it says so."""
    with pytest.raises(BirqError, match="no labelled speech"):
        tokenizer.build(settings("characters"), [])


def test_damaged_files_are_named(tmp_path):
    """The message leads to the file and the way out."""
    tokenizer.build(settings("unigram"), transcripts()).save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(BirqError, match=r"tokenizer.model: not a readable tokenizer .*run again"):
        tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BirqError, match=r"tokenizer.json: not a readable tokenizer"):
        tokenizer.load(tmp_path)
