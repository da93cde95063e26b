"""`birq download`: what corpora and language model of params.yaml lack, fetched before the run, such as on the one node with a network."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birq.downloads import archives, ngrams
from birq.downloads.archive import Wanted
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.settings.params import Params

NOTHING = "params.yaml names nothing to download: no corpus with download: true, no published n-gram as lm.source"


@dataclass(frozen=True)
class Group:
    """What one section of params.yaml lacks."""

    name: str  # of a corpus, or lm
    key: str  # of the section
    section: Any
    lacking: list[Wanted]

    @property
    def complete(self) -> str:
        """What is said where nothing lacks."""
        later = "; the features stage fetches the audio" if getattr(self.section, "streams", False) else ""
        return f"{self.name}: all of it is in {self.section.folder()}{later}"


def groups(params: Params, only: str | None = None) -> Iterator[Group]:
    """Every section with files that are downloaded, or that of one corpus. Errors: BirqError for a name that is no such corpus."""
    corpora = {name: corpus for name, corpus in params.corpora.items() if getattr(corpus, "download", False)}
    if only is not None and only not in corpora:
        raise BirqError(f"--corpus {only}: not among the corpora with download: true, which are {', '.join(corpora) or 'none'}")
    for name, corpus in corpora.items():
        if only in (None, name):
            key = f"corpora.{name}"
            wanted = importlib.import_module(f"birq.corpora.{corpus.kind}").wanted(corpus, key)
            yield Group(name, key, corpus, archives.lacking(wanted, key))
    if only is None and params.lm.kind == "published":
        yield Group("lm", ngrams.KEY, params.lm, archives.lacking([ngrams.wanted(params.lm)], ngrams.KEY))


def fetch(params: Params, only: str | None = None) -> str:
    """Download what is missing; returns what there is now."""
    lines = []
    for group in groups(params, only):
        if getattr(group.section, "settles", False):
            importlib.import_module(f"birq.corpora.{group.section.kind}").settle(group.section, group.key)
            group = next(groups(params, group.name))  # what it lacks is known now
        archives.fetch(group.lacking, group.section.folder(), group.key, Rules.of(group.section))
        lines.append(group.complete)
    return "\n".join(lines) or NOTHING


def look(params: Params, only: str | None = None) -> str:
    """What is missing, and where it would be asked for."""
    lines = []
    for group in groups(params, only):
        root, rules = group.section.folder(), Rules.of(group.section)
        lines += [] if group.lacking else [group.complete]
        for one in group.lacking:
            size = f"{one.archive.n_bytes / 1e6:.0f} MB" if one.archive.n_bytes else "size not published"
            places = [*map(str, rules.copies(one.name, root)), *rules.addresses(one.name, one.archive.urls)]
            lines.append(f"{group.name}: {one.name}  {size}  {one.archive.checksum()}")
            lines += [f"  {place}" for place in places] or [f"  nowhere: {group.key}.offline is true"]
    return "\n".join(lines) or NOTHING


def sizes(params: Params) -> str:
    """`61.9 GB: librispeech_960 60.0 GB, ami (size not published), lm 1.4 GB`; empty where nothing is missing.

    An archive that several corpora name, in one folder, is counted with the first of them.
    """
    known: dict[Path, int | None] = {}
    parts = []
    for group in groups(params):
        fresh = {one.target: one.archive.n_bytes for one in group.lacking if one.target not in known}
        known |= fresh
        if fresh:
            published = archives.size(sum(n or 0 for n in fresh.values()))
            parts.append(f"{group.name} {'(size not published)' if None in fresh.values() else published}")
    at_least = "at least " * (None in known.values())
    return f"{at_least}{archives.size(sum(n or 0 for n in known.values()))}: {', '.join(parts)}" if parts else ""
