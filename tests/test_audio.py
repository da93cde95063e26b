"""Reading audio: every format and rate ends as the same mono wave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birq.errors import BirqError
from birq.speech import audio, resampling

RATE = 16000


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def test_torchaudio_imports_and_its_extension_is_reported_absent():
    # its compiled part fails to load beside a CPU-only torch, and nothing here needs it
    torchaudio = resampling.torchaudio()
    from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE

    assert not _IS_TORCHAUDIO_EXT_AVAILABLE
    assert torchaudio.compliance.kaldi.fbank is not None
    with pytest.raises(RuntimeError, match="compiled extension"):
        torchaudio.functional.forced_align()


def test_lhotse_reads_bytes_from_memory_after_the_guarded_import(tmp_path: Path):
    # lhotse asks torchaudio for in-memory sources, and a broken torchaudio would raise there
    from lhotse import Recording

    resampling.torchaudio()
    soundfile.write(tmp_path / "a.flac", tone(RATE), RATE)
    recording = Recording.from_file(tmp_path / "a.flac").move_to_memory()
    assert recording.load_audio().shape == (1, RATE)


def test_equal_rates_are_read_to_the_bit_without_torch(tmp_path: Path):
    # 16-bit samples are multiples of 1/32768, which float32 holds exactly; torch takes seconds to import
    soundfile.write(tmp_path / "a.flac", tone(RATE), RATE, subtype="PCM_16")
    code = (
        "import sys, numpy as np; from birq.speech import audio; "
        f"w = audio.read({str(tmp_path / 'a.flac')!r}, {RATE}); assert w.dtype == np.float32; "
        "assert 'torch' not in sys.modules; print(int(np.abs(w * 32768).sum()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    samples, _ = soundfile.read(tmp_path / "a.flac", dtype="int16")
    assert int(found.stdout) == np.abs(samples.astype(int)).sum()


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_is_torchaudios(rate: int):
    # the wave is lengthened before the filter, with zeros that the filter would pad with itself: nothing may change
    import torch

    wave = np.random.default_rng(0).standard_normal(rate // 3 + 17).astype(np.float32)
    wanted = resampling.torchaudio().functional.resample(torch.from_numpy(wave).double(), rate, RATE).numpy()
    np.testing.assert_allclose(resampling.resample(wave, rate, RATE), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "rate", "subtype"),
    [("wav", 44100, "PCM_24"), ("flac", 48000, "PCM_16"), ("mp3", 16000, None), ("ogg", 22050, "VORBIS"), ("opus", 48000, "OPUS")],
)
def test_every_format_gives_the_same_tone(tmp_path: Path, suffix: str, rate: int, subtype: str | None):
    # what is in the air does not depend on the container, up to a lossy codec's error
    path = tmp_path / f"a.{suffix}"
    stereo = np.stack([tone(rate) * 1.5, tone(rate) * 0.5], axis=1)
    soundfile.write(path, stereo, rate, format="OGG" if suffix == "opus" else None, subtype=subtype)
    wave = audio.read(path, RATE)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert abs(len(wave) - RATE) < 0.1 * RATE
    middle = wave[RATE // 4 : RATE // 4 + RATE // 2]
    spectrum = np.abs(np.fft.rfft(middle))
    assert np.argmax(spectrum) == 440 * len(middle) // RATE
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_piece_is_the_whole_cut(tmp_path: Path):
    # offset and duration only choose samples
    soundfile.write(tmp_path / "a.wav", tone(RATE), RATE)
    whole = audio.read(tmp_path / "a.wav", RATE)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", RATE, 0.25, 0.5), whole[4000:12000])


def test_a_bad_file_is_named(tmp_path: Path):
    # the user must know which of a million files to replace
    (tmp_path / "bad.flac").write_bytes(b"this is no audio")
    with pytest.raises(BirqError, match=r"bad\.flac: no audio that birq reads \(text\); replace the file"):
        audio.read(tmp_path / "bad.flac", RATE)
    with pytest.raises(BirqError, match=r"gone\.flac.*no such file"):
        audio.read(tmp_path / "gone.flac", RATE)


def by_libsndfile(path: Path) -> tuple[np.ndarray | None, str]:
    """What soundfile alone gives: samples, or its complaint."""
    try:
        return soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1), ""
    except soundfile.LibsndfileError as e:
        return None, str(e)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_is_read_as_libsndfile_reads_it(tmp_path: Path, subtype: str, channels: int):
    # FLAC is lossless and up to 24 bits are exact in float32, so the decoder must not matter
    wave = np.random.default_rng(0).uniform(-1, 1, (12_345, channels)).astype(np.float32)
    wave[:9] = np.array([-1, 1, 0, -1, 1, 0.5, -0.5, 1, -1])[:, None]
    soundfile.write(tmp_path / "a.flac", wave, RATE, subtype=subtype)
    assert audio._whole_flac((tmp_path / "a.flac").read_bytes()) is not None
    np.testing.assert_array_equal(audio.read(tmp_path / "a.flac", RATE), by_libsndfile(tmp_path / "a.flac")[0])


def test_recorded_flac_is_read_as_libsndfile_reads_it():
    # encoders of other people's files use more of the format than ours does
    root = Path(__file__).resolve().parent.parent
    files = sorted(Path(os.environ.get("BIRQ_CORPORA", root.parent / "shared" / "corpora")).glob("**/*.flac"))
    if not files:
        pytest.skip("no real speech at hand; BIRQ_CORPORA says where it is")
    for path in files[:: max(1, len(files) // 40)]:
        np.testing.assert_array_equal(audio.read(path, RATE), by_libsndfile(path)[0])


def test_damaged_flac_is_refused(tmp_path: Path):
    # the fast decoder drops damaged frames silently: a file that is short of what its header promises is not its business
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.9, 0.9, 40_000), RATE, subtype="PCM_16")
    sound = path.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 0x40
    for data in (bytes(flipped), sound[: len(sound) // 2], sound[:60]):
        path.write_bytes(data)
        assert audio._whole_flac(data) is None
        with pytest.raises(BirqError, match=r"a\.flac: (unreadable|truncated)"):
            audio.read(path, RATE)
    path.write_bytes(sound)
    wanted = by_libsndfile(path)[0]
    path.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x00" + sound)
    np.testing.assert_array_equal(audio.read(path, RATE), wanted)
