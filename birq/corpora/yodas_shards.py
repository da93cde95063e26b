"""Shards of YODAS2: which there are, which of them are drawn, and their three files: text, durations, and an archive of whole videos."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from birq import files
from birq.corpora import captions
from birq.corpora.captions import BadShardError
from birq.downloads import archives, firstseen, hub
from birq.downloads.archive import Archive, Wanted, marks
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.progress import say
from birq.settings.corpora import YodasCorpus

SITE = "https://huggingface.co/datasets/espnet/yodas2/resolve/main/data"
ENDINGS = {"text": ".json", "duration": ".txt", "audio": ".tar.gz"}  # by folder of the subset
BEGINS = {"text": b"", "duration": b"", "audio": b"\x1f\x8b"}
SMALL = ("text", "duration")
USUAL_HOURS = 11.6  # of videos in a shard (87 of them); a first guess of how many shards are wanted


def file_of(shard: str, kind: str) -> str:
    """The file of a shard such as en000/00000000, by its name in the corpus."""
    subset, number = shard.split("/")
    return f"{subset}/{kind}/{number}{ENDINGS[kind]}"


def unpacked(shard: str) -> str:
    """The folder of a shard's videos, once its archive is unpacked beside it."""
    return file_of(shard, "audio").removesuffix(ENDINGS["audio"])


def home(root: Path) -> Path:
    """The folder that has the subsets: `root`, or `data` in it."""
    return root / "data" if (root / "data").is_dir() else root


def addresses(corpus: YodasCorpus) -> list[str]:
    """Of the corpus' files, in the order in which they are asked."""
    return [] if corpus.offline else [*(m.rstrip("/") for m in corpus.mirrors if "://" in m), SITE]


@dataclass
class Files:
    """What there is of the corpus: on this machine, and by the owner's list, which the lock file keeps."""

    corpus: YodasCorpus
    home: Path
    seen: dict[str, tuple[str, int]]  # file -> (SHA-256, bytes), where files are downloaded
    marked: dict[str, str]

    @classmethod
    def of(cls, corpus: YodasCorpus) -> Files:
        root = corpus.folder()
        return cls(corpus, home(root), *((firstseen.known(root), marks(root)) if corpus.download else ({}, {})))

    def subsets(self) -> list[str]:
        return sorted({s.partition("/")[0] for s in self.corpus.shards} | set(self.corpus.subsets))

    def unlisted(self) -> list[str]:
        """Subsets whose list of files was not asked for yet."""
        listed = {name.partition("/")[0] for name in self.seen}
        return [s for s in self.subsets() if s not in listed] if self.corpus.download else []

    def names(self, subset: str) -> set[str]:
        """Shards of which there is any file."""
        folders = [(kind, self.home / subset / kind) for kind in ENDINGS]
        here = {f"{kind}/{p.name}" for kind, folder in folders if folder.is_dir() for p in folder.iterdir()}
        there = {name.partition("/")[2] for name in self.seen if name.startswith(f"{subset}/")}
        found = (re.fullmatch(r"(text|duration|audio)/(\d{8})(\.json|\.txt|\.tar\.gz)?", name) for name in here | there)
        return {f"{subset}/{one[2]}" for one in found if one}

    def path(self, shard: str, kind: str) -> Path:
        return self.home / file_of(shard, kind)

    def has(self, shard: str, kind: str) -> bool:
        """Whether it is here, or can be downloaded."""
        own_folder = kind == "audio" and (self.home / unpacked(shard)).is_dir()
        return file_of(shard, kind) in self.seen or self.path(shard, kind).is_file() or own_folder

    def by_birq(self, name: str) -> bool:
        return name in self.seen and self.marked.get(name) == self.seen[name][0]

    def archive(self, name: str) -> Archive:
        sha256, n_bytes = self.seen.get(name, ("", 0))
        return Archive((f"{SITE}/{name}",), sha256, n_bytes=n_bytes or None, begins=BEGINS[name.split("/")[1]])


