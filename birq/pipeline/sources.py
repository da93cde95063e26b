"""The files outside of the project that a node reads: a corpus' own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from birq.pipeline import artifact, places
from birq.pipeline.dag import Node
from birq.pipeline.hashes import sha256_files


def digest(node: Node) -> str | None:
    """Digest of a corpus' own files: names and content. Content is read again where size or time have changed.

    A corpus that may be downloaded is what its name says; the download itself must not change the key.
    """
    if node.stage.name != "corpus":
        return None
    corpus: Any = node.params.corpora[node.wildcards["corpus"]]
    root = None if getattr(corpus, "download", False) else getattr(corpus, "root", None)
    paths: list[Path] = []
    for outside in (Path(p) for p in (root, *getattr(corpus, "alignments", [])) if p):
        paths += sorted(p for p in outside.rglob("*") if p.is_file()) if outside.is_dir() else [outside] * outside.is_file()
    if not paths:
        return None
    digests = sha256_files(paths, places.memo(f"sources-{node.wildcards['corpus']}"))
    return artifact.sha256_json([[str(p), d] for p, d in zip(paths, digests, strict=True)])
