"""An audio file's streams, found by its content. A declared length is a hint: a stream is decoded to its end.

Sources: RIFF (Microsoft, 1991), RF64 (EBU Tech 3306), Ogg (RFC 3533), FLAC and its mapping to Ogg (RFC 9639), CAF (Apple, 2005), ID3v2
(id3.org).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from birq.speech import mpeg
from birq.speech.streams import AudioError, Bytes, Pieces, Stream, after_id3, find

HEAD = 1 << 16  # bytes in which a file's kind must show itself
STREAMED = 0x7FFFF000  # a writer that could not go back leaves a length from here on, or 0
FLAC_START = b"fLaC\x00\x00\x00\x22"  # its first block, STREAMINFO, has 34 bytes
UNREAD = {  # how content begins that birq does not decode
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"0&\xb2u\x8ef\xcf\x11": "Windows Media",
    b"#!AMR": "AMR",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"version https://git-lfs": "a pointer of Git LFS: run `git lfs pull`",
    b"/annex/objects/": "a pointer of git-annex: run `git annex get`",
}


# ---- by content


def streams(data: Bytes) -> list[Stream]:
    """The streams of a file, in order. Errors: AudioError for content that is no audio, or audio that cannot be whole."""
    if not len(data):
        raise AudioError("empty", "0 bytes")
    start = after_id3(data, 0)
    head = bytes(data[start : start + HEAD])
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(data)
    if head[:4] == b"fLaC":
        return _flac(data[start:] if start else data, whole=not start)
    if head[:4] == b"OggS":
        return _ogg(data)
    if foreign := _unread(head):
        raise AudioError("no audio that birq reads", foreign)
    if head[:4] == b"caff":
        return _caf(data)
    if head[:4] in (b"FORM", b".snd", b"riff", b"NIST"):
        return [Stream("libsndfile")]
    found = mpeg.streams(data, start)
    if found is None:
        raise AudioError("no audio that birq reads", "the content is of no known kind")
    return found


def _unread(head: bytes) -> str:
    """The kind of content that is well known and not decoded, or nothing."""
    if head[4:8] == b"ftyp":
        return "MP4 or M4A (AAC); convert it, for instance with `ffmpeg -i FILE OUT.wav`"
    for begin, name in UNREAD.items():
        if head.startswith(begin):
            return name if "run `" in name else f"{name}; convert it, for instance with `ffmpeg -i FILE OUT.wav`"
    if re.match(rb"\s*(<!doctype|<html|<\?xml|<head|<body)", head.removeprefix(b"\xef\xbb\xbf")[:200], re.IGNORECASE):
        return "a page of HTML or XML: the download gave an error page"
    if head[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return "AAC; convert it, for instance with `ffmpeg -i FILE OUT.wav`"
    return "text" if not head.strip(bytes(range(32, 127)) + b"\t\n\r") else ""


# ---- WAV


def _wav(data: Bytes) -> list[Stream]:
    """One stream, or several where files were joined."""
    found: list[Stream] = []
    at, view = 0, memoryview(data)
    while at < len(data):
        end, stream = _riff(view, at)
        found.append(stream)
        if end < len(data) and not _is_wav(view, end):
            break  # tags or rubbish behind the sound
        at = end
    plain = len(found) == 1 and isinstance(found[0].data, Pieces) and len(found[0].data.parts) == 1
    return [Stream("libsndfile", frames=found[0].frames)] if plain else found


def _is_wav(view: memoryview, at: int) -> bool:
    return bytes(view[at : at + 4]) in (b"RIFF", b"RIFX", b"RF64", b"BW64") and bytes(view[at + 8 : at + 12]) == b"WAVE"


def _riff(view: memoryview, begin: int) -> tuple[int, Stream]:
    """(end of the sound, stream) of a RIFF file that begins at a place; a length that a stream's writer left open is filled in."""
    order = ">" if bytes(view[begin : begin + 4]) == b"RIFX" else "<"
    at, wide_at, block = begin + 12, 0, 0
    while at + 8 <= len(view):
        name, length = struct.unpack(f"{order}4sI", view[at : at + 8])
        if name == b"ds64":
            wide_at = at + 16  # 64 bits: RIFF size, then that of the data
        if name == b"fmt " and length >= 14:
            block = struct.unpack(f"{order}H", view[at + 20 : at + 22])[0]
        if name == b"data":
            return _data(view, begin, at, wide_at, order, max(block, 1))
        at += 8 + length + length % 2
    raise AudioError("unreadable", "a WAV file without a data chunk")


