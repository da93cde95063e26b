"""From files of any kind and length to transcripts: word times, seams of long recordings, formats, bad files among good ones."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tiny
from recognisers import add_language_model, front_end, sweep, untrained

from birq.__main__ import main
from birq.settings.params import parse
from birq.speech.streams import AudioError
from birq.text import tokenizer
from birq.use import alignment, formats, models, sound
from birq.use.cutting import LONGEST_S, OVERLAP_S, Piece, join, pieces
from birq.use.recogniser import Heard, Recogniser, Transcript
from birq.use.words import Word, of_tokens, timed

RATE = 8000
BURST_S = 0.3
LETTERS = "abcdefgh"

# ---- alignment


def log_probabilities(rng: np.random.Generator, n_frames: int, n_units: int) -> np.ndarray:
    raw = rng.standard_normal((n_frames, n_units)) * 2
    return (raw - np.log(np.exp(raw).sum(1, keepdims=True))).astype(np.float32)


def test_the_alignment_is_the_best_of_all_paths() -> None:
    """Against every path that CTC allows, for short sequences with and without repeated tokens."""
    rng = np.random.default_rng(0)
    for n_frames, ids in itertools.product(range(1, 7), ([0], [0, 1], [1, 1], [2, 0, 2], [0, 0, 1])):
        logp_TV = log_probabilities(rng, n_frames, 4)
        paths = [p for p in itertools.product(range(4), repeat=n_frames) if [u for u, _ in itertools.groupby(p) if u != 3] == list(ids)]
        found = alignment.spans(logp_TV, ids, blank=3)
        if not paths:
            assert found is None
            continue
        best = max(sum(logp_TV[t, u] for t, u in enumerate(p)) for p in paths)
        path = np.full(n_frames, 3)
        for unit, (begin, end) in zip(ids, found, strict=True):
            assert begin < end
            path[begin:end] = unit
        assert [u for u, _ in itertools.groupby(path.tolist()) if u != 3] == list(ids)
        assert sum(logp_TV[t, u] for t, u in enumerate(path)) == pytest.approx(best, abs=1e-5)


def test_no_token_has_no_span() -> None:
    assert alignment.spans(np.zeros((3, 4), np.float32), [], 3).shape == (0, 2)
    assert alignment.spans(np.zeros((0, 4), np.float32), [1], 3) is None


def test_words_have_their_tokens_whatever_spaces_are_said() -> None:
    letters = tokenizer.characters("ab ")
    ids = [letters.vocab.index(c) for c in "  ab  b a "]
    assert of_tokens(letters, ids) == [[2, 3], [6], [8]]
    pieces_ = tokenizer.pieces("bpe", ["abab ab b aab"] * 20, 12, "ab ")
    for text in ("ab b", "aab abab", "b"):
        coded = pieces_.encode(text)
        words = ["".join(pieces_.vocab[coded[p]] for p in positions).replace("▁", "") for positions in of_tokens(pieces_, coded)]
        assert words == text.split()


def test_a_word_lasts_from_its_first_to_its_last_token() -> None:
    letters = tokenizer.characters("ab ")
    space, a, b, blank = 0, 1, 2, 3
    path = [blank, a, a, blank, b, space, blank, b, blank]
    logp_TV = np.full((len(path), 4), np.log(0.1), np.float32)
    logp_TV[range(len(path)), path] = np.log([0.7, 0.7, 0.5, 0.7, 0.7, 0.7, 0.7, 0.4, 0.7])
    words = timed(logp_TV, [a, b, space, b], letters, 0.04, 1.0)
    assert [w.text for w in words] == ["ab", "b"]
    assert [(w.start_s, w.end_s) for w in words] == [pytest.approx((1.04, 1.2)), pytest.approx((1.28, 1.32))]
    assert words[0].confidence == pytest.approx((0.7 * 0.5 * 0.7) ** (1 / 3)) and words[1].confidence == pytest.approx(0.4)


# ---- long recordings


def blocks_of(wave: np.ndarray, size: int) -> list[np.ndarray]:
    return [wave[i : i + size] for i in range(0, len(wave), size)]


@pytest.mark.parametrize("size", [1, 700, 100_000])
def test_pieces_cover_the_recording_and_overlap(size: int) -> None:
    rng = np.random.default_rng(1)
    wave = rng.standard_normal(300 if size == 1 else 37 * 100).astype(np.float32)
    rate, longest = 10 if size == 1 else 100, 8.0
    made = list(pieces(blocks_of(wave, size), rate, longest))
    assert len(made) > 3 and made[0].begin_s == 0 and made[-1].end_s == pytest.approx(len(wave) / rate) and made[-1].cut_s == np.inf
    for piece in made:
        begin = round(piece.begin_s * rate)
        np.testing.assert_array_equal(piece.samples, wave[begin : begin + len(piece.samples)])
        assert piece.seconds <= longest
    for left, right in itertools.pairwise(made):
        assert left.end_s - right.begin_s == pytest.approx(OVERLAP_S) and left.cut_s - right.begin_s == pytest.approx(OVERLAP_S / 2)


def test_a_recording_is_cut_where_it_is_quietest() -> None:
    wave = np.ones(60 * RATE, np.float32)
    quiet_s = [(12.0, 12.5), (25.3, 25.9)]
    for begin, end in quiet_s:
        wave[round(begin * RATE) : round(end * RATE)] = 0.01
    cuts = [p.cut_s for p in pieces([wave], RATE, 16.0)][:-1]
    assert 12.0 < cuts[0] < 12.5 and 25.3 < cuts[1] < 25.9


def test_what_the_pipeline_hears_whole_is_one_piece() -> None:
    wave = np.zeros(round(LONGEST_S * RATE), np.float32)
    assert len(list(pieces([wave], RATE))) == 1 and not list(pieces([], RATE))
    assert parse(tiny.tree(features__max_seconds=35.0)).features.max_seconds == LONGEST_S


class ByEar(Recogniser):
    """Hears bursts of tones as words, also those that a piece has only a part of, each a little too early or late."""

    def __init__(self, jitter_s: float):
        self.rng, self.jitter_s = np.random.default_rng(2), jitter_s

    def _batch(self, cut: list[Piece], batch_seconds: float) -> list[Heard]:
        return [Heard(self._words(p), [], p.cut_s, p.end_s) for p in cut]

    def _words(self, piece: Piece) -> list[Word]:
        step = RATE // 100
        frames = piece.samples[: len(piece.samples) // step * step].reshape(-1, step)
        tone = np.round(frames.max(1) * 10).astype(int)  # the loudness tells the word
        words, at = [], 0
        for value, group in itertools.groupby(tone.tolist()):
            n = len(list(group))
            if value:
                start = piece.begin_s + at / 100 + self.rng.uniform(-self.jitter_s, self.jitter_s)
                words.append(Word(LETTERS[value - 1], start, start + n / 100, self.rng.random()))
            at += n
        return words


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("jitter_s", [0.0, 0.07])
def test_no_word_is_lost_or_doubled_at_a_seam(pause_s: float, jitter_s: float) -> None:
    """Three minutes of words, with pauses and without, in pieces of any length: the text is that of the undivided recording."""
    rng = np.random.default_rng(3)
    said = [int(v) for v in rng.integers(1, len(LETTERS) + 1, 400)]
    said = [v if v != before else v % len(LETTERS) + 1 for before, v in zip([0, *said], said, strict=False)]
    said = [v for v, _ in itertools.groupby(said)]  # without a pause, equal neighbours would be one burst
    burst, pause = round(BURST_S * RATE), np.zeros(round(pause_s * RATE), np.float32)
    wave = np.concatenate([np.concatenate([np.full(burst, v / 10, np.float32), pause]) for v in said])
    for longest in (5.0, 7.3, 10.0, 20.0, 1000.0):
        heard = [h for _, h in ByEar(jitter_s).hear((("", p) for p in pieces(blocks_of(wave, 3000), RATE, longest)), 30.0)]
        assert "".join(w.text for w in Transcript.of(heard).words) == "".join(LETTERS[v - 1] for v in said)


def test_a_word_that_both_pieces_leave_or_claim_is_kept_once() -> None:
    def word(text: str, middle: float, sure: float) -> Word:
        return Word(text, middle - 0.1, middle + 0.1, sure)

    left = [word("a", 9.0, 1.0), word("b", 10.02, 0.6)]  # after the cut at 10
    right = [word("d", 9.98, 0.7), word("c", 11.0, 1.0)]  # before it
    assert [w.text for w in join([(10.0, left), (np.inf, right)])] == ["a", "d", "c"]
    left, right = [word("a", 9.0, 1.0), word("b", 9.98, 0.6)], [word("b", 10.02, 0.7), word("c", 11.0, 1.0)]
    assert [w.text for w in join([(10.0, left), (np.inf, right)])] == ["a", "b", "c"]
    assert join([]) == []


# ---- formats


def transcript(words: list[tuple[str, float, float]]) -> Transcript:
    made = [Word(text, start, end, 0.5) for text, start, end in words]
    text = " ".join(w.text for w in made)
    return Transcript(made, [Heard(made, [(text, -1.5), ("other", -2.5)], np.inf, 10.0)])


def test_formats() -> None:
    said = transcript([("hello", 0.5, 0.9), ("there", 1.0, 1.25), ("after", 3661.0, 3661.5)])
    assert formats.txt(said, "x") == "hello there after\n"
    assert formats.srt(said, "x") == ("1\n00:00:00,500 --> 00:00:01,250\nhello there\n\n2\n01:01:01,000 --> 01:01:01,500\nafter\n")
    assert formats.vtt(said, "x") == ("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\nhello there\n\n01:01:01.000 --> 01:01:01.500\nafter\n")
    assert formats.tsv(said, "x").splitlines()[1:] == [
        "500\t900\t0.5000\thello", "1000\t1250\t0.5000\tthere", "3661000\t3661500\t0.5000\tafter",
    ]  # fmt: skip
    made = json.loads(formats.as_json(said, "x.wav"))
    assert made["file"] == "x.wav" and made["text"] == said.text and [w["word"] for w in made["words"]] == said.text.split()
    assert [b["text"] for b in made["pieces"][0]["n_best"]] == [said.text, "other"]


def test_silence_has_valid_files() -> None:
    nothing = transcript([])
    assert formats.txt(nothing, "x") == "\n" and formats.srt(nothing, "x") == "" and formats.vtt(nothing, "x") == "WEBVTT\n"
    assert json.loads(formats.as_json(nothing, "x"))["words"] == []


def test_captions_are_short_and_do_not_overlap() -> None:
    rng = np.random.default_rng(4)
    starts = np.cumsum(rng.uniform(0.1, 1.2, 300))
    words = [Word("word" * int(rng.integers(1, 4)), s, s + 0.05, 1.0) for s in starts]
    made = list(formats.captions(words))
    assert " ".join(text for _, _, text in made) == " ".join(w.text for w in words)
    for (begin, end, text), (after, _, _) in itertools.pairwise(made):
        assert begin < end <= after and len(text) <= formats.CAPTION_CHARACTERS and end - begin <= formats.CAPTION_S + formats.LEAST_S


# ---- the verb


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("finetune") / "birq-0", front_end())


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A folder with two recordings and one below."""
    folder = tmp_path / "speech"
    (folder / "more").mkdir(parents=True)
    for seed, (name, seconds) in enumerate((("a.wav", 1.5), ("b.flac", 4.0), ("more/a.ogg", 1.0))):
        soundfile.write(folder / name, sweep(seconds, seed), 16000)
    return folder


