"""A language model for the search: the files of its artifact, and the package that reads them.

The package is an extra of birq, because it has wheels for some platforms only.
"""

from __future__ import annotations

from typing import Any

from birq.errors import BirqError

ARPA, WORDS, FACTS = "lm.arpa", "words.txt", "lm.json"  # the n-gram; the words that the search may find; what they are made from
# stands for </s> in lm.arpa, and is the last word of every hypothesis: a sign that no alphabet has (Unicode leaves it to private use)
END_WORD = "\ue000"
NO_LIBRARY = (
    "the search with a language model needs ctc-beam-decoder: `pip install ctc-beam-decoder`, which has wheels for Linux on x86-64 "
    "(glibc 2.35 or later) and macOS on arm64. Elsewhere set lm.source: none, then decoding is greedy alone"
)


def library() -> Any:
    """The decoder's module. Errors: BirqError where it is not installed, or cannot be loaded."""
    try:
        import ctc_beam_decoder

        if ctc_beam_decoder.has_kenlm():
            return ctc_beam_decoder
    except (ImportError, OSError, RuntimeError) as e:
        raise BirqError(f"{NO_LIBRARY} ({e})") from None
    raise BirqError(NO_LIBRARY)
