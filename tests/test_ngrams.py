"""N-grams by name: LibriSpeech's own are downloaded, pinned and used. The server is on this machine, and the file small."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Reply, Server, serving
from test_lm import SENTENCES, job, made

from birq.downloads import ngrams, verb
from birq.downloads.archives import WORK
from birq.errors import BirqError
from birq.pipeline import code, dag, sources
from birq.recognise.lm import ARPA, WORDS
from birq.settings import params
from birq.settings.decoding import PUBLISHED, Lm
from birq.study import plan
from birq.text.ngram import MARKS, NGram

ROOT = Path(__file__).resolve().parents[1]
NAME, FILE = "librispeech:4-gram", "4-gram.arpa.gz"
UNKNOWN, UNKNOWN_FILE = "librispeech:3-gram.pruned.3e-7", "3-gram.pruned.3e-7.arpa.gz"  # nobody publishes its checksum


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As LibriSpeech's are: upper case, gzipped."""
    path = tmp_path_factory.mktemp("arpa") / "small.arpa"
    NGram(SENTENCES, 4).write(path)
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    for fields in (f for f in lines if len(f) > 1):
        fields[1] = " ".join(w if w in MARKS else w.upper() for w in fields[1].split())
    return gzip.compress("".join("\t".join(f) + "\n" for f in lines).encode(), mtime=0)


