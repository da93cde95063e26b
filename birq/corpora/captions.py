"""The captions of a shard of YODAS2: a JSON list of videos, whose segments tell their times by their names, and a table of lengths."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

_SEGMENT = re.compile(r"(?P<video>.+)-(?P<index>\d+)-(?P<start>\d+)-(?P<end>\d+)", re.DOTALL)  # greedy: times are at the right


class BadShardError(Exception):
    """A shard that cannot be used: a short reason, and what was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Segment:
    """A caption and its time in the video. `problem` is set where its name does not tell the time."""

    id: str
    start_s: float = 0.0
    end_s: float = 0.0
    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Video:
    """A video of the shard. `problem` is set where it cannot be used: no length, no captions, or named before."""

    id: str
    duration_s: float = 0.0
    segments: tuple[Segment, ...] = ()
    problem: str = ""
    detail: str = ""

    def hours(self) -> float:
        """Of the segments that lie inside the video."""
        return 0.0 if self.problem else sum(s.end_s - s.start_s for s in self.segments if s.start_s < s.end_s <= self.duration_s) / 3600


def segment(id: str, video: str, text: object) -> Segment:
    """A segment by its name, `<video>-<index>-<start>-<end>` in hundredths of a second. The video's own name may hold anything, `-` too."""
    found = _SEGMENT.fullmatch(id)
    if not found or not id.isprintable():
        return Segment(id, problem="its name does not end with -INDEX-START-END")
    if found["video"] != video:
        return Segment(id, problem=f"its name is of the video {found['video']!r}, it stands under {video!r}")
    if not isinstance(text, str):
        return Segment(id, problem=f"its text is {type(text).__name__}, not text")
    return Segment(id, int(found["start"]) / 100, int(found["end"]) / 100, text)


def _bytes(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadShardError(f"{what} cannot be read", f"not UTF-8 at byte {e.start}") from None
    except OSError as e:
        raise BadShardError(f"no {what}" if isinstance(e, FileNotFoundError) else f"{what} cannot be read", e.strerror or str(e)) from None


def durations(path: Path) -> dict[str, float]:
    """Video -> seconds, from lines `<video> <seconds>`; of a video that is named twice the first. Lines that say nothing are left out."""
    out: dict[str, float] = {}
    for line in _bytes(path, "durations").splitlines():
        video, _, seconds = line.strip().rpartition(" ")
        try:
            length_s = float(seconds)
        except ValueError:
            continue
        if video.strip() and math.isfinite(length_s) and length_s > 0:
            out.setdefault(video.strip(), length_s)
    if not out:
        raise BadShardError("no durations", "no line `VIDEO SECONDS`")
    return out


def read(text: Path, duration: Path) -> list[Video]:
    """The videos of a shard, in the order of its text file, then those without captions. Errors: BadShardError."""
    written = _bytes(text, "text")
    length_by_video = durations(duration)
    try:
        listed = [(str(one["audio_id"]), dict(one["text"])) for one in json.loads(written)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise BadShardError("text cannot be read", f"not a list of videos ({type(e).__name__}: {e})") from None
    if not any(said for _, said in listed):
        raise BadShardError("no text", "no video has captions")
    videos, seen = [], set()
    for id, said in listed:
        if not id.isprintable() or id != id.strip() or "/" in id or id in ("", ".", ".."):
            videos.append(Video(ascii(id), problem="damaged id", detail="it cannot be the name of a file"))
        elif id in seen:
            videos.append(Video(id, problem="duplicate id", detail="the text file has this video before; that one is kept"))
        elif id not in length_by_video:
            videos.append(Video(id, problem="no duration", detail=f"{duration.name} has no line of it"))
        elif not said:
            videos.append(Video(id, problem="no text", detail="the video has no captions"))
        else:
            videos.append(Video(id, length_by_video[id], tuple(segment(s, id, t) for s, t in said.items())))
        seen.add(id)
    return videos + [Video(id, problem="no text", detail=f"{text.name} does not name it") for id in length_by_video if id not in seen]
