"""A transcript as a file: text, subtitles, table or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from birq.use.recogniser import Transcript
from birq.use.words import Word

PAUSE_S = 0.7  # a longer one ends a caption
CAPTION_S, CAPTION_CHARACTERS = 7.0, 84  # two lines of 42 characters, as broadcasters have it
LEAST_S = 0.3  # that a caption is shown


def captions(words: Sequence[Word]) -> Iterator[tuple[float, float, str]]:
    """Begin, end (s) and text of captions: no pause in it, and short enough to be read."""
    held: list[Word] = []
    for word in words:
        if held and (
            word.start_s - held[-1].end_s > PAUSE_S
            or word.end_s - held[0].start_s > CAPTION_S
            or sum(len(w.text) + 1 for w in held) + len(word.text) > CAPTION_CHARACTERS
        ):
            yield _caption(held, word.start_s)
            held = []
        held.append(word)
    if held:
        yield _caption(held, held[-1].end_s + LEAST_S)


def _caption(words: Sequence[Word], next_s: float) -> tuple[float, float, str]:
    begin = words[0].start_s
    return begin, min(max(words[-1].end_s, begin + LEAST_S), next_s), " ".join(w.text for w in words)


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


def txt(transcript: Transcript, name: str) -> str:
    """The text in one line, without times."""
    return transcript.text + "\n"


def srt(transcript: Transcript, name: str) -> str:
    """SubRip subtitles."""
    found = enumerate(captions(transcript.words), 1)
    return "\n".join(f"{n}\n{_clock(begin, ',')} --> {_clock(end, ',')}\n{text}\n" for n, (begin, end, text) in found)


def vtt(transcript: Transcript, name: str) -> str:
    """WebVTT subtitles (W3C)."""
    found = captions(transcript.words)
    return "WEBVTT\n" + "".join(f"\n{_clock(begin, '.')} --> {_clock(end, '.')}\n{text}\n" for begin, end, text in found)


def tsv(transcript: Transcript, name: str) -> str:
    """One line a word: begin and end in ms, confidence, word."""
    rows = (f"{round(w.start_s * 1000)}\t{round(w.end_s * 1000)}\t{w.confidence:.4f}\t{w.text}\n" for w in transcript.words)
    return "start_ms\tend_ms\tconfidence\tword\n" + "".join(rows)


def as_json(transcript: Transcript, name: str) -> str:
    """Everything: words with times and confidences, captions, and the n best texts of each piece."""
    made = {
        "file": name,
        "seconds": round(transcript.seconds, 3),
        "text": transcript.text,
        "words": [
            {"word": w.text, "start_s": round(w.start_s, 3), "end_s": round(w.end_s, 3), "confidence": round(w.confidence, 4)}
            for w in transcript.words
        ],
        "captions": [{"start_s": round(a, 3), "end_s": round(b, 3), "text": t} for a, b, t in captions(transcript.words)],
        "pieces": [{"end_s": round(p.end_s, 3), "n_best": [{"text": t, "score": s} for t, s in p.n_best]} for p in transcript.pieces],
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Transcript, str], str]] = {"txt": txt, "srt": srt, "vtt": vtt, "tsv": tsv, "json": as_json}