def transcribe(capfd: pytest.CaptureFixture[str], *given: str | Path) -> SimpleNamespace:
    capfd.readouterr()
    status = main(["transcribe", *map(str, given)])
    out, err = capfd.readouterr()
    return SimpleNamespace(status=status, out=out, errors=[line for line in err.splitlines() if line.startswith("error")], err=err)


def test_files_are_printed_or_written(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = transcribe(capfd, speech / "a.wav", "--model", model)
    samples, rate = soundfile.read(speech / "a.wav", dtype="float32")
    text = Recogniser.load(model).transcribe(samples, rate).text
    assert (one.status, one.out, one.errors) == (0, f"{text}\n", []) and text
    both = transcribe(capfd, speech, "--model", model)
    assert [line.split("\t")[0] for line in both.out.splitlines()] == [str(speech / f) for f in ("a.wav", "b.flac", "more/a.ogg")]
    assert both.out.splitlines()[0].split("\t")[1] == text
    kept = tmp_path / "out"
    assert transcribe(capfd, speech, "--model", model, "-f", "txt,srt,vtt,tsv,json", "-o", kept).status == 0
    names = sorted(str(p.relative_to(kept)) for p in kept.rglob("*") if p.is_file())
    assert names == sorted(f"{stem}.{kind}" for stem in ("a", "b", "more/a") for kind in formats.FORMATS)
    assert (kept / "a.txt").read_text() == one.out


def test_words_and_confidences_are_of_equal_number(model: Path, speech: Path) -> None:
    samples, rate = soundfile.read(speech / "b.flac", dtype="float32")
    heard = Recogniser.load(model).transcribe(samples, rate)
    assert heard.text.split() == [w.text for w in heard.words] and len(heard.words) > 2 and heard.seconds == 4.0
    assert all(0 <= w.start_s < w.end_s <= 4.05 and 0 < w.confidence <= 1 for w in heard.words)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in itertools.pairwise(heard.words))


