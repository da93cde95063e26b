"""The files outside of the project that a node reads: a corpus' own folder, a language model."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from birq import files
from birq.pipeline import artifact, locations
from birq.pipeline.dag import Node
from birq.pipeline.hashes import SETTLED_SECONDS, sha256_files, state
from birq.settings.paths import expanded

_held: ContextVar[dict[str, str | None] | None] = ContextVar("digests of the work at hand", default=None)


@contextlib.contextmanager
def looked_at_once() -> Iterator[None]:
    """Within it the files of a corpus are looked at once; for work that is over in seconds and changes none of them."""
    before = _held.set({})
    try:
        yield
    finally:
        _held.reset(before)


def digest(node: Node) -> str | None:
    """The digest of what a node reads from outside of the project; `_of` says of what."""
    if (held := _held.get()) is None:
        return _of(node)
    if node.name not in held:
        held[node.name] = _of(node)
    return held[node.name]


def _of(node: Node) -> str | None:
    """Digest of a corpus' own files, names and content; of archives that birq downloads, their pinned checksums.

    The download itself does not change it. Content is read again where size or time have changed. None where there is nothing.
    """
    if node.stage.name == "lm":
        return _language_model(node)
    if node.stage.name != "corpus":
        return None
    corpus: Any = node.params.corpora[node.wildcards["corpus"]]
    paths: list[Path] = getattr(corpus, "alignment_files", list)()
    trees = []
    if getattr(corpus, "settles", False):
        archives, own = _reader(corpus).sources(corpus)
        paths = [*own, *paths]
    elif getattr(corpus, "says_files", False):
        archives, paths = {}, [*_reader(corpus).files(corpus), *paths]
    else:
        archives, folders = {}, [corpus.folder()] if hasattr(corpus, "root") else []
        if getattr(corpus, "download", False):
            archives, folders = _reader(corpus).sources(corpus)
        # as the reader walks them
        trees = [importlib.import_module("birq.corpora.tree").read(folder) for folder in folders if folder.is_dir()]
    return _digest(node.wildcards["corpus"], archives, trees, [p for p in paths if p.is_file()])


def settle(node: Node) -> None:
    """Download what a node reads if that alone tells its digest: where the owner publishes no checksums, the first download does."""
    if node.stage.name == "lm" and node.params.lm.kind == "published":
        importlib.import_module("birq.downloads.ngrams").settle(node.params.lm)
    corpus: Any = node.params.corpora[node.wildcards["corpus"]] if node.stage.name == "corpus" else None
    if getattr(corpus, "settles", False):
        _reader(corpus).settle(corpus, f"corpora.{node.wildcards['corpus']}")


def _reader(corpus: Any) -> Any:
    return importlib.import_module(f"birq.corpora.{corpus.kind}")


def _digest(name: str, archives: dict[str, str], trees: list[Any], paths: list[Path]) -> str | None:
    """Digest of a corpus' sources: archives, files of walked folders, files by themselves.

    A folder of a million files is told by what the walk saw of them: where that was seen before, its digest is known.
    """
    names = [row for tree in trees for row in tree.names()]
    found = dict(pair for tree in trees for pair in tree.content())
    if not found and not paths and not archives and not names:
        return None
    newest_ns = max((tree.newest_ns for tree in trees), default=0)
    for path in paths:
        about = path.stat()
        found[str(path)] = state(about)
        newest_ns = max(newest_ns, about.st_mtime_ns, about.st_ctime_ns)
    seen, begun = hashlib.sha256(), time.time()
    seen.update(json.dumps([os.getuid(), sorted(os.getgroups()), sorted(archives.items()), names]).encode())
    for name_of, as_found in found.items():
        seen.update(f"\n{name_of}\t{as_found}".encode("utf-8", "surrogateescape"))
    memo = locations.memo(f"sources-{name}.walk")  # no corpus has a dot in its name
    try:
        known = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("seen") == seen.hexdigest():
        return known["digest"]
    readable = [p for p in found if os.access(p, os.R_OK)]
    digests = dict(zip(readable, sha256_files(readable, locations.memo(f"sources-{name}")), strict=True))
    digest = artifact.sha256_json([sorted(archives.items()), [[p, digests.get(p, "unreadable")] for p in found], names])
    if begun - newest_ns / 1e9 > SETTLED_SECONDS:
        with contextlib.suppress(OSError):  # it saves time, nothing more
            files.write_text(memo, json.dumps({"seen": seen.hexdigest(), "digest": digest}))
    return digest


def _language_model(node: Node) -> str | None:
    """Digest of the file that lm.source names, or a published one's pinned checksum; None where there is no file, which the stage says."""
    lm = node.params.lm
    if lm.kind == "published":
        return importlib.import_module("birq.downloads.ngrams").wanted(lm).archive.sha256 or None
    path = expanded(lm.source) if lm.kind == "file" else None
    if path is None or not path.is_file() or not os.access(path, os.R_OK):
        return None
    (found,) = sha256_files([path], locations.memo("sources-lm"))
    return found
