"""Transcripts: what birq takes for words, in any language, and what it refuses to guess. odd_texts.py makes the table of docs/inputs.md."""

from __future__ import annotations

import json
import os
import random
import sys
import time
import unicodedata
from pathlib import Path

import inputs_page
import pytest
from odd_texts import ARABIC, ENGLISH, GERMAN, HEBREW, HINDI, LETTERS, SPANISH, TURKISH, judged, normaliser, table

from birq.corpora import an4, chapters, items, librispeech, local, manifests
from birq.settings import alphabet as alphabets
from birq.settings.corpora import An4Corpus, LibriSpeechCorpus, LocalCorpus
from birq.text import normal
from birq.text.characters import named

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("BIRQ_CORPORA", ROOT.parent / "shared" / "corpora"))


def made(text: str, *args: object) -> str:
    return normaliser(*args)(text).text  # type: ignore[arg-type]


def test_the_page_shows_what_the_code_makes() -> None:
    """A table that was written by hand would soon say something else than the code."""
    assert inputs_page.on_page("texts") == table(), "python tests/inputs_page.py brings docs/inputs.md up to date"


# ---- what must hold for any text

EVERYTHING = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
# with what the rules look at more closely
SUSPECTS = [*"'’‘‚ʼ′`\"[]<>(){}   ab.,s-·lL״אאı_*İ|\n", "\u200c", "\u200d", "\ufe0f", "\u0301", "\u0338", "'n'", "tis", "\u00ad", "ŉ", "Σ"]
ALPHABETS = [
    (ENGLISH, "en"),
    (LETTERS + " ", "en"),
    (TURKISH, "tr"),
    ("ab’-.<\u200d é", "fr"),
    ('abl·ʻ" אב ', "ca"),
    (HEBREW + "״׳", "he"),
    ("אaİ世界", "ja"),
]


def test_the_normal_form_of_a_normal_form_is_itself() -> None:
    """Else a label would depend on how often a corpus was prepared, and a cleaned corpus would differ from its source."""
    dice = random.Random(0)
    forms = [
        normaliser(a, language, annotations, marks)
        for a, language in ALPHABETS
        for annotations in ("drop", "words")
        for marks in (True, False)
    ]
    for _ in range(2500):
        text = "".join(dice.choice(SUSPECTS if dice.random() < 0.7 else EVERYTHING) for _ in range(dice.randint(1, 14)))
        for form in forms:
            once = form(text).text
            if " " in form.alphabet or not form.outside(once):
                assert form(once).text == once, f"{text!r} -> {once!r} -> {form(once).text!r} with {sorted(form.alphabet)}"
            assert once == form(text).text == unicodedata.normalize("NFC", once)
            assert once == " ".join(once.split()) and not set(once) & set("\ufe0f\u00ad\ufeff\u2028\t\n")


def test_no_number_and_no_sign_becomes_a_letter() -> None:
    """™, ½, Ⅳ, ², № are compatible with letters and digits that nobody said."""
    form = normaliser(ENGLISH + "0123456789")
    for char in EVERYTHING:
        if unicodedata.category(char)[0] in "NS" and char not in "`´":
            assert not set(form(char).text) & set(LETTERS), f"{char} U+{ord(char):04X}"
            if unicodedata.decomposition(char)[:1] == "<" and not unicodedata.decomposition(char).startswith(("<wide>", "<narrow>")):
                assert not set(form(char).text) & set("0123456789"), f"{char} U+{ord(char):04X}"


def test_no_mark_between_two_words_makes_one_of_them() -> None:
    """Whatever separates words in a script stays a separation, or the recording is set aside. Armenian's marks stand inside a word."""
    form = normaliser()
    for char in EVERYTHING:
        if unicodedata.category(char)[0] in "PSZ" and char not in "՛՜՞":
            assert form("ab" + char + "cd").text != "abcd", f"{char} U+{ord(char):04X}"


def test_every_character_of_an_alphabet_is_kept() -> None:
    """An alphabet is the user's word, punctuation included."""
    for alphabet in (ENGLISH, SPANISH, TURKISH, HINDI, ARABIC, HEBREW, ENGLISH + "-.,?!%&0123456789™½", "a\u200c ’"):
        form = normaliser(alphabet)
        for char in set(alphabet) - {" ", "'", "’", "\u200c"}:
            assert form(f"a{char}").text == unicodedata.normalize("NFC", f"a{char}"), f"{char!r} of {alphabet!r}"
    assert made("می\u200cخواهم", "میخواه\u200c ") == "می\u200cخواهم"  # a letter of Persian, in words
    assert made("👨\u200d👩", "a\u200d ") == ""  # and no letter between pictures
    assert made("l’eau, l'eau", "leau’ ") == "l’eau l’eau"  # the alphabet's own apostrophe


