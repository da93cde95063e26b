"""The files outside of the project that a node reads: a corpus' own folder, a language model."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from birq.pipeline import artifact, locations
from birq.pipeline.dag import Node
from birq.pipeline.hashes import sha256_files
from birq.settings.paths import expanded


def digest(node: Node) -> str | None:
    """Digest of a corpus' own files, names and content; of archives that birq downloads, their pinned checksums.

    The download itself does not change it. Content is read again where size or time have changed. None where there is nothing.
    """
    if node.stage.name == "lm":
        return _language_model(node)
    if node.stage.name != "corpus":
        return None
    corpus: Any = node.params.corpora[node.wildcards["corpus"]]
    paths, names = [], []
    if getattr(corpus, "settles", False):
        archives, paths = _reader(corpus).sources(corpus)
        return _digest(node, archives, [*paths, *corpus.alignment_files()], [])
    if getattr(corpus, "download", False):
        archives, folders = _reader(corpus).sources(corpus)
    elif getattr(corpus, "says_files", False):
        archives, folders, paths = {}, [], _reader(corpus).files(corpus)
    else:
        archives, folders = {}, [corpus.folder()] if hasattr(corpus, "root") else []
    for folder in [f for f in folders if f.is_dir()]:
        tree = importlib.import_module("birq.corpora.tree").read(folder)  # as the reader walks it
        paths += tree.content()
        names += tree.names()
    return _digest(node, archives, [*paths, *getattr(corpus, "alignment_files", list)()], names)


def settle(node: Node) -> None:
    """Download what a node reads if that alone tells its digest: where the owner publishes no checksums, the first download does."""
    if node.stage.name == "lm" and node.params.lm.kind == "published":
        importlib.import_module("birq.downloads.ngrams").settle(node.params.lm)
    corpus: Any = node.params.corpora[node.wildcards["corpus"]] if node.stage.name == "corpus" else None
    if getattr(corpus, "settles", False):
        _reader(corpus).settle(corpus, f"corpora.{node.wildcards['corpus']}")


def _reader(corpus: Any) -> Any:
    return importlib.import_module(f"birq.corpora.{corpus.kind}")


def _digest(node: Node, archives: dict[str, str], files: list[Path], names: list[list[str]]) -> str | None:
    paths = [p for p in files if p.is_file()]
    if not paths and not archives and not names:
        return None
    readable = [p for p in paths if os.access(p, os.R_OK)]
    digests = dict(zip(readable, sha256_files(readable, locations.memo(f"sources-{node.wildcards['corpus']}")), strict=True))
    return artifact.sha256_json([sorted(archives.items()), [[str(p), digests.get(p, "unreadable")] for p in paths], names])


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
