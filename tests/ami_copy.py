"""A small copy of AMI in its own layout: names, XML and traps of the corpus, a few seconds of noise for every recording."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import soundfile

RATE = 16000
HEAD = '<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>\n'
NITE = 'xmlns:nite="http://nite.sourceforge.net/"'
APOSTROPHE = {"'": "&#39;"}
SIGNS = ".,?!:;"
WORD_SECONDS = 0.25
# meeting -> global names of its speakers A, B, ...; train, train (five headsets), train (no distant recording), train (stereo), dev, test
SPEAKERS = {
    "ES2002a": ("FEE005", "MEE006"),
    "EN2001a": ("MEO069",),
    "IS1003b": ("MIO016",),
    "ES2010d": ("MEE035",),
    "ES2011a": ("FEE041",),
    "ES2004a": ("MEO015",),
}
NO_ARRAY, STEREO, FIVE = "IS1003b", "ES2010d", "EN2001a"
SAID = "Hi , I'm D\u00e9sir\u00e9e . <laugh> Mm-hmm . Okay , the remote-control has an L_C_D_ ?"


def words_xml(meeting: str, letter: str, tokens: Iterable[tuple[str, float | None, float | None]]) -> str:
    """Tokens (text, start, end): signs as they stand, <laugh> and the like as sounds, a word that ends with + as cut off."""
    lines = []
    for i, (text, start, end) in enumerate(tokens):
        times = "" if start is None else f' starttime="{start:.2f}" endtime="{end:.2f}"'
        about = f'nite:id="{meeting}.{letter}.words{i}"{times}'
        if text.startswith("<"):
            lines.append(f'   <vocalsound {about} type="{text[1:-1]}"/>')
        elif text in SIGNS:
            lines.append(f'   <w {about} punc="true">{text}</w>')
        else:
            trunc = ' trunc="true"' if text.endswith("+") else ""
            lines.append(f"   <w {about}{trunc}>{escape(text.rstrip('+'), APOSTROPHE)}</w>")
    return f'{HEAD}<nite:root nite:id="{meeting}.{letter}.words" {NITE}>\n' + "\n".join(lines) + "\n</nite:root>\n"


def segments_xml(meeting: str, letter: str, segments: Iterable[tuple[int, int, float, float]]) -> str:
    """Segments (first token, last token, start, end)."""
    lines = []
    for i, (first, last, start, end) in enumerate(segments):
        own = f"{meeting}.{letter}.words"
        to = f"..id({own}{last})" if last != first else ""
        lines.append(f'   <segment nite:id="{meeting}.sync.{i}" transcriber_start="{start:.3f}" transcriber_end="{end:.3f}">')
        lines.append(f'      <nite:child href="{own}.xml#id({own}{first}){to}"/>\n   </segment>')
    return f'{HEAD}<nite:root nite:id="{meeting}.{letter}.segs" {NITE}>\n' + "\n".join(lines) + "\n</nite:root>\n"


def timed(text: str, begin: float = 0.5) -> list[tuple[str, float | None, float | None]]:
    """Words of a quarter of a second each; signs have no length."""
    out: list[tuple[str, float | None, float | None]] = []
    for token in text.split():
        end = begin if token in SIGNS else begin + WORD_SECONDS
        out.append((token, begin, end))
        begin = end
    return out


def meetings_xml(speakers: dict[str, tuple[str, ...]]) -> str:
    lines = []
    for meeting, names in speakers.items():
        lines.append(f'   <meeting nite:id="meet_{meeting}" observation="{meeting}" duration="60" type="scenario">')
        for i, name in enumerate(names):
            seat = f'channel="{i}" nxt_agent="{chr(65 + i)}" global_name="{name}"'
            lines.append(f'      <speaker nite:id="{meeting}_{i}" {seat} role="PM"/>')
        lines.append("   </meeting>")
    return f'{HEAD}<nite:root nite:id="meetings" {NITE}>\n' + "\n".join(lines) + "\n</nite:root>\n"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("iso-8859-1"))


def wav(seed: str, seconds: float = 6.0, channels: int = 1) -> bytes:
    wave = 0.1 * np.random.default_rng(sum(seed.encode())).standard_normal((round(RATE * seconds), channels))
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format="WAV", subtype="PCM_16")
    return out.getvalue()


def recordings(speakers: dict[str, tuple[str, ...]] = SPEAKERS) -> dict[str, bytes]:
    """Address below amicorpus/ -> WAV, of all microphones; without what the owners' server lacks."""
    out = {}
    for m in speakers:
        names = [f"{m}/audio/{m}.Headset-{i}.wav" for i in range(5 if m == FIVE else 4)]
        names += [f"{m}/audio/{m}.Array1-01.wav"] * (m != NO_ARRAY) + [f"beamformed/{m}/{m}_MDM8.wav"]
        out |= {name: wav(name, channels=2 if m == STEREO and "Array" in name else 1) for name in names}
    return out


def annotations(folder: Path, speakers: dict[str, tuple[str, ...]] = SPEAKERS, said: str = SAID) -> Path:
    """words/, segments/ and corpusResources/: every speaker says the same in one turn."""
    put(folder / "corpusResources" / "meetings.xml", meetings_xml(speakers))
    for meeting, names in speakers.items():
        for letter in "ABCDE"[: len(names)]:
            tokens = timed(said)
            put(folder / "words" / f"{meeting}.{letter}.words.xml", words_xml(meeting, letter, tokens))
            turn = [(0, len(tokens) - 1, 0.45, tokens[-1][2] + 0.1)]
            put(folder / "segments" / f"{meeting}.{letter}.segments.xml", segments_xml(meeting, letter, turn))
    return folder


def copy(root: Path, speakers: dict[str, tuple[str, ...]] = SPEAKERS) -> Path:
    """The corpus as the owners' download page lays it out, and the annotations unpacked."""
    for name, content in recordings(speakers).items():
        path = root / "amicorpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    annotations(root / "ami_public_manual_1.6.2", speakers)
    return root


def zipped(folder: Path) -> bytes:
    """The annotations as their archive has them: no folder around them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            made.write(path, path.relative_to(folder).as_posix())
    return out.getvalue()
