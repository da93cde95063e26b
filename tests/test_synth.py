"""The synthetic corpus: held-out voices and sentences, exact phone times, the same bytes from the same seed."""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birq.corpora import espeak, grammar, manifests, synth
from birq.corpora.items import Limits
from birq.errors import BirqError
from birq.settings.corpora import SynthCorpus

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
CORPUS = SynthCorpus(
    kind="synth",
    seed=3,
    train_hours=0.004,
    dev_hours=0.001,
    test_hours=0.002,
    n_voices=8,
    speed_wpm=(140.0, 190.0),
    pitch=(30.0, 70.0),
    snr_db=(10.0, 30.0),
)
LIMITS = Limits(sample_rate_hz=16000, min_seconds=0.3, max_seconds=35.0, max_quarantined_share=0.01)


def make(folder: Path, corpus: SynthCorpus = CORPUS, workers: int = 1, scratch: Path | None = None) -> Path:
    out = folder / "out"
    out.mkdir(parents=True)
    synth.prepare("synth", corpus, out, scratch or folder / "scratch", alphabet=ALPHABET, limits=LIMITS, workers=workers)
    return out


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("synth"))


@pytest.fixture(scope="module")
def speaker():
    with espeak.data_folder() as data:
        yield espeak.Espeak(data)


@pytest.mark.parametrize(("n_voices", "seed"), [(6, 0), (8, 3), (24, 1), (120, 1), (120, 2), (480, 1)])
def test_voices_of_a_split_are_unheard_in_the_others(n_voices: int, seed: int):
    # a test voice that training heard, or heard the twin of, would make the test easier than it says
    voices = synth.cast(n_voices, seed)
    assert sum(map(len, voices.values())) == n_voices
    assert len({v.id for vs in voices.values() for v in vs}) == n_voices
    family = {variant: i for i, names in enumerate(synth.FAMILIES) for variant in names}
    used = {split: {family[v.variant] for v in vs} for split, vs in voices.items()}
    for a, b in itertools.combinations(used.values(), 2):
        assert not a & b


def test_every_voice_exists(speaker: espeak.Espeak):
    # a name that espeak-ng does not know would stop the corpus stage half way
    variants = [v for family in synth.FAMILIES for v in family]
    assert len(variants) == len(set(variants))
    pairs = [(a, variants[0]) for a in synth.ACCENTS] + [("us", v) for v in variants]
    for accent, variant in pairs:
        wave, phones = speaker.speak("hello", synth.Voice(accent, variant).espeak, 190, 50)
        assert np.abs(wave).max() > 500
        assert len(phones) >= 4


def test_sentences_are_short_lower_case_and_at_home_in_one_split():
    # a sentence of the test set that training also held would be read from memory
    rng = np.random.default_rng(0)
    texts = {split: {grammar.sentence(rng, split).text for _ in range(400)} for split in manifests.SPLITS}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    everything = set.union(*texts.values())
    assert all(re.fullmatch(r"[a-z']+( [a-z']+)*", t) and 2 <= len(t.split()) <= 14 for t in everything)
    assert 250 <= len({w for t in everything for w in t.split()}) <= 600


def test_an_utterance_does_not_depend_on_what_was_spoken_before(speaker: espeak.Espeak):
    # espeak-ng keeps noise and flutter going; workers would otherwise give other bytes in another order
    for variant in ("f1", "m3", "Reed", "klatt4"):
        voice = synth.Voice("us", variant).espeak
        first, _ = speaker.speak("open the window", voice, 160, 50)
        speaker.speak("something else in between", "gmw/en+f2", 150, 40)
        again, _ = speaker.speak("open the window", voice, 160, 50)
        np.testing.assert_array_equal(first, again)


def test_same_seed_same_bytes_whatever_the_workers_and_another_seed_other_speech(made: Path, tmp_path: Path):
    # every utterance draws from (seed, split, voice, index) alone
    assert digests(make(tmp_path / "two", workers=2)) == digests(made)
    other = digests(make(tmp_path / "other", CORPUS.model_copy(update={"seed": 4})))
    assert not set(other.values()) & {v for k, v in digests(made).items() if k.endswith(".flac")}


def test_a_killed_run_goes_on_to_the_same_bytes(made: Path, tmp_path: Path):
    # finished speakers are kept, an unfinished one starts again
    scratch = tmp_path / "scratch"
    make(tmp_path / "first", scratch=scratch)
    records = sorted((scratch / "speakers").glob("*.json"))
    kept = records[0].stat().st_mtime_ns
    for record in records[1:]:
        record.unlink()
    (scratch / "audio" / records[1].stem / f"{records[1].stem}-0000.flac").unlink()
    assert digests(make(tmp_path / "second", scratch=scratch)) == digests(made)
    assert records[0].stat().st_mtime_ns == kept


