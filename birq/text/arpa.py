"""ARPA files of other makers: checked line by line, and written again in the form that birq's transcripts have."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from birq.errors import BirqError
from birq.text.ngram import BEGIN, END, MARKS

ORDERS = range(2, 7)  # that KenLM reads
PIECE_MARKS = ("▁", "##", "@@")  # of sentencepiece, WordPiece and BPE
HALF = 0.5  # more words than this outside the alphabet, or unknown to it in what is said: an n-gram of something else
GZIP, BINARY = b"\x1f\x8b", b"mmap lm http://kheafield.com"


@dataclass(frozen=True)
class Model:
    """What a file holds: n-grams by order, and its words that can be written in the alphabet, sorted."""

    n_grams: list[int]
    words: list[str]
    outside: int  # words that cannot be
    of_letters: bool  # most words are single characters: an n-gram of characters, or of words that are spelled


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A text file, gzipped or not. Errors: BirqError for one that is missing, cut off or no text."""
    try:
        with open(path, "rb") as raw:
            head = raw.read(len(BINARY))
        if head == BINARY:
            raise BirqError(f"{path}: a binary file of KenLM; give the ARPA file that it was made from")
        with (gzip.open if head[:2] == GZIP else open)(path, "rt", encoding="utf-8", newline="\n") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise BirqError(f"{path}: the gzip file is cut off or damaged ({e}); fetch it again") from None
    except UnicodeDecodeError as e:
        raise BirqError(f"{path}: not UTF-8 ({e.reason} at byte {e.start} of a block); convert it: iconv -t UTF-8") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise BirqError(f"{path}: not readable ({e.strerror or e}); lm.source names it") from None


def is_arpa(path: Path) -> bool:
    """By its name, or by a line `\\data\\` near its beginning. Errors: as `opened`."""
    if path.name.removesuffix(".gz").endswith(".arpa"):
        return True
    with opened(path) as file:
        return any(line.strip() == "\\data\\" for line, _ in zip(file, range(20), strict=False))


class _Reader:
    """The lines of an ARPA file, with their numbers for messages."""

    def __init__(self, path: Path, file: TextIO):
        self.path, self.file, self.number = path, file, 0

    def line(self) -> str:
        """The next line that is not empty. Errors: BirqError at the end of the file."""
        for line in self.file:
            self.number += 1
            if line := line.rstrip("\r\n"):
                return line
        raise self.wrong("the file ends without \\end\\: it is cut off", "fetch it again")

    def wrong(self, what: str, way_out: str) -> BirqError:
        return BirqError(f"{self.path}, line {self.number}: {what}; {way_out}")

    def sizes(self) -> list[int]:
        """The head: how many n-grams there are of each order, and the line after it is the first section's."""
        while self.line() != "\\data\\":
            if self.number > 1000:
                raise self.wrong("no \\data\\ so far: this is no ARPA file", "a text file must not be called .arpa")
        sizes: list[int] = []
        while match := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line := self.line()):
            sizes.append(int(match[2]))
            if int(match[1]) != len(sizes):
                raise self.wrong(f"{line!r}, where order {len(sizes)} is due", "the head is damaged")
        if len(sizes) not in ORDERS:
            raise self.wrong(f"an n-gram of order {len(sizes)}", f"orders {ORDERS[0]} to {ORDERS[-1]} can be read")
        self.section(line, 1)
        return sizes

    def section(self, line: str, n: int) -> None:
        if line != f"\\{n}-grams:":
            raise self.wrong(f"{line[:60]!r}, where \\{n}-grams: is due", "the counts in its head do not fit: make or fetch the file again")

    def entry(self, n: int, order: int) -> list[str]:
        """Log probability, words, and the weight of the context, if there is one."""
        line = self.line()
        fields = line.split("\t")
        if len(fields) not in (2, 3) or fields[1].count(" ") != n - 1:
            self._explain(line, fields, n)
        if n == order and len(fields) == 3:
            raise self.wrong(f"{line[:60]!r} has a back-off weight in the highest order", "the counts in its head do not fit")
        try:
            if float(fields[0]) > 0 or (len(fields) == 3 and float(fields[2]) != float(fields[2])):
                raise ValueError
        except ValueError:
            raise self.wrong(f"{line[:60]!r} does not begin with a log probability, 0 or less", "make or fetch the file again") from None
        return fields

    def _explain(self, line: str, fields: list[str], n: int) -> None:
        if line.startswith("\\"):
            raise self.wrong(f"{line[:60]!r} in the middle of the {n}-grams: its head promises more", "fetch the file again, it is cut")
        if len(fields) == 1 and " " in line:
            raise self.wrong(
                f"{line[:60]!r} has spaces for tabs",
                "ARPA has a tab before and after the words (sed -E 's/^([-0-9.e]+) +/\\1\\t/; s/ +(-?[0-9][-0-9.e]*)$/\\t\\1/')",
            )
        raise self.wrong(f"{line[:60]!r} is no {n}-gram", f"due: a log probability, a tab, {n} words with one space between")