# ---- the owner's list


def make_lists(corpus: YodasCorpus, key: str) -> None:
    """Ask for the lists of files of the wanted subsets, once: they go into the lock file. Errors: BirqError."""
    root, rules = corpus.folder(), Rules.of(corpus)
    if not corpus.download or corpus.offline or not Files.of(corpus).unlisted():
        return
    root.mkdir(parents=True, exist_ok=True)
    with archives.turn(root):
        for subset in Files.of(corpus).unlisted():
            say(f"{key}: asking which files {subset} has")
            found: dict[str, tuple[str, int]] = {}
            for kind in ENDINGS:
                try:
                    listed = hub.entries(f"{subset}/{kind}", addresses(corpus), rules)
                except hub.NoListError as e:
                    raise BirqError(_no_list(e, subset, corpus, key, rules)) from None
                found |= {f"{subset}/{kind}/{e.name}": (e.sha256, e.n_bytes) for e in listed if e.name.endswith(ENDINGS[kind])}
            if bare := [n for n, (sha256, _) in found.items() if "/audio/" in n and not sha256]:
                raise BirqError(
                    f"{key}: the list of {subset} has no SHA-256 of {bare[0]}; name a mirror whose list does, or bring the files"
                )
            if not found:
                raise BirqError(f"{key}.subsets: {subset!r} has no files at {addresses(corpus)[0]}; take it out")
            firstseen.note_all(root, found)


def _no_list(e: hub.NoListError, subset: str, corpus: YodasCorpus, key: str, rules: Rules) -> str:
    if not e.absent:
        return f"{key}: the list of the files of {subset} could not be had:\n{e}\nRun again, or name another address in {key}.mirrors."
    try:
        legal = sorted(one.name for one in hub.entries("", addresses(corpus), rules) if one.is_folder)
    except hub.NoListError:
        legal = []
    return f"{key}.subsets: no {subset!r} in the corpus; legal are {', '.join(legal) or 'a language and three digits, such as en000'}\n{e}"


def require(corpus: YodasCorpus, key: str) -> None:
    """Errors: BirqError for a subset, or a shard, of which nothing is here or in the owner's list."""
    there = Files.of(corpus)
    for subset in there.subsets():
        names = there.names(subset)
        if not names:
            folders = there.home.iterdir() if there.home.is_dir() else ()
            legal = ", ".join(sorted(p.name for p in folders if re.fullmatch(r"[a-z]{2,3}\d{3}", p.name))) or "none yet"
            way = f"set {key}.offline to false" if corpus.download else f"complete it, or set {key}.download to true"
            raise BirqError(f"{key}.subsets: {there.home} has no shard of {subset!r}; legal are {legal}. Name one of them, or {way}")
        if absent := [s for s in corpus.shards if s.startswith(f"{subset}/") and s not in names]:
            raise BirqError(f"{key}.shards: {subset} has no shard {absent[0]!r}; it has {len(names)}, such as {min(names)}")


# ---- the draw


@dataclass
class Draw:
    """The shards that are taken, in the order in which they were drawn."""

    shards: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)  # shard -> problem; passed over
    lacking: list[str] = field(default_factory=list)  # whose text and durations are wanted before the draw goes on
    hours: float = 0.0  # of segments inside their videos; 0 where nobody asked for hours


def _order(shard: str, seed: int) -> str:
    # a hash, not a shuffle: a new shard does not move the others about
    return hashlib.sha256(f"{seed}/{shard}".encode()).hexdigest()