def test_one_bad_file_does_not_stop_the_others(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (speech / "empty.wav").touch()
    (speech / "text.wav").write_text("no audio at all")
    whole = (speech / "b.flac").read_bytes()
    (speech / "cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(speech / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(speech / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(speech / "short.wav", np.zeros(3), 16000)
    soundfile.write(speech / "integers.wav", 3000 * np.random.default_rng(6).standard_normal(16000), 16000, subtype="FLOAT")
    out = tmp_path / "out"
    got = transcribe(capfd, tmp_path / "nothing.wav", speech, "--model", model, "-o", out)
    assert got.status == 1
    wrong = {line.split(": ")[1].rpartition("/")[2] for line in got.errors}
    assert wrong == {"nothing.wav", "empty.wav", "text.wav", "cut.flac", "nan.wav"}
    assert all(str(tmp_path) in line and len(line.splitlines()) == 1 for line in got.errors)
    made = {str(p.relative_to(out)) for p in out.rglob("*.txt")}
    assert made >= {"a.txt", "b.txt", "more/a.txt", "silent.txt", "short.txt", "integers.txt"} and "text.txt" not in made


def test_what_comes_before_the_damage_is_transcribed(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many pieces, and within the first one."""
    wave = sweep(90.0, 3).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: round(0.7 * len(whole))])
    got = transcribe(capfd, tmp_path / "cut.flac", "--model", model)
    before = float(got.errors[0].split("; the ")[1].split()[0])
    assert got.status == 1 and 30 < before < 70 and "unreadable" in got.errors[0]
    wave, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert got.out.split()[:20] == Recogniser.load(model).transcribe(wave, 16000).text.split()[:20]

    def damaged(path: Path, rate_hz: int) -> Iterator[tuple[int, np.ndarray]]:
        yield 16000, wave[: 3 * 16000]
        raise AudioError("unreadable", "after three seconds")

    monkeypatch.setattr(sound, "blocks", damaged)
    got = transcribe(capfd, tmp_path / "a.flac", "--model", model)
    assert got.errors[0].endswith("unreadable (after three seconds); the 3.0 s before it are transcribed")
    assert got.out == Recogniser.load(model).transcribe(wave[: 3 * 16000], 16000).text + "\n"


def test_two_files_of_one_output(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    got = transcribe(capfd, speech / "a.wav", speech / "more" / "a.ogg", "--model", model, "-o", tmp_path / "out")
    assert got.status == 1 and len(got.errors) == 1 and "a.ogg" in got.errors[0] and "overwrite that of" in got.errors[0]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_what_is_done_is_skipped(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    transcribe(capfd, speech / "a.wav", "--model", model, "-o", out)
    (out / "a.txt").write_text("kept")
    got = transcribe(capfd, speech, "--model", model, "-o", out, "--skip")
    assert got.status == 0 and (out / "a.txt").read_text() == "kept" and (out / "b.txt").exists()
    again = transcribe(capfd, speech / "a.wav", "--model", model, "-o", out)
    assert again.status == 1 and "--overwrite replaces it" in again.errors[0] and (out / "a.txt").read_text() == "kept"
    assert transcribe(capfd, speech, "--model", model, "-o", out, "--overwrite").status == 0 and (out / "a.txt").read_text() != "kept"


def test_an_output_that_cannot_be_written(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "more").touch()  # a file where a folder is needed: so even for root
    got = transcribe(capfd, speech, "--model", model, "-o", out)
    assert got.status == 1 and len(got.errors) == 1 and "cannot be written" in got.errors[0]
    assert {p.name for p in out.glob("*.txt")} == {"a.txt", "b.txt"}


def test_standard_input(model: Path, speech: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = (speech / "b.flac").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    got = transcribe(capfd, "-", "--model", model)
    assert got.status == 0 and got.out == transcribe(capfd, speech / "b.flac", "--model", model).out
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    got = transcribe(capfd, "-", "--model", model)
    assert got.status == 1 and got.errors[0].startswith("error: standard input: empty")


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_videos_by_ffmpeg(model: Path, speech: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def ffmpeg(*given: str | Path) -> None:
        subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, given)], check=True)

    picture = ("-f", "lavfi", "-i", "color=size=32x32:duration=4:rate=5")
    ffmpeg(*picture, "-i", speech / "b.flac", "-c:a", "pcm_s16le", "-c:v", "mpeg4", tmp_path / "sound.mkv")
    ffmpeg(*picture, "-c:v", "mpeg4", tmp_path / "mute.mkv")
    (tmp_path / "broken.mkv").write_bytes((tmp_path / "sound.mkv").read_bytes()[:100])
    got = transcribe(capfd, *(tmp_path / f"{n}.mkv" for n in ("mute", "sound", "broken")), "--model", model)
    assert got.status == 1 and len(got.errors) == 2
    assert got.errors[0].endswith("mute.mkv: no sound in it") and "broken.mkv: FFmpeg cannot read it" in got.errors[1]
    assert "file:" not in got.errors[1]
    assert got.out.split("\t")[1] == transcribe(capfd, speech / "b.flac", "--model", model).out  # not compressed, so the same samples


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "nowhere"], "no such folder"),
        (["--model", "."], "holds no model.safetensors"),
        (["--model", "pretrained"], "only pre-trained"),
        (["--model", "older"], "of another version of birq"),
        (["--lm", "nowhere"], "no language model"),
        (["--lm", "other"], "language model of another tokenizer"),
        (["-f", "doc"], "legal are txt, srt, vtt, tsv, json"),
        (["-f", "txt,srt"], "add --output FOLDER"),
        (["-o", "file"], "is a file"),
        (["--piece-seconds", "1"], "at least 5"),
        (["--piece-seconds", "nan"], "at least 5"),
        (["--piece-seconds", "inf"], "at least 5"),
        (["--n-best", "0"], "at least 1"),
        (["--greedy", "--n-best", "3"], "no language model to search with"),
    ],
)
def test_options_that_cannot_be(
    given: list[str], said: str, model: Path, speech: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(speech)
    for name in ("pretrained", "other"):
        Path(name).mkdir()
    Path("pretrained/encoder.safetensors").touch()
    Path("file").touch()
    Path("other/words.txt").write_text("xyz\nzyx\n")
    Path("other/lm.arpa").touch()
    shutil.copytree(model, "older")
    config = json.loads(Path("older/config.json").read_text())
    config["model"]["gates"] = 2
    Path("older/config.json").write_text(json.dumps(config))
    got = transcribe(capfd, "a.wav", *([] if "--model" in given else ["--model", model]), *given)
    assert got.status == 2 and said in got.err and "Traceback" not in got.err and not got.out


def test_the_model_with_the_lowest_dev_wer_is_taken(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(models.BirqError, match="no model"):
        models.load()
    for name, wers in (("birq-0", [0.9, 0.4, 0.5]), ("best_rq-0", [0.41]), ("scratch-0", [])):
        folder = Path("data/finetune") / name
        shutil.copytree(model, folder)
        (folder / "curve.jsonl").write_text("".join(f'{{"dev_wer": {w}}}\n' for w in wers))
    assert models.load().folders == [Path("data/finetune/birq-0")]


@pytest.fixture
def with_lm(model: Path, tmp_path: Path) -> Path:
    """The model in a folder of its own, a language model beside it."""
    pytest.importorskip("ctc_beam_decoder")
    folder = tmp_path / "with_lm"
    shutil.copytree(model, folder)
    add_language_model(folder, tmp_path)
    return folder


def test_a_language_model_beside_the_model_is_used(with_lm: Path, speech: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    loaded = models.load(with_lm, weights=models.Weights(n_best=3))
    assert (loaded.beam.bonus, loaded.beam.section.beam) == (-2.0, 8)
    samples, rate = soundfile.read(speech / "b.flac", dtype="float32")
    heard = loaded.transcribe(samples, rate)
    assert heard.text == heard.pieces[0].n_best[0][0] and len(heard.pieces[0].n_best) == 3
    assert heard.text.split() == [w.text for w in heard.words] and all(0 < w.confidence <= 1 for w in heard.words)
    scores = [score for _, score in heard.pieces[0].n_best]
    assert scores == sorted(scores, reverse=True)
    assert models.load(with_lm, False).beam is None
    assert transcribe(capfd, speech / "b.flac", "--model", with_lm).out == f"{heard.text}\n"
    greedy = transcribe(capfd, speech / "b.flac", "--model", with_lm, "--greedy")
    assert greedy.out != f"{heard.text}\n" and "greedy" in greedy.err
    other = models.load(with_lm, weights=models.Weights(weight=0.0, bonus=3.0, beam=16))
    assert (other.beam.bonus, other.beam.section.beam) == (3.0, 16)


def test_samples_of_another_kind(model: Path) -> None:
    loaded = Recogniser.load(model)
    for samples, said in ((np.zeros((2, 100)), "shape"), (np.zeros(100, np.int16), "type int16"), (np.full(100, np.inf), "finite")):
        with pytest.raises(models.BirqError, match=said):
            loaded.transcribe(samples, 16000)


def test_a_model_works_without_the_workflow(model: Path) -> None:
    """`import birq` loads nothing else, and a recogniser no workflow tool and no stage."""
    code = (
        "import sys, birq\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'pydantic')]\n"
        "import numpy as np\n"
        f"birq.load({str(model)!r}).transcribe(np.zeros(16000, np.float32), 16000)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('snakemake', 'dvc', 'lhotse', 'jiwer', 'sklearn', 'altair')"
        " or m.startswith(('birq.stages', 'birq.train', 'birq.evaluate', 'birq.report'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
