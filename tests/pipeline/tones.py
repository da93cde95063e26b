"""A folder of speech for the scenarios: every letter is a tone, so that a training of two seconds has something to learn."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

LETTERS = "abcdefgh"
RATE_HZ = 8000
LETTER_SECONDS = 0.2
UTTERANCES = {"train": 12, "dev": 4, "test": 4}


def _text(rng: np.random.Generator) -> str:
    """Two words of three letters, no letter twice in a row."""
    return " ".join("".join(rng.permutation(list(LETTERS))[:3]) for _ in range(2))


def _samples(text: str, rng: np.random.Generator) -> np.ndarray:
    """int16 samples at RATE_HZ: one tone per letter, silence for the space, a little noise."""
    n = round(RATE_HZ * LETTER_SECONDS)
    time_s = np.arange(n) / RATE_HZ
    parts = [0.3 * np.sin(2 * np.pi * 300 * 1.4 ** LETTERS.index(c) * time_s) if c != " " else np.zeros(n) for c in text]
    sound = np.concatenate(parts)
    return np.round(20000 * (sound + 0.01 * rng.standard_normal(len(sound)))).astype("<i2")


def write(folder: Path) -> None:
    """WAV files of four speakers, transcripts.tsv with their splits, alignments.tsv with every tone's time."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    table, times = ["path\ttext\tspeaker\tsplit"], ["utt\tstart_s\tend_s\tphone\tword"]
    for split, count in UTTERANCES.items():
        for i in range(count):
            name, text = f"{split}{i:02d}", _text(rng)
            with wave.open(str(folder / f"{name}.wav"), "wb") as f:
                f.setnchannels(1)
                f.setsampwidth(2)
                f.setframerate(RATE_HZ)
                f.writeframes(_samples(text, rng).tobytes())
            table.append(f"{name}.wav\t{text}\t{split}{i % 2}\t{split}")
            for j, letter in enumerate(text):
                start, end = j * LETTER_SECONDS, (j + 1) * LETTER_SECONDS
                word = "<sil>" if letter == " " else text[:3] if j < 3 else text[4:]
                times.append(f"{name}\t{start:.2f}\t{end:.2f}\t{'SIL' if letter == ' ' else letter}\t{word}")
    (folder / "transcripts.tsv").write_text("\n".join(table) + "\n")
    (folder / "alignments.tsv").write_text("\n".join(times) + "\n")
