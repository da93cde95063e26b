"""Audio files in: decoding, the mean of the channels, the wanted rate."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from birq.errors import BirqError
from birq.speech import containers
from birq.speech.resampling import resample
from birq.speech.streams import AudioError, Bytes, Stream, shown

BLOCK_FRAMES = 1 << 18
MAPPED_BYTES = 1 << 28  # files above it are mapped, not read into memory
WHOLE_FRAMES = 1 << 26  # longer FLAC is decoded in blocks


@dataclass(frozen=True)
class Sound:
    """What a stream's header says of its samples."""

    sample_rate_hz: int
    channels: int
    is_float: bool = False  # samples may lie outside of [-1, 1]


Block = tuple[Sound, np.ndarray]  # float32 [n, channels]


def decode(path: str | Path) -> Iterator[Block]:
    """A file's samples in blocks, to the end of its last stream, whatever lengths its header declares.

    WAV, FLAC, MP3, Ogg (Vorbis, Opus, FLAC), AIFF, AU, CAF, W64, SPHERE; recognised by content, not by name.
    Errors: AudioError, when the file cannot be read, is no audio, or is cut off; blocks before the damage have been given by then.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise AudioError("not a regular file")
        with open(path, "rb") as f:
            large = os.fstat(f.fileno()).st_size > MAPPED_BYTES
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if large else f.read()
        for stream in containers.streams(data):
            got = 0
            for sound, block in _decoded(path, stream, data):
                got += len(block)
                yield sound, block
            if stream.frames is not None and got != stream.frames:
                raise AudioError(
                    "truncated" if got < stream.frames else "wrong duration", f"{got} samples, the header says {stream.frames}"
                )
    except AudioError:
        raise
    except FileNotFoundError:
        raise AudioError("no audio", "a link to nothing" if os.path.islink(path) else "no such file") from None
    except OSError as e:
        raise AudioError("unreadable", e.strerror or str(e)) from None
    except Exception as e:  # libraries and parsers meet damaged bytes with errors of all kinds
        raise AudioError("unreadable", " ".join(f"{type(e).__name__}: {e}".split())) from e


def _decoded(path: str | Path, stream: Stream, data: Bytes) -> Iterator[Block]:
    """The samples of one stream."""
    if stream.decoder == "miniaudio":
        yield from _by_miniaudio(stream)
        return
    if data[:4] == b"fLaC" and stream.data is None and (whole := _whole_flac(data)):
        yield whole
        return
    import soundfile

    try:
        with soundfile.SoundFile(stream.open() or os.fsencode(path)) as f:
            sound = Sound(f.samplerate, f.channels, f.subtype in ("FLOAT", "DOUBLE"))
            while len(block := f.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield sound, block
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as e:
        why = e.error_string if isinstance(e, soundfile.LibsndfileError) else str(e)
        raise AudioError("unreadable", " ".join(why.split())) from None


def _by_miniaudio(stream: Stream) -> Iterator[Block]:
    """MP3 by dr_mp3, which decodes all frames that there are; libsndfile stops at a length that it has estimated."""
    import miniaudio

    assert isinstance(stream.data, bytes)
    try:
        info = miniaudio.mp3_get_info(stream.data)
        sound, kind = Sound(info.sample_rate, info.nchannels), miniaudio.SampleFormat.FLOAT32
        for samples in miniaudio.stream_memory(stream.data, kind, info.nchannels, info.sample_rate, frames_to_read=16384):
            yield sound, np.frombuffer(samples, np.float32).reshape(-1, info.nchannels)
    except miniaudio.MiniaudioError as e:
        raise AudioError("unreadable", f"MP3: {e}") from None


def _whole_flac(data: Bytes) -> Block | None:
    """A FLAC file by dr_flac, which takes 0.6 of libsndfile's time and gives the same samples to the bit.

    None for files that libsndfile must read: long ones, more than 24 bits, or fewer samples than the header promises. The last kind is
    damaged: dr_flac leaves out bad frames silently, libsndfile reports the error.
    """
    import miniaudio

    bits, promised = containers.flac_facts(data)
    if bits > 24 or not 0 < promised < WHOLE_FRAMES:
        return None
    try:
        decoded = miniaudio.flac_read_s16(data) if bits <= 16 else miniaudio.flac_read_f32(data)
    except miniaudio.DecodeError:
        return None
    if decoded.num_frames != promised:
        return None
    wave = np.frombuffer(decoded.samples, np.int16 if bits <= 16 else np.float32).reshape(-1, decoded.nchannels)
    return Sound(decoded.sample_rate, decoded.nchannels), (wave * np.float32(1 / 32768) if bits <= 16 else wave)


def mono(wave: np.ndarray) -> np.ndarray:
    """The mean of the channels: [n, channels] -> [n]."""
    return wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)


def read(path: str | Path, sample_rate_hz: int, offset_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Mono float32 samples [n], in [-1, 1] unless the file holds larger floats, at the wanted rate; channels are averaged.

    `offset_s` and `duration_s` cut a piece out (seconds). Errors: BirqError names a file that is missing or cannot be decoded.
    """
    try:
        rates, waves = set(), []
        begin = end = done = 0
        for sound, block in decode(path):
            rates.add(sound.sample_rate_hz)
            begin = round(offset_s * sound.sample_rate_hz)
            end = done + len(block) if duration_s is None else begin + round(duration_s * sound.sample_rate_hz)
            if done + len(block) > begin and done < end:
                waves.append(mono(block[max(begin - done, 0) : end - done]))
            done += len(block)
            if done >= end and duration_s is not None:
                break
        if len(rates) > 1:
            raise AudioError("wrong rate", f"the rate changes inside the file: {sorted(rates)} Hz")
    except AudioError as e:
        raise BirqError(f"{shown(path)}: {e}; replace the file, or take it out of the corpus and run again") from None
    if not waves:
        return np.empty(0, np.float32)
    return resample(waves[0] if len(waves) == 1 else np.concatenate(waves), rates.pop(), sample_rate_hz)
