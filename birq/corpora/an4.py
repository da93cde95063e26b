"""CMU AN4 ("census"): names, addresses, numbers and spelled letters of 1991, in its own layout."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from birq.corpora import folder, tree
from birq.corpora.items import Item, Limits, Scan, need_folder, read_lines
from birq.downloads import archives
from birq.downloads.archive import Archive, Wanted, downloaded
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.settings.corpora import An4Corpus

SUFFIXES = (".flac", ".wav", ".sph")
SAMPLE_RATE_HZ = 16000
# CMU publishes no checksum and no longer serves the archive (NVIDIA-NeMo/Speech#14136). The checksum is of NVIDIA's mirror, as a
# public training script pins it; espnet keeps another copy.
ARCHIVES = {
    "an4_sphere.tar.gz": Archive(
        (
            "https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
            "https://huggingface.co/datasets/espnet/an4/resolve/main/an4_sphere.tar.gz",
            "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz",
        ),
        "a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
        "an4",
    )
}

_LINE = re.compile(r"^(?P<text>.*)\((?P<id>[^()\s]+)\)\s*$")
_MARK = re.compile(r"</?s>|<sil>|\+\+\w+\+\+|\[\w+\]|\(\d+\)", re.IGNORECASE)


def _home(root: Path) -> Path | None:
    """The folder that has etc/ and wav/: `root`, or an4 in it, as the archive has it."""
    return next((p for p in (root, root / "an4") if (p / "etc" / "an4_train.fileids").is_file()), None)


def _archives(corpus: An4Corpus) -> dict[str, Archive]:
    return {name: dataclasses.replace(a, sha256=corpus.sha256 or a.sha256) for name, a in ARCHIVES.items()}


def pinned(corpus: An4Corpus) -> dict[str, str]:
    """Archive -> SHA-256 of the archives that this corpus may download."""
    return {name: a.sha256 for name, a in _archives(corpus).items()} if corpus.download else {}


def sources(corpus: An4Corpus) -> tuple[dict[str, str], list[Path]]:
    """The sources of the corpus: (archive -> SHA-256 where it is downloaded or will be, folders of the user's own files)."""
    checksums, root = pinned(corpus), corpus.folder()
    if _home(root) is None or (checksums and downloaded(root, checksums) == checksums):
        return checksums, []
    return {}, [root]


def wanted(corpus: An4Corpus, key: str) -> list[Wanted]:
    """The archives that are to be downloaded."""
    root = corpus.folder()
    if _home(root) is not None:
        return []
    remedy = f"If you trust the archive with the other checksum, set {key}.sha256 to that checksum."
    return [Wanted(name, archive, root / "an4", remedy) for name, archive in _archives(corpus).items()]


def words(line: str) -> tuple[str, str]:
    """A line of a transcription file -> (utterance id, text without sentence, silence and noise marks)."""
    match = _LINE.match(line.strip())
    if not match:
        raise ValueError("no `(utterance id)` at its end")
    return match["id"], " ".join(_MARK.sub(" ", match["text"]).split())


def _transcription(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                id, text = words(line)
            except ValueError as e:
                raise BirqError(f"{path}, line {number}: {e}; correct or remove the line") from None
            texts[id] = text
    return texts


def _list(root: Path, audio: dict[str, str], which: str, split: str | None) -> list[Item]:
    """Items of one file list and its transcription."""
    texts = _transcription(root / "etc" / f"an4_{which}.transcription")
    items = []
    for file_id in read_lines(root / "etc" / f"an4_{which}.fileids"):
        file_id = file_id.strip()
        if not file_id:
            continue
        id, speaker = file_id.rpartition("/")[2], file_id.split("/")[-2] if "/" in file_id else file_id
        item = Item(id, audio.get(file_id, ""), speaker, texts.pop(id, None), split)
        if item.text is None:
            item = item.bad("no transcript", f"an4_{which}.transcription has no line ({id})")
        items.append(item if item.path else item.bad("no audio", f"wav/{file_id} does not exist as {', '.join(SUFFIXES)}"))
    items += [Item(id, "", "", text).bad("no audio", f"an4_{which}.fileids does not list it") for id, text in sorted(texts.items())]
    return items


def scan(corpus: An4Corpus, key: str) -> Scan:
    """Read the file lists; where there is no test list, the test speakers are drawn later."""
    given = corpus.folder()
    if corpus.download:
        archives.fetch(wanted(corpus, key), given, key, Rules.of(corpus))
    need_folder(given, f"{key}.root")
    root = _home(given)
    if root is None:
        raise BirqError(f"{key}.root: {given} holds no etc/an4_train.fileids; set it to the folder that has etc/ and wav/")
    found = tree.read(root / "wav")
    audio = {name.rpartition(".")[0]: f"wav/{name}" for name in found.ending(SUFFIXES)}
    if not audio:
        raise BirqError(f"{key}.root: {root / 'wav'} holds no {', '.join(SUFFIXES)} file; complete the corpus")
    items = _list(root, audio, "train", None)
    if (root / "etc" / "an4_test.fileids").is_file():
        items += _list(root, audio, "test", "test")
    return Scan(
        root,
        items + tree.of_problems(found),
        "any purpose, with CMU's notice (BSD-like)",
        "CMU AN4 (census) database, Carnegie Mellon University, 1991",
        SAMPLE_RATE_HZ,
        quotation_marks=False,
    )


def prepare(name: str, corpus: An4Corpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    folder.prepare(scan, name, corpus, out, scratch, alphabet=alphabet, limits=limits)
