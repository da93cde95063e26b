"""What is broken from outside: one clear error, an exit status that is not 0, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scenario import scenario
from tinyproject import Done, Project, edit

pytestmark = pytest.mark.pipeline

BAD = "Bad input"


def one_error(done: Done, text: str) -> None:
    """The error stands there once, and no Python traceback hides it."""
    assert text in done.text, done.text[-4000:]
    assert "Traceback" not in done.text, done.text[-6000:]


@scenario(BAD, "`params.yaml` with a value that is not legal", "both tools name key, value and range, and do nothing")
def test_illegal_value(project: Project) -> None:
    """Params are checked before anything runs."""
    edit(project.root / "params.yaml", r"(^score:.*?^  confidence: )[\d.]+", r"\g<1>2.0")
    one_error(project.snakemake(status=None), "score.confidence: 2.0 is not legal: Input should be less than 1")
    one_error(project.dvc(status=None), "score.confidence: 2.0 is not legal: Input should be less than 1")
    project.git("checkout", "-q", "params.yaml")
    project.nothing_to_do()


@scenario(BAD, "`params.yaml` that is no YAML", "both tools name the line, and do nothing")
def test_broken_yaml(project: Project) -> None:
    """A file that was cut off in the middle of a list."""
    edit(project.root / "params.yaml", r"(^  splits: \[dev), test\].*", r"\1")
    one_error(project.snakemake(status=None), "params.yaml: not readable as YAML")
    one_error(project.dvc(status=None), "params.yaml")
    project.git("checkout", "-q", "params.yaml")
    project.nothing_to_do()
    project.up_to_date()


@scenario(
    BAD,
    "a feature shard is lost, in the store too",
    "that shard is made again; the others are kept",
    computed="features",
)
def test_lost_shard(project: Project) -> None:
    """Of 500 shards with 277 GiB, one costs one."""
    (stored,) = (project.root / "data" / ".store" / "features").glob("*/train")
    before, (lost, *others) = project.digests(), sorted(stored.glob("*.parquet"))
    inodes = [path.stat().st_ino for path in others]
    assert len(inodes) == 2
    lost.unlink()
    (project.root / "data" / "features" / "tones" / "train" / lost.name).unlink()
    done = project.snakemake()
    assert ", 6 sound files of a damaged artifact are kept" in done.text, done.text
    assert project.digests() == before and [path.stat().st_ino for path in others] == inodes
    project.nothing_to_do()
    project.up_to_date()


@scenario(BAD, "a half-written `dvc.lock`", "DVC names the file; Snakemake does not need it; git brings it back")
def test_half_written_dvc_lock(project: Project) -> None:
    """It is under git, and all it says can be made again by a run that computes nothing."""
    path = project.root / "dvc.lock"
    text = path.read_text()
    path.write_text(text[: text.index("params:", len(text) // 2) + 4])
    one_error(project.dvc(status=None), "dvc.lock")
    project.nothing_to_do()
    project.git("checkout", "-q", "dvc.lock")
    project.up_to_date()


@scenario(BAD, "half-written locks of birq and Snakemake", "they are notes for people; nothing waits for them", restored="score")
def test_half_written_locks(project: Project) -> None:
    """birq's locks are the kernel's, what the file says is only shown; Snakemake's are not used."""
    (project.root / ".snakemake" / "locks" / "0.input.lock").write_text("data/.sta")
    for lock in (project.root / "data" / ".store" / "score").glob("*.lock"):
        lock.write_bytes(b"process 1 o\xff")
    shutil.rmtree(project.root / "data" / "score")
    project.snakemake()
    project.verify()


@scenario(
    BAD,
    "a half-written lock of DVC",
    "DVC names the file, which may be deleted",
    computed="score probe report",
    restored="score probe report",
)
def test_half_written_rwlock(project: Project) -> None:
    """DVC's note of running stages, cut off by a power failure; Snakemake does not need it."""
    path = project.root / ".dvc" / "tmp" / "rwlock"
    path.write_text('{"data/score/best_rq-0": {"wri')
    project.set("score.confidence=0.9")
    one_error(project.dvc(status=None), "rwlock")
    project.snakemake()
    path.unlink()
    project.dvc()
    project.verify()


