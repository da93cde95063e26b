"""Apostrophes at the edges of words: those of the word (dogs', 'tis) and those that are quotation marks ('no way').

In plain text both are one sign. A pair around words is taken for quotation marks; a word that is known to begin with an apostrophe opens
none.
"""

from __future__ import annotations

import re

# what follows an apostrophe that is no quotation mark: English, then Dutch and German; n as in rock 'n' roll
_ELISIONS = frozenset(
    re.findall(
        r"\w+",
        "tis twas twere twill twould twixt tween em im er cause cos coz cuz til till bout round neath gainst fraid nuff "
        "d ll m re s t ve n k r ne nen nem ner",
    )
)
# ends of words that may have an apostrophe of their own: the boys', goin', an', ol', Italian po'
_OWN_END = re.compile(r"(?:s|in|(?:^|[ '])(?:an|o|th|ol|wi|po|mo))$")
_RUN, _WORD = re.compile("'+"), re.compile("[^ ']+")


def _beside(text: str, begin: int, end: int) -> tuple[str, str]:
    """The characters before and after a run, "" for a space or none."""
    return text[max(begin - 1, 0) : begin].strip(), text[end : end + 1].strip()


def _elided(text: str, begin: int) -> str:
    """The word that begins there, if it is known to begin with an apostrophe."""
    word = _WORD.match(text, begin)
    return word[0] if word and word[0] in _ELISIONS else ""


def _may_own(text: str, end: int) -> bool:
    """Whether an apostrophe there may belong to the word before it."""
    return _OWN_END.search(text[max(end - 5, 0) : end]) is not None


def _better_close(text: str, begin: int) -> bool:
    """Whether a quotation is closed later, before the next one opens, by a mark that cannot belong to a word."""
    for run in _RUN.finditer(text, begin):
        left, right = _beside(text, *run.span())
        if right and (left or _elided(text, run.end())):
            continue
        if right:
            return False
        if len(run[0]) > 1 or not _may_own(text, run.start()):
            return True
    return False


def _once(text: str) -> str:
    out = list(text)
    opened: list[int] = []
    kept_close = -1
    for run in _RUN.finditer(text):
        begin, end = run.span()
        left, right = _beside(text, begin, end)
        if left and right:  # inside a word; SQL doubles it
            out[begin:end] = ["'"] + [""] * (end - begin - 1)
            continue
        if right and end - begin == 1:
            word = _elided(text, end)
            if not word:
                opened.append(begin)
            elif text[end + len(word) : end + len(word) + 1] == "'":
                kept_close = end + len(word)
            continue
        own = begin == kept_close or not opened or (_may_own(text, begin) and _better_close(text, end))
        if left and end - begin == 1 and own:
            continue
        out[begin:end] = [" "] * (end - begin)  # a closing mark, a doubled one, or one that stands alone
        if opened and not right:
            out[opened.pop()] = " "
    return "".join(out)


def without_quotation_marks(text: str) -> str:
    """Lower-case text of words, spaces and ': only the apostrophes of words are left. Applied twice it changes no more."""
    while (after := _once(text)) != text:  # each round takes an apostrophe away
        text = after
    return text
