"""An n-gram of words, estimated from sentences: interpolated modified Kneser-Ney (Chen and Goodman 1998), written as ARPA.

Orders below the highest count in how many contexts an n-gram occurs, not how often; n-grams that begin a sentence have no other context
and count as they are. The unigrams are interpolated with the uniform distribution over all words, the end of a sentence and <unk>.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

MARKS = BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
FALLBACK = (0.5, 1.0, 1.5)  # discounts where counts of counts give none: few sentences; KenLM's lmplz takes the same
NEVER = -99.0  # log10 of what is not predicted
Gram = tuple[str, ...]


def counts(sentences: Iterable[str], order: int) -> list[Counter[Gram]]:
    """Adjusted counts of n-grams by order, 1 first."""
    highest, begins = Counter[Gram](), [Counter[Gram]() for _ in range(order)]
    for sentence in sentences:
        words = (BEGIN, *sentence.split(), END)
        highest.update(words[i : i + order] for i in range(len(words) - order + 1))
        for n in range(2, min(order, len(words) + 1)):
            begins[n - 1][words[:n]] += 1
    highest.pop((BEGIN,), None)  # of order 1: it begins every sentence and is not predicted
    out = [highest]
    for n in range(order - 1, 0, -1):
        contexts = Counter(gram[1:] for gram in out[0])  # an n-gram once for every word before it
        contexts.update(begins[n - 1])
        out.insert(0, contexts)
    return out


def discounts(found: Iterable[int]) -> tuple[float, float, float]:
    """What is taken from counts of 1, of 2, and of 3 and more."""
    n = Counter(c for c in found if c <= 4)
    if not all(n[k] for k in (1, 2, 3, 4)):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    made = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return made if all(0 < d < k for k, d in enumerate(made, 1)) else FALLBACK  # type: ignore[return-value]


class NGram:
    """Probabilities of seen n-grams and weights of contexts, both by order, as natural numbers.

    `vocabulary`: every word that it can predict, sorted, with </s> and <unk>.
    """

    def __init__(self, sentences: Iterable[str], order: int):
        """Errors: ValueError where no sentence holds a word."""
        found = counts(sentences, order)
        self.order = order
        self.vocabulary = sorted({gram[0] for gram in found[0]} - {BEGIN} | {END, UNKNOWN})
        if self.vocabulary == [END, UNKNOWN]:
            raise ValueError("no sentence holds a word")
        self.probabilities: list[dict[Gram, float]] = []
        self.backoffs: list[dict[Gram, float]] = []  # of contexts of 0, 1, ... words
        for n in range(1, order + 1):
            self._estimate(found[n - 1], n)

    def _estimate(self, found: Counter[Gram], n: int) -> None:
        discount = discounts(found.values())
        total: dict[Gram, int] = defaultdict(int)
        held: dict[Gram, float] = defaultdict(float)
        for gram, c in found.items():
            total[gram[:-1]] += c
            held[gram[:-1]] += discount[min(c, 3) - 1]
        backoff = {context: held[context] / total[context] for context in total}
        grams = [(w,) for w in self.vocabulary] if n == 1 else sorted(found)
        seen = {}
        for gram in grams:
            c, context = found[gram], gram[:-1]
            own = (c - discount[min(c, 3) - 1]) / total[context] if c else 0.0
            lower = 1 / len(self.vocabulary) if n == 1 else self.probabilities[-1][gram[1:]]
            seen[gram] = own + backoff[context] * lower
        self.probabilities.append(seen)
        self.backoffs.append(backoff)

    def probability(self, word: str, context: Gram) -> float:
        """Of a word of the vocabulary after the words of the context, which may begin with <s>."""
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        if (p := self.probabilities[len(context)].get((*context, word))) is not None:
            return p
        return self.backoffs[len(context)].get(context, 1.0) * self.probability(word, context[1:])

    def lines(self) -> Iterator[str]:
        """The ARPA file: log10, n-grams sorted, so that the same sentences give the same bytes."""
        yield "\\data\\"
        for n, seen in enumerate(self.probabilities, 1):
            yield f"ngram {n}={len(seen) + (n == 1)}"
        for n, seen in enumerate(self.probabilities, 1):
            yield f"\n\\{n}-grams:"
            backoff = self.backoffs[n] if n < self.order else {}
            if n == 1:
                yield _line(NEVER, (BEGIN,), backoff.get((BEGIN,), 1.0))
            for gram, p in seen.items():
                yield _line(math.log10(p), gram, backoff.get(gram, 1.0) if n < self.order and gram[-1] != END else None)
        yield "\n\\end\\"

    def write(self, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="\n") as f:
            f.writelines(f"{line}\n" for line in self.lines())


def _line(log10: float, gram: Gram, backoff: float | None) -> str:
    tail = "" if backoff is None else f"\t{math.log10(backoff):.7f}"
    return f"{log10:.7f}\t{' '.join(gram)}{tail}"