# ---- apostrophes


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("'Tis the boys' hats", "'tis the boys' hats"),
        ("he said 'yes,' she didn't", "he said yes she didn't"),
        ("she said 'it's the boys' turn' ok", "she said it's the boys' turn ok"),
        ("'I'm goin' home' he said", "i'm goin' home he said"),
        ("dogs' and 'cats'", "dogs' and cats"),
        ("get 'em, rock 'n' roll", "get 'em rock 'n' roll"),
        ("``no way''", "no way"),
        ("`no way'", "no way"),
        ("‚ja‘ und ‚nein", "ja und nein"),
        ("don''t", "don't"),
        ("' hello '", "hello"),
        ("it 's", "it 's"),
        ("O′Neil", "o'neil"),
        ("'one 'two' three'", "one two three"),
        ("ŉ", "'n"),
    ],
)
def test_quotation_marks_go_and_the_apostrophes_of_words_stay(text: str, label: str) -> None:
    """Both are one sign; a pair around words, and one that stands alone, belong to no word."""
    assert made(text) == label


def test_without_quotation_marks_every_apostrophe_stays() -> None:
    """LibriSpeech writes 'TIS THE BOYS' HATS, and has no quotation marks that it could be mistaken for."""
    assert made("'SPOSE THE BOYS' HATS", ENGLISH, "en", "drop", False) == "'spose the boys' hats"
    assert made("'SPOSE THE BOYS' HATS") == "spose the boys hats"


def test_an_alphabet_without_the_apostrophe() -> None:
    """At an edge it is no more than a quotation mark; in a word it is a letter that is missing."""
    form = normaliser(GERMAN, "de")
    assert form("Hans' Haus").text == "hans haus"
    assert form.outside(form("geht's").text) == "'"


def test_a_damaged_transcript_takes_no_long_time() -> None:
    """A missing line end or bracket must not stop a corpus: the work grows as the text does."""
    texts = ["'a " * 20000, "s' " * 20000, "'" * 50000, "'tis " * 5000 + "'a s' b'", "'a " * 20000 + "s' " * 20000]
    texts += ["[" + "a " * 50000, "<a " * 20000, "(a " * 20000, "<" + "a" * 50000, "‚a " * 20000]
    for text in texts:
        begun = time.monotonic()
        assert len(made(text)) <= len(text)
        assert time.monotonic() - begun < 20, text[:9]


# ---- languages


@pytest.mark.parametrize(
    ("alphabet", "language", "text", "label"),
    [
        (TURKISH, "tr", "İSTANBUL'A IRMAK I\u0307", "istanbul'a ırmak i"),
        (TURKISH, "tr-TR", "DİYARBAKIR", "diyarbakır"),
        ("abcdefghijklmnopqrstuvwxyzəıöü ", "az", "BAKI", "bakı"),
        ("αβγδεζηθικλμνξοπρστυφχψως ", "el", "ΟΔΟΣ.ΣΑΣ", "οδος σας"),
        ("abcdefghijklmnopqrstuvwxyzàçéèíïóòúü· ", "ca", "Col·lecció… de goŀles", "col·lecció de gol·les"),
        ("այոինչ ", "hy", "ի՞նչ, այո՛։", "ինչ այո"),
        (HEBREW + "״", "he", 'צה"ל "שלום"', "צה״ל שלום"),
        ("กขค", "th", "กข ค", "กขค"),
        (GERMAN, "de", "STRAẞE ÜBER", "straße über"),
        ("abc世 ", "en", "ａｂｃ　世", "abc 世"),
    ],
)
def test_each_language_has_its_letters(alphabet: str, language: str, text: str, label: str) -> None:
    """Casing, points inside words and spaces are the language's, not English ones."""
    form = normaliser(alphabet, language)
    assert form(text).text == label and not form.outside(label)


def test_a_capital_follows_the_same_rule_in_params_and_texts() -> None:
    """Rooms in keys cannot import the settings' list, so both must be equal."""
    assert alphabets.DOTLESS_I == normal.DOTLESS_I
    for language in ("en", "tr", "az-Latn", "TR"):
        assert all(alphabets._lower(c, language) == normal.lower(c, language) for c in "AIİıiÇẞΣ")


# ---- the corpora that were read before


def _before(text: str) -> str:
    """The normal form that birq had first: right for transcripts in plain capitals."""
    text = unicodedata.normalize("NFKC", text.translate(str.maketrans(dict.fromkeys("’‘ʼ′`´＇", "'")))).lower()
    table = dict.fromkeys("-‐‑‒–—―_/…", " ") | dict.fromkeys('.,!?;:"“”„«»()[]', "")
    return " ".join(text.translate(str.maketrans(table)).split())


def real_texts(name: str) -> list[str]:
    if not (REAL / name).is_dir():
        pytest.skip(f"no recorded speech at {REAL / name}")
    if name == "an4":
        return [i.text for i in an4.scan(An4Corpus(kind="an4", root=str(REAL / name)), "corpora.x").items if i.text]
    return [text for path in sorted((REAL / name).rglob("*.trans.txt")) for text in chapters.transcripts(path).values()]


@pytest.mark.parametrize("name", ["LibriSpeech", "librivox-mp3", "an4"])
def test_recorded_corpora_keep_their_labels(name: str) -> None:
    """Their transcripts hold capitals, spaces and apostrophes only; results on them must stay comparable."""
    form = normaliser(quotation_marks=False)
    texts = real_texts(name)
    assert len(texts) > 100
    for text in texts:
        assert form(text).text == _before(text) and not form.outside(form(text).text)
        assert form(text).changes == {"case"}


