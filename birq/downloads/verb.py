"""`birq download`: what the corpora of params.yaml lack, fetched before the run, such as on the one node that has a network."""

from __future__ import annotations

import importlib
from typing import Any

from birq.downloads import archives
from birq.downloads.archive import Wanted
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.settings.params import Params


def _corpora(params: Params, only: str | None) -> dict[str, Any]:
    """Name -> section, of corpora that are downloaded. Errors: BirqError for a name that is none of them."""
    out = {name: corpus for name, corpus in params.corpora.items() if getattr(corpus, "download", False)}
    if only is not None and only not in out:
        raise BirqError(f"--corpus {only}: not among the corpora with download: true, which are {', '.join(out) or 'none'}")
    return out if only is None else {only: out[only]}


def _lacking(name: str, corpus: Any) -> list[Wanted]:
    wanted = importlib.import_module(f"birq.corpora.{corpus.kind}").wanted(corpus, f"corpora.{name}")
    return archives.lacking(wanted, f"corpora.{name}")


def _complete(name: str, corpus: Any) -> str:
    later = "; the features stage fetches the audio" if getattr(corpus, "streams", False) else ""
    return f"{name}: all of it is in {corpus.folder()}{later}"


def fetch(params: Params, only: str | None = None) -> str:
    """Download what is missing; returns what there is now."""
    lines = []
    for name, corpus in _corpora(params, only).items():
        if getattr(corpus, "settles", False):
            importlib.import_module(f"birq.corpora.{corpus.kind}").settle(corpus, f"corpora.{name}")
        archives.fetch(_lacking(name, corpus), corpus.folder(), f"corpora.{name}", Rules.of(corpus))
        lines.append(_complete(name, corpus))
    return "\n".join(lines) or "no corpus of params.yaml is downloaded (download: true)"


def look(params: Params, only: str | None = None) -> str:
    """What is missing, and where it would be asked for."""
    lines = []
    for name, corpus in _corpora(params, only).items():
        lacking, rules = _lacking(name, corpus), Rules.of(corpus)
        lines += [] if lacking else [_complete(name, corpus)]
        for one in lacking:
            size = f"{one.archive.n_bytes / 1e6:.0f} MB" if one.archive.n_bytes else "size not published"
            places = [*map(str, rules.copies(one.name, corpus.folder())), *rules.addresses(one.name, one.archive.urls)]
            lines.append(f"{name}: {one.name}  {size}  {one.archive.checksum()}")
            lines += [f"  {place}" for place in places] or [f"  nowhere: corpora.{name}.offline is true"]
    return "\n".join(lines) or "no corpus of params.yaml is downloaded (download: true)"
