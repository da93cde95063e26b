"""Features: Kaldi's numbers, faster; stored finely enough; the same artifact however often the run was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora_tables import BYTES_PER_HOUR
from tiny import TinyJob

from birq.corpora import manifests
from birq.errors import BirqError
from birq.pipeline import dag
from birq.settings import params
from birq.speech import audio, fbank, resampling, shards
from birq.speech.frontend import KALDI, STEP_NAT
from birq.stages import features

ROOT = Path(__file__).resolve().parent.parent
CORPORA = Path(os.environ.get("BIRQ_CORPORA", ROOT.parent / "shared" / "corpora"))
RATE = 16000


def kaldi(wave, rate=RATE, **settings):
    options = {"num_mel_bins": 80, "sample_frequency": float(rate)} | settings
    return resampling.torchaudio().compliance.kaldi.fbank(torch.as_tensor(wave)[None], **options)


def tones(seconds, seed=0, rate=RATE):
    """Gliding harmonics, bursts of hiss and pauses: loud, quiet and nearly empty bins that all change, as in speech."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate

    def gate(hz, share):
        return np.sin(2 * np.pi * hz * t + rng.uniform(0, 6)) < 2 * share - 1

    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t + rng.uniform(0, 6))) / rate
    tilt = [np.sin(k * phase + rng.uniform(0, 6)) * np.exp(-0.1 * k * (1.5 + np.sin(3 * t + k))) for k in range(1, 40)]
    hiss = rng.normal(size=len(t)) * 10 ** rng.uniform(-3, -1, len(t) // 800 + 1).repeat(800)[: len(t)]
    wave = 0.1 * np.sum(tilt, axis=0) * gate(0.8, 0.7) + hiss * gate(2.3, 0.5) + 1e-3 * rng.normal(size=len(t))
    return np.clip(wave, -1, 1).astype(np.float32)


def speech(n_files):
    """Real recordings, FLAC and MP3. Skips where the corpora are not at hand."""
    found = []
    for pattern in ("LibriSpeech/**/*.flac", "librivox-mp3/**/*.mp3", "an4/**/*.flac"):
        files = sorted(CORPORA.glob(pattern))
        found += files[:: max(1, len(files) // n_files)][:n_files]
    if not found:
        pytest.skip(f"no real speech at {CORPORA}; BIRQ_CORPORA says where it is")
    return [audio.read(f, RATE) for f in found]


# ---- the kernel


def test_equal_to_kaldi_on_generated_audio():
    """The golden test: torchaudio's fbank is the definition; noise, tones, silence, a constant, full scale, and the shortest audio."""
    rng = np.random.default_rng(0)
    for wave in (
        rng.normal(0, 0.1, 40_000),
        tones(6),
        tones(3) * 1e-4,
        np.zeros(8000),
        np.full(8000, 0.5),
        np.sign(rng.normal(size=9000)),
        rng.normal(0, 0.1, 400),
        rng.normal(0, 0.1, 559),
    ):
        wave = wave.astype(np.float32)
        got, want = fbank.fbank(wave), kaldi(wave)
        assert got.shape == want.shape and (got - want).abs().max() < 1e-3


def test_equal_to_kaldi_on_real_speech():
    """Recorded speech, lossy MP3 included, whose empty upper bins show any other order of rounding."""
    assert max((fbank.fbank(wave) - kaldi(wave)).abs().max() for wave in speech(10)) < 1e-3


@pytest.mark.parametrize(
    ("rate", "n_mels", "length", "shift", "low", "high"),
    [
        (8000, 40, 25.0, 10.0, 20.0, 0.0),
        (16000, 128, 32.0, 8.0, 0.0, 7600.0),
        (44100, 80, 25.0, 10.0, 20.0, -400.0),
        (16000, 23, 20.0, 20.0, 60.0, 0.0),
    ],
)
def test_every_parameter_means_what_kaldi_means(rate, n_mels, length, shift, low, high):
    """A parameter that is read and not used would still pass at its default."""
    settings = {
        "sample_rate_hz": rate,
        "n_mels": n_mels,
        "frame_length_ms": length,
        "frame_shift_ms": shift,
        "low_hz": low,
        "high_hz": high,
    }
    wave = tones(2, rate=rate)
    want = kaldi(wave, rate, num_mel_bins=n_mels, frame_length=length, frame_shift=shift, low_freq=low, high_freq=high)
    got = fbank.fbank(wave, settings)
    assert got.shape == want.shape and (got - want).abs().max() < 1e-3


def test_frames_do_not_depend_on_chunks(monkeypatch):
    """Chunks are for the cache; a frame depends on its own samples only."""
    wave = tones(12)
    whole = fbank.fbank(wave)
    monkeypatch.setattr(fbank, "CHUNK_FRAMES", 100)
    assert (fbank.fbank(wave) - whole).abs().max() < 1e-5
    assert (fbank.fbank(wave[160 * 50 :]) - whole[50:]).abs().max() < 1e-5


def test_whole_frames_only():
    """snip_edges: 25 ms every 10 ms; fewer samples than a frame give none."""
    kernel = fbank.Fbank(**KALDI)
    for n, frames in ((0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)):
        assert kernel.n_frames(n) == frames == len(kernel(np.zeros(n, np.float32)))


# ---- storage


def labels(logmels, mean_F, std_F, seed):
    """Anchoring labels of BEST-RQ at its published size: stack of 4, projection to 16, 8192 unit codes."""
    made = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(np.concatenate([((m - mean_F) / std_F)[: len(m) // 4 * 4].reshape(-1, 320) for m in logmels]))
    projection = torch.nn.init.xavier_uniform_(torch.empty(320, 16), generator=made)
    codes = torch.nn.functional.normalize(torch.randn(8192, 16, generator=made), dim=1)
    return torch.cat([(part @ projection @ codes.T).argmax(1) for part in x.split(1024)])


def flipped_share(waves):
    exact = [fbank.fbank(w).numpy() for w in waves]
    meta = shards.metadata(storage="int16")
    stored = [shards.encode(x, meta).astype(np.float32) * np.float32(meta["step_nat"]) for x in exact]
    every = np.concatenate(exact)
    mean_F, std_F = every.mean(0), every.std(0)
    flips = [(labels(exact, mean_F, std_F, s) != labels(stored, mean_F, std_F, s)).double().mean().item() for s in range(4)]
    assert len(every) > 20_000
    return float(np.mean(flips))


def test_int16_flips_few_labels_of_generated_audio():
    """Storage must not be a source of label noise: at most 0.05 % of the anchoring labels may differ from float32's."""
    assert flipped_share([tones(10, seed=s) for s in range(22)]) <= 0.0005


def test_int16_flips_few_labels_of_real_speech():
    """The same bound on recorded speech."""
    assert flipped_share(speech(15)) <= 0.0005


def test_an_hour_takes_the_bytes_that_the_pages_count_with(tmp_path: Path):
    """docs/corpora.md and `birq plan` multiply it by thousands of hours."""
    meta, wave = shards.metadata(storage="int16"), tones(10)
    rows = [
        {"id": f"u{i}", "speaker": "s", "text": None, "duration_s": 10.0, "fbank": shards.encode(fbank.fbank(wave).numpy(), meta)}
        for i in range(36)
    ]
    shards.write_shard(tmp_path / "a.parquet", rows, meta)
    assert 10 * (tmp_path / "a.parquet").stat().st_size == pytest.approx(BYTES_PER_HOUR, rel=0.01)


# ---- the stage


def make_corpus(folder, waves, rate=RATE, root="audio"):
    """A small corpus in the artifact's own form. `waves`: split -> list of (id, speaker, text, samples)."""
    (folder / root).mkdir(parents=True)
    cuts = {}
    for split, items in waves.items():
        for name, speaker, text, wave in items:
            soundfile.write(folder / root / f"{name}.flac", wave, rate, subtype="PCM_16")
            cuts.setdefault(split, []).append(manifests.cut(name, f"{root}/{name}.flac", rate, len(wave), speaker, text))
    about = {"kind": "synth", "synthetic": True, "licence": "none", "source": "generated", "audio_root": "."}
    manifests.write_corpus(folder, name=folder.name, **about, splits=manifests.write_cuts(folder, cuts), quarantined=0)
    return folder


def make_job(base, corpus, **changed):
    tree = params.load(ROOT / "params.yaml").model_dump()
    tree["features"] |= changed
    out, scratch = base / "out", base / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    node = dag.Node(dag.STAGES["features"], {"corpus": "toy"}, params.Params.model_validate(tree))
    return TinyJob(node, "key", out, scratch, given={"corpus": [corpus]})


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    waves = {
        "train": [(f"t{i:02d}", f"s{i % 5}", f"text {i}" if i % 2 else None, tones(0.5 + 0.1 * (i % 7), seed=i)) for i in range(30)],
        "dev": [(f"d{i}", "s9", "hello there", tones(1, seed=100 + i)) for i in range(3)],
    }
    return make_corpus(tmp_path_factory.mktemp("corpus") / "toy", waves)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, corpus):
    base = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "HOURS_PER_WORKER", 1e-6)
        job = make_job(base, corpus, shard_utterances=8)
        features.compute(job)
    assert job.notes["workers"] == min(5, len(os.sched_getaffinity(0)))
    return base / "out"


def test_stage_stores_the_kernel_of_the_audio(artifact, corpus):
    """What training reads is the log-mel of what was recorded, to half a step, in the order of the cuts."""
    assert sorted(files(artifact)) == [
        "dev/00000.parquet",
        "splits.json",
        "stats.json",
        *(f"train/{n:05d}.parquet" for n in range(4)),
    ]
    for name in ("train", "dev"):
        split, cuts = shards.open_split([artifact], name), list(manifests.load_cuts(corpus, name))
        assert split.ids == [c.id for c in cuts] and split.texts == [c.supervisions[0].text for c in cuts]
        assert split.speakers == [c.supervisions[0].speaker for c in cuts]
        for i, cut in enumerate(cuts):
            wave = audio.read(cut.recording.sources[0].source, RATE)
            assert np.abs(split.logmel(i) - kaldi(wave).numpy()).max() < STEP_NAT / 2 + 1e-5
            assert split.duration_s[i] == pytest.approx(len(wave) / RATE)


def test_statistics_are_of_train_frames_alone(artifact):
    """Mean and variance over exactly the stored train frames: dev, test and padding have no part in them."""
    split = shards.open_split([artifact], "train")
    frames = np.concatenate([split.logmel(i) for i in range(len(split))]).astype(np.float64)
    stats = json.loads((artifact / "stats.json").read_text())
    assert stats["n_frames"] == len(frames)
    np.testing.assert_allclose(stats["mean"], frames.mean(0), rtol=1e-9)
    np.testing.assert_allclose(stats["var"], frames.var(0), rtol=1e-7)


def test_splits_json_counts(artifact):
    """The report's hours come from here."""
    split, facts = shards.open_split([artifact], "train"), json.loads((artifact / "splits.json").read_text())
    labelled = [t is not None for t in split.texts]
    assert facts["train"]["utterances"] == 30 and facts["train"]["speakers"] == 5 and facts["train"]["shards"] == 4
    assert facts["train"]["frames"] == split.n_frames.sum() and facts["train"]["labelled_utterances"] == sum(labelled) == 15
    assert facts["train"]["hours"] == pytest.approx(split.duration_s.sum() / 3600)
    assert facts["train"]["labelled_hours"] == pytest.approx(split.duration_s[labelled].sum() / 3600)
    assert set(facts) == {"train", "dev"}


def test_workers_do_not_change_the_artifact(tmp_path, artifact, corpus):
    """Artifacts are compared by hash: little audio is done in this process, much in several, and both must leave the same bytes."""
    job = make_job(tmp_path, corpus, shard_utterances=8)
    features.compute(job)
    assert job.notes["workers"] == 1
    assert files(tmp_path / "out") == files(artifact)


KILLED = """
import sys; from pathlib import Path
sys.path.insert(0, {tests!r})
import test_features as t
if __name__ == "__main__":
    t.features.HOURS_PER_WORKER = 1e-6
    t.features.compute(t.make_job(Path({base!r}), Path({corpus!r}), shard_utterances=1))
"""


def test_killed_run_resumes_and_leaves_the_same(tmp_path, corpus, environment):
    """After kill -9 the finished shards are kept, the rest is made, no worker lingers, and the bytes are those of an undisturbed run."""
    once, killed = tmp_path / "once", tmp_path / "killed"
    features.compute(make_job(once, corpus, shard_utterances=1))
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(tests=str(ROOT / "tests"), base=str(killed), corpus=str(corpus)))
    child = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    done = []
    while not done and child.poll() is None:
        time.sleep(0.001)
        done = list((killed / "scratch").rglob("*.json"))
    child.send_signal(signal.SIGKILL)
    child.wait()
    _wait_for_group(child.pid)
    kept = {p: p.with_suffix(".parquet").stat().st_mtime_ns for p in (killed / "scratch").rglob("*.json")}
    assert kept
    (killed / "out").rename(killed / "old")
    features.compute(make_job(killed, corpus, shard_utterances=1))
    assert files(killed / "out") == files(once / "out")
    assert all(p.with_suffix(".parquet").stat().st_mtime_ns == t for p, t in kept.items())


def _wait_for_group(group, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive the run that was killed")


def test_parts_of_recordings_and_other_rates(tmp_path):
    """A cut may be a part of a longer recording, at another rate: its features are those of that part, resampled."""
    wave = tones(3, rate=22050)
    folder = make_corpus(tmp_path / "toy", {"dev": [("a", "s", "x", wave)]}, rate=22050)
    line = json.loads((folder / "dev.jsonl").read_text())
    line |= {"start": 1.0, "duration": 1.5}
    (folder / "dev.jsonl").write_text(json.dumps(line) + "\n")
    features.compute(make_job(tmp_path / "f", folder, storage="float32"))
    split = shards.open_split([tmp_path / "f" / "out"], "dev")
    part = audio.read(folder / "audio" / "a.flac", RATE, 1.0, 1.5)
    assert split.duration_s[0] == pytest.approx(1.5, abs=1e-3)
    np.testing.assert_array_equal(split.logmel(0), fbank.fbank(part).numpy())
    assert json.loads((tmp_path / "f" / "out" / "stats.json").read_text()) == {"n_frames": 0}


def test_bad_input_is_named(tmp_path):
    """Audio that vanished or was emptied after the corpus was checked, and ids that occur twice, end with the file and the way out."""
    items = {"train": [(n, "s", "x", tones(0.5)) for n in ("a", "b")], "dev": [("c", "s", "x", tones(0.5))]}
    folder = make_corpus(tmp_path / "toy", items)
    line = json.loads((folder / "dev.jsonl").read_text()) | {"id": "a"}
    (folder / "dev.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(BirqError, match=r"dev.jsonl: utterance id 'a' occurs twice"):
        features.compute(make_job(tmp_path / "twice", folder))
    (folder / "dev.jsonl").write_text(json.dumps(line | {"id": "c"}) + "\n")
    soundfile.write(folder / "audio" / "b.flac", np.zeros(100), RATE)
    with pytest.raises(BirqError, match=r"b.flac \(b\): 100 samples are less than one frame"):
        features.compute(make_job(tmp_path / "short", folder))
    (folder / "audio" / "b.flac").unlink()
    with pytest.raises(BirqError, match=r"b.flac: no audio \(no such file\)"):
        features.compute(make_job(tmp_path / "gone", folder))
