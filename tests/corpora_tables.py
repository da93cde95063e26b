"""Tables of docs/corpora.md and docs/decoding.md: bytes from the tables of archives, rules from the tests that hold them."""

from __future__ import annotations

import test_conformance
from inputs_page import code, markdown

from birq.corpora import librispeech
from birq.downloads import ngrams
from birq.downloads.archives import size
from birq.settings.decoding import LIBRISPEECH
from birq.study.lengths import LIBRISPEECH_HOURS

BYTES_PER_HOUR = 57.3e6  # of features: measured on AN4 (40,535,832 bytes of 0.7073 h); tests/test_features.py holds it
UNPACKED = 1.05  # over the archive's bytes; 1.04 and 1.07 for two slices of train-clean-100, packed as LibriSpeech's archives are
MINI_HOURS = {"train-clean-5": 5.0, "dev-clean-2": 2.0}  # by their names


def _row(part: str, hours: float, n_bytes: int) -> list[str]:
    return [part, f"{hours:.5g}", size(n_bytes), size(round(UNPACKED * n_bytes)), size(round(hours * BYTES_PER_HOUR))]


def sizes() -> str:
    """One row a part of LibriSpeech, with what it takes on disk."""
    n_bytes = {name.removesuffix(librispeech.SUFFIX): a.n_bytes for name, a in librispeech.ARCHIVES.items() if a.n_bytes}
    own = {part: hours for part, hours in LIBRISPEECH_HOURS.items() if part in n_bytes}
    rows = [_row(code(part), hours, n_bytes[part]) for part, hours in (own | MINI_HOURS).items()]
    rows.append(_row("all but mini", sum(own.values()), sum(n_bytes[part] for part in own)))
    return markdown(["part", "hours", "downloaded", "unpacked", "features"], rows)


def published() -> str:
    """One row an n-gram that has a name."""
    rows = []
    for name, a in ngrams.ARCHIVES.items():
        checksum = code(a.sha256) if a.sha256 else "that of the first download"
        rows.append([code(LIBRISPEECH + name.removesuffix(ngrams.SUFFIX)), f"{a.n_bytes:,}", checksum])
    return markdown(["`lm.source`", "bytes", "SHA-256"], rows)


def rules() -> str:
    """One row a rule, with the kinds of which a small copy is held to it."""
    kinds = ", ".join(code(kind) for kind in sorted(test_conformance.LAYOUTS))
    rows = []
    for name in (n for n in vars(test_conformance) if n.startswith("test_")):
        held = ", ".join(map(code, test_conformance.WITH_PHONES)) if "phone" in name else kinds
        rows.append([name.removeprefix("test_").replace("_", " "), code(name), "all" if held == kinds else held])
    return markdown(["rule", "test", "kinds"], rows)