def test_librispeech_and_an4_say_that_they_have_no_quotation_marks(tmp_path: Path) -> None:
    """The folders' readers know it, and a local folder in LibriSpeech's layout is LibriSpeech's; one with a table may hold anything."""
    from test_corpora import an4_tree, tree

    assert not an4.scan(An4Corpus(kind="an4", root=str(an4_tree(tmp_path / "a"))), "corpora.x").quotation_marks
    tree(tmp_path / "l" / "train-clean-5", 1)
    corpus = LibriSpeechCorpus(kind="librispeech", root=str(tmp_path / "l"), train_parts=["train-clean-5"])
    assert not librispeech.scan(corpus, "corpora.x").quotation_marks
    mine = LocalCorpus(kind="local", root=str(tree(tmp_path / "m", 1)))
    assert not local.scan(mine, "corpora.x").quotation_marks
    (tmp_path / "m" / "transcripts.tsv").write_text("path\ttext\n")
    assert local.scan(mine, "corpora.x").quotation_marks


# ---- lines of a file


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\rb\nc", ["a\rb", "c"]),
        (b"\xef\xbb\xbfa\n\nb", ["a", "", "b"]),
        (b"", []),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\nj\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei", "j"]),
    ],
)
def test_lines_end_where_the_format_ends_them(tmp_path: Path, raw: bytes, lines: list[str]) -> None:
    """Unicode has more line breaks than text files; at each of them the rest of a transcript would be lost."""
    (tmp_path / "t.txt").write_bytes(raw)
    assert items.read_lines(tmp_path / "t.txt") == lines


# ---- a corpus on disk

ODD = ["one\u2028two three", "yes,no", "well [noise] yes", "(laughter) oh", "hello\u200bthere", "☺ fine", "’twas", "plain words"]


def odd_corpus(tmp_path: Path, annotations: str) -> Path:
    from test_corpora import run, tree

    root = tree(tmp_path / "c", 1, len(ODD), "wav")
    (root / "1" / "7" / "1-7.trans.txt").write_bytes("".join(f"1-7-{u:04d} {text}\r\n" for u, text in enumerate(ODD)).encode())
    corpus = LocalCorpus(kind="local", root=str(root), dev_share=0.0, test_share=0.0, annotations=annotations)  # type: ignore[arg-type]
    return run(tmp_path, corpus, share=1.0)


@pytest.mark.parametrize(
    ("annotations", "third", "fourth"),
    [("drop", "well yes", "oh"), ("words", "well noise yes", "laughter oh"), ("quarantine", None, None)],
)
def test_a_corpus_says_what_it_changed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], annotations: str, third: str, fourth: str
) -> None:
    """A label that is not what was written must be seen by whoever answers for the corpus."""
    out = odd_corpus(tmp_path, annotations)
    labels = {c.id: c.supervisions[0].text for c in manifests.load_cuts(out, "train")}
    assert list(labels.values()) == [
        x for x in ["one two three", "yes no", third, fourth, "hello there", "fine", "'twas", "plain words"] if x is not None
    ]
    changes = manifests.info(out)["text_changes"]
    kept = annotations != "quarantine"
    assert {k: c["utterances"] for k, c in changes.items()} == {
        "punctuation": 1,
        "spaces": 2,
        "apostrophes": 1,
        "unspoken symbols": 1,
    } | ({"annotations": 2} if kept else {})
    assert changes["spaces"]["examples"] == [["one\u2028two three", "one two three"], ["hello\u200bthere", "hello there"]]
    said = capfd.readouterr().err
    assert "unspoken symbols in 1 ('☺ fine' -> 'fine')" in said and ("annotations in 2 (" in said) == kept
    assert "punctuation in" not in said
    if not kept:
        assert "annotation in the transcript\t[noise] in 'well [noise] yes'" in (out / "quarantine.tsv").read_text(encoding="utf-8")


def test_a_message_names_characters_that_nobody_sees() -> None:
    """'' and ' ' in a message tell nothing."""
    item = judged("a\x00b é", normaliser(LETTERS + " "))
    assert (item.reason, item.detail.split(" in ")[0]) == ("characters outside tokenizer.alphabet", "U+0000, é")
    assert named(" \u0301a") == "space, U+0301, a"


def test_an_artifacts_audio_is_checked_whatever_its_name_holds(tmp_path: Path) -> None:
    """A manifest has one record per line feed; a file name may hold what Unicode calls a line break."""
    from test_corpora import run, sound

    from birq.settings.corpora import LocalCorpus
    from birq.stages.corpus import check_sources

    sound(tmp_path / "c" / "a" / "one\u2028two.wav")
    out = run(tmp_path, LocalCorpus(kind="local", root=str(tmp_path / "c")))
    assert check_sources(out) == 1
    assert json.loads((out / "train.jsonl").read_text(encoding="utf-8"))["id"] == "a-one\u2028two"
