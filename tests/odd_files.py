"""Odd files that people have, each beside good ones: what birq makes of them, for docs/inputs.md and its test."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import struct
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import inputs_page
import numpy as np
import soundfile

from birq.corpora import local
from birq.corpora.items import Limits
from birq.settings.corpora import LocalCorpus

RATE, SECONDS = 16000, 1.6
RNG = np.random.default_rng(0)
WAVE = 0.3 * np.sin(np.cumsum(np.linspace(0.05, 0.6, round(RATE * SECONDS)))) + 0.01 * RNG.standard_normal(round(RATE * SECONDS))
Make = Callable[[Path], None]


def encoded(kind: str, subtype: str | None = None, wave: np.ndarray = WAVE, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


def riff(declared: int | None = None, keep: int | None = None) -> bytes:
    data = bytearray(encoded("WAV", "PCM_16"))
    at = data.index(b"data") + 4
    if declared is not None:
        data[at : at + 4] = struct.pack("<I", declared)
    return bytes(data[:keep])


def streamed_flac() -> bytes:
    data = encoded("FLAC", "PCM_16")
    return data[:18] + (int.from_bytes(data[18:26], "big") >> 36 << 36).to_bytes(8, "big") + data[26:]


def mp3(header: bool = True) -> bytes:
    data = encoded("MP3")
    frame = 144 * 1000 // RATE  # at least the length of the header's frame
    return data if header else data[data.index(b"\xff", data.index(b"LAME") + frame - 40) :]


def content(data: bytes | Callable[[], bytes], name: str) -> Make:
    return lambda folder: (folder / name).write_bytes(data() if callable(data) else data) and None


def called(name: bytes) -> Make:
    def make(folder: Path) -> None:
        (folder / "x").write_bytes(riff())
        os.rename(folder / "x", os.fsencode(folder) + b"/" + name)

    return make


def linked(folder: Path) -> None:
    disk = Path(tempfile.mkdtemp(dir=folder.parent.parent)) / "speaker"
    disk.mkdir()
    (disk / "odd.wav").write_bytes(riff())
    (folder / "speaker").symlink_to(disk)


STEREO = np.stack([WAVE, -WAVE], 1)
REFUSED, CRASH, TAKEN = "set aside though whole", "stopped everything with a traceback", "taken as speech"
ROWS: list[tuple[str, str, Make]] = [  # input, what birq did before, how it is made in a speaker's folder
    ("WAV, length 0 (a writer to a pipe)", REFUSED, content(lambda: riff(0), "odd.wav")),
    ("WAV, length 4,294,967,295 (the same)", "read", content(lambda: riff(0xFFFFFFFF), "odd.wav")),
    ("WAV, length 2,147,483,611 (the same)", REFUSED, content(lambda: riff(0x7FFFFFFF - 36), "odd.wav")),
    ("WAV, cut off", "set aside", content(lambda: riff(keep=20_000), "odd.wav")),
    ("WAV, killed recorder: more sound than the header declares", "read, 0.6 s", content(lambda: riff(20_000), "odd.wav")),
    ("two WAV files joined", "set aside: no `RIFF` chunk marker", content(lambda: riff() * 2, "odd.wav")),
    ("WAV, GSM 6.10", "checked, then stopped the features stage", content(lambda: encoded("WAV", "GSM610"), "odd.wav")),
    ("FLAC of unknown length (a pipe)", REFUSED, content(streamed_flac, "odd.flac")),
    ("FLAC, cut off", "set aside", content(lambda: encoded("FLAC")[:20_000], "odd.flac")),
    ("MP3 without a Xing header", "read, 0.9 s", content(lambda: mp3(header=False), "odd.mp3")),
    ("two MP3 files joined", "read, 1.6 s", content(lambda: mp3() * 2, "odd.mp3")),
    ("MP3 with a hole of zeros", "set aside: internal error", content(lambda: mp3()[:4000] + bytes(4000) + mp3()[8000:], "odd.mp3")),
    ("chained Ogg Vorbis", "read, 1.6 s", content(lambda: encoded("OGG") * 2, "odd.ogg")),
    ("Ogg Opus", "read", content(lambda: encoded("OGG", "OPUS"), "odd.opus")),
    ("MP3 named .wav", "read", content(mp3, "odd.wav")),
    ("M4A named .wav", "set aside: Format not recognised", content(b"\0\0\0\x1cftypM4A \0\0\0\0", "odd.wav")),
    ("M4A", "not seen", content(b"\0\0\0\x1cftypM4A \0\0\0\0", "odd.m4a")),
    ("a page of HTML named .mp3", "set aside: not a regular file", content(b"<!DOCTYPE html><html>404</html>", "odd.mp3")),
    ("a pointer of Git LFS", "set aside: Format not recognised", content(b"version https://git-lfs.github.com/spec/v1\n", "odd.wav")),
    ("an empty file", "set aside", content(b"", "odd.wav")),
    ("zeros", TAKEN, content(lambda: encoded("WAV", wave=0 * WAVE), "odd.wav")),
    ("a constant", TAKEN, content(lambda: encoded("WAV", wave=0 * WAVE + 0.5), "odd.wav")),
    ("stereo, one channel the other's negative", "taken as silence", content(lambda: encoded("WAV", wave=STEREO), "odd.wav")),
    (
        "floats at the scale of 16-bit integers",
        "features 21 nat too loud",
        content(lambda: encoded("WAV", "FLOAT", WAVE * 32768), "odd.wav"),
    ),
    ("floats up to 1e11", TAKEN, content(lambda: encoded("WAV", "FLOAT", WAVE * 3e11), "odd.wav")),
    ("floats that are no numbers", "set aside", content(lambda: encoded("WAV", "FLOAT", WAVE * np.nan), "odd.wav")),
    ("a Latin-1 file name", CRASH, called(b"caf\xe9.wav")),
    ("a line break in the file name", "an id with a line break", called(b"a\nb.wav")),
    ("a named pipe", "waited for ever", lambda folder: os.mkfifo(folder / "odd.wav")),
    ("a link to nothing", "set aside", lambda folder: (folder / "odd.wav").symlink_to("../.git/annex/none")),
    ("a speaker's folder that is a link", "changes of it not seen", linked),
    ("a link to the folder above", "24 recordings became 984", lambda folder: (folder / "above").symlink_to("..")),
]
TABLES: list[tuple[str, str, str]] = [  # what the table says in its place for s0/u0.wav, what birq did before
    ("`s0\\u0.wav`: a back slash", "s0\\u0.wav\tabc", "set aside twice: no audio, and not listed"),
    ("`./s0/u0.wav`", "./s0/u0.wav\tabc", "found"),
    (
        "é as one character in the table, as two in the file's name",
        unicodedata.normalize("NFC", "s0/é.wav") + "\tabc",
        "set aside twice: no audio, and not listed",
    ),
    ("the same line twice", "s0/u0.wav\tabc\ns0/u0.wav\tabc", "found, and set aside as a duplicate"),
    ("two texts for one file", "s0/u0.wav\tabc\ns0/u0.wav\tdef", "found, and set aside"),
    ("`s0/u0.m4a`, which is there", "s0/u0.m4a\tabc\ns0/u0.wav\tabc", "set aside, and the WAV file with it, as a duplicate"),
    ("a file that is not there", "s0/u7.wav\tabc\ns0/u0.wav\tabc", "set aside"),
    ("a cell of 160,000 characters", "s0/u0.wav\t" + "abc " * 40_000, CRASH),
    ("U+2028 inside a text", "s0/u0.wav\tabc\u2028def", "found, `abc`; `def` became a line of its own"),
]


def prepared(make: Make, rows: list[str] | None = None) -> tuple[list[tuple[str, str, str]], dict[str, float], list[str | None]]:
    """Rows (name, reason, detail) set aside, seconds by id, texts, of a corpus of three good recordings and one odd input."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        root, out, scratch = (Path(temporary, n) for n in ("corpus", "out", "scratch"))
        for folder in (root / "s0", root / "s1", out, scratch):
            folder.mkdir(parents=True)
        for name in ("s0/good.wav", "s1/good.wav", "s1/too.wav"):
            (root / name).write_bytes(riff())
        make(root / "s0")
        if rows:
            good = [f"{n}\tabc" for n in ("s0/good.wav", "s1/good.wav", "s1/too.wav")]
            (root / "transcripts.tsv").write_text("\n".join(["path\ttext", *good, *rows]) + "\n", encoding="utf-8")
        corpus = LocalCorpus(kind="local", root=str(root), dev_share=0.0, test_share=0.0)
        limits = Limits(0.3, 35.0, RATE, 1.0)
        local.prepare("mine", corpus, out, scratch, alphabet="abcdefghijklmnopqrstuvwxyz' ", limits=limits)
        with open(out / "quarantine.tsv", encoding="utf-8", newline="") as f:
            bad = [(r[1] or r[0], r[2], r[3].replace(str(root), "…")) for r in list(csv.reader(f, delimiter="\t"))[1:]]
        cuts = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").split("\n") if line]
    odd = [c for c in cuts if c["id"].startswith("s0-") and c["id"] != "s0-good"]
    return bad, {c["id"]: c["duration"] for c in cuts}, [c["supervisions"][0].get("text") for c in odd]


