"""The files outside of the project that a node reads: a corpus' own folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from birq.pipeline import artifact, locations
from birq.pipeline.dag import Node
from birq.pipeline.hashes import sha256_files


def digest(node: Node) -> str | None:
    """Digest of a corpus' own files, names and content; of archives that birq downloads, their pinned checksums.

    The download itself does not change it. Content is read again where size or time have changed. None where there is nothing.
    """
    if node.stage.name != "corpus":
        return None
    corpus: Any = node.params.corpora[node.wildcards["corpus"]]
    if getattr(corpus, "download", False):
        archives, folders = importlib.import_module(f"birq.corpora.{corpus.kind}").sources(corpus)
    else:
        archives, folders = {}, [Path(corpus.root)] if hasattr(corpus, "root") else []
    paths: list[Path] = []
    for outside in (*folders, *map(Path, getattr(corpus, "alignments", []))):
        paths += sorted(p for p in outside.rglob("*") if p.is_file()) if outside.is_dir() else [outside] * outside.is_file()
    if not paths and not archives:
        return None
    digests = sha256_files(paths, locations.memo(f"sources-{node.wildcards['corpus']}"))
    return artifact.sha256_json([sorted(archives.items()), [[str(p), d] for p, d in zip(paths, digests, strict=True)]])
