"""The normal form of a transcript: the words as they are said, in the characters of the alphabet.

Characters of the alphabet stay. What nobody says (punctuation, emoji, marks of direction, annotations) goes. What is said, but not shown
by the character (digits, %, &), stays for `outside` to find: such a text cannot be a label.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from birq.text import apostrophes, characters
from birq.text.characters import APOSTROPHE, EMOJI_MARK, JOINERS, LOOKALIKES, Rule

# kinds of change, as corpus.json names them; the first two are in most transcripts
KINDS = (
    "case",
    "punctuation",
    "spaces",
    "letter forms",
    "apostrophes",
    "quotation marks",
    "annotations",
    "words in round brackets",
    "unspoken symbols",
    "invisible characters",
)
# languages whose capital I is ı, and whose i has the capital İ (Unicode's SpecialCasing names tr and az)
DOTLESS_I = ("tr", "az", "crh", "gag", "kaa")
_TURKIC = str.maketrans({"İ": "i", "I": "ı"})

_MARKED = re.compile(".[" + EMOJI_MARK + "]")
# [noise] and {cough} anywhere, and pairs with nothing in them; <unk> as one tag, or as several words that stand apart
_BRACKETS = {
    "[": r"\[[^\[\]]*\]",
    "{": r"\{[^{}]*\}",
    "<": r"<(?=[^<>]*[^\W\d_])(?:[^<>\s]+>|(?<![^\W_]<)[^<>\s][^<>]*[^<>\s]>(?![^\W_]))",
}
_ROUND = re.compile(r"(?<![^\W_])(?<!')\((?=[^()]*[^\W\d_])[^()\[\]{}<>\s]+\)(?![^\W_])(?!')")  # (laughter) as one token
_ASIDE = re.compile(r"\((?=[^()]*\))[^()]*\w")
_PRIME_INSIDE = re.compile(r"(?<=[^\W\d_])[′‵](?=[^\W\d_])")
_POINT_OUTSIDE = re.compile(r"(?<![lL])·|·(?![lL])|(?<![א-ת])״|״(?![א-ת])")
_GERSHAYIM = re.compile(r"(?<=[א-ת])[\"“”](?=[א-ת])")
_LOW_QUOTED = re.compile(r"‚([^‚]*?)'(?!\w)")
_LOOSE_JOINERS = re.compile(f"(?<![^ '])[{JOINERS}]+")
_EDGE = re.compile(r"(?:^|(?<= ))'+|'+(?= |$)")


def lower(text: str, language: str) -> str:
    """Lower case by Unicode, and as the language (BCP 47) has it."""
    if language.partition("-")[0].lower() in DOTLESS_I:
        text = text.translate(_TURKIC)
    return text.lower()


@dataclass(frozen=True)
class Normal:
    """A transcript's normal form, the kinds of change that led to it (of `KINDS`), and the annotations that it held."""

    text: str
    changes: frozenset[str] = frozenset()
    annotations: tuple[str, ...] = ()


class _Table(dict[int, str]):
    """For `str.translate`: a rule, asked once for each character."""

    def __init__(self, rule: Callable[[str], Rule]):
        super().__init__()
        self.rule, self.kinds = rule, dict[str, str]()

    def __missing__(self, code_point: int) -> str:
        char = chr(code_point)
        self[code_point], kind = self.rule(char)
        if kind:
            self.kinds[char] = kind
        return self[code_point]

    def apply(self, text: str, changes: set[str]) -> str:
        after = text.translate(self)
        if after != text:
            changes.update(kind for char, kind in self.kinds.items() if char in text)
        return after