def _data(view: memoryview, begin: int, at: int, wide_at: int, order: str, block: int) -> tuple[int, Stream]:
    """The sound of the data chunk at a place."""
    length_at, kind = (wide_at, f"{order}Q") if wide_at else (at + 4, f"{order}I")
    declared: int = struct.unpack_from(kind, view, length_at)[0]
    body = at + 8
    there = len(view) - body
    open_ended = declared >= STREAMED if not wide_at else declared >= 1 << 62
    unset = declared == 0 and there and not _is_chunk(view, body)
    wrapped = not wide_at and there >> 32 and not _is_chunk(view, body + declared)  # more than 32 bits can say
    if (open_ended and declared > there) or unset or wrapped:
        header = bytearray(view[begin:body])
        whole = there - there % block
        struct.pack_into(kind, header, length_at - begin, min(whole, 0xFFFFFFFF) if not wide_at else whole)
        struct.pack_into(f"{order}I", header, 4, min(len(header) - 8 + whole, 0xFFFFFFFF))
        return len(view), Stream("libsndfile", Pieces((bytes(header), view[body : body + whole])))
    if declared > there:
        raise AudioError("truncated", f"{declared - there} bytes are missing at the end")
    end = body + declared + declared % 2
    rest = len(view) - end
    if rest > max(4096, declared // 10) and not _is_chunk(view, end):
        raise AudioError("wrong duration", f"{rest} bytes follow the sound that the header declares ({declared} bytes); write it anew")
    last = begin == 0 and not _is_wav(view, end)
    return end, Stream("libsndfile", Pieces((view,) if last else (view[begin:end],)))


def _is_chunk(view: memoryview, at: int) -> bool:
    """Whether a chunk may begin here: four letters, and a length that fits."""
    if at + 8 > len(view):
        return False
    name, length = struct.unpack("<4sI", view[at : at + 8])
    return bool(re.fullmatch(rb"[A-Za-z0-9_ ]{4}", name)) and (at + 8 + length <= len(view) or name in (b"RIFF", b"RF64"))


def _caf(data: Bytes) -> list[Stream]:
    """Core Audio's file; a writer that could not go back leaves -1, which libsndfile refuses, as the length of the data chunk."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(view):
        name, length = struct.unpack(">4sq", view[at : at + 12])
        if name == b"data" and length == -1:
            header = bytes(view[: at + 4]) + struct.pack(">q", len(view) - at - 12)
            return [Stream("libsndfile", Pieces((header, view[at + 12 :])))]
        at += 12 + max(length, 0)
    return [Stream("libsndfile")]


# ---- FLAC


def flac_facts(data: Bytes) -> tuple[int, int]:
    """(bits per sample, samples; 0: not known).

    STREAMINFO has 20 bits for the rate, 3 for channels - 1, 5 for the sample size - 1, 36 for the samples.
    """
    facts = int.from_bytes(data[18:26], "big")
    return (facts >> 36 & 31) + 1, facts & (1 << 36) - 1


def _flac(data: Bytes, whole: bool = False) -> list[Stream]:
    """One stream, or several where files were joined; `whole`: the bytes are the file."""
    starts = [0]
    while (at := find(data, FLAC_START, starts[-1] + 8)) >= 0:
        starts.append(at)
    found = []
    for begin, end in zip(starts, [*starts[1:], len(data)], strict=True):
        part = data if len(starts) == 1 else data[begin:end]
        samples = flac_facts(part)[1]
        # libFLAC, which reports damage, cannot open a stream whose number of samples is 0 (not known)
        stored = None if samples and whole and len(starts) == 1 else bytes(part) if samples else _counted_flac(bytes(part))
        found.append(Stream("libsndfile", stored, samples or None))
    return found


def _counted_flac(data: bytes) -> bytes:
    """A stream of unknown length with its number of samples filled in: libFLAC, which reports damage, wants one."""
    import miniaudio

    try:
        samples = miniaudio.flac_read_s16(data).num_frames
    except miniaudio.DecodeError as e:
        raise AudioError("unreadable", f"FLAC: {e}") from None
    facts = int.from_bytes(data[18:26], "big") >> 36 << 36 | samples
    return data[:18] + facts.to_bytes(8, "big") + data[26:]


# ---- Ogg


@dataclass(frozen=True)
class _Page:
    begin: int
    body: int
    end: int
    flags: int
    serial: int
    lacing: bytes

    FIRST, LAST = 2, 4


def _pages(data: Bytes) -> Iterator[_Page]:
    """Pages of an Ogg file. Errors: AudioError where the last one is cut off."""
    at = 0
    while at < len(data):
        if bytes(data[at : at + 4]) != b"OggS":
            at = find(data, b"OggS", at)
            if at < 0:
                return
        if at + 27 > len(data) or at + 27 + data[at + 26] > len(data):
            raise AudioError("truncated", "the last page is cut off")
        lacing = bytes(data[at + 27 : at + 27 + data[at + 26]])
        body = at + 27 + len(lacing)
        if body + sum(lacing) > len(data):
            raise AudioError("truncated", f"{body + sum(lacing) - len(data)} bytes are missing at the end")
        yield _Page(at, body, body + sum(lacing), data[at + 5], int.from_bytes(data[at + 14 : at + 18], "little"), lacing)
        at = body + sum(lacing)


def _ogg(data: Bytes) -> list[Stream]:
    """One stream per link of the chain."""
    links: list[list[_Page]] = []
    for page in _pages(data):
        if page.flags & _Page.FIRST and (not links or not links[-1][-1].flags & _Page.FIRST):
            links.append([])
        if links:
            links[-1].append(page)
    if not links:
        raise AudioError("unreadable", "an Ogg file without its first page")
    return [_link(data, pages) for pages in links]


def _link(data: Bytes, pages: list[_Page]) -> Stream:
    """The sound of one link. Streams beside it (video, text) are left out."""
    sounds = {p.serial: bytes(data[p.body : p.body + 8]) for p in pages if p.flags & _Page.FIRST}
    kinds = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC")
    serial = next((s for s, head in sounds.items() if head.startswith(kinds)), None)
    if serial is None:
        raise AudioError("no audio that birq reads", "an Ogg file without Vorbis, Opus or FLAC")
    own = [p for p in pages if p.serial == serial]
    if sounds[serial].startswith(b"\x7fFLAC"):
        return _flac_in_ogg(data, own)
    parts: list[Bytes] = [data[p.begin : p.end] for p in own]
    if not own[-1].flags & _Page.LAST:  # libsndfile refuses Opus without it
        parts[-1] = _ended(bytes(parts[-1]))
    return Stream("libsndfile", b"".join(parts))


def _ended(page: bytes) -> bytes:
    """A page marked as the last one, its checksum made anew."""
    page = page[:5] + bytes([page[5] | _Page.LAST]) + page[6:22] + b"\0\0\0\0" + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc >> 31 else crc << 1) & 0xFFFFFFFF
    return page[:22] + crc.to_bytes(4, "little") + page[26:]


def _flac_in_ogg(data: Bytes, pages: list[_Page]) -> Stream:
    """The packets as a FLAC file: the first one has 9 bytes of its own before `fLaC`."""
    sound = b"".join(data[p.body : p.end] for p in pages)
    return _flac(sound[9:])[0]
