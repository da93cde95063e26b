"""Transcripts in NITE XML: words of a speaker with times, and segments that point at ranges of them.

words/ES2002a.A.words.xml         <w nite:id="ES2002a.A.words0" starttime="77.44" endtime="77.74">Hi</w>
segments/ES2002a.A.segments.xml   <segment ...><nite:child href="ES2002a.A.words.xml#id(ES2002a.A.words0)..id(ES2002a.A.words12)"/>
corpusResources/meetings.xml      <meeting observation="ES2002a"><speaker nxt_agent="A" global_name="MEE006" channel="0" .../>
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from birq.errors import BirqError

ID = "{http://nite.sourceforge.net/}id"
CHILD = "{http://nite.sourceforge.net/}child"
_RANGE = re.compile(r"#id\((?P<first>[^()]+)\)(?:\.\.id\((?P<last>[^()]+)\))?$")


@dataclass(frozen=True)
class Participant:
    """Who sits behind a letter of a meeting. Errors in the list of meetings are kept: only a meeting that is used needs it whole."""

    speaker: str  # the same in all meetings; "" where the list has none
    channel: int | None  # of the headset


@dataclass(frozen=True)
class Token:
    """An element of a words file. `text` is empty where it is no word: laughter, a gap, a mark of disfluency."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    punctuation: bool = False

    @property
    def word(self) -> bool:
        return bool(self.text) and not self.punctuation


@dataclass(frozen=True)
class Turn:
    """A transcriber's segment with all that it points at. `problem`: why its words are not known."""

    tokens: tuple[Token, ...]
    start_s: float  # as the transcriber set it
    end_s: float
    problem: str = ""


def _root(path: Path) -> ET.Element:
    try:
        return ET.fromstring(path.read_bytes())  # the file names its encoding
    except FileNotFoundError:
        raise BirqError(f"{path}: no such file; complete the annotations") from None
    except (ET.ParseError, ValueError, LookupError) as e:
        raise BirqError(f"{path}: not well-formed XML ({e}); unpack the annotations again") from None


def _seconds(element: ET.Element, name: str, path: Path) -> float | None:
    """A time, None where there is none. Errors: BirqError for one that is no number."""
    value = element.get(name)
    if value is None or not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        raise BirqError(f"{path}: {name}={value!r} of {element.get(ID)} is no time in seconds; unpack the annotations again") from None


def participants(path: Path) -> dict[str, dict[str, Participant]]:
    """Meeting -> letter -> participant, of corpusResources/meetings.xml."""
    out: dict[str, dict[str, Participant]] = {}
    for meeting in _root(path).iter("meeting"):
        seats = out.setdefault(meeting.get("observation", ""), {})
        for one in meeting.iter("speaker"):
            channel = (one.get("channel") or "").strip()
            seats[one.get("nxt_agent", "")] = Participant(one.get("global_name") or "", int(channel) if channel.isdecimal() else None)
    return out


def _tokens(path: Path) -> tuple[list[Token], dict[str, int]]:
    """The elements of a words file in order, and where each id stands."""
    tokens, place = [], {}
    for element in _root(path):
        text = " ".join((element.text or "").split()) if element.tag == "w" else ""
        times = _seconds(element, "starttime", path), _seconds(element, "endtime", path)
        place[element.get(ID, "")] = len(tokens)
        tokens.append(Token(text, *times, punctuation=element.get("punc") == "true"))
    return tokens, place


def _pointed(segment: ET.Element, place: dict[str, int]) -> Iterator[range]:
    """The ranges of tokens that a segment points at. Errors: KeyError for what is not there."""
    for child in segment.iter(CHILD):
        href = child.get("href", "")
        match = _RANGE.search(href)
        if not match:
            raise KeyError(href)
        yield range(place[match["first"]], place[match["last"] or match["first"]] + 1)


def turns(words: Path, segments: Path) -> list[Turn]:
    """The segments of one speaker of a meeting, in order."""
    tokens, place = _tokens(words)
    out = []
    for segment in _root(segments).iter("segment"):
        start_s, end_s = (_seconds(segment, f"transcriber_{end}", segments) for end in ("start", "end"))
        about = (start_s or 0.0, end_s or 0.0)
        try:
            own = tuple(tokens[i] for r in _pointed(segment, place) for i in r)
        except KeyError as e:
            out.append(Turn((), *about, problem=f"{segment.get(ID)} points at {e.args[0]!r}, which {words.name} lacks"))
        else:
            out.append(Turn(own, *about))
    return out
