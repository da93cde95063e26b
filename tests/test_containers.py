"""Decoding to the end, whatever a header declares; another decoder's lengths are the oracle."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birq.corpora import check
from birq.speech import audio, mpeg
from birq.speech.streams import AudioError

RATE, SECONDS = 16000, 3.2
TOLERANCE_S = 0.13  # of lossy codecs: delay and padding of the encoder, which some decoders cut off
TOOLS = ("ffmpeg", "sox", "lame", "flac", "opusenc")
need_tools = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}: apt-get install ffmpeg sox libsox-fmt-all lame flac opus-tools"
)
# name: how it is made of {s}, a WAV file, by a shell in an empty folder
WHOLE = {
    "sox.wav": "sox {s} -t wav - | cat > OUT",
    "ffmpeg.wav": "ffmpeg -v quiet -i {s} -f wav - | cat > OUT",
    "mu-law.wav": "ffmpeg -v quiet -i {s} -c:a pcm_mulaw -f wav - | cat > OUT",
    "double.wav": "ffmpeg -v quiet -i {s} -c:a pcm_f64le -f wav - | cat > OUT",
    "ima.wav": "ffmpeg -v quiet -i {s} -c:a adpcm_ima_wav -f wav - | cat > OUT",
    "ms.wav": "sox {s} -e ms-adpcm -t wav - | cat > OUT",
    "gsm.wav": "sox {s} -e gsm-full-rate -r 8000 -t wav - | cat > OUT",
    "mp3-inside.wav": "ffmpeg -v quiet -i {s} -c:a mp3 OUT",
    "tags.wav": "ffmpeg -v quiet -i {s} -metadata title=T OUT",
    "pipe.caf": "ffmpeg -v quiet -i {s} -f caf - | cat > OUT",
    "pipe.au": "sox {s} -t au - | cat > OUT",
    "pipe.aiff": "sox {s} -t aiff - | cat > OUT",
    "plain.flac": "flac -s {s} -o OUT",
    "flac.flac": "flac -s --stdout {s} | cat > OUT",
    "ffmpeg.flac": "ffmpeg -v quiet -i {s} -f flac - | cat > OUT",
    "sox.flac": "sox {s} -t flac - | cat > OUT",
    "tagged.flac": "flac -s {s} -o a && (printf 'ID3\\4\\0\\0\\0\\0\\0\\12'; head -c 10 /dev/zero; cat a) > OUT",
    "vorbis.ogg": "ffmpeg -v quiet -i {s} -c:a libvorbis -f ogg - | cat > OUT",
    "opus.opus": "opusenc --quiet {s} OUT",
    "ffmpeg.opus": "ffmpeg -v quiet -i {s} -c:a libopus -f ogg - | cat > OUT",
    "flac.oga": "ffmpeg -v quiet -i {s} -c:a flac -f ogg - | cat > OUT",
    "video.ogg": "ffmpeg -v quiet -f lavfi -i testsrc=d=3:s=64x64:r=5 -i {s} -c:v libtheora -c:a libvorbis OUT",
    "vbr.mp3": "lame --quiet -V 4 {s} OUT",
    "vbr-no-xing.mp3": "lame --quiet -V 4 -t {s} OUT",
    "abr-no-xing.mp3": "lame --quiet --abr 40 -t {s} OUT",
    "cbr-no-xing.mp3": "lame --quiet -b 64 -t {s} OUT",
    "ffmpeg.mp3": "ffmpeg -v quiet -i {s} -f mp3 - | cat > OUT",
    "sox.mp3": "sox {s} -t mp3 - | cat > OUT",
    "checksum.mp3": "lame --quiet -p -b 64 {s} OUT",
    "padded.mp3": "lame --quiet -b 64 --add-id3v2 --tt T --pad-id3v2-size 90000 {s} OUT",
    "length.mp3": "lame --quiet -V 4 --ta y --tv TLEN=999999 --id3v2-only {s} OUT",
    "tag-behind.mp3": "lame --quiet -V 4 {s} a && (cat a; printf TAG; head -c 125 /dev/zero) > OUT",
    "garbage-behind.mp3": "lame --quiet -V 4 {s} a && (cat a; head -c 3000 /dev/urandom) > OUT",
    "zeros-before.mp3": "lame --quiet -V 4 -t {s} a && (head -c 700 /dev/zero; cat a) > OUT",
    "layer-2.mp3": "ffmpeg -v quiet -i {s} -c:a mp2 -f mp2 OUT",
    "wav-called.flac": "cp {s} OUT",
    "mp3-called.wav": "lame --quiet -V 4 {s} OUT",
    "flac-called.mp3": "flac -s {s} -o a && mv a OUT",
} | {f"{hz}.mp3": f"lame --quiet -V 5 -t --resample {hz} {{s}} OUT" for hz in (8, 11.025, 12, 22.05, 24, 32, 44.1, 48)}
JOINED = {  # two files, one after the other: both are heard
    "joined.wav": "cat {s} {s} > OUT",
    "joined.flac": "flac -s {s} -o a && cat a a > OUT",
    "joined-xing.mp3": "lame --quiet -V 4 {s} a && cat a a > OUT",
    "joined-plain.mp3": "lame --quiet -b 64 -t {s} a && cat a a > OUT",
    "joined-xing-plain.mp3": "lame --quiet -V 4 {s} a && lame --quiet -b 32 -t {s} b && cat a b > OUT",
    "joined-plain-xing.mp3": "lame --quiet -V 4 {s} a && lame --quiet -b 32 -t {s} b && cat b a > OUT",
    "joined-tags.mp3": "lame --quiet -b 64 --add-id3v2 --tt T --pad-id3v2-size 90000 {s} a && cat a a > OUT",
    "chained.ogg": "ffmpeg -v quiet -i {s} -c:a libvorbis a.ogg && cat a.ogg a.ogg > OUT",
    "chained.opus": "opusenc --quiet --serial 1 {s} a && opusenc --quiet --serial 2 {s} b && cat a b > OUT",
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV file with something new in every frame."""
    path = tmp_path_factory.mktemp("source") / "s.wav"
    n = round(RATE * SECONDS)
    wave = 0.3 * np.sin(np.cumsum(np.linspace(0.05, 0.6, n))) + 0.05 * np.random.default_rng(0).standard_normal(n)
    soundfile.write(path, wave, RATE)
    return path


