"""Nothing changed; changes of the user's audio, of the code, of artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from scenario import ALL, scenario
from tinyproject import Project, edit

pytestmark = pytest.mark.pipeline

AUDIO, CODE, ARTIFACTS = "Audio", "Code", "Artifacts"


@scenario("Nothing changed", "each tool again, in turn", "no verb is called")
def test_nothing_changed(project: Project) -> None:
    """Both tools have seen everything, so both have nothing to do; one's look leaves the other's memory true."""
    project.nothing_to_do()
    project.up_to_date()
    project.nothing_to_do()
    project.up_to_date()


@scenario(AUDIO, "an input is touched (Snakemake)", "no verb is called: content counts, not time")
def test_input_touched(project: Project) -> None:
    """The key holds the content of the user's files."""
    (project.root / "speech" / "train00.wav").touch()
    project.nothing_to_do()


@scenario(AUDIO, "an input is rewritten with the same bytes (both tools)", "no verb is called")
def test_input_rewritten(project: Project) -> None:
    """A new file with the old content is the same input, for DVC too: it compares a file that birq writes about the audio."""
    path = project.root / "speech" / "train00.wav"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    project.up_to_date()
    project.nothing_to_do()


@scenario(AUDIO, "an input changes by one byte; then back, by DVC", "all that hears it; then DVC puts its own copies back", computed=ALL)
def test_input_changed(project: Project) -> None:
    """One byte of audio is another feature, another model, another report; and the old byte is the old report."""
    before = project.digests()
    path = project.root / "speech" / "train00.wav"
    old = path.read_bytes()
    path.write_bytes(old[:-2001] + bytes([old[-2001] ^ 0x40]) + old[-2000:])
    project.snakemake()
    changed = project.digests()
    heard = [a for a in before if not a.startswith(("data/tokenizer", "data/lm", "data/decode", "data/search", "data/score"))]
    assert all(changed[a] != before[a] for a in heard), "a bit in a high place is heard, though perhaps not in the words"
    project.verify()
    path.write_bytes(old)
    project.dvc()
    assert project.digests() == before


@scenario(
    AUDIO,
    "a recording changes in a folder that is a link (each tool asked for the corpus)",
    "the corpus: links are followed in the key as in the reader",
    computed="corpus",
)
def test_linked_folder_changed(fresh: Project, tmp_path: Path) -> None:
    """Speakers on another disk are the corpus' own files: one walk serves the reader and the key, so no change goes unseen."""
    project = fresh.copy(tmp_path / "project")
    speech, disk = project.root / "speech", tmp_path / "disk"
    disk.mkdir()
    for n in (4, 5):
        shutil.copy(speech / f"train0{n}.wav", disk / f"linked0{n}.wav")
    (speech / "linked").symlink_to(disk)
    with open(speech / "transcripts.tsv", "a") as f:
        f.write("linked/linked04.wav\tabc def\ttrain0\ttrain\nlinked/linked05.wav\tabc def\ttrain1\ttrain\n")
    seen = []
    for ask in (
        lambda: project.snakemake("data/corpus/tones/provenance.json"),
        lambda: project.dvc("repro", "corpus@tones"),
        lambda: project.snakemake("data/corpus/tones/provenance.json"),
    ):
        shutil.copy(speech / f"train0{len(seen)}.wav", disk / "linked04.wav")
        ask()
        seen.append((project.root / "data" / "corpus" / "tones" / "train.jsonl").read_text())
    assert len(set(seen)) == 3 and all("linked/linked05.wav" in text for text in seen)


@scenario(CODE, "a comment and a docstring are edited (Snakemake)", "no verb is called")
def test_comment_edited(project: Project) -> None:
    """The hash of code is taken from its syntax tree, docstrings left out."""
    path = project.root / "birq" / "train" / "finetuning.py"
    path.write_text('"""Another docstring."""\n# a comment\n' + path.read_text().split('"""', 2)[2])
    project.nothing_to_do()


@scenario(CODE, "a comment is edited (DVC)", "no verb is called: DVC compares a digest of the code")
def test_comment_edited_dvc(project: Project) -> None:
    """Its own stage `digests` writes the same digest, and nothing depends on the text."""
    before = project.digests()
    with open(project.root / "birq" / "evaluate" / "rates.py", "a") as f:
        f.write("# a comment\n")
    project.dvc()
    assert project.digests() == before


@scenario(
    CODE, "a code line of one module is edited", "the stages that import it, and what other bytes lead to", computed="search score report"
)
def test_code_edited(project: Project) -> None:
    """`birq why` names the line; scores with another seed are other bytes, so the report follows."""
    path = project.root / "birq" / "evaluate" / "rates.py"
    edit(path, r"section\.confidence, section\.bootstrap_samples, section\.seed\)", "section.confidence, section.bootstrap_samples, 1)")
    said = project.birq("why", "score/best_rq-0").text
    assert "birq/evaluate/rates.py has changed" in said and "section.bootstrap_samples, 1)" in said
    project.snakemake()
    project.verify()


@scenario(
    CODE,
    "a code line is edited that changes no bytes",
    "the stages that import it, nothing after them",
    computed="decode",
)
def test_code_edited_without_effect(project: Project) -> None:
    """Later keys hold the digests of inputs, not their keys: equal bytes end the change there."""
    before = project.digests()
    edit(
        project.root / "birq" / "stages" / "decode.py",
        r"(    device = for_inference\(job\.notes\))",
        r"\1\n    assert job.notes is not None",
    )
    project.snakemake()
    assert project.digests() == before
    project.verify()


