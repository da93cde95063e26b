"""One small tree of every corpus, in its own layout, and the section of params that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ami_copy
import yodas_copy
from test_corpora import an4_tree, sound, tree
from test_lhotse import meetings, supervision
from test_synth import CORPUS

from birq.settings import corpora
from birq.settings.section import Section


def _an4(root: Path) -> Section:
    return corpora.An4Corpus(kind="an4", root=str(an4_tree(root, speakers=8, test=True)))


def _librispeech(root: Path) -> Section:
    tree(root / "train-clean-100", 8)
    sound(tree(root / "x", 9) / "9" / "7" / "9-7-0009.flac")  # without a line in its chapter's transcripts
    (root / "dev-clean").mkdir()
    (root / "x" / "9").rename(root / "dev-clean" / "9")
    shutil.rmtree(root / "x")
    return corpora.LibriSpeechCorpus(kind="librispeech", root=str(root), dev_parts=["dev-clean"])


def _local(root: Path) -> Section:
    rows = ["path\ttext\tspeaker"]
    for speaker in "abcdefgh":
        rows += [
            f"{sound(root / speaker / f'{n}.wav', rate=8000 * n, channels=n).relative_to(root)}\tGood, good!\t{speaker}" for n in (1, 2)
        ]
    (root / "transcripts.tsv").write_text("\n".join([*rows, "a/9.wav\tnobody\ta"]) + "\n")
    return corpora.LocalCorpus(kind="local", root=str(root))


def _lhotse(root: Path) -> Section:
    manifests_of = meetings(root)
    phones = {"phone": [["AH", 1.0, 0.5, None], ["B", 1.5, 9.0, None]]}
    path = manifests_of / "talk_supervisions_train.jsonl"
    path.write_text("".join(json.dumps(supervision(f"p-{n}", n, 1.0, 2.0, alignment=phones)) + "\n" for n in ("m1", "m2", "m3", "m4")))
    (manifests_of / "talk_supervisions_train.jsonl.gz").unlink()
    return corpora.LhotseCorpus(kind="lhotse", root=str(manifests_of))


def _ami(root: Path) -> Section:
    microphones = ["ihm", "sdm", "mdm"]
    return corpora.AmiCorpus(kind="ami", root=str(ami_copy.copy(root)), meetings=list(ami_copy.SPEAKERS), microphones=microphones)


def _yodas(root: Path) -> Section:
    spoiled = yodas_copy.shard("en000/00000003", {"Yspoiled": 2.0})  # captions up to 3.5 s
    return corpora.YodasCorpus(kind="yodas", root=str(yodas_copy.put(root, [*yodas_copy.shards(), spoiled])), subsets=["en000"])


LAYOUTS: dict[str, Callable[[Path], Section]] = {
    "ami": _ami,
    "an4": _an4,
    "librispeech": _librispeech,
    "lhotse": _lhotse,
    "local": _local,
    "synth": lambda _: CORPUS,
    "yodas": _yodas,
}
