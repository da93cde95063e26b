"""The sound of a file of any kind, in blocks: by birq's own readers, and by FFmpeg, where it is installed, for what those do not read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from birq.corpora.check import LEAST_INT16, LOUDEST
from birq.speech import audio
from birq.speech.streams import AudioError

UNKNOWN = "no audio that birq reads"
BLOCK_SAMPLES = 1 << 18
NOTHING = np.empty(0, np.float32)

Block = tuple[int, np.ndarray]  # rate in Hz, mono float32 samples [n]


def blocks(path: Path, rate_hz: int) -> Iterator[Block]:
    """A file's sound, the mean of its channels, to its end. rate_hz: of what FFmpeg decodes; else the file's own rate is kept.

    Errors: AudioError, after the blocks before the damage.
    """
    gain, rates = 1.0, set()
    for rate, block, is_float in _decoded(path, rate_hz):
        rates.add(rate)
        if len(rates) > 1:
            raise AudioError("wrong rate", f"the rate changes inside the file: {sorted(rates)} Hz")
        if not np.isfinite(block).all():
            raise AudioError("non-finite samples")
        peak = float(np.abs(block).max(initial=0.0)) * gain
        if is_float and peak > LOUDEST:
            if not LEAST_INT16 <= peak <= 32768:
                raise AudioError("wrong scale", f"samples up to {peak:.6g}; floats lie between -1 and 1")
            gain = 1 / 32768  # 16-bit integers, written as floats
        yield rate, block if gain == 1.0 else block * np.float32(gain)


def _decoded(path: Path, rate_hz: int) -> Iterator[tuple[int, np.ndarray, bool]]:
    got = False
    try:
        for about, block in audio.decode(path):
            got = True
            yield about.sample_rate_hz, audio.mono(block), about.is_float
    except AudioError as e:
        if got or e.reason != UNKNOWN:
            raise
        if not shutil.which("ffmpeg"):
            raise AudioError(e.reason, f"{e.detail}; with FFmpeg on the PATH, what it decodes is read too") from None
        for block in _by_ffmpeg(path, rate_hz):
            yield rate_hz, block, False


def _by_ffmpeg(path: Path, rate_hz: int) -> Iterator[np.ndarray]:
    """The first sound track of a file, such as a video's."""
    wanted = ["-map", "0:a:0", "-ac", "1", "-ar", str(rate_hz), "-f", "f32le", "-"]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", f"file:{path}", *wanted]
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as running:
        assert running.stdout
        try:
            while data := running.stdout.read(4 * BLOCK_SAMPLES):
                yield np.frombuffer(data[: len(data) // 4 * 4], "<f4").copy()  # writable, as torch wants it
            if running.wait():
                said.seek(0)
                lines = said.read().decode(errors="replace").splitlines()
                if any("matches no streams" in line for line in lines):
                    raise AudioError("no sound in it")
                last = lines[-1].strip().replace(f"file:{path}: ", "") if lines else f"status {running.returncode}"
                raise AudioError("FFmpeg cannot read it", last)
        finally:
            running.kill()


def standard_input() -> Path:
    """What comes by the pipe, in a temporary file, because a container may say at its end what is in it. The caller removes it."""
    with tempfile.NamedTemporaryFile(prefix="birq-", delete=False) as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
    return Path(kept.name)