def made(folder: Path, name: str, command: str, source: Path) -> Path:
    command = command.replace("{s}", str(source)).replace("OUT", name)
    subprocess.run(command, shell=True, check=True, cwd=folder, stderr=subprocess.DEVNULL)
    return folder / name


def seconds(path: Path) -> float:
    return sum(len(block) / sound.sample_rate_hz for sound, block in audio.decode(path))


def seconds_by_ffmpeg(path: Path) -> float:
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", "16000", "-"]
    return len(subprocess.run(command, check=True, capture_output=True).stdout) / 2 / 16000


@need_tools
@pytest.mark.parametrize("name", WHOLE)
def test_all_of_a_file_is_decoded(tmp_path: Path, speech: Path, name: str):
    """Lengths in headers may be missing, placeholders or estimates; what was spoken is there all the same."""
    path = made(tmp_path, name, WHOLE[name], speech)
    found = seconds(path)
    tolerance_s = TOLERANCE_S if name not in ("8.mp3", "11.025.mp3") else 0.3  # the delay is a number of samples
    assert found == pytest.approx(SECONDS, abs=tolerance_s)
    assert found == pytest.approx(seconds_by_ffmpeg(path), abs=0.09)
    assert len(audio.read(path, RATE)) / RATE == pytest.approx(found, abs=0.001)
    assert check.listen(path).reason is None


@need_tools
@pytest.mark.parametrize("name", JOINED)
def test_joined_files_are_decoded_to_the_end(tmp_path: Path, speech: Path, name: str):
    """Recorders and `cat` join files; the first one's header knows nothing of the second."""
    path = made(tmp_path, name, JOINED[name], speech)
    assert seconds(path) == pytest.approx(2 * SECONDS, abs=2 * TOLERANCE_S)
    wave = audio.read(path, RATE)
    half = len(wave) // 2
    first, second = (np.abs(np.fft.rfft(w * np.hanning(len(w)), 1 << 16)) for w in (wave[:half], wave[half:]))
    assert np.corrcoef(first, second)[0, 1] > 0.9  # the same is said twice


