"""The AMI meeting corpus in its full-corpus-ASR partition: headsets, one distant microphone, or eight of them beamformed.

What is known of its files is in docs/corpora.md. No speaker of this partition is in two splits; IB4005, which would break that, is in none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from birq.corpora import excerpts, nite, tree, turns
from birq.corpora.excerpts import Excerpt
from birq.corpora.items import Item, Limits, Scan, need_folder
from birq.corpora.nite import Participant
from birq.downloads import archives, firstseen
from birq.downloads.archive import Archive, Wanted, marks
from birq.downloads.rules import Rules
from birq.errors import BirqError
from birq.progress import say
from birq.settings.corpora import AmiCorpus

SAMPLE_RATE_HZ = 16000
SITE = "https://groups.inf.ed.ac.uk/ami"  # without published checksums, https alone tells that the files are the owners'
ANNOTATIONS = "ami_public_manual_1.6.2"
LICENCE = "CC BY 4.0"
SOURCE = "AMI Meeting Corpus (Carletta et al., 2005), full-corpus-ASR partition, manual annotations 1.6.2"
# session and its meetings, by split (http://groups.inf.ed.ac.uk/ami/corpus/datasets.shtml): 136, 18 and 16 meetings
_PARTITION = {
    "train": """ES2002abcd ES2003abcd ES2005abcd ES2006abcd ES2007abcd ES2008abcd ES2009abcd ES2010abcd ES2012abcd ES2013abcd ES2014abcd
        ES2015abcd ES2016abcd IS1000abcd IS1001abcd IS1002bcd IS1003abcd IS1004abcd IS1005abc IS1006abcd IS1007abcd TS3005abcd TS3006abcd
        TS3007abcd TS3008abcd TS3009abcd TS3010abcd TS3011abcd TS3012abcd EN2001abde EN2003a EN2004a EN2005a EN2006ab EN2009bcd IN1001
        IN1002 IN1005 IN1007 IN1008 IN1009 IN1012 IN1013 IN1014 IN1016""",
    "dev": "ES2011abcd IS1008abcd TS3004abcd IB4001 IB4002 IB4003 IB4004 IB4010 IB4011",
    "test": "ES2004abcd IS1009abcd TS3003abcd EN2002abcd",
}
NO_SPLIT = {"IB4005": "its speakers FIE038 and MIO036 are in dev too, so the partition leaves it out"}
FIVE_HEADSETS = ("EN2001a", "EN2001d", "EN2001e")
# utterances of headsets that others count by these rules: (train, dev, test). lhotse drops words across a turn's border; they stay here
PUBLISHED = {
    "kaldi": (105_149, 13_059, 12_612),
    "at_most_30_words": (103_377, 12_614, 12_121),
    "whole": (65_557, 8_665, 7_490),
}
SHOWN = 5  # names in a message


def _meetings() -> dict[str, str]:
    """Meeting -> split."""
    out = {}
    for split, sessions in _PARTITION.items():
        for session in sessions.split():
            out |= {session[:6] + letter: split for letter in session[6:] or ("",)}
    return out


MEETINGS = _meetings()


def _wanted_meetings(corpus: AmiCorpus, key: str) -> list[str]:
    for name in corpus.meetings:
        if name not in MEETINGS:
            why = NO_SPLIT.get(name, "the partition has no meeting of that name; legal are names such as ES2002a, EN2001b and IN1001")
            raise BirqError(f"{key}.meetings: {name!r}: {why}; take it out")
    return sorted(corpus.meetings or MEETINGS)


# ---- files


def _recordings(meeting: str, microphone: str) -> dict[str, str]:
    """Recording -> its address below the owners' mirror."""
    if microphone == "mdm":
        return {f"{meeting}_MDM8": f"beamformed/{meeting}/{meeting}_MDM8.wav"}
    names = [f"Headset-{i}" for i in range(5 if meeting in FIVE_HEADSETS else 4)] if microphone == "ihm" else ["Array1-01"]
    return {f"{meeting}.{n}": f"{meeting}/audio/{meeting}.{n}.wav" for n in names}


def _needed(corpus: AmiCorpus, key: str) -> dict[str, str]:
    """Recording -> address, of all that exist of the meetings and microphones."""
    every = [_recordings(meeting, m) for m in corpus.microphones for meeting in _wanted_meetings(corpus, key)]
    return {name: address for some in every for name, address in some.items() if name not in corpus.absent}


def _archive(name: str, address: str) -> tuple[str, Archive]:
    url = f"{SITE}/AMICorpusMirror/amicorpus/{address}"
    return f"{name}.wav", Archive((url,), "", begins=b"RIFF")


