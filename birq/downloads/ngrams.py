"""N-grams that are downloaded by name: LibriSpeech's own, of OpenSLR's resource 11."""

from __future__ import annotations

from pathlib import Path

from birq.downloads import archives, firstseen
from birq.downloads.archive import OPENSLR, Archive, Wanted
from birq.downloads.rules import Rules
from birq.downloads.transfer import sha256_of
from birq.settings.decoding import LIBRISPEECH, Lm

KEY = "lm"  # the section of params.yaml
SUFFIX = ".arpa.gz"
# name, bytes, SHA-256. Bytes: Kaldi's recipe (egs/librispeech/s5/local/download_lm.sh). SHA-256: i6_experiments
# (common/datasets/librispeech/language_model.py). OpenSLR publishes none. -: none was found, so that of the first download holds
_TABLE = """
3-gram.pruned.3e-7    13654242 -
3-gram.pruned.1e-7    34094057 71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb
3-gram               759636181 263649573475c2991d3e755eb4e690c9d2656f2b3283a1eb589e1e4e174bf874
4-gram              1355172078 f2b2d1507637ddf459d3579159f7e8099ed7d77452ff1059aeeeaea33d274613
"""
ARCHIVES = {
    name + SUFFIX: Archive(tuple(f"{m}/11/{name}{SUFFIX}" for m in OPENSLR), sha256.strip("-"), "", int(n_bytes), b"\x1f\x8b")
    for name, n_bytes, sha256 in map(str.split, _TABLE.strip().splitlines())
}


def wanted(lm: Lm) -> Wanted:
    """The file of a published n-gram and its place; where nobody publishes its checksum, with that of the first download."""
    name, root = lm.source.removeprefix(LIBRISPEECH) + SUFFIX, lm.folder()
    archive, remedy = ARCHIVES[name], ""
    if not archive.sha256:
        archive, remedy = firstseen.pinned({name: archive}, root)[name], firstseen.remedy(root)
    return Wanted(name, archive, root / name, remedy, "set {key}.source to the path of an ARPA file of your own")


def fetch(lm: Lm) -> Path:
    """The file, downloaded where it is missing. Errors: BirqError for one that is not to be had, or is another one."""
    one = wanted(lm)
    archives.fetch([one], lm.folder(), KEY, Rules.of(lm))
    return one.target


def settle(lm: Lm) -> None:
    """Download the file if nobody publishes its checksum and it was never seen, because the checksum is part of the key."""
    one = wanted(lm)
    if one.archive.sha256:
        return
    path = fetch(lm)
    if one.name not in firstseen.known(lm.folder()):  # brought by hand
        firstseen.note(lm.folder(), one.name, sha256_of(path), path.stat().st_size)