@need_tools
def test_a_hole_in_an_mp3_file_is_set_aside(tmp_path: Path, speech: Path):
    """A download that skipped a block left zeros there; what was said meanwhile is lost."""
    path = made(tmp_path, "a.mp3", "lame --quiet -b 64 -t {s} OUT", speech)
    data = bytearray(path.read_bytes())
    data[8000:12000] = bytes(4000)
    path.write_bytes(data)
    assert check.listen(path).reason == "unreadable"


@need_tools
def test_joined_rates_are_set_aside(tmp_path: Path, speech: Path):
    """One recording has one rate; the second part would be heard too fast or too slow."""
    path = made(tmp_path, "a.mp3", "lame --quiet -V 4 {s} a && lame --quiet -V 4 --resample 22.05 {s} b && cat a b > OUT", speech)
    assert check.listen(path).reason == "wrong rate"


def riff(samples: np.ndarray, declared: int | None = None, behind: bytes = b"", size: int | None = None) -> bytes:
    body = samples.astype("<i2").tobytes()
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    data = b"data" + struct.pack("<I", len(body) if declared is None else declared) + body + behind
    return b"RIFF" + struct.pack("<I", len(head + data) if size is None else size) + head + data


WAVE = np.round(9000 * np.sin(np.arange(8000) / 7)).astype(np.int16)
INFO = b"LIST" + struct.pack("<I", 4) + b"INFO"


@pytest.mark.parametrize("declared", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF - 36])
def test_a_placeholder_is_no_length(tmp_path: Path, declared: int):
    """Writers to a pipe leave 0 or the largest number, less the header or not."""
    (tmp_path / "a.wav").write_bytes(riff(WAVE, declared, size=min(declared + 36, 0xFFFFFFFF)))
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", RATE) * 32768, WAVE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (riff(WAVE, 2 * len(WAVE) + 2), "truncated"),
        (riff(WAVE)[:-1001], "truncated"),
        (riff(WAVE[:0]), "empty"),
        (riff(WAVE[:0], behind=INFO), "empty"),
        (riff(WAVE[:4000], behind=WAVE.tobytes()), "wrong duration"),  # a recorder that was killed after it wrote the length
        (riff(WAVE)[:30], "unreadable"),
        (b"", "empty"),
    ],
)
def test_a_wav_file_that_is_not_whole_is_set_aside(tmp_path: Path, content: bytes, reason: str):
    """A length that was written on purpose is believed: less is damage, and much more is not what it says."""
    (tmp_path / "a.wav").write_bytes(content)
    assert check.listen(tmp_path / "a.wav").reason == reason


@pytest.mark.parametrize("behind", [INFO, b"\x01\x02garbage" * 20, b"\0"])
def test_what_lies_behind_the_sound_is_no_sound(tmp_path: Path, behind: bytes):
    (tmp_path / "a.wav").write_bytes(riff(WAVE, behind=behind))
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav", RATE) * 32768, WAVE)


@need_tools
@pytest.mark.parametrize("kind", ["flac", "opus", "ogg", "mp3"])
def test_a_file_that_was_cut_off_is_set_aside(tmp_path: Path, speech: Path, kind: str):
    """Where the format can tell, half a file is no recording."""
    encoders = {"flac": "flac -s {s} -o OUT", "opus": "opusenc --quiet {s} OUT", "mp3": "lame --quiet -V 4 {s} OUT"}
    path = made(tmp_path, f"a.{kind}", encoders.get(kind, "ffmpeg -v quiet -i {s} -c:a libvorbis OUT"), speech)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert check.listen(path).reason in ("truncated", "unreadable")