@scenario(
    CODE,
    "`birq accept` after an edit of code that changes no bytes",
    "the artifacts made by it get the present key, and say so; anew: the report, which shows it, and the n-gram, not accepted",
    computed="lm report",
)
def test_code_accepted(project: Project) -> None:
    """A pre-training of days must not be thrown away by an edit that cannot change it. Params and inputs can't be accepted."""
    before = project.digests()
    edit(project.root / "birq" / "speech" / "batches.py", r"^WINDOW = 16384", "WINDOW = 1 << 14")
    assert "WINDOW = 1 << 14" in project.birq("accept", "pretrain/best_rq-0", status=2).text, "nobody is there to answer"
    said = project.birq("accept", "pretrain/best_rq-0", "--yes").text
    for name in ("pretrain", "finetune", "decode", "probe"):
        assert f"{name}/best_rq-0: accepted" in said
    assert "score/best_rq-0: accepted" not in said, "scoring has no batches"
    project.snakemake()
    project.verify()
    assert "pretrain/best_rq-0 was accepted on" in project.birq("verify").text
    assert "birq.speech.batches" in (project.root / "data/report/index.html").read_text()
    after = project.digests()
    assert {n for n in before if before[n] != after[n]} == {"data/report"}
    project.nothing_to_do()
    project.set("pretrain.steps=7")
    said = project.birq("accept", "pretrain/best_rq-0", "--yes", status=2).text
    assert "only a change of code can" in said and "pretrain.steps was 6 when it was made, is 7 now" in said


@scenario(ARTIFACTS, "an artifact is deleted (Snakemake)", "put back; what comes after it is found", restored="finetune")
def test_artifact_deleted(project: Project) -> None:
    """Every artifact is a target, so a missing one is noticed though nothing needs it anew."""
    before = project.digests()
    shutil.rmtree(project.root / "data" / "finetune" / "best_rq-0")
    project.snakemake()
    assert project.digests() == before


@scenario(ARTIFACTS, "an artifact is deleted (DVC)", "DVC puts its own copy back; no verb is called")
def test_artifact_deleted_dvc(project: Project) -> None:
    """Its dependencies are those of dvc.lock, so DVC's cache has it."""
    before = project.digests()
    shutil.rmtree(project.root / "data" / "finetune" / "best_rq-0")
    project.dvc()
    assert project.digests() == before


def corrupt(path: Path) -> None:
    """One bit of a file flips in place."""
    content = path.read_bytes()
    path.chmod(0o644)
    with open(path, "r+b") as f:
        f.seek(len(content) // 2)
        f.write(bytes([content[len(content) // 2] ^ 1]))
    path.chmod(0o444)


def scores(project: Project) -> tuple[Path, Path]:
    """A file of the workspace, and the store's."""
    (stored,) = (project.root / "data" / ".store" / "score").glob("*/scores.json")
    placed = project.root / "data" / "score" / "best_rq-0" / "scores.json"
    assert not placed.samefile(stored), "DVC keeps files of its own in data/"
    return placed, stored


@scenario(ARTIFACTS, "a byte of an artifact changes (Snakemake)", "found at the start, said, restored", restored="score")
def test_artifact_corrupted(project: Project) -> None:
    """The bytes are held against the hashes that were taken when they were made."""
    before = project.digests()
    corrupt(scores(project)[0])
    done = project.snakemake()
    assert "data/score/best_rq-0/scores.json has changed since it was made (SHA-256 differs): will be made again" in done.text
    assert project.digests() == before
    project.verify()


@scenario(
    ARTIFACTS,
    "the same, in the store as well",
    "found, said, computed again to the same bytes",
    computed="score",
)
def test_store_corrupted(project: Project) -> None:
    """The store is no better than its disk, so what it holds is hashed before it is used."""
    before = project.digests()
    for path in scores(project):
        corrupt(path)
    assert "scores.json has changed since it was made" in project.birq("store", "verify", status=2).text
    assert "the store is damaged" in project.snakemake().text
    assert project.digests() == before
    project.verify()


@scenario(ARTIFACTS, "a byte of an artifact changes (DVC)", "DVC puts its own copy back; no verb is called")
def test_artifact_corrupted_dvc(project: Project) -> None:
    """DVC hashes outputs whose time or size has changed."""
    before = project.digests()
    corrupt(scores(project)[0])
    project.dvc()
    assert project.digests() == before
    project.verify()


@scenario(
    ARTIFACTS,
    "`dvc checkout` brings results of other params",
    "Snakemake replaces them by those of the present params",
    computed="score probe report",
    restored="score probe report",
)
def test_other_results_checked_out(project: Project) -> None:
    """What DVC puts into data/ may have any time; but each artifact says by which key it was made."""
    before = project.digests()
    project.set("score.confidence=0.9")
    project.dvc()
    project.git("checkout", "-q", "params.yaml")
    project.snakemake()
    project.dvc("checkout", "--force")  # dvc.lock is still that of the other params
    assert project.digests() != before
    project.snakemake()
    assert project.digests() == before
    project.verify()
