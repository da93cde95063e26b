"""tokenizer.alphabet: the forms in which it would quietly mean another set of characters than its writer thinks."""

from __future__ import annotations

import re
import unicodedata

# capital I is ı there; Unicode's SpecialCasing names tr and az, the others share their letters
DOTLESS_I = ("tr", "az", "crh", "gag", "kaa")
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$"  # the form of a BCP 47 tag
JOINERS = "\u200c\u200d"  # invisible, but letters of Persian, Sinhala and others
# names of letters that are written without a space between words
_WITHOUT_SPACES = (
    "CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "BOPOMOFO", "YI ", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE", "BALINESE",
    "TAI ", "NEW TAI", "VERTICAL KANA",
)  # fmt: skip


def _shown(char: str) -> str:
    return repr(char) if unicodedata.category(char)[0] in "LNPS" else f"U+{ord(char):04X}"


def _lower(char: str, language: str) -> str:
    turkic = {"I": "ı", "İ": "i"} if language.partition("-")[0].lower() in DOTLESS_I else {}
    return turkic.get(char, char.lower())


def composed(alphabet: str) -> str:
    """The alphabet in Unicode's NFC, each character once. Errors: ValueError for one that is named twice or that no transcript can hold.

    A letter that has no composed form is a letter and its marks, which may come more than once.
    """
    text = unicodedata.normalize("NFC", alphabet)
    letters = _with_marks(text)
    for letter in letters:
        if letters.count(letter) > 1:
            raise ValueError(f"{' '.join(map(_shown, letter))} stands there twice; remove one, and look for the character that is missing")
    for char in text:
        category = unicodedata.category(char)
        if category == "Cc" or (category in ("Cf", "Cn", "Cs") and char not in JOINERS):
            raise ValueError(f"{_shown(char)} is a control character or invisible; remove it")
        if category.startswith("Z") and char != " ":
            raise ValueError(f"{_shown(char)} is another kind of space; transcripts get the plain one (U+0020), write that")
    return "".join(dict.fromkeys(text))


def _with_marks(text: str) -> list[str]:
    """Each character with the combining marks that follow it."""
    letters: list[str] = []
    for char in text:
        if letters and unicodedata.category(char).startswith("M"):
            letters[-1] += char
        else:
            letters.append(char)
    return letters


def language_tag(tag: str) -> str:
    """Errors: ValueError for what is not written like a BCP 47 tag."""
    if not re.match(LANGUAGE, tag):
        raise ValueError("write a BCP 47 tag, such as en, tr or pt-BR")
    return tag


def check(alphabet: str, language: str) -> None:
    """Errors: ValueError for capitals, for a script that writes spaces without one, and for ı under a language that has none."""
    capitals = [c for c in alphabet if _lower(c, language) != c]
    if capitals:
        small = "".join(dict.fromkeys(low for c in capitals if (low := _lower(c, language)) not in alphabet))
        instead = f"write {small!r}" if small else "remove them"
        raise ValueError(f"alphabet: {''.join(capitals)!r} are capitals, which no transcript holds, because it is lower-cased; {instead}")
    if " " not in alphabet:
        spaced = [c for c in alphabet if unicodedata.category(c).startswith("L") and not _name(c).startswith(_WITHOUT_SPACES)]
        if spaced:
            raise ValueError(
                f"alphabet: {alphabet!r} has no space, but {spaced[0]!r} is of a script that writes spaces between words; "
                "add one, and put the value in quotes: YAML drops a space at the end of a bare value"
            )
    if "ı" in alphabet and language.partition("-")[0].lower() not in DOTLESS_I:
        raise ValueError(
            f"language: {language!r} has no letter ı, which tokenizer.alphabet holds: capital I would become i; "
            f"legal with ı: {', '.join(DOTLESS_I)}"
        )


def _name(char: str) -> str:
    return unicodedata.name(char, "").removeprefix("HALFWIDTH ")
