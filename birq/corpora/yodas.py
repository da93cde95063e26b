"""YODAS2 (https://huggingface.co/datasets/espnet/yodas2): whole videos with captions in many languages, read shard by shard.

No audio is read here: the captions tell the times and a table the lengths of the videos. `shards.tsv` says where the audio is, and the
features stage fetches a shard, checks it against what is written here, and drops it. What is known of the files is in docs/corpora.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from birq.corpora import archived, captions, excerpts, folder, manifests, splits, yodas_shards
from birq.corpora.archived import Shard
from birq.corpora.captions import BadShardError, Video
from birq.corpora.check import Sound
from birq.corpora.excerpts import Excerpt
from birq.corpora.items import Item, Limits, Scan, need_folder
from birq.downloads import archives
from birq.downloads.archive import Archive, Wanted
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.progress import Progress, say
from birq.settings.corpora import YodasCorpus
from birq.text.normal import Normaliser

SAMPLE_RATE_HZ = 24000
LICENCE = "CC BY 3.0"
SOURCE = "YODAS2 (Li et al., 2023, arXiv 2406.00899), whole videos at 24 kHz"


def sources(corpus: YodasCorpus) -> tuple[dict[str, str], list[Path]]:
    """The sources of the corpus: (file -> SHA-256 of what is downloaded or will be, "" before the first time; the user's own files)."""
    return yodas_shards.sources(corpus)


def wanted(corpus: YodasCorpus, key: str) -> list[Wanted]:
    """The small files that are missing, as far as is known; the archives of audio are fetched by the features stage."""
    lists = [
        Wanted(f"{subset}/{kind}", Archive((f"{yodas_shards.SITE}/{subset}/{kind}",), "", folder="."), corpus.folder() / subset / kind)
        for subset in yodas_shards.Files.of(corpus).unlisted()
        for kind in yodas_shards.ENDINGS
    ]
    return lists or yodas_shards.small_files(corpus)


def settle(corpus: YodasCorpus, key: str) -> None:
    """Download what tells which shards are drawn and what their checksums are, because that is the corpus' key."""
    yodas_shards.make_lists(corpus, key)
    if yodas_shards.Files.of(corpus).unlisted():
        return
    while yodas_shards.draw(corpus).lacking or not all(sources(corpus)[0].values()):
        if not (lacking := yodas_shards.small_files(corpus)):
            return
        archives.fetch(lacking, corpus.folder(), key, Rules.of(corpus))


# ---- reading


def _items(shard: str, videos: list[Video], elsewhere: dict[str, str], unlabelled: bool) -> Iterator[Excerpt]:
    """The segments of a shard's videos. `elsewhere`: video -> the shard that has it already."""
    begin = shard.replace("/", "-")
    for video in videos:
        path = f"{yodas_shards.unpacked(shard)}/{video.id}.wav"
        whole = Excerpt(f"{begin}-{video.id}", path, video.id)
        if video.problem:
            yield whole.bad(video.problem, video.detail)  # type: ignore[misc]
        elif video.id in elsewhere:
            yield whole.bad("duplicate id", f"the video is in {elsewhere[video.id]} too, which is used")  # type: ignore[misc]
        else:
            for s in video.segments:
                times = {"recording": f"{begin}-{video.id}", "start_s": s.start_s, "duration_s": s.end_s - s.start_s}
                made = Excerpt(f"{begin}-{s.id}", path, video.id, None if unlabelled else s.text, **times)
                yield made.bad("damaged id", s.problem) if s.problem else made  # type: ignore[misc]


class _Reader:
    """Shard after shard, so that millions of utterances need the memory of thousands; the cuts go to the scratch folder."""

    def __init__(self, name: str, corpus: YodasCorpus, scratch: Path, alphabet: str, limits: Limits) -> None:
        self.key, self.corpus, self.scratch, self.limits = f"corpora.{name}", corpus, scratch / "cuts", limits
        self.form = Normaliser(alphabet, limits.language, corpus.annotations, True)
        self.there = yodas_shards.Files.of(corpus)
        self.scratch.mkdir(exist_ok=True)
        self.elsewhere: dict[str, str] = {}
        self.bad: dict[str, str] = {}  # shard -> problem
        self.used: list[Shard] = []
        self.quarantine: list[Item] = []
        self.n_items = 0
        self.changes: dict[str, dict[str, Any]] = {}

    def add(self, shard: str) -> None:
        """Judge a shard by its captions and the lengths of its videos."""
        try:
            videos = captions.read(*(self.there.path(shard, kind) for kind in yodas_shards.SMALL))
        except BadShardError as e:
            self.bad[shard] = str(e)
            return
        items = list(_items(shard, videos, self.elsewhere, self.corpus.unlabelled))
        length_by_path = {f"{yodas_shards.unpacked(shard)}/{v.id}.wav": v.duration_s for v in videos if not v.problem}
        heard = {path: Sound(SAMPLE_RATE_HZ, 1, round(length_s * SAMPLE_RATE_HZ)) for path, length_s in length_by_path.items()}
        scan = Scan(self.there.home, items, LICENCE, SOURCE)  # type: ignore[arg-type]
        good, bad, sound_by_id = excerpts.judge(scan, heard, self.form, self.limits)
        self.elsewhere |= {v.id: shard for v in videos if not v.problem and v.id not in self.elsewhere}
        self.quarantine += bad
        self.n_items += len(items)
        self._count_changes(good)
        recordings = {i.path: excerpts.recording_of(i, heard[i.path]) for i in good}
        with open(self._file(shard), "w", encoding="utf-8") as f:
            for item in sorted(good, key=lambda i: i.id):
                cut = excerpts.cut(item, sound_by_id[item.id], recordings[item.path])
                del cut["custom"]  # the checksum of a file that is not here
                f.write(json.dumps(cut, ensure_ascii=False, sort_keys=True) + "\n")
        hours = round(sum(s.n_samples for s in sound_by_id.values()) / SAMPLE_RATE_HZ / 3600, 6)
        recorded_hours = round(sum(captions.durations(self.there.path(shard, "duration")).values()) / 3600, 6)
        about = {"recordings": len({i.path for i in good}), "utterances": len(good), "hours": hours, "recorded_hours": recorded_hours}
        self.used.append(self.row(shard, **about))

    def _file(self, shard: str) -> Path:
        return self.scratch / f"{shard.replace('/', '-')}.jsonl"

    def row(self, shard: str, **about: Any) -> Shard:
        """Its line of shards.tsv."""
        file = yodas_shards.file_of(shard, "audio")
        archive = self.there.archive(file)  # of the user's own file nothing is written: its content is in the corpus' key
        counts: dict[str, Any] = {"recordings": 0, "utterances": 0, "hours": 0.0, "recorded_hours": 0.0}
        return Shard(shard, file, archive.urls[0], archive.sha256, archive.n_bytes or 0, **counts | about)

    def _count_changes(self, good: list[Excerpt]) -> None:
        for kind, found in folder.text_changes(good).items():  # type: ignore[arg-type]
            known = self.changes.setdefault(kind, {"utterances": 0, "examples": []})
            known["utterances"] += found["utterances"]
            known["examples"] = (known["examples"] + found["examples"])[: folder.EXAMPLES]

    def cuts(self, shard: str) -> Iterator[dict[str, Any]]:
        """The cuts of a shard that was judged."""
        with open(self._file(shard), encoding="utf-8") as f:
            yield from map(json.loads, f)


def _write_cuts(out: Path, reader: _Reader, name: str) -> dict[str, dict[str, Any]]:
    """The cuts per split, in the order of their ids; returns corpus.json's entries. Splits are drawn by video: who speaks is not known."""
    corpus, names = reader.corpus, [one.shard for one in reader.used]
    text = None if corpus.unlabelled else "labelled"
    videos = sorted({cut["supervisions"][0]["speaker"] for shard in names for cut in reader.cuts(shard)}) if text else []
    drawn = splits.assign([Item(v, v, v, text) for v in videos], corpus.dev_share, corpus.test_share, corpus.split_seed, f"corpora.{name}")
    split_by_video = {item.speaker: str(item.split) for item in drawn}
    with manifests.CutFiles(out) as cuts:
        for shard in names:
            for cut in reader.cuts(shard):
                cuts.write(split_by_video.get(cut["supervisions"][0]["speaker"], "train"), cut)
    return cuts.entries()


def prepare(name: str, corpus: YodasCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Draw the shards, judge their captions, split by video, write.

    Errors: BirqError for an unknown subset, too many bad shards, more set aside than `limits` allow, or none left.
    """
    key = f"corpora.{name}"
    settle(corpus, key)
    if not corpus.download:
        need_folder(corpus.folder(), f"{key}.root")
    yodas_shards.require(corpus, key)
    archives.fetch(yodas_shards.small_files(corpus), corpus.folder(), key, Rules.of(corpus))
    drawn = yodas_shards.draw(corpus)
    reader = _Reader(name, corpus, scratch, alphabet, limits)
    progress = Progress(f"corpus {name}", len(drawn.shards), "shard")
    for n, shard in enumerate(sorted(drawn.shards), 1):
        reader.add(shard)
        progress.update(n)
    progress.close()
    bad = drawn.bad | reader.bad
    archived.refuse(bad, len(drawn.shards) + len(drawn.bad), corpus.max_bad_shards_share, key)
    rows = [(i.id, i.path, i.reason or "", i.detail) for i in reader.quarantine]
    manifests.write_quarantine(scratch / "quarantine.tsv", rows)
    folder.refuse(reader.quarantine, reader.n_items, limits.max_quarantined_share, scratch / "quarantine.tsv", key)
    if not any(one.utterances for one in reader.used):
        raise BirqError(f"{key}: no utterance is left of {reader.n_items}; see {scratch / 'quarantine.tsv'}")
    if corpus.hours > drawn.hours:
        say(f"{key}: all shards together have {drawn.hours:.1f} h, {corpus.hours:g} h were wanted")
    archived.write(out, [*reader.used, *(reader.row(shard, problem=problem) for shard, problem in bad.items())])
    entries = _write_cuts(out, reader, name)
    manifests.write_quarantine(out / "quarantine.tsv", rows)
    about = {"name": name, "kind": corpus.kind, "synthetic": False, "licence": LICENCE, "source": SOURCE}
    root = reader.there.home.as_posix()
    manifests.write_corpus(out, **about, audio_root=root, splits=entries, quarantined=len(rows), text_changes=reader.changes)  # type: ignore[arg-type]
    shards = {"used": len(reader.used), "bad": len(bad), "max_bad_share": corpus.max_bad_shards_share}
    facts = manifests.info(out) | {"shards": shards}
    (out / "corpus.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folder.tell_changes(name, reader.changes)
