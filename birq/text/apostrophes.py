"""Apostrophes at the edges of words: those of the word (dogs', 'tis) and those that are quotation marks ('no way').

In plain text both are one sign. A pair around words is taken for quotation marks; a word that is known to begin with an apostrophe opens
none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

# what follows an apostrophe that is no quotation mark: English, then Dutch and German; n as in rock 'n' roll
_ELISIONS = frozenset((
    "tis", "twas", "twere", "twill", "twould", "twixt", "tween", "em", "im", "er", "cause", "cos", "coz", "cuz", "til", "till", "bout",
    "round", "neath", "gainst", "fraid", "nuff", "d", "ll", "m", "re", "s", "t", "ve", "n", "k", "r", "ne", "nen", "nem", "ner",
))  # fmt: skip
# ends of words that may have an apostrophe of their own: the boys', goin', an', ol', Italian po'
_OWN_END = re.compile(r"(?:s|in|(?:^|[ '])(?:an|o|th|ol|wi|po|mo))$")
_RUN, _WORD = re.compile("'+"), re.compile("[^ ']+")


@dataclass
class _Run:
    """Apostrophes side by side, and what stands next to them: "" for a space or the end."""

    begin: int
    end: int
    left: str
    right: str
    elided: bool = False  # the word after it begins with an apostrophe, or the word before it, as in 'n', ends with one too
    better_follows: bool = False  # a quotation is closed later, before the next one opens, by a mark that cannot belong to a word

    @property
    def opens(self) -> bool:
        return bool(self.right and not self.left and self.end - self.begin == 1)

    @property
    def may_belong(self) -> bool:
        """A single one after a word."""
        return bool(self.left and not self.right and self.end - self.begin == 1)


def _own_end(text: str, run: _Run) -> bool:
    """Whether the word before it may have an apostrophe at its end."""
    return _OWN_END.search(text[max(run.begin - 5, 0) : run.begin]) is not None


def _runs(text: str) -> list[_Run]:
    spans = [m.span() for m in _RUN.finditer(text)]
    runs = [_Run(a, b, text[max(a - 1, 0) : a].strip(), text[b : b + 1].strip()) for a, b in spans]
    for run, after in pairwise([*runs, _Run(len(text), len(text), "", "")]):
        if run.opens:
            word = _WORD.match(text, run.end)
            run.elided = bool(word and word[0] in _ELISIONS)
            if run.elided and word and word.end() == after.begin and after.may_belong:
                after.elided = True
    better = False
    for run in reversed(runs):
        run.better_follows = better
        if (run.left and run.right) or run.elided:
            continue
        if run.right:
            better = False
        elif not run.may_belong or not _own_end(text, run):
            better = True
    return runs


def _once(text: str) -> str:
    out = list(text)
    opened: list[_Run] = []
    for run in _runs(text):
        length = run.end - run.begin
        if run.left and run.right:  # inside a word; SQL doubles it
            out[run.begin : run.end] = ["'"] + [""] * (length - 1)
        elif run.opens:
            opened += [] if run.elided else [run]
        elif run.may_belong and (run.elided or not opened or (run.better_follows and _own_end(text, run))):
            continue
        else:  # a closing mark, a doubled one, or one that stands alone
            out[run.begin : run.end] = [" "] * length
            if opened and not run.right:
                out[opened.pop().begin] = " "
    return "".join(out)


def without_quotation_marks(text: str) -> str:
    """Lower-case text of words, spaces and ': only the apostrophes of words are left. Applied twice it changes no more."""
    while (after := _once(text)) != text:  # each round takes an apostrophe away
        text = after
    return text
