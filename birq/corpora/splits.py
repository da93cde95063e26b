"""Train, dev and test by speaker: no speaker is in two of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from birq.corpora.items import Item
from birq.errors import BirqError

HELD_OUT = ("dev", "test")


def _order(speaker: str, seed: int) -> str:
    # a hash, not a shuffle: a new speaker does not move the others about
    return hashlib.sha256(f"{seed}/{speaker}".encode()).hexdigest()


def _crossing(items: list[Item], key: str) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.split:
            splits[item.speaker].add(item.split)
    for speaker, several in sorted(splits.items()):
        if len(several) > 1:
            raise BirqError(
                f"{key}: speaker {speaker!r} is in {' and '.join(sorted(several))}; give every speaker one split, or leave the splits out"
            )


def assign(items: list[Item], dev_share: float, test_share: float, seed: int, key: str) -> list[Item]:
    """Give every item a split. A split that the corpus fixes stays. Speakers for a missing dev or test split are drawn from the rest.

    Only speakers whose recordings all have transcripts are drawn; a corpus without transcripts is all training speech.
    Errors: BirqError (naming `key`, such as `corpora.local`) where a speaker is in two splits or a split has no speakers.
    """
    _crossing(items, key)
    fixed = {i.split for i in items if i.split}
    # the speakers of fixed held-out splits are known; the others may be drawn
    held = {i.speaker: i.split for i in items if i.split in HELD_OUT}
    free = {i.speaker for i in items if i.split is None} - set(held)
    free -= {i.speaker for i in items if i.text is None or i.split == "train"}
    speakers = sorted(free, key=lambda s: _order(s, seed))
    labelled = any(i.text is not None for i in items)
    counts = {}
    for split, share in (("dev", dev_share), ("test", test_share)):
        wanted = labelled and share > 0 and split not in fixed
        counts[split] = max(1, round(share * len(speakers))) if wanted else 0
    rest = {i.speaker for i in items} - set(held)
    if sum(counts.values()) and (len(speakers) < sum(counts.values()) or len(rest) <= sum(counts.values())):
        wanted_names = " and ".join(s for s, n in counts.items() if n)
        raise BirqError(
            f"{key}: {len(speakers)} speaker(s) with transcripts cannot fill {wanted_names} and leave some for training, so a split would "
            f"be without speakers; set {key}.dev_share ({dev_share:g}) or {key}.test_share ({test_share:g}) to 0, name the speakers, "
            "or add recordings of more speakers"
        )
    for split in HELD_OUT:
        drawn, speakers = speakers[: counts[split]], speakers[counts[split] :]
        held |= dict.fromkeys(drawn, split)
    return [replace(i, split=held.get(i.speaker, "train")) for i in items]
