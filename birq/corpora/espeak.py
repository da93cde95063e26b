"""espeak-ng through ctypes, in process: a sentence in, samples and exact phone times out."""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birq.errors import BirqError

AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS, INITIALIZE_DONT_EXIT = 0x0001, 0x8000
CHARS_UTF8 = 1
BUFFER_MS = 2000  # of audio per callback
RATE, PITCH = 1, 3
EVENT_END_OF_LIST, EVENT_PHONEME = 0, 7
LONGEST_DATA_PATH = 130  # espeak-ng keeps paths in fixed buffers of 160 bytes


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class PhoneEvent:
    """A phone as espeak-ng names it, where it starts (samples) and the character of the text that it belongs to (from 0)."""

    sample: int
    character: int
    name: str


class Espeak:
    """One espeak-ng library, loaded afresh for every utterance.

    espeak-ng keeps noise, flutter and echo going from one utterance to the next. Loading it again (0.3 ms) makes an utterance
    depend on its own text, voice, rate and pitch only, whatever was spoken before it or beside it.
    """

    def __init__(self, data: str) -> None:
        """`data`: espeak-ng's data folder, from `data_folder()`."""
        self._library, self._data = _loader().get_library_path(), data
        if not (Path(data) / "phontab").is_file():
            raise _no_espeak(f"its data at {data} lacks the file phontab")
        self._libc = ctypes.CDLL(None)
        self._wave: list[np.ndarray] = []
        self._phones: list[PhoneEvent] = []
        self._callback = _Callback(self._collect)
        with self._loaded() as (_, rate):
            self.sample_rate_hz = rate

    @contextlib.contextmanager
    def _loaded(self) -> Iterator[tuple[Any, int]]:
        """The library, fresh, and its sample rate; no reference to it may remain, or the next one would not be fresh."""
        try:
            lib = ctypes.CDLL(self._library)
        except OSError as e:
            raise _no_espeak(e) from e
        try:
            flags = INITIALIZE_PHONEME_EVENTS | INITIALIZE_DONT_EXIT
            rate = lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, self._data.encode(), flags)
            if rate <= 0:
                raise _no_espeak(f"its data at {self._data} cannot be used")
            lib.espeak_SetSynthCallback(self._callback)
            # espeak-ng seeds its noise from the clock; its Klatt voices draw from the C library
            lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
            self._libc.srand(1)
            yield lib, int(rate)
        finally:
            lib.espeak_Terminate()
            _ctypes.dlclose(lib._handle)

    def _collect(self, wave: Any, n: int, events: Any) -> int:
        if n > 0 and wave:
            self._wave.append(np.ctypeslib.as_array(wave, (n,)).copy())
        i = 0
        while events[i].type != EVENT_END_OF_LIST:
            e = events[i]
            if e.type == EVENT_PHONEME:
                self._phones.append(PhoneEvent(e.sample, max(0, e.text_position - 1), bytes(e.id.string).decode("utf-8", "replace")))
            i += 1
        return 0

    def speak(self, text: str, voice: str, speed_wpm: int, pitch: int) -> tuple[np.ndarray, list[PhoneEvent]]:
        """Synthesise `text` with `voice` (such as `gmw/en-US+f1`) -> int16 samples [n] at `sample_rate_hz`, phone events in order."""
        self._wave, self._phones = [], []
        with self._loaded() as (lib, _):
            if lib.espeak_SetVoiceByName(voice.encode()) != 0:
                raise _no_espeak(f"it has no voice {voice!r}")
            lib.espeak_SetParameter(RATE, speed_wpm, 0)
            lib.espeak_SetParameter(PITCH, pitch, 0)
            data = text.encode("utf-8") + b"\0"
            if lib.espeak_Synth(data, len(data), 0, 1, 0, CHARS_UTF8, None, None) != 0 or not self._wave:
                raise BirqError(f"espeak-ng spoke nothing for {text!r} with voice {voice!r}; install espeakng-loader again")
        return np.concatenate(self._wave), self._phones


def _no_espeak(why: object) -> BirqError:
    return BirqError(
        f"espeak-ng cannot be used: {why}; install it again (`pip install --force-reinstall espeakng-loader`), "
        "or take a corpus of recorded speech (`python -m birq preset an4`)"
    )


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError as e:
        raise _no_espeak(e) from e
    return espeakng_loader


@contextlib.contextmanager
def data_folder() -> Iterator[str]:
    """Path of espeak-ng's data; where it is too long for espeak-ng's buffers, a link in the temporary folder stands for it."""
    try:
        path = _loader().get_data_path()
    except RuntimeError as e:
        raise _no_espeak(e) from e
    if len(os.fsencode(path)) <= LONGEST_DATA_PATH:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="birq-") as folder:
        link = Path(folder) / "espeak-ng-data"
        link.symlink_to(path, target_is_directory=True)
        yield str(link)