def test_the_artifact_says_what_it_holds(made: Path):
    facts = manifests.info(made)
    assert facts["synthetic"] is True
    assert "not recorded speech" in facts["source"]
    for split in manifests.SPLITS:
        cuts = manifests.load_cuts(made, split)
        hours = sum(c.duration for c in cuts) / 3600
        assert facts["splits"][split]["hours"] == pytest.approx(hours, abs=1e-6)
        # every voice speaks until its share is full, so it is over by less than its last utterance
        assert 0 <= hours - getattr(CORPUS, f"{split}_hours") < 8 / 3600 * len(cuts.speakers)
        for c in cuts:
            wave = c.load_audio()[0]
            assert len(wave) == c.num_samples
            assert 0.02 < np.abs(wave).max() <= 0.98
            assert c.custom["sha256"] == hashlib.sha256(Path(c.recording.sources[0].source).read_bytes()).hexdigest()


def test_phones_tile_every_utterance_and_spell_its_words(made: Path):
    # the probe counts frames per phone: a gap or an overlap would count a frame not at all or twice
    rows = manifests.alignments(made).to_pylist()
    cuts = {c.id: c for split in manifests.SPLITS for c in manifests.load_cuts(made, split)}
    by_id = {id: list(group) for id, group in itertools.groupby(rows, key=lambda r: r["id"])}
    assert set(by_id) == set(cuts)
    for id, phones in by_id.items():
        assert phones[0]["start_s"] == 0
        assert phones[-1]["end_s"] == pytest.approx(cuts[id].duration, abs=1e-6)
        assert phones[0]["phone"] == phones[-1]["phone"] == "SIL"
        for a, b in itertools.pairwise(phones):
            assert a["end_s"] == b["start_s"]
        said = [w for w, _ in itertools.groupby(r["word"] for r in phones if r["word"])]
        words = [w for w, _ in itertools.groupby(cuts[id].supervisions[0].text.split())]
        # espeak-ng speaks some pairs ("of the") as one word; none may be out of order
        assert [w for w in words if w in said] == said
        assert len(said) >= 0.6 * len(words)
        assert not any(set(r["phone"]) & set("',%=_") for r in phones)


def test_phone_times_are_where_the_sound_is(made: Path):
    # with little noise the marked silences must be far quieter than the vowels, or the times are shifted
    quiet = []
    for id, phones in itertools.groupby(manifests.alignments(made).to_pylist(), key=lambda r: r["id"]):
        wave, rate = soundfile.read(made / "audio" / id.rpartition("-")[0] / f"{id}.flac")
        power: dict[bool, list[float]] = {True: [], False: []}
        for p in phones:
            piece = wave[round(p["start_s"] * rate) : round(p["end_s"] * rate)]
            if p["phone"] == "SIL" or p["phone"][0] in "aeiouAEIOU@3V0":
                power[p["phone"] == "SIL"].append(float(np.mean(piece**2)))
        quiet.append(np.log10(np.mean(power[False]) / np.mean(power[True])))
    assert min(quiet) > 0.5
    assert np.median(quiet) > 1.0


def test_noise_has_the_wanted_ratio_and_tilt():
    # unit power by definition; power falls as frequency to the tilt, so an octave of pink noise has the power of the next
    noise = synth._noise(np.random.default_rng(0), 60000, 1.0)
    assert np.mean(noise**2) == pytest.approx(1, rel=1e-3)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    low, high = (spectrum[round(f * 60000 / 16000) : round(2 * f * 60000 / 16000)].sum() for f in (500, 2000))
    assert low / high == pytest.approx(1, rel=0.15)


def test_a_long_data_path_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # espeak-ng keeps its data path in a fixed buffer, and a deep home folder would overflow it
    import espeakng_loader

    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    with espeak.data_folder() as data:
        assert len(data) <= espeak.LONGEST_DATA_PATH
        wave, _ = espeak.Espeak(data).speak("hello", "gmw/en", 160, 50)
        assert len(wave) > 5000


def test_espeak_that_cannot_be_used_is_an_error_with_the_way_out(tmp_path: Path, speaker: espeak.Espeak):
    with pytest.raises(BirqError, match="install it again"):
        espeak.Espeak(str(tmp_path))
    with pytest.raises(BirqError, match="no voice"):
        speaker.speak("hello", "gmw/en-XX+nobody", 160, 50)


def test_an_alphabet_without_the_letters_is_refused(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BirqError, match=r"tokenizer\.alphabet.*'z'"):
        synth.prepare("s", CORPUS, tmp_path / "out", tmp_path, alphabet="abcdefghijklmnopqrstuvwxy' ", limits=LIMITS)
