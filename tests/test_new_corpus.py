"""docs/new-corpus.md: its blocks, put where they say, are a corpus that conforms and that makes no other artifact again."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(?:python|yaml)\n# (?P<place>\S+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def blocks() -> dict[str, str]:
    """Place -> text of the page's blocks."""
    return {m["place"]: m["text"] for m in BLOCK.finditer((ROOT / "docs" / "new-corpus.md").read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and the tests."""
    folder = tmp_path_factory.mktemp("new") / "birq"
    for name in ("birq", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def _call(folder: Path, forked: dict[str, str], *args: str) -> str:
    env = forked | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["python", "-m", *args], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _stamps(folder: Path, forked: dict[str, str]) -> dict[str, str]:
    _call(folder, forked, "birq", "stamp")
    return {p.name: p.read_text() for p in (folder / "data" / ".stamps").glob("*.json")}


def _put(folder: Path, place: str, text: str, before: str) -> None:
    path = folder / place
    now = path.read_text(encoding="utf-8")
    assert now.count(before) == 1
    path.write_text(now.replace(before, f"{text}\n\n{before}"), encoding="utf-8")


def test_the_page_is_a_corpus_that_conforms(blocks: dict[str, str], copy: Path, forked: dict[str, str]):
    reader, section, settings, layout = "birq/corpora/fsdd.py", "birq/settings/corpora.py", "params.yaml", "tests/layouts.py"
    assert list(blocks) == [reader, section, settings, layout]
    before = _stamps(copy, forked)
    (copy / reader).write_text(blocks[reader], encoding="utf-8")
    _put(copy, section, blocks[section], "Corpus = Annotated[")
    path = copy / section
    path.write_text(path.read_text().replace("Corpus = Annotated[", "Corpus = Annotated[FsddCorpus | "))
    assert _stamps(copy, forked) == before  # a new kind makes nothing again
    with open(copy / layout, "a", encoding="utf-8") as f:
        f.write(f"\n\n{blocks[layout]}")
    said = _call(copy, forked, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_conformance.py", "-k", "fsdd or every_kind")
    assert re.search(r"\b9 passed", said), said

    speech = copy / "speech" / "recordings"
    speech.mkdir(parents=True)
    made = "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from layouts import _fsdd; _fsdd(Path('speech'))"
    env = forked | {"PYTHONPATH": str(copy)}
    subprocess.run(["python", "-c", made], cwd=copy, env=env, check=True)
    shutil.copy(speech / "7_theo_0.wav", speech / "seven.wav")
    line = blocks[settings].splitlines()[-1].strip().replace("/speech/free-spoken-digit-dataset", "speech")
    name, _, value = line.partition(": ")
    run = f"run={{pretrain_corpora: [{name}], finetune_corpora: [{name}], methods: [scratch], seeds: [0]}}"
    values = (f"corpora={{{name}: {value}}}", run, "features.max_quarantined_share=0.1")
    _call(copy, forked, "birq", "preset", *(word for v in values for word in ("--set", v)))
    _call(copy, forked, "birq", "params", "check")
    _call(copy, forked, "birq", "corpus", "--corpus", name)
    table = (copy / "data" / "corpus" / name / "quarantine.tsv").read_text().splitlines()
    assert table[1:] == ["seven\trecordings/seven.wav\tname without digit, speaker and take\trecordings/seven.wav"]


def test_the_page_and_the_table_of_kinds_are_found_from_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "[new-corpus.md](new-corpus.md)" in text