@scenario(BAD, "a `.snakemake` folder of another version", "nothing is computed: what lies in data/ says itself what it is")
def test_other_snakemake_folder(project: Project) -> None:
    """Records of a later format with fields unknown here, one of them cut off."""
    records = sorted((project.root / ".snakemake" / "metadata").iterdir())
    for path in records:
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"record_format_version": 99, "unheard_of": {"a": 1}}))
    records[0].write_text(records[0].read_text()[:100])
    project.snakemake()
    project.verify()


@scenario(BAD, "an artifact of a newer birq", "Snakemake says so and leaves it alone; DVC puts its own copy back")
def test_newer_birq(project: Project) -> None:
    """What this version cannot read Snakemake neither uses nor replaces. DVC knows no formats: it has a copy of the output as it was."""
    path = project.root / "data" / "score" / "best_rq-0" / "provenance.json"
    record = json.loads(path.read_text())
    newer = json.dumps(record | {"format": 99, "birq": "99.0"})
    path.unlink()
    path.write_text(newer)
    one_error(project.snakemake(status=None), "made by birq 99.0")
    assert path.read_text() == newer
    assert "Stage 'score@best_rq-0' is cached - skipping run, checking out outputs" in project.dvc().text
    project.verify()


@scenario(BAD, "clocks that differ by an hour", "said; verbs are called once more, nothing is computed; then nothing to do")
def test_clock_skew(project: Project) -> None:
    """Snakemake compares times, and refuses what is older than its input; so what is dated in the future is given the present time."""
    ahead = time.time() + 3600
    os.utime(project.root / "data" / "features" / "tones" / "provenance.json", (ahead, ahead))
    assert "data/features/tones/provenance.json is dated in the future" in project.snakemake().text
    project.nothing_to_do()
    project.verify()


# ---- disks


@pytest.fixture
def mounts(tmp_path: Path) -> Callable[[str], list[str]]:
    """Prefix of a command that sees mounts of its own, or a skip where the machine allows none."""

    def within(script: str) -> list[str]:
        return ["unshare", "-rm", "bash", "-c", f'{script}; exec "$@"', "-"]

    probe = [*within(f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"), "true"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mounts in a namespace of one's own here: {tried.stderr.strip()}")
    return within


@scenario(BAD, "a store on a read-only disk", "what it holds is restored; what it lacks is refused", restored="score")
def test_read_only_store(project: Project, tmp_path: Path, mounts: Callable[[str], list[str]]) -> None:
    """A store that an administrator keeps for all: using it needs no writing."""
    store = tmp_path / "shared"
    (project.root / "data" / ".store").rename(store)
    project.set("score.confidence=0.9")
    guest = project.at(project.root, BIRQ_STORE=str(store))
    read_only = mounts(f"mount --bind {store} {store} && mount -o remount,ro,bind {store}")
    one_error(guest.run(*read_only, "snakemake", "--cores", "1", status=None), "is read-only and does not hold this artifact")
    one_error(guest.run(*read_only, "dvc", "repro", status=None), "is read-only and does not hold this artifact")
    project.git("checkout", "-q", "params.yaml")
    guest.run(*read_only, "snakemake", "--cores", "1")
    guest.verify()


@scenario(BAD, "a store on a full disk", "what was computed stays in the work folder", computed="score probe report", again="score probe")
def test_full_store(project: Project, tmp_path: Path, mounts: Callable[[str], list[str]]) -> None:
    """The second run, with space again, publishes; what was there before is unharmed."""
    store = tmp_path / "shared"
    (project.root / "data" / ".store").rename(store)
    small = mounts(f"mkdir {tmp_path}/small; mount -t tmpfs -o size=8m tmpfs {tmp_path}/small && cp -a {store}/. {tmp_path}/small")
    project.set("score.confidence=0.9")
    guest = project.at(project.root, BIRQ_STORE=str(tmp_path / "small"))
    script = (
        'head -c 100M /dev/zero > "$BIRQ_STORE/ballast" 2>/dev/null; snakemake --cores 1; echo "status $?"; '
        'rm "$BIRQ_STORE/ballast"; snakemake --cores 1 && python -m birq verify && python -m birq store verify'
    )
    done = guest.run(*small, "bash", "-c", script)
    assert "the disk is full" in done.text and "free space and run again" in done.text and "status 1" in done.text, done.text[-6000:]
    assert "every hash and every key holds" in done.text and "every hash holds" in done.text