def _zip() -> tuple[str, Archive]:
    name = f"{ANNOTATIONS}.zip"
    return name, Archive((f"{SITE}/AMICorpusAnnotations/{name}",), "", folder=".", begins=b"PK")


def _found(root: Path) -> dict[str, list[str]]:
    """Recording -> its files, wherever they lie below the root: copies of AMI have several layouts, but the files' names are the same."""
    out: dict[str, list[str]] = {}
    for name in tree.read(root).ending((".wav",)) if root.is_dir() else ():
        out.setdefault(Path(name).stem, []).append(name)
    return out


def _annotations(root: Path) -> Path | None:
    """The folder that has words/, segments/ and corpusResources/."""
    return next((p for p in (root / ANNOTATIONS, root / "annotations", root) if (p / "words").is_dir()), None)


def _annotation_files(folder: Path, meetings: list[str]) -> list[Path]:
    """The annotations that are read."""
    wanted = set(meetings)
    files = [p for kind in ("words", "segments") for p in (folder / kind).glob("*.xml") if p.name.partition(".")[0] in wanted]
    return sorted([p for p in [folder / "corpusResources" / "meetings.xml"] if p.is_file()] + files)


# ---- downloads


def sources(corpus: AmiCorpus) -> tuple[dict[str, str], list[Path]]:
    """The sources of the corpus: (file -> SHA-256 of what is downloaded or will be, "" before the first time; the user's own files)."""
    root, key = corpus.folder(), f"a corpus of kind {corpus.kind}"
    found, folder = _found(root), _annotations(root)
    meetings, needed = _wanted_meetings(corpus, key), _needed(corpus, key)
    seen, marked = (firstseen.known(root), marks(root)) if corpus.download else ({}, {})

    def by_birq(name: str) -> bool:
        return name in seen and marked.get(name) == seen[name][0]

    own, pinned = [], {}
    if folder is not None and not by_birq(_zip()[0]):
        own += _annotation_files(folder, meetings)
    elif corpus.download:
        pinned[_zip()[0]] = seen.get(_zip()[0], ("", 0))[0]
    for name in needed:
        if name in found and not by_birq(f"{name}.wav"):
            own += [root / path for path in found[name]]
        elif corpus.download:
            pinned[f"{name}.wav"] = seen.get(f"{name}.wav", ("", 0))[0]
    return pinned, own


def wanted(corpus: AmiCorpus, key: str) -> list[Wanted]:
    """What is missing, with the checksums of the first download where there was one."""
    root = corpus.folder()
    found, remedy = _found(root), firstseen.remedy(root)
    missing = {} if _annotations(root) else {_zip(): root / ANNOTATIONS}
    needed = {name: address for name, address in _needed(corpus, key).items() if name not in found}
    missing |= {_archive(name, address): root / "amicorpus" / address for name, address in needed.items()}
    pinned = firstseen.pinned(dict(missing.keys()), root)
    return [Wanted(name, pinned[name], target, remedy) for (name, _), target in missing.items()]


def settle(corpus: AmiCorpus, key: str) -> None:
    """Download what has no checksum yet, because the checksums are part of the corpus' key."""
    if corpus.download and not all(sources(corpus)[0].values()):
        archives.fetch(wanted(corpus, key), corpus.folder(), key, Rules.of(corpus))


# ---- reading


