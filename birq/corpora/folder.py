"""Corpora that lie in a folder: from a reader's scan to lhotse cuts per split, a quarantine table and phone times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from birq.corpora import alignments, check, manifests, splits
from birq.corpora.items import Item, Limits, Scan
from birq.errors import BirqError
from birq.progress import say
from birq.settings.corpora import FolderCorpus
from birq.text.normal import KINDS, Normaliser

ROWS_SHOWN = 10
EXAMPLES = 3  # of each kind of change
SHOWN_CHARACTERS = 60  # of an example on the terminal
Row = tuple[str, str, str, str]  # of the quarantine table
EVERYDAY = frozenset({"case", "punctuation", "spaces"})  # changes that no line needs to tell; corpus.json has them


def refuse(bad: list[Item], total: int, share: float, table: Path, key: str) -> None:
    """Stop where too much was set aside, showing the table."""
    reasons = ", ".join(f"{n} × {reason}" for reason, n in Counter(i.reason for i in bad).most_common())
    if len(bad) <= share * total:
        if bad:
            say(f"{key}: {len(bad)} of {total} recordings set aside ({reasons}); quarantine.tsv of the corpus lists them")
        return
    lines = [f"  {i.id}\t{i.path or '(none)'}\t{i.reason}\t{i.detail}" for i in bad[:ROWS_SHOWN]]
    if len(bad) > ROWS_SHOWN:
        lines.append(f"  … and {len(bad) - ROWS_SHOWN} more")
    raise BirqError(
        f"{key}: {len(bad)} of {total} recordings cannot be used ({reasons}); features.max_quarantined_share allows {share:g}.\n"
        + "\n".join(lines)
        + f"\nThe whole table is {table}. Mend the recordings, or raise features.max_quarantined_share to {len(bad) / total:.3g} or more."
    )


def text_changes(good: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """How many transcripts were changed, by kind, and the first of them: [as written, as the label]."""
    out = {}
    for kind in KINDS:
        changed = [i for i in good if kind in i.changes]
        if changed:
            first = sorted(changed, key=lambda i: i.id)[:EXAMPLES]
            out[kind] = {"utterances": len(changed), "examples": [[i.written, i.text] for i in first]}
    return out


def _brief(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def tell_changes(name: str, changes: dict[str, dict[str, Any]]) -> None:
    told = []
    for kind in changes:
        if kind not in EVERYDAY:
            before, after = changes[kind]["examples"][0]
            told.append(f"{kind} in {changes[kind]['utterances']} ({_brief(before)} -> {_brief(after)})")
    if told:
        say(f"corpus {name}  transcripts changed: {'; '.join(told)}; more in corpus.json")


def left(
    total: int, good: Sequence[Item], bad: list[Item], gain: Callable[[Any], float], scratch: Path, key: str, limits: Limits
) -> list[Row]:
    """The quarantine table's rows, and what there is to say of what is left of a total of items. gain: the factor of an item's samples.

    Errors: BirqError where more is set aside than `limits` allow, or nothing is left.
    """
    table = scratch / "quarantine.tsv"
    rows = [(i.id, i.path, i.reason or "", i.detail) for i in bad]
    manifests.write_quarantine(table, rows)
    refuse(bad, total, limits.max_quarantined_share, table, key)
    if not good:
        raise BirqError(f"{key}: nothing is left of {total} recordings; see {table}")
    if scaled := [i.path for i in good if gain(i) != 1]:
        say(f"{key}: {len(scaled)} recordings hold floats at the scale of 16-bit integers, such as {scaled[0]}; they are divided by 32768")
    return rows


def write(
    out: Path, name: str, corpus: FolderCorpus, scanned: Scan, good: Sequence[Item], splits: dict[str, dict[str, Any]], rows: list[Row]
) -> None:
    """The corpus artifact but for phone times."""
    changes = text_changes(good)
    manifests.write_quarantine(out / "quarantine.tsv", rows)
    manifests.write_corpus(
        out,
        name=name,
        kind=corpus.kind,  # type: ignore[attr-defined]
        synthetic=False,
        licence=scanned.licence,
        source=scanned.source,
        audio_root=scanned.root.as_posix(),
        splits=splits,
        quarantined=len(rows),
        text_changes=changes,
    )
    tell_changes(name, changes)


def written_times(corpus: FolderCorpus, good: Sequence[Item]) -> list[alignments.Row]:
    """Phone times of the tables that params.yaml names, in order."""
    ids = {i.id for i in good}
    return sorted((row for path in corpus.alignment_files() for row in alignments.read(path, ids)), key=lambda r: r[:3])


def prepare(
    scan: Callable[[Any, str], Scan], name: str, corpus: FolderCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits
) -> None:
    """Scan, decode, judge, split, write. `scan` is the reader's: (corpus, its key in params.yaml) -> Scan.

    Errors: BirqError where more recordings are set aside than `limits` allow, or none is left.
    """
    key = f"corpora.{name}"
    scanned = scan(corpus, key)
    sounds = check.listen_all(scanned, name, scratch)
    normaliser = Normaliser(alphabet, limits.language, corpus.annotations, scanned.quotation_marks)
    good, bad = check.judge(scanned, lambda i: sounds.get(i.path), normaliser, limits.min_seconds, limits.max_seconds)
    total = len(scanned.items)
    scanned.items.clear()  # a million judged items are memory enough
    rows = left(total, good, bad, lambda i: sounds[i.path].gain, scratch, key, limits)
    with manifests.CutFiles(out) as cuts:
        for item in splits.assign(sorted(good, key=lambda i: i.id), corpus.dev_share, corpus.test_share, corpus.split_seed, key):
            sound = sounds[item.path]
            about = (sound.sample_rate_hz, sound.n_samples, item.speaker, item.text, sound.sha256, sound.channels, sound.gain)
            cuts.write(str(item.split), manifests.cut(item.id, item.path, *about))
    write(out, name, corpus, scanned, good, cuts.entries(), rows)
    if corpus.alignments:
        manifests.write_alignments(out / "alignments.parquet", written_times(corpus, good))
