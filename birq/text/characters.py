"""One character of a transcript and what becomes of it, by its Unicode general category.

Categories and decompositions are those of Python's `unicodedata`. What nobody says becomes a space or nothing. What is said in a way that
the character does not show (digits, % and the like) stays as it is: outside the alphabet.
"""

from __future__ import annotations

import unicodedata

APOSTROPHE = "'"
# signs that writers put for an apostrophe: quotation marks, accents, modifier letters, Greek, Armenian and Hebrew ones, Saltillo
LOOKALIKES = "’‘‛ʼʻʽʹ`´΄᾽᾿՚׳ꞌꞋ"
PRIMES = "′‵″‴‶‷⁗"  # feet and inches, minutes and seconds: said, unless between letters, where ′ and ‵ are apostrophes
LETTER_POINTS = "·״"  # Catalan l·l and Hebrew abbreviations: between these letters a part of the word
SAID_PUNCTUATION = "%&@#*\\§‰‱٪؉؊⁊"
JOINERS = "\u200c\u200d"  # zero width: letters of some scripts' alphabets
EMOJI_MARK = "\ufe0f"
# fillers, vowels that Khmer does not show, tatweel (a longer line), Armenian marks that stand inside a word
_VANISHING = "\u034f\u115f\u1160\u3164\u17b4\u17b5\u0640\u055b\u055c\u055e"
# with ZWSP, Braille's blank, and the full-width tilde, which is typed for a wave dash
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u200b\u2800\uff5e"
_SELECTORS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_SAME = ("<wide>", "<narrow>", "<small>")  # the same character in another width
_LETTER_FORMS = ("<compat>", "<font>", "<initial>", "<medial>", "<final>", "<isolated>")  # ligatures and the like, not x² or 1ª
_LETTERLIKE = range(0x2100, 0x2150)  # ℓ, ℹ, ℵ: signs, though their category says letter
_UNSPOKEN_SIGNS = frozenset("™®©℠℗")
_SAID_PICTURES = frozenset("♭♮➕➖➗")
# pictures, bullets and emoji: shapes, miscellaneous symbols, dingbats, arrows of that style, and the planes' pictograph blocks
_PICTURES = ((0x231A, 0x231B), (0x23E9, 0x23FA), (0x25A0, 0x27BF), (0x2B00, 0x2BFF), (0x1F000, 0x1FAFF))

Rule = tuple[str, str]  # what the character becomes, and the kind of change ("" where it stays)


def _in(char: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= ord(char) <= last for first, last in ranges)


def _decomposition(char: str) -> str:
    """The tag of its compatibility decomposition, such as <wide>; "" where it has none."""
    tag = unicodedata.decomposition(char).partition(" ")[0]
    return tag if tag.startswith("<") else ""


def separator(char: str) -> Rule:
    """First rule: spaces and controls, invisible characters, apostrophes, letters in another form. What it becomes may need it again."""
    category = unicodedata.category(char)
    if char == " ":
        return char, ""
    if category.startswith("Z") or char in _SPACES:
        return " ", "spaces"
    if char in _VANISHING or category == "Cf" or _in(char, _SELECTORS):
        return "", "invisible characters"
    if char in LOOKALIKES:
        return APOSTROPHE, "apostrophes"
    letter = category.startswith("L") and ord(char) not in _LETTERLIKE and _decomposition(char) in _LETTER_FORMS
    if letter or _decomposition(char) in _SAME:
        return unicodedata.normalize("NFKC", char), "punctuation" if category.startswith("P") else "letter forms"
    return char, ""


def is_unspoken_symbol(char: str) -> bool:
    """Trade marks, pictures, emoji with their skin tones. Signs made of letters or digits (№, Ⓐ) are said somehow."""
    picture = unicodedata.category(char) in ("So", "Sk") and _in(char, _PICTURES) and not _decomposition(char)
    return char in _UNSPOKEN_SIGNS or (picture and char not in _SAID_PICTURES)


def is_picture_when_marked(char: str) -> bool:
    """Whether the sign is an emoji where U+FE0F follows it: any symbol, and letters in disguise such as ℹ; a digit stays a digit."""
    return unicodedata.category(char).startswith("S") or ord(char) in _LETTERLIKE


def sign(char: str) -> Rule:
    """Second rule: symbols and punctuation."""
    category = unicodedata.category(char)
    if char in APOSTROPHE + PRIMES + LETTER_POINTS + SAID_PUNCTUATION:
        return char, ""
    if category.startswith("P"):
        return " ", "punctuation"
    if is_unspoken_symbol(char):
        return " ", "unspoken symbols"
    return char, ""


def named(chars: str) -> str:
    """Characters for a message, those without ink by name or number."""
    return ", ".join("space" if c == " " else c if has_ink(c) else f"U+{ord(c):04X}" for c in chars)


def has_ink(char: str) -> bool:
    """Whether a reader of a terminal sees it; marks that sit on another letter count as unseen when alone."""
    return unicodedata.category(char)[0] in "LNPS"