class _Reader:
    """The utterances of all microphones."""

    def __init__(self, corpus: AmiCorpus, key: str, root: Path, annotations: Path) -> None:
        self.corpus, self.key, self.annotations = corpus, key, annotations
        self.files = _found(root)
        self.seats = nite.participants(annotations / "corpusResources" / "meetings.xml")

    def items(self, meeting: str) -> Iterator[Item]:
        if meeting not in self.seats:
            raise BirqError(f"{self.annotations}/corpusResources/meetings.xml: it lacks the meeting {meeting}; complete the annotations")
        said = {letter: turns_ for letter in sorted(self.seats[meeting]) if (turns_ := self._turns(meeting, letter)) is not None}
        if not said:
            raise BirqError(f"{self.annotations}: no words and segments of {meeting}; complete the annotations, or leave the meeting out")
        for microphone in self.corpus.microphones:
            recordings = {name: self.files[name] for name in _recordings(meeting, microphone) if name not in self.corpus.absent}
            for name, copies in recordings.items():
                for path in copies[1:]:
                    yield Item(name, path, "").bad("duplicate id", f"a recording {name} is at {copies[0]} too, which is used")
            for letter, spoken in said.items():
                yield from self._of_speaker(meeting, microphone, self.seats[meeting][letter], spoken, recordings)
            if microphone == "ihm":
                yield from self._without_annotation(meeting, said, recordings)

    def _turns(self, meeting: str, letter: str) -> list[nite.Turn] | None:
        """None where no word of the speaker is annotated."""
        files = [self.annotations / kind / f"{meeting}.{letter}.{kind}.xml" for kind in ("words", "segments")]
        read = nite.turns(*files) if all(f.is_file() for f in files) else []
        return read if any(turn.problem or any(token.word for token in turn.tokens) for turn in read) else None

    def _of_speaker(
        self, meeting: str, microphone: str, who: Participant, spoken: list[nite.Turn], recordings: dict[str, list[str]]
    ) -> Iterator[Item]:
        name = {"ihm": f"{meeting}.Headset-{who.channel}", "sdm": f"{meeting}.Array1-01", "mdm": f"{meeting}_MDM8"}[microphone]
        label = f"H{who.channel:02d}" if microphone == "ihm" and who.channel is not None else microphone.upper()
        if name not in recordings and name in self.corpus.absent:
            return
        path, begin = recordings.get(name, [""])[0], f"{meeting}-{label}-{who.speaker or 'unknown'}"
        for turn in spoken:
            if turn.problem:
                yield Excerpt(f"{begin}-{turn.start_s:.2f}", path, who.speaker).bad("damaged annotation", turn.problem)
            for piece in turns.pieces(turn, self.corpus.segmentation):
                id = f"{begin}-{round(piece.start_s * 100):07d}-{round(piece.end_s * 100):07d}"
                times = {"start_s": piece.start_s, "duration_s": piece.end_s - piece.start_s}
                made: Item = Excerpt(id, path, who.speaker, piece.text, MEETINGS[meeting], recording=name, part=microphone, **times)
                if not path:
                    made = made.bad("no audio", f"{meeting} has no headset {who.channel}, which meetings.xml names")
                if not who.speaker:
                    made = made.bad("unknown speaker", f"meetings.xml has no global_name for this speaker of {meeting}")
                yield made

    def _without_annotation(self, meeting: str, said: dict[str, list[nite.Turn]], recordings: dict[str, list[str]]) -> Iterator[Item]:
        worn = {f"{meeting}.Headset-{self.seats[meeting][letter].channel}" for letter in said}
        for name in sorted(set(recordings) - worn):
            yield Item(name, recordings[name][0], "").bad("no annotation", "nobody who wears this headset is transcribed")


def _complete(corpus: AmiCorpus, key: str, root: Path) -> Path:
    """The annotations' folder. Errors: BirqError where something is missing."""
    folder = _annotations(root)
    if folder is None:
        raise BirqError(
            f"{key}.root: {root} has no folder {ANNOTATIONS} with words/, segments/ and corpusResources/; unpack "
            f"{_zip()[1].urls[0]} there, or set {key}.download to true"
        )
    found = _found(root)
    if missing := [f"{name}.wav" for name in _needed(corpus, key) if name not in found]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise BirqError(
            f"{key}.root: {root} lacks {', '.join(missing[:SHOWN])}{more}; complete it, set {key}.download to true, choose {key}.meetings, "
            f"or name recordings that do not exist in {key}.absent"
        )
    return folder


def _tell(items: list[Item], corpus: AmiCorpus, key: str) -> None:
    """How many utterances there are, beside what others count where the corpus is whole."""
    counts = Counter((i.part, i.split) for i in items if isinstance(i, Excerpt))
    for part in corpus.microphones:
        text = " / ".join(f"{counts[part, split]:,}" for split in _PARTITION)
        others = " / ".join(f"{n:,}" for n in PUBLISHED[corpus.segmentation])
        beside = f"; others count {others} by this rule" if part == "ihm" and not corpus.meetings else ""
        say(f"{key}: {part}, utterances of train / dev / test: {text}{beside}")


def scan(corpus: AmiCorpus, key: str) -> Scan:
    """Read the annotations and find the recordings. Errors: BirqError for what is missing."""
    root = corpus.folder()
    if corpus.download:
        archives.fetch(wanted(corpus, key), root, key, Rules.of(corpus))
    need_folder(root, f"{key}.root")
    reader = _Reader(corpus, key, root, _complete(corpus, key, root))
    items = [item for meeting in _wanted_meetings(corpus, key) for item in reader.items(meeting)]
    _tell(items, corpus, key)
    return Scan(root, items, LICENCE, SOURCE, SAMPLE_RATE_HZ, quotation_marks=False)


def prepare(name: str, corpus: AmiCorpus, out: Path, scratch: Path, *, alphabet: str, limits: Limits) -> None:
    """Make the corpus in `out`."""
    excerpts.prepare(scan(corpus, f"corpora.{name}"), name, corpus, out, scratch, alphabet=alphabet, limits=limits)
