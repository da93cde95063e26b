"""MPEG audio (MP3): frames are counted, since a header's number of them may be missing, estimated, or that of the first of joined files.

Sources: ISO 11172-3 and 13818-3; the Xing and LAME header (gabriel.mp3-tech.org/mp3infotag.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from birq.speech.streams import AudioError, Bytes, Stream, after_id3, find

_KBIT = {  # by (MPEG 1, layer): kbit/s of the header's four bits
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
LOST_BYTES = 1024
_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass(frozen=True)
class _Frame:
    begin: int
    length: int
    kind: tuple[int, int, int]  # version, layer, Hz: the same in all frames of a stream
    mono: bool


def _frame(data: Bytes, at: int) -> _Frame | None:
    """The frame whose header is at a place, if one can be there."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    rate, hz = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or rate in (0, 15) or hz == 3:
        return None
    size = 144 if version == 3 or layer == 2 else 72
    sample_rate_hz = _HZ[version][hz]
    length = size * 1000 * _KBIT[version == 3, layer][rate] // sample_rate_hz + (data[at + 2] >> 1 & 1)
    return _Frame(at, length, (version, layer, sample_rate_hz), data[at + 3] >> 6 == 3)


def _frames(data: Bytes, at: int) -> Iterator[_Frame]:
    """Whole frames from a place on. Where one does not follow another, the next two in a row are looked for."""
    in_step = False
    while at < len(data):
        frame = _frame(data, at)
        if frame and (in_step or _confirmed(data, frame)) and at + frame.length <= len(data):
            yield frame
            at, in_step = at + frame.length, True
            continue
        in_step = False
        if bytes(data[at : at + 3]) == b"ID3":
            at = after_id3(data, at)
        else:
            at = find(data, b"\xff", at + 1)
            if at < 0:
                return


def _confirmed(data: Bytes, frame: _Frame) -> bool:
    """A header by chance has no like one at its frame's end."""
    end = frame.begin + frame.length
    after = _frame(data, end)
    return end == len(data) or (after is not None and after.kind == frame.kind)


def _declared(data: Bytes, frame: _Frame) -> int | None:
    """Frames that a Xing, Info or VBRI header declares to follow; -1 where it does not say; None for an ordinary frame."""
    side = (17 if frame.mono else 32) if frame.kind[0] == 3 else (9 if frame.mono else 17)
    at = frame.begin + 4 + side
    if bytes(data[at : at + 4]) in (b"Xing", b"Info"):
        return int.from_bytes(data[at + 8 : at + 12], "big") if data[at + 7] & 1 else -1
    at = frame.begin + 36
    return int.from_bytes(data[at + 14 : at + 18], "big") if bytes(data[at : at + 4]) == b"VBRI" else None


def _whole(data: Bytes, frames: list[_Frame]) -> None:
    """Errors: AudioError where much lies between the frames that is neither sound nor a tag: part of the file was not written."""
    for before, after in pairwise(frames):
        end = before.begin + before.length
        if after.begin - end >= LOST_BYTES and not bytes(data[end : end + 11]).startswith(TAGS):
            raise AudioError("unreadable", f"MP3: {after.begin - end} bytes from byte {end} on are no sound")


def streams(data: Bytes, start: int) -> list[Stream] | None:
    """The streams of an MP3 file: one, or one per file that was joined to it. None where there are no frames."""
    runs: list[tuple[int | None, list[_Frame]]] = []
    for frame in _frames(data, start):
        declared = _declared(data, frame)
        if declared is not None or not runs or runs[-1][1][-1].kind != frame.kind:
            runs.append((declared, []))
        runs[-1][1].append(frame)
    if not runs or max(len(frames) for _, frames in runs) < 3:
        return None
    _whole(data, [f for _, frames in runs for f in frames])
    made = []
    for declared, frames in runs:
        tag, sound = frames[: declared is not None], frames[declared is not None :]
        if declared is not None and declared > len(sound) + 1:
            raise AudioError("truncated", f"{len(sound)} MPEG frames, the header says {declared}")
        # dr_mp3 cuts off the header's delay and padding; a header that knows of fewer frames would cut off sound, and one with a
        # checksum is not understood
        plain = bool(tag) and bool(data[tag[0].begin + 1] & 1)
        trusted = tag if plain and declared is not None and (declared >= len(sound) - 1 or declared == -1) else []
        if sound:
            made.append(Stream("miniaudio", b"".join(bytes(data[f.begin : f.begin + f.length]) for f in [*trusted, *sound])))
    return made