@pytest.fixture
def server(body: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the small file under the names of the published ones, which are pinned to it."""
    with serving() as made:
        small = {}
        for name, archive in ngrams.ARCHIVES.items():
            made.files[name] = body
            sha256 = hashlib.sha256(body).hexdigest() if archive.sha256 else ""
            small[name] = replace(archive, urls=(made.url(name),), sha256=sha256, n_bytes=len(body))
        monkeypatch.setattr(ngrams, "ARCHIVES", small)
        yield made


def lm(folder: Path, source: str = NAME, **more: Any) -> Lm:
    return Lm(source=source, root=str(folder / "raw" / "lm"), **{"tries": 1, "stall_seconds": 20.0} | more)


def with_lm(section: Lm) -> params.Params:
    return params.load(ROOT / "params.yaml").model_copy(update={"lm": section})


def digest(section: Lm) -> str | None:
    return sources.digest(dag.Node(dag.STAGES["lm"], {}, with_lm(section)))


def refusal(section: Lm) -> str:
    with pytest.raises(BirqError) as caught:
        ngrams.fetch(section)
    return str(caught.value)


def test_a_name_is_downloaded_brought_to_lower_case_and_used(tmp_path: Path, server: Server, body: bytes) -> None:
    """To the bytes that the same file gives by its path; and it is asked for once."""
    section = lm(tmp_path)
    by_name = job(tmp_path, "name", **section.model_dump())
    facts, words = made(by_name)
    assert words == ["a", "cat", "dog", "ran", "sat", "the"] and facts["source"] == NAME and facts["order"] == 4
    (tmp_path / "own.arpa.gz").write_bytes(body)
    by_path = job(tmp_path, "path", str(tmp_path / "own.arpa.gz"))
    assert made(by_path)[0] == facts | {"source": "arpa"}
    assert all((by_name.out / f).read_bytes() == (by_path.out / f).read_bytes() for f in (ARPA, WORDS))
    made(job(tmp_path, "again", **section.model_dump()))
    assert server.asked == [(FILE, None)] and not (section.folder() / WORK).exists()


def test_the_checksum_is_in_the_key_and_the_way_of_downloading_is_not(tmp_path: Path, server: Server, body: bytes) -> None:
    section = lm(tmp_path)
    assert digest(section) == hashlib.sha256(body).hexdigest()
    ngrams.fetch(section)
    ways = {"offline": True, "mirrors": ["/disk"], "megabytes_per_second": 3.0, "tries": 9, "stall_seconds": 1.0, "root": "/disk"}
    other = section.model_copy(update=ways)
    assert digest(section) == digest(other) == hashlib.sha256(body).hexdigest()
    assert params.section(with_lm(section), "lm") == params.section(with_lm(other), "lm") == {"source": NAME, "order": 3}
    assert not [m for m in code.modules("birq.stages.lm") if m.startswith("birq.downloads")]


def test_another_file_is_refused_with_both_checksums(tmp_path: Path, server: Server, body: bytes) -> None:
    """A new release under the old name must not be searched with in silence."""
    server.files[FILE] = other = body[:-1] + bytes([body[-1] ^ 1])
    text = refusal(lm(tmp_path))
    assert text.startswith(f"lm: {FILE} could not be downloaded.\n  {server.url(FILE)}: SHA-256 {hashlib.sha256(other).hexdigest()}")
    assert hashlib.sha256(body).hexdigest() in text and "name its address or folder in lm.mirrors" in text
    assert text.endswith("Or set lm.source to the path of an ARPA file of your own.")
    assert not [p for p in lm(tmp_path).folder().iterdir() if p.name != ".birq-download.lock"]


def test_a_cut_download_is_named_kept_and_goes_on(tmp_path: Path, server: Server, body: bytes) -> None:
    server.replies[FILE] = [Reply(cut=200)]
    section = lm(tmp_path)
    text = refusal(section)
    assert f"the connection ended after 200 of {len(body)} bytes" in text and "200 bytes are kept: run again to go on" in text
    assert ngrams.fetch(section).read_bytes() == body
    assert server.asked == [(FILE, None), (FILE, "bytes=200-")]


def test_a_truncated_file_in_its_place_is_named(tmp_path: Path, server: Server, body: bytes) -> None:
    """Such as one that was copied by hand, and the copy broke off."""
    section = lm(tmp_path)
    section.folder().mkdir(parents=True)
    (section.folder() / FILE).write_bytes(body[:100])
    text = refusal(section)
    assert text == f"lm: {section.folder() / FILE} is not {FILE}: 100 bytes, expected {len(body)}; move it away, or bring the right file"
    assert not server.asked


def test_offline_asks_nobody_and_takes_what_was_brought(tmp_path: Path, server: Server, body: bytes) -> None:
    section = lm(tmp_path, offline=True)
    text = refusal(section)
    assert text.startswith(f"lm: {FILE} is not in {section.folder()}, and lm.offline is true.")
    assert f"Fetch {server.url(FILE)} elsewhere" in text and hashlib.sha256(body).hexdigest() in text
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / FILE).write_bytes(body)
    assert ngrams.fetch(lm(tmp_path / "a", offline=True, mirrors=[str(tmp_path / "disk")])).read_bytes() == body
    (section.folder() / FILE).write_bytes(body)
    assert ngrams.fetch(section).read_bytes() == body and not server.asked


@pytest.mark.parametrize("name", ["librispeech:5-gram", "librispeech:", "librispeech:4-gram.arpa.gz"])
def test_an_unknown_name_is_refused_with_the_legal_ones(name: str) -> None:
    tree = params.load(ROOT / "params.yaml").model_dump(mode="json")
    with pytest.raises(BirqError) as caught:
        params.parse(tree | {"lm": {"source": name}})
    assert f"no published n-gram is called {name!r}; legal: {', '.join(PUBLISHED)}, or the path of a file" in str(caught.value)


def test_without_a_published_checksum_that_of_the_first_download_holds(tmp_path: Path, server: Server, body: bytes) -> None:
    """It is kept beside the root and decides the key, here and wherever the lock file goes."""
    section = lm(tmp_path, UNKNOWN)
    node = dag.Node(dag.STAGES["lm"], {}, with_lm(section))
    assert sources.digest(node) is None
    sources.settle(node)
    assert sources.digest(node) == hashlib.sha256(body).hexdigest()
    lock = json.loads((tmp_path / "raw" / "lm.lock.json").read_text())["files"]
    assert lock == {UNKNOWN_FILE: {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}}
    sources.settle(node)
    assert len(server.asked) == 1
    (section.folder() / UNKNOWN_FILE).unlink()
    server.files[UNKNOWN_FILE] = body[:-1] + bytes([body[-1] ^ 1])
    assert f"take its entry out of {tmp_path / 'raw' / 'lm.lock.json'}" in refusal(section)


def test_without_a_published_checksum_a_file_brought_by_hand_is_the_first(tmp_path: Path, server: Server, body: bytes) -> None:
    section = lm(tmp_path, UNKNOWN, offline=True)
    section.folder().mkdir(parents=True)
    (section.folder() / UNKNOWN_FILE).write_bytes(b"<html>" + bytes(len(body) - 6))
    assert r"it begins with b'<html>" in refusal(section)
    (section.folder() / UNKNOWN_FILE).write_bytes(body)
    ngrams.settle(section)
    assert digest(section) == hashlib.sha256(body).hexdigest() and not server.asked


def test_the_verb_and_the_plan_count_it(tmp_path: Path, server: Server, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = with_lm(lm(tmp_path))
    assert verb.look(p).splitlines() == [
        f"lm: {FILE}  0 MB  SHA-256 {hashlib.sha256(body).hexdigest()}",
        f"  {server.url(FILE)}",
    ]
    counted = f"{len(body)} bytes: lm {len(body)} bytes"
    assert plan.make(p, {}).downloads == counted and f"downloads   {counted}" in plan.text(plan.make(p, {}), plan.Machine(), [1], [])
    assert verb.look(with_lm(lm(tmp_path, offline=True))).endswith("nowhere: lm.offline is true") and not server.asked
    assert verb.fetch(p) == f"lm: all of it is in {lm(tmp_path).folder()}" == verb.look(p) and len(server.asked) == 1
    assert "downloads" not in plan.text(plan.make(p, {}), plan.Machine(), [1], [])
    assert verb.look(with_lm(Lm(source="transcripts"))) == verb.fetch(with_lm(Lm(source="none"))) == verb.NOTHING


def test_the_table_has_every_name_and_its_addresses() -> None:
    """Sizes grow with the model; a pinned checksum is a SHA-256."""
    assert [f"librispeech:{name.removesuffix('.arpa.gz')}" for name in ngrams.ARCHIVES] == list(PUBLISHED)
    assert [a.n_bytes for a in ngrams.ARCHIVES.values()] == sorted(a.n_bytes for a in ngrams.ARCHIVES.values())
    for name, archive in ngrams.ARCHIVES.items():
        assert archive.urls[0] == f"https://www.openslr.org/resources/11/{name}" and archive.begins == b"\x1f\x8b"
        assert (len(archive.sha256) == 64) == (name != UNKNOWN_FILE)