class Normaliser:
    """Makes the normal form for an alphabet (NFC, lower case) of a language.

    `annotations`: `words` keeps what [], {}, <> and () hold, anything else takes it away. `quotation_marks` False: the transcripts have
    none, every apostrophe belongs to its word.
    """

    def __init__(self, alphabet: str, language: str = "en", annotations: str = "drop", quotation_marks: bool = True):
        self.alphabet, self.language, self.annotations, self.quotation_marks = frozenset(alphabet), language, annotations, quotation_marks
        own = [c for c in APOSTROPHE + LOOKALIKES if c in self.alphabet]
        self._apostrophe = own[0] if own else ""  # the alphabet's own sign for it
        self._separators = _Table(self._separator)
        self._signs = _Table(self._sign)
        opening = [pattern for mark, pattern in _BRACKETS.items() if mark not in self.alphabet]
        self._tags = re.compile("|".join(opening) or r"(?!)")
        self._round = "(" not in self.alphabet

    def __call__(self, text: str) -> Normal:
        """The normal form. `normal(normal(x).text).text` is `normal(x).text`, if that lies in the alphabet."""
        changes: set[str] = set()
        plain = self._plain(text, changes)
        found: list[str] = []
        if any(mark in plain for mark in "[{<("):
            plain = self._without_annotations(plain, found, changes)
        plain = self._spoken(plain, changes)
        lowered = unicodedata.normalize("NFC", lower(plain, self.language))
        if lowered != plain:
            changes.add("case")
        return Normal(self._words(lowered, changes), frozenset(changes), tuple(found))

    def outside(self, text: str) -> str:
        """The characters of a normal form that the alphabet lacks, sorted, each once."""
        return "".join(sorted(set(text) - self.alphabet))

    # ---- rules for single characters

    def _keeps(self, char: str) -> bool:
        return char in self.alphabet or self.alphabet.issuperset(lower(char, self.language))

    def _separator(self, char: str) -> Rule:
        if char == self._apostrophe:
            return APOSTROPHE, ""  # for now: `_words` gives it back
        if self._keeps(char):
            return char, ""
        became, kind = characters.separator(char)
        if became not in (char, " ", APOSTROPHE):
            became = "".join(self._separator(c)[0] for c in became)
        return became, kind

    def _sign(self, char: str) -> Rule:
        if self._keeps(char):
            return char, ""
        if char in "[]{}" and self.annotations != "words":
            return char, ""  # without its partner: where the annotation ends is not known
        return characters.sign(char)

    # ---- steps

    def _plain(self, text: str, changes: set[str]) -> str:
        """NFC, one kind of space and of apostrophe, nothing invisible, plain letters; signs that are marked as emoji are gone."""
        plain = unicodedata.normalize("NFC", text)
        if plain != text:
            changes.add("letter forms")
        if EMOJI_MARK in plain:
            marked, plain = plain, _MARKED.sub(self._unmarked, plain)
            if plain != marked:
                changes.add("unspoken symbols")
        plain = self._separators.apply(plain, changes)
        return unicodedata.normalize("NFC", plain)

    def _unmarked(self, match: re.Match[str]) -> str:
        char = match[0][0]
        return " " if characters.is_picture_when_marked(char) and not self._keeps(char) else match[0]

    def _without_annotations(self, text: str, found: list[str], changes: set[str]) -> str:
        def gone(match: re.Match[str]) -> str:
            if match[0][1:-1].strip():
                found.append(match[0])
            return f" {match[0][1:-1]} " if self.annotations == "words" else " "

        before = ""
        while before != text:  # brackets within brackets
            before = text
            text = self._tags.sub(gone, text)
            text = _ROUND.sub(gone, text) if self._round else text
        if found:
            changes.add("annotations")
        if self._round and _ASIDE.search(text):
            changes.add("words in round brackets")
        return text

    def _spoken(self, text: str, changes: set[str]) -> str:
        """Spaces for punctuation and symbols that nobody says."""
        if any(p in text for p in "′‵") and "′" not in self.alphabet:
            inside = _PRIME_INSIDE.sub(APOSTROPHE, text)
            if inside != text:
                changes.add("apostrophes")
            text = inside
        if "‚" in text and self.quotation_marks and "‚" not in self.alphabet:
            text = _LOW_QUOTED.sub(r" \1 ", text)
        text = _GERSHAYIM.sub(lambda m: m[0] if m[0] in self.alphabet else "״", text)
        text = self._signs.apply(text, changes)
        if any(p in text for p in characters.LETTER_POINTS):
            text = _POINT_OUTSIDE.sub(lambda m: m[0] if m[0] in self.alphabet else " ", text)
        if any(j in text for j in JOINERS):  # those of emoji, where the alphabet has them
            text = _LOOSE_JOINERS.sub("", text)
        return text

    def _words(self, text: str, changes: set[str]) -> str:
        """Words with their own apostrophes, one space between them; no space where the alphabet has none."""
        if APOSTROPHE in text and self.quotation_marks:
            after = apostrophes.without_quotation_marks(text)
            if after != text:
                changes.add("quotation marks")
            text = after
        spaced = " " in self.alphabet
        if APOSTROPHE in text and not (self._apostrophe and spaced):
            text = _EDGE.sub(" ", text)
        words = " ".join(text.split()) if spaced else unicodedata.normalize("NFC", "".join(text.split()))
        return words.replace(APOSTROPHE, self._apostrophe or APOSTROPHE)
