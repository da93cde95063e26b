"""The corpus stage: whatever the kind, out come lhotse cuts per split, a quarantine table and, where known, phone times."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from birq.corpora import alignments, an4, check, librispeech, local, manifests, splits, synth
from birq.corpora.items import Item, Scan
from birq.errors import BirqError
from birq.settings.params import An4Corpus, Features, FolderCorpus, LibriSpeechCorpus, LocalCorpus, SynthCorpus
from birq.pipeline.stage import Job

ROWS_SHOWN = 10


def scan(corpus: FolderCorpus, key: str) -> Scan:
    """What lies in the corpus' folder; `key` is its place in params.yaml."""
    if isinstance(corpus, An4Corpus):
        return an4.scan(corpus, key)
    if isinstance(corpus, LibriSpeechCorpus):
        return librispeech.scan(corpus, key)
    assert isinstance(corpus, LocalCorpus)
    return local.scan(corpus, key)


def _refuse(bad: list[Item], total: int, share: float, table: Path, key: str) -> None:
    """Stop where too much was set aside, showing the table."""
    if len(bad) <= share * total:
        return
    reasons = ", ".join(f"{n} × {reason}" for reason, n in Counter(i.reason for i in bad).most_common())
    lines = [f"  {i.id}\t{i.path or '(none)'}\t{i.reason}\t{i.detail}" for i in bad[:ROWS_SHOWN]]
    if len(bad) > ROWS_SHOWN:
        lines.append(f"  … and {len(bad) - ROWS_SHOWN} more")
    raise BirqError(
        f"{key}: {len(bad)} of {total} recordings cannot be used ({reasons}); features.max_quarantined_share allows {share:g}.\n"
        + "\n".join(lines)
        + f"\nThe whole table is {table}. Mend the recordings, or raise features.max_quarantined_share to {len(bad) / total:.3g} or more."
    )


def from_folder(name: str, corpus: FolderCorpus, out: Path, scratch: Path, alphabet: str, features: Features) -> None:
    """A corpus of the user's: scan, decode, judge, split, write."""
    key = f"corpora.{name}"
    found = scan(corpus, key)
    sounds = check.listen_all(found, name, scratch)
    good, bad = check.judge(found, sounds, alphabet, features.min_seconds, features.max_seconds)
    rows = [(i.id, i.path, i.reason or "", i.detail) for i in bad]
    manifests.write_quarantine(scratch / "quarantine.tsv", rows)
    _refuse(bad, len(found.items), features.max_quarantined_share, scratch / "quarantine.tsv", key)
    if not good:
        raise BirqError(f"{key}: no recording is left of {len(found.items)}; see {scratch / 'quarantine.tsv'}")
    cuts: dict[str, list[dict]] = {s: [] for s in manifests.SPLITS}
    for item in splits.assign(good, corpus.dev_share, corpus.test_share, corpus.split_seed, key):
        sound = sounds[item.path]
        made = manifests.cut(
            item.id, item.path, sound.sample_rate_hz, sound.n_samples, item.speaker, item.text, sound.sha256, sound.channels
        )
        cuts[str(item.split)].append(made)
    manifests.write_quarantine(out / "quarantine.tsv", rows)
    manifests.write_corpus(
        out,
        name=name,
        kind=corpus.kind,  # type: ignore[attr-defined]
        synthetic=False,
        licence=found.licence,
        source=found.source,
        audio_root=found.root.as_posix(),
        cuts=cuts,
        quarantined=len(bad),
    )
    if corpus.alignments:
        ids = {i.id for i in good}
        times = [row for path in corpus.alignments for row in alignments.read(Path(path), ids)]
        manifests.write_alignments(out / "alignments.parquet", sorted(times, key=lambda r: r[:3]))


def compute(job: Job) -> None:
    """Make `data/corpus/<name>`; bad recordings go to the quarantine table, too many of them stop the stage."""
    name = job.wildcards["corpus"]
    corpus, features = job.read(f"corpora.{name}"), job.read("features")
    alphabet = job.read("tokenizer.alphabet")
    if isinstance(corpus, SynthCorpus):
        limits = {k: getattr(features, k) for k in ("sample_rate_hz", "min_seconds", "max_seconds")}
        synth.prepare(name, corpus, job.out, job.scratch, alphabet=alphabet, **limits)
    else:
        from_folder(name, corpus, job.out, job.scratch, alphabet, features)
    facts = manifests.info(job.out)
    job.notes["synthetic"] = facts["synthetic"]
    job.notes["quarantined"] = facts["quarantined"]
    job.notes["hours"] = {split: s["hours"] for split, s in facts["splits"].items()}