def copy(source: Path, target: Path, lower: Callable[[str], str], alphabet: str, end: str) -> Model:
    """Write an ARPA file again, unpacked: its words in lower case, and `end` for </s>, which itself costs nothing after it.

    Errors: BirqError with file, line and way out for a file that is cut off or no ARPA, has the same word in two cases, or is an n-gram of
    something else than words over the alphabet.
    """
    with opened(source) as file, open(target, "w", encoding="utf-8", newline="\n") as out:
        reader = _Reader(source, file)
        sizes = reader.sizes()
        out.write("\\data\\\n" + "".join(f"ngram {n}={size + (n == 1)}\n" for n, size in enumerate(sizes, 1)))
        words: Counter[str] = Counter()
        for n, size in enumerate(sizes, 1):
            if n > 1:
                reader.section(reader.line(), n)
            out.write(f"\n\\{n}-grams:\n" + f"0\t{END}\n" * (n == 1))
            for _ in range(size):
                fields = reader.entry(n, len(sizes))
                fields[1] = lower(fields[1])
                if n == 1:
                    words[fields[1]] += 1
                    if words[fields[1]] > 1:
                        raise reader.wrong(
                            f"{fields[1]!r} is there in another case", "transcripts have no case: lower the text that it is made from"
                        )
                if fields[1].endswith(END):
                    fields = [fields[0], fields[1].removesuffix(END) + end]
                out.write("\t".join(fields) + "\n")
        if (line := reader.line()) != "\\end\\":
            raise reader.wrong(f"{line[:60]!r}, where \\end\\ is due", "the counts in its head do not fit: make or fetch the file again")
        out.write("\n\\end\\\n")
    return _judged(source, sizes, words, alphabet)


def _judged(source: Path, sizes: list[int], words: Counter[str], alphabet: str) -> Model:
    """Errors: BirqError for units that are no words, or words that the alphabet cannot write."""
    if missing := [m for m in (BEGIN, END) if m not in words]:
        raise BirqError(f"{source}: has no {missing[0]}; make it of one sentence a line, as SRILM and KenLM do")
    plain = [w for w in words if w not in MARKS]
    if not plain:
        raise BirqError(f"{source}: holds no word")
    letters = set(alphabet) - {" "}
    if pieces := [w for w in plain if any(m in w for m in PIECE_MARKS if not set(m) <= letters)]:
        raise BirqError(f"{source}: an n-gram of pieces, such as {pieces[0]!r}; the search needs one of whole words")
    known = sorted(w for w in plain if letters.issuperset(w))
    if len(known) < (1 - HALF) * len(plain):
        strange = sorted({c for w in plain for c in w} - letters)[:10]
        raise BirqError(
            f"{source}: {len(plain) - len(known)} of {len(plain)} words have characters outside tokenizer.alphabet, such as {strange} in "
            f"{next(w for w in plain if not letters.issuperset(w))!r}; is it of another language, or does tokenizer.alphabet lack them?"
        )
    return Model(sizes, known, len(plain) - len(known), sum(len(w) == 1 for w in plain) > HALF * len(plain))