def draw(corpus: YodasCorpus) -> Draw:
    """What is taken, as far as the files that are here tell; `lacking` is empty once it is all."""
    there, out = Files.of(corpus), Draw()
    named = {s for subset in there.subsets() for s in there.names(subset)}
    order = sorted(corpus.shards) or sorted(named, key=lambda s: _order(s, corpus.shard_seed))
    with _hours_known(corpus) as known:
        for i, shard in enumerate(order):
            if absent := [kind for kind in ENDINGS if not there.has(shard, kind)]:
                out.bad[shard] = f"no {absent[0]} ({file_of(shard, absent[0])} does not exist)"
                continue
            hours = _hours(there, shard, known) if corpus.hours else None
            if corpus.hours and hours is None:
                ahead = max(1, round((corpus.hours - out.hours) / USUAL_HOURS))
                out.lacking = [s for s in order[i : i + ahead] if any(not there.path(s, kind).is_file() for kind in SMALL)]
                return out
            if corpus.hours and not hours:
                out.bad[shard] = "no text (no caption inside a video, or files that cannot be read)"
                continue
            out.shards.append(shard)
            out.hours += hours or 0.0
            if corpus.hours and out.hours >= corpus.hours:
                break
    return out


def _mark(there: Files, shard: str) -> list | None:
    """What the hours of a shard are known by: checksums, or size and time of the user's own files. None where the files are not here."""
    names = [(file_of(shard, kind), there.path(shard, kind)) for kind in SMALL]
    if all(there.seen.get(name, ("", 0))[0] and (there.by_birq(name) or not path.is_file()) for name, path in names):
        return [there.seen[name][0] for name, _ in names]
    return [[p.stat().st_size, p.stat().st_mtime_ns] for _, p in names] if all(p.is_file() for _, p in names) else None


def _hours(there: Files, shard: str, known: dict[str, list]) -> float | None:
    """Hours of a shard's segments, 0 for one that cannot be read; None while its files are not here."""
    mark = _mark(there, shard)
    if mark and shard in known and known[shard][0] == mark:
        return float(known[shard][1])
    if not all(there.path(shard, kind).is_file() for kind in SMALL):
        return None
    try:
        hours = round(sum(v.hours() for v in captions.read(*(there.path(shard, kind) for kind in SMALL))), 6)
    except BadShardError:
        hours = 0.0
    known[shard] = [mark, hours]
    return hours


@contextlib.contextmanager
def _hours_known(corpus: YodasCorpus) -> Iterator[dict[str, list]]:
    """Hours of shards that were read before, beside the root: thousands of hours of captions take minutes to read."""
    path = corpus.folder().parent / f"{corpus.folder().name}.hours.json"
    known: dict[str, list] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    before = json.dumps(known, sort_keys=True)
    yield known
    if json.dumps(known, sort_keys=True) != before:
        with contextlib.suppress(OSError):  # a copy that others own
            files.write_text(path, json.dumps(known, indent=0, sort_keys=True) + "\n")


# ---- downloads


def small_files(corpus: YodasCorpus) -> list[Wanted]:
    """Text and durations that the draw lacks."""
    there = Files.of(corpus)
    if not corpus.download:
        return []
    found = draw(corpus)
    names = [(s, kind) for s in (*found.shards, *found.lacking) for kind in SMALL if not there.path(s, kind).is_file()]
    remedy = firstseen.remedy(corpus.folder())
    return [Wanted(file_of(s, kind), there.archive(file_of(s, kind)), there.path(s, kind), remedy) for s, kind in names]


def sources(corpus: YodasCorpus) -> tuple[dict[str, str], list[Path]]:
    """(file -> SHA-256 of what is downloaded or will be, "" before the first time; the user's own files)."""
    there = Files.of(corpus)
    found = draw(corpus)
    pinned = {f"list of {subset}": "" for subset in there.unlisted()} | found.bad
    own: list[Path] = []
    for shard in (*found.shards, *found.lacking):
        for kind in ENDINGS:
            name, path = file_of(shard, kind), there.path(shard, kind)
            folder = there.home / unpacked(shard)
            if kind == "audio" and folder.is_dir():
                own += sorted(p for p in folder.rglob("*") if p.is_file())
            elif path.is_file() and not there.by_birq(name):
                own.append(path)
            elif corpus.download:
                pinned[name] = there.seen.get(name, ("", 0))[0]
    return pinned, own
