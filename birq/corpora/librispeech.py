"""LibriSpeech: any of its parts, whole or partial, with or without transcripts; and Libri-light's small parts of its train parts."""

from __future__ import annotations

from pathlib import Path

from birq.corpora import chapters, folder, tree
from birq.corpora.items import Item, Limits, Scan, need_folder
from birq.downloads import archives
from birq.downloads.archive import OPENSLR, Archive, Wanted, marks
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.settings.corpora import LibriSpeechCorpus

SAMPLE_RATE_HZ = 16000
SUFFIX = ".tar.gz"
# archive: OpenSLR's resource, bytes, SHA-256. Resource 12: the checksums of torchaudio 2.11 (datasets/librispeech.py), with OpenSLR's
# md5. Resource 31 (mini LibriSpeech): bytes of Kaldi's recipe, SHA-256 of files that others compared with OpenSLR's md5sum.txt.
_TABLE = """
dev-clean        12    337926286 76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3
dev-other        12    314305928 12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365
test-clean       12    346663984 39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23
test-other       12    328757843 d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29
train-clean-100  12   6387309499 d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2
train-clean-360  12  23049477885 146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf
train-other-500  12  30593501606 ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2
dev-clean-2      31    126046265 176ec501490eced2d6c1f89f4f0ddc7dfe799e649e5322f8ba49fe3ff50c8012
train-clean-5    31    332954390 47805806c8b15f7549f3c51bd6b7da72ec0128a34d32830c8014a88658c0292d
"""
ARCHIVES = {
    part + SUFFIX: Archive(tuple(f"{m}/{resource}/{part}{SUFFIX}" for m in OPENSLR), sha256, f"LibriSpeech/{part}", int(n_bytes))
    for part, resource, n_bytes, sha256 in map(str.split, _TABLE.strip().splitlines())
}
# Libri-light's limited supervision (Kahn et al. 2020): one archive, in which 10 minutes are part of 1 hour, and that of 10 hours.
# Folders as torchaudio 2.11 has them (datasets/librilight_limited.py), below which all is as in LibriSpeech; SHA-256 of the same file
LIMITED = "librispeech_finetuning"
LIMITED_PARTS = {"libri-light-10min": ("1h/0",), "libri-light-1h": ("1h",), "libri-light-10h": ("1h", "9h")}
ARCHIVES[LIMITED + ".tgz"] = Archive(
    ("https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz",),
    "5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af",
    LIMITED,
)


def _archive(part: str) -> str:
    """The name of the archive that has a part."""
    return (LIMITED + ".tgz") if part in LIMITED_PARTS else part + SUFFIX


def _folder(part: str) -> str:
    """What an archive puts beside the other parts."""
    return LIMITED if part in LIMITED_PARTS else part


def _trees(part: str) -> list[str]:
    """The folders whose recordings are a part, below the one that holds the parts."""
    return [f"{LIMITED}/{below}" for below in LIMITED_PARTS[part]] if part in LIMITED_PARTS else [part]


def _home(root: Path) -> Path:
    """The folder that holds the parts: `root`, or LibriSpeech in it, as the archives have it."""
    inner = root / "LibriSpeech"
    return inner if inner.is_dir() else root


def _parts(corpus: LibriSpeechCorpus) -> dict[str, list[str]]:
    return {"train": corpus.train_parts, "dev": corpus.dev_parts, "test": corpus.test_parts}


def _named(corpus: LibriSpeechCorpus) -> list[str]:
    return [part for parts in _parts(corpus).values() for part in parts]


def pinned(corpus: LibriSpeechCorpus) -> dict[str, str]:
    """Archive -> SHA-256 of the parts that this corpus may download."""
    names = [_archive(part) for part in _named(corpus)] if corpus.download else []
    return {name: ARCHIVES[name].sha256 for name in names if name in ARCHIVES}


def sources(corpus: LibriSpeechCorpus) -> tuple[dict[str, str], list[Path]]:
    """The sources of the corpus: (archive -> SHA-256 of parts that are downloaded or will be, folders of the user's own files)."""
    checksums, root = pinned(corpus), corpus.folder()
    known = marks(root)
    own = []
    for part in _named(corpus):
        name, path = _archive(part), _home(root) / _folder(part)
        if path.is_dir() and not (name in checksums and known.get(name) == checksums[name]):
            own.append(path)
            checksums.pop(name, None)
    return checksums, own


def wanted(corpus: LibriSpeechCorpus, key: str) -> list[Wanted]:
    """The archives of the parts that are missing; they are put beside those that are there."""
    root = corpus.folder()
    home = _home(root)
    missing = [part for part in _named(corpus) if not (home / _folder(part)).is_dir()]
    for part in missing:
        if _archive(part) not in ARCHIVES:
            legal = ", ".join([*(name.removesuffix(SUFFIX) for name in ARCHIVES if name.endswith(SUFFIX)), *LIMITED_PARTS])
            raise BirqError(f"{key}: {part!r} is not in {home} and is no part of LibriSpeech; legal: {legal}")
    has_parts = home != root or any((root / Path(archive.folder).name).is_dir() for archive in ARCHIVES.values())
    beside = home if has_parts else root / "LibriSpeech"
    return list(dict.fromkeys(Wanted(_archive(part), ARCHIVES[_archive(part)], beside / _folder(part)) for part in missing))


def scan(corpus: LibriSpeechCorpus, key: str) -> Scan:
    """Read the parts. Those of dev and test fix their splits; the others' speakers may be drawn for a missing split."""
    named = _named(corpus)
    for part in named:
        if named.count(part) > 1:
            raise BirqError(f"{key}: {part!r} is named twice among train_parts, dev_parts and test_parts; name it once")
    if len(limited := [part for part in named if part in LIMITED_PARTS]) > 1:
        raise BirqError(
            f"{key}: {', '.join(limited)} hold the same recordings, since each is part of the next larger one; name one of them"
        )
    if not corpus.train_parts:
        raise BirqError(f"{key}.train_parts: empty; name at least one part, such as train-clean-100")
    if corpus.download:
        archives.fetch(wanted(corpus, key), corpus.folder(), key, Rules.of(corpus))
    need_folder(corpus.folder(), f"{key}.root")
    root = _home(corpus.folder())
    items: list[Item] = []
    for split, parts in _parts(corpus).items():
        for below in (tree_of for part in parts for tree_of in _trees(part)):
            path = root / below
            if not path.is_dir():
                there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "no folder"
                raise BirqError(
                    f"{key}.{split}_parts: {root} has no part {below!r}, it has {there}; name one of these or set {key}.download to true"
                )
            read = chapters.read(tree.read(path), None if split == "train" else split, f"{below}/")
            if not read:
                raise BirqError(f"{key}.{split}_parts: {path} holds no recording; complete the part or leave it out")
            items += read
    source = "LibriSpeech (Panayotov et al., 2015), from LibriVox recordings"
    return Scan(root, items, "CC BY 4.0", source, SAMPLE_RATE_HZ, quotation_marks=False)


def prepare(name: str, corpus: LibriSpeechCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    folder.prepare(scan, name, corpus, out, scratch, alphabet=alphabet, limits=limits)