CONTENT: dict[str, tuple[bytes | Callable[[Path], None], str]] = {
    "page.mp3": (b"\n<!DOCTYPE html><html>404</html>", "HTML"),
    "error.flac": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "text.wav": (b"no audio at all", "text"),
    "lfs.wav": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
    "annex.wav": (b"/annex/objects/MD5E-s1--0.wav\n", "git annex get"),
    "phone.wav": (b"\0\0\0\x1cftypM4A \0\0\0\0" + bytes(100), "M4A"),
    "browser.ogg": (b"\x1aE\xdf\xa3" + bytes(100), "WebM"),
    "aac.mp3": (b"\xff\xf1\x50\x80" * 50, "AAC"),
    "zip.wav": (b"PK\x03\x04" + bytes(100), "zip"),
    "random.mp3": (np.random.default_rng(0).bytes(50_000), "no known kind"),
    "zeros.flac": (bytes(5000), "no known kind"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content_that_is_no_audio_is_named(tmp_path: Path, name: str):
    """The name of a file says what somebody hoped for; the reason says what is in it."""
    content, shown = CONTENT[name]
    assert isinstance(content, bytes)
    (tmp_path / name).write_bytes(content)
    sound = check.listen(tmp_path / name)
    assert sound.reason == "no audio that birq reads" and shown in sound.detail


def test_no_content_makes_the_decoder_fail_otherwise(tmp_path: Path):
    """Whatever bytes a file has, a recording is heard or a reason is given; nothing else is raised, and no time is lost in a loop."""
    rng = np.random.default_rng(1)
    starts = [
        riff(WAVE)[:44],
        b"fLaC\0\0\0\x22" + bytes(34),
        b"OggS\0\2" + bytes(21),
        b"ID3\4\0\0\0\0\x0f\x7f",
        b"\xff\xfb\x90\x00",
        b"caff\0\1\0\0",
    ]
    whole = riff(WAVE)
    for n in range(120):
        data = bytearray(starts[n % len(starts)] + rng.bytes(int(rng.integers(0, 3000))) if n % 2 else whole)
        for at in rng.integers(0, min(len(data), 80), 3):
            data[at] = rng.integers(256)
        (tmp_path / "a").write_bytes(bytes(data))
        try:
            for _, block in audio.decode(tmp_path / "a"):
                assert block.ndim == 2
        except AudioError as e:
            assert e.reason


def test_frames_are_found_by_two_in_a_row():
    """A sync word by chance, such as in a picture's bytes, has no like one where its frame would end."""
    frame = b"\xff\xfb\x90\x00" + bytes(413)  # 128 kbit/s, 44,100 Hz: 417 bytes
    junk = b"\xff\xfb\x90\x00" + bytes(100)
    found = list(mpeg._frames(junk + frame * 3, 0))
    assert [f.begin for f in found] == [104, 104 + 417, 104 + 2 * 417]
    assert [s.frames for s in mpeg.streams(frame * 5, 0) or []] == [None]
    assert mpeg.streams(junk, 0) is None


# ---- the level


def level(tmp_path: Path, wave: np.ndarray, subtype: str = "FLOAT") -> check.Sound:
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype=subtype)
    return check.listen(tmp_path / "a.wav")


TONE = 0.3 * np.sin(np.arange(RATE) / 7)


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (0 * TONE, "silent"),
        (0 * TONE + 0.5, "silent"),
        (TONE * 1e-4, "silent"),
        (np.stack([TONE, -TONE], 1), "channels cancel each other"),
        (np.stack([TONE, -0.98 * TONE], 1), "channels cancel each other"),
        (TONE * 1e12, "wrong scale"),
        (TONE * 100, "wrong scale"),
        (TONE * 8388608, "wrong scale"),
        (np.where(np.arange(RATE) == 99, np.nan, TONE), "non-finite samples"),
        (np.where(np.arange(RATE) == 99, np.inf, TONE), "non-finite samples"),
        (TONE * 0.01, None),
        (TONE + 0.5, None),
        (TONE * 5, None),  # a mix that goes beyond 1
        (np.stack([TONE, 0 * TONE], 1), None),
        (np.random.default_rng(0).standard_normal((RATE, 8)) * 0.05, None),  # eight microphones that have nothing in common
    ],
)
def test_sound_is_judged_as_features_see_it(tmp_path: Path, wave: np.ndarray, reason: str | None):
    """A training on silence ends with an accuracy of 1 and has learned nothing; the mean of the channels is what is heard."""
    assert level(tmp_path, wave).reason == reason


def test_floats_at_the_scale_of_integers_are_scaled(tmp_path: Path):
    """Some programs write 16-bit integers as floats; the intent is sure, and features are those of the usual scale."""
    sound = level(tmp_path, TONE * 32768)
    assert (sound.reason, sound.gain) == (None, 1 / 32768)
    assert level(tmp_path, TONE).gain == 1