def outcome(make: Make, rows: list[str] | None = None) -> tuple[str, str]:
    """(what birq makes of the input, message). The good recordings must be there whatever lies beside them."""
    bad, seconds, texts = prepared(make, rows)
    assert {"s0-good", "s1-good", "s1-too"} <= set(seconds), seconds
    odd = {id: s for id, s in seconds.items() if id not in ("s0-good", "s1-good", "s1-too")}
    message = "; ".join(f"{reason}: {detail}" if detail else reason for _, reason, detail in bad)
    if rows:
        return (" and ".join(["found, " + inputs_page.code(t or "") for t in texts] + ["set aside"] * bool(bad)) or "–"), message
    kept = "read, " + ", ".join(f"{s:.1f} s" for s in odd.values()) if odd else "set aside" if bad else "adds nothing"
    return kept, message


def audio_table() -> str:
    """Files of 1.6 s."""
    rows = [(title, *outcome(make), before) for title, before, make in ROWS]
    return inputs_page.markdown(
        ("input", "birq", "message", "before"), [(t, done, inputs_page.code(m) if m else "", b) for t, done, m, b in rows]
    )


def lines_table() -> str:
    """Lines of transcripts.tsv."""

    def make(folder: Path) -> None:
        (folder / "u0.wav").write_bytes(riff())

    def decomposed(folder: Path) -> None:
        (folder / unicodedata.normalize("NFD", "é.wav")).write_bytes(riff())

    def both(folder: Path) -> None:
        make(folder)
        (folder / "u0.m4a").write_bytes(b"1")

    makers = {"é as": decomposed, "`s0/u0.m4a`": both}
    rows = []
    for title, text, before in TABLES:
        maker = next((m for begin, m in makers.items() if title.startswith(begin)), make)
        done, message = outcome(maker, text.split("\n"))
        rows.append((title, done, inputs_page.code(message) if message else "", before))
    return inputs_page.markdown(("line", "birq", "message", "before"), rows)
