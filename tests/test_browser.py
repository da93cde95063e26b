"""The report's error browser: its data equal the scores, and it works in a real Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_artifacts as artifacts
import soundfile

from birq.corpora import manifests
from birq.pipeline import dag
from birq.report import build, samples
from birq.report.study import verb
from birq.settings import params
from birq.speech import pieces, shards
from birq.speech.fbank import fbank

ROOT = Path(__file__).parent.parent
RATE = 16000
needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium here, so the page is not used in a browser")


# ---- samples


def tone(seconds: float, hz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def heard(root: Path, waves: dict[str, np.ndarray], gain: float = 1.0) -> tuple[Path, Path]:
    """A corpus of recordings and its features, split test."""
    corpus, features = root / "corpus" / "synth", root / "features" / "synth"
    (corpus / "audio").mkdir(parents=True)
    cuts = []
    for id, wave in waves.items():
        soundfile.write(corpus / "audio" / f"{id}.wav", wave, RATE, subtype="FLOAT")
        cuts.append(manifests.cut(id, f"audio/{id}.wav", RATE, len(wave), "s", "text", "0" * 64, gain=gain))
    splits = manifests.write_cuts(corpus, {"test": cuts})
    about = {"name": "synth", "kind": "local", "synthetic": True, "licence": "CC0", "source": "made up", "audio_root": "."}
    manifests.write_corpus(corpus, splits=splits, quarantined=0, **about)
    meta = shards.metadata(n_mels=80, sample_rate_hz=RATE)
    rows = [
        {"id": id, "speaker": "s", "text": "text", "duration_s": len(w) / RATE, "fbank": fbank(w, {"n_mels": 80}).numpy()}
        for id, w in waves.items()
    ]
    shards.write_shard(features / "test" / "00000.parquet", rows, meta)
    return corpus, features


def test_samples_are_the_recordings_and_their_log_mel(tmp_path: Path) -> None:
    """A low tone is bright below, a high one above; the audio has the tone's frequency, length and gain."""
    corpus, features = heard(tmp_path, {"low": tone(1.0, 300), "high": tone(0.7, 5000)}, gain=0.5)
    found = samples.samples([corpus], [features], "test", ["low", "high", "absent"])
    assert set(found) == {"low", "high"}
    for id, hz, seconds, half in (("low", 300, 1.0, "lower"), ("high", 5000, 0.7, "upper")):
        picture = found[id]["picture"]
        grey_FT = np.frombuffer(base64.b64decode(picture["grey"]), np.uint8).reshape(picture["rows"], picture["columns"]).astype(float)
        assert picture["rows"] == 80 and abs(picture["columns"] - 50 * seconds) <= 2
        upper, lower = grey_FT[:40].mean(), grey_FT[40:].mean()
        assert (lower > upper) == (half == "lower")
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(found[id]["audio"])))
        assert rate == RATE and abs(len(wave) / rate - seconds) < 0.1
        spectrum = np.abs(np.fft.rfft(wave))
        assert abs(np.argmax(spectrum) * rate / len(wave) - hz) < 20
        assert np.sqrt(np.mean(wave[2000:8000] ** 2)) == pytest.approx(0.5 * 0.3 / np.sqrt(2), rel=0.2), "MP3 changes a tone a little"


def test_features_of_a_rate_that_mp3_does_not_know(tmp_path: Path) -> None:
    corpus, features = heard(tmp_path, {"a": tone(0.5, 300)})
    shard = features / "test" / "00000.parquet"
    rows = list(shards.read_rows(shard))
    shards.write_shard(shard, rows, shards.metadata(n_mels=80, sample_rate_hz=20000))
    found = samples.samples([corpus], [features], "test", ["a"])["a"]
    assert soundfile.read(io.BytesIO(base64.b64decode(found["audio"])))[1] == RATE


def test_a_recording_that_is_gone_leaves_its_picture(tmp_path: Path) -> None:
    corpus, features = heard(tmp_path, {"a": tone(0.5, 300), "b": tone(0.5, 300)})
    (corpus / "audio" / "a.wav").unlink()
    found = samples.samples([corpus], [features], "test", ["a", "b"])
    assert found["a"]["audio"] is None and found["a"]["picture"]["columns"] and found["b"]["audio"]


def test_like_ids_of_two_corpora_keep_their_own_audio(tmp_path: Path) -> None:
    """The scores name them `first/x` and `second/x`."""
    folders = [heard(tmp_path / name, {"x": tone(0.5, hz), "own": tone(0.5, hz)}) for name, hz in (("1", 300), ("2", 5000))]
    for place, name in enumerate(("first", "second")):
        folders[place] = tuple(f.rename(f.with_name(name)) for f in folders[place])  # type: ignore[call-overload]
    found = samples.samples([c for c, _ in folders], [f for _, f in folders], "test", ["first/x", "second/x"])
    waves = [soundfile.read(io.BytesIO(base64.b64decode(found[id]["audio"])))[0] for id in ("first/x", "second/x")]
    assert [np.argmax(np.abs(np.fft.rfft(w, RATE))) < 1000 for w in waves] == [True, False]


def test_samples_spread_over_the_errors() -> None:
    ids = [f"{i:02d}" for i in range(21)]
    errors = [(7 * i) % 21 if i else 0 for i in range(21)]
    taken = samples.chosen(ids, [1.0] * 20 + [25.0], errors, 5)
    of = dict(zip(ids, errors, strict=True))
    assert len(taken) == 5 and "20" not in taken, "one is too long"
    assert [of[t] for t in taken] == sorted(of[t] for t in taken) and of[taken[0]] == 0 and of[taken[-1]] == max(errors[:20])
    assert samples.chosen(ids, [1.0] * 21, errors, 0) == [] and samples.chosen([], [], [], 5) == []
    assert len(samples.chosen(ids[:3], [1.0] * 3, errors[:3], 5)) == 3


# ---- the page


def made(root: Path, n: int = 120, audio: int = 3) -> Path:
    """A report with the language model's hypotheses beside the greedy ones, and `audio` samples."""
    inputs = artifacts.everything(root, artifacts.SKILL, (0, 1), lm=True, n=n)
    table = pq.read_table(root / "data/score/birq-0/utterances.parquet", filters=[("split", "==", "test")])
    ids = sorted(table["id"].to_pylist())
    corpus, features = heard(root / "heard", {id: tone(0.6, 300 + i) for i, id in enumerate(ids[: max(audio, 1)])})
    (inputs["corpus"][0] / "test.jsonl").write_text((corpus / "test.jsonl").read_text())
    (corpus / "audio").rename(inputs["corpus"][0] / "audio")
    (features / "test").rename(inputs["features"][0] / "test")
    p = artifacts.params(methods=list(artifacts.SKILL), seeds=[0, 1])
    out = root / "data/report"
    out.mkdir(parents=True)
    given = dict(inputs, features=[_counted(inputs["features"][0])])
    section = p.report.model_copy(update={"audio_samples": n if audio else 0})
    build.report(given, out, section, p.run, dag.nodes(params.load(ROOT / "params.yaml")), 3)
    return out


def _counted(features: Path) -> Path:
    """Features whose splits.json says how many shards there are."""
    counts = json.loads((features / "splits.json").read_text())
    counts["test"]["shards"] = 1
    (features / "splits.json").write_text(json.dumps(counts))
    return features


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("browser"))


def embedded(report: Path) -> dict[str, Any]:
    text = re.search(r'<script type="application/json" id="b-data">(.*?)</script>', (report / "index.html").read_text(), re.DOTALL)
    assert text
    return json.loads(text[1])


def rows_of(report: Path, run: str, split: str = "test") -> list[dict[str, Any]]:
    table = pq.read_table(report.parent / "score" / run / "utterances.parquet", filters=[("split", "==", split)])
    return sorted(table.to_pylist(), key=lambda r: r["id"])


def test_the_browser_holds_every_utterance_as_it_was_scored(report: Path) -> None:
    """Words of both sides, and S, D and I of every model, greedy and with the language model."""
    data = embedded(report)
    assert [m["id"] for m in data["models"]] == [f"{n}-0{lm}" for n in ("birq", "best_rq", "scratch") for lm in ("", "-lm")]
    for place, model in enumerate(data["models"]):
        lm = model["id"].endswith("-lm")
        rows = rows_of(report, model["id"].removesuffix("-lm"))
        assert data["ids"] == [r["id"] for r in rows] and len(rows) == 120
        for i, row in enumerate(rows):
            said, kinds = data["said"][place]["hypotheses"][i], data["said"][place]["kinds"][i]
            assert (
                said.split() == row["lm_hypothesis" if lm else "hypothesis"].split()
                and data["references"][i].split() == row["text"].split()
            )
            assert (len(said.split()), len(row["text"].split())) == (len(kinds) - kinds.count("D"), len(kinds) - kinds.count("I"))
            assert sum(kinds.count(k) for k in "SDI") == row["lm_errors" if lm else "errors"]
            assert data["speakers"][data["speaker"][i]] == row["speaker"]


def test_no_text_of_the_data_ends_the_script(tmp_path: Path) -> None:
    """A transcript that holds markup is data."""
    out = made(tmp_path, n=12, audio=0)
    path = out.parent / "score/birq-0/utterances.parquet"
    table = pq.read_table(path)
    odd = ["</script><script>alert(1)</script> <!-- x"] * len(table)
    pq.write_table(table.set_column(table.schema.get_field_index("hypothesis"), "hypothesis", pa.array(odd)), path)
    inputs = {s: sorted((out.parent / s).iterdir()) for s in ("corpus", "features", "pretrain", "finetune", "score", "probe")}
    p = artifacts.params(methods=list(artifacts.SKILL), seeds=[0, 1])
    build.report(inputs, out, p.report, p.run, dag.nodes(params.load(ROOT / "params.yaml")), 3)
    page = (out / "index.html").read_text()
    assert embedded(out)["said"][0]["hypotheses"][0] == odd[0] and page.count("<script>alert") == 0 and page.count("</script>") == 2


def test_the_table_of_speakers_is_the_sum_of_their_utterances(report: Path) -> None:
    page = (report / "index.html").read_text()
    table = page[page.index('<table class="sortable" id="by-speaker">') :]
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td.*?</tr>", table[: table.index("</table>")], re.DOTALL)]
    rates: dict[str, list[float]] = defaultdict(list)
    for run in ("birq-0", "birq-1"):
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows_of(report, run):
            sums[row["speaker"]].update(errors=row["errors"], words=row["words"])
        for speaker, c in sums.items():
            rates[speaker].append(c["errors"] / c["words"])
    want = sorted(((-sum(r) / 2, s) for s, r in rates.items()))
    assert [(row[0], row[3]) for row in shown] == [(s, f"{-100 * r:.1f}") for r, s in want] and len(shown) == 6


@pytest.fixture(scope="module")
def tab() -> Iterator[chromium.Page]:
    with chromium.page() as tab:
        yield tab


@pytest.fixture
def page(tab: chromium.Page, report: Path) -> Iterator[chromium.Page]:
    tab.size(1280, 900)
    tab.errors.clear()
    tab.open(f"file://{report / 'index.html'}")
    yield tab
    assert not tab.errors and len(tab.requests) == 1, (tab.errors, tab.requests)


@needs_chromium
class TestInChromium:
    """What a reader does."""

    @staticmethod
    def ids(page: chromium.Page) -> list[str]:
        return page.run("[...document.querySelectorAll('#b-list .who a')].map(a => a.textContent)")

    @staticmethod
    def choose(page: chromium.Page, field: str, value: str) -> None:
        event = "new Event(f.type === 'search' ? 'input' : 'change')"
        page.run(f"(f => {{ f.value = {json.dumps(value)}; f.dispatchEvent({event}) }})(document.getElementById('b-{field}'))")

    def test_it_opens_without_an_error_and_shows_the_worst_first(self, page: chromium.Page, report: Path) -> None:
        rows = rows_of(report, "birq-0")
        want = [r["id"] for r in sorted(rows, key=lambda r: (-r["errors"], r["id"]))]
        assert self.ids(page) == want[:50]
        page.run("document.getElementById('b-more').click()")
        assert self.ids(page) == want[:100]
        count = page.run("document.getElementById('b-count').textContent")
        errors, words = sum(r["errors"] for r in rows), sum(r["words"] for r in rows)
        assert count == f"120 of 120 utterances, {errors} errors in {words} words, {100 * errors / words:.1f} % WER."
        assert page.run("document.getElementById('worst').hidden") is True

    def test_orders(self, page: chromium.Page, report: Path) -> None:
        rows, other = rows_of(report, "scratch-0"), {r["id"]: r["errors"] for r in rows_of(report, "best_rq-0")}
        self.choose(page, "model", "scratch-0")
        self.choose(page, "beside", "best_rq-0")
        keys = {
            "errors": lambda r: -r["errors"],
            "rate": lambda r: -r["errors"] / r["words"],
            "gain": lambda r: r["errors"] - other[r["id"]],
            "loss": lambda r: other[r["id"]] - r["errors"],
            "long": lambda r: -round(r["duration_s"], 2),
            "id": lambda r: 0,
        }
        for order, key in keys.items():
            self.choose(page, "order", order)
            assert self.ids(page) == [r["id"] for r in sorted(rows, key=lambda r: (key(r), r["id"]))][:50], order
        assert page.run("document.querySelectorAll('#b-list .utt .model').length") == 50, "the other model's words stand beside"

    def test_search_and_filters(self, page: chromium.Page, report: Path) -> None:
        rows = rows_of(report, "birq-0")
        self.choose(page, "find", "Berlin")
        found = {r["id"] for r in rows if "berlin" in r["text"] or "berlin" in r["hypothesis"]}
        assert set(self.ids(page)) == found and 0 < len(found) < 50
        self.choose(page, "speaker", rows[0]["speaker"])
        assert set(self.ids(page)) == {r["id"] for r in rows if r["id"] in found and r["speaker"] == rows[0]["speaker"]}
        self.choose(page, "find", "")
        page.run("document.getElementById('b-wrong').click()")
        assert set(self.ids(page)) == {r["id"] for r in rows if r["speaker"] == rows[0]["speaker"] and r["errors"]}
        self.choose(page, "find", "no such word anywhere")
        assert self.ids(page) == [] and page.run("document.getElementById('b-count').textContent").startswith("0 of 120 utterances")

    def test_the_address_is_the_view(self, page: chromium.Page, report: Path) -> None:
        """What was chosen stands in the address; opened in another tab, it shows the same."""
        self.choose(page, "model", "best_rq-0-lm")
        self.choose(page, "find", "berlin")
        first, address = self.ids(page), page.run("location.href")
        assert "model=best_rq-0-lm" in address and "find=berlin" in address
        page.open(address)
        assert self.ids(page) == first
        link = page.run("document.querySelectorAll('#b-list .who a')[1].href")
        page.open(link)
        assert self.ids(page)[0] == first[1] and set(self.ids(page)) == set(first)
        page.wait(
            "document.querySelector('.linked') && Math.abs(document.querySelector('.linked').getBoundingClientRect().top) < innerHeight"
        )
        assert page.run("document.activeElement.className") == "utt linked"
        page.open(f"file://{report / 'index.html'}#utt=nobody&model=nothing&order=gain")
        assert len(self.ids(page)) == 50, "an address that names nothing shows all"

    def test_a_sample_plays(self, page: chromium.Page) -> None:
        page.run("document.getElementById('b-heard').click()")
        assert len(self.ids(page)) == page.run("document.querySelectorAll('#b-list canvas').length") == 3
        played = """(async () => { const a = document.querySelector('#b-list audio'); await a.play();
            await new Promise(done => setTimeout(done, 250)); return [a.currentTime, a.duration, a.error] })()"""
        at, length, error = page.run(played)
        assert at > 0 and 0.5 < length < 0.8 and error is None
        lit = "(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)(document.querySelector('#b-list canvas'))"
        assert page.run(lit) > 20, "the picture is not of one colour"

    def test_keyboard_and_names(self, page: chromium.Page) -> None:
        """Every control is reached by Tab, has a name, and works by keys."""
        page.run("document.getElementById('b-model').focus()")
        reached = []
        for _ in range(7):
            reached.append(page.run("document.activeElement.id"))
            page.press("Tab")
        assert reached == [f"b-{n}" for n in ("model", "beside", "order", "speaker", "find", "wrong", "heard")]
        assert page.run("document.activeElement.textContent") == self.ids(page)[0], "the first utterance's link is next"
        fields = "[...document.querySelectorAll('#browser select, #browser input')]"
        assert page.run(f"{fields}.every(f => f.labels.length === 1 && f.labels[0].textContent.trim())")
        label = page.run("document.querySelector('#b-list .words').getAttribute('aria-label')")
        assert label.startswith("reference: ") and "; hypothesis: " in label

    @pytest.mark.parametrize(("table", "places"), [("by-speaker", (4, 0)), ("by-phone", (2, 0))])
    def test_tables_sort_by_their_heads(self, page: chromium.Page, table: str, places: tuple[int, int]) -> None:
        column = f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{{}}].textContent)"
        for place in places:
            page.run(f"document.querySelectorAll('#{table} th button')[{place}].click()")
            shown = page.run(column.format(place))
            assert shown == sorted(shown, key=float if place else str, reverse=True)
            page.run(f"document.querySelectorAll('#{table} th button')[{place}].click()")
            assert page.run(column.format(place)) == sorted(shown, key=float if place else str)
            assert page.run(f"document.querySelectorAll('#{table} th')[{place}].getAttribute('aria-sort')") == "ascending"

    @pytest.mark.parametrize("dark", [False, True])
    def test_nothing_runs_out_of_a_phone(self, page: chromium.Page, dark: bool) -> None:
        page.size(390, 840, dark)
        assert page.run("document.documentElement.scrollWidth") <= 390
        light = page.run("getComputedStyle(document.body).backgroundColor")
        assert light == ("rgb(20, 24, 31)" if dark else "rgb(255, 255, 255)")

    def test_thousands_of_utterances(self, tab: chromium.Page, tmp_path: Path) -> None:
        """The list holds 50 of 5,000; search goes through all."""
        out = made(tmp_path, n=5000, audio=0)
        tab.open(f"file://{out / 'index.html'}")
        assert len(self.ids(tab)) == 50 and (out / "index.html").stat().st_size < 8e6
        self.choose(tab, "find", "test-4999")
        assert self.ids(tab) == ["test-4999"] and not tab.errors


@needs_chromium
def test_the_page_of_the_study_in_chromium(tab: chromium.Page, tmp_path: Path) -> None:
    """That of the record, with its prose: no error, nothing fetched, every figure drawn, and on a phone only tables and figures scroll."""
    record, prose = ROOT / "benchmarks/results/study.json", ROOT / "docs/study.md"
    given = {"part": None, "against": None, "layer": None, "markdown": False, "into": None}
    verb.look(None, **given, source=record, html=tmp_path / "study.html", prose=prose)
    tab.errors.clear()
    for dark, paper in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 24, 31)")):
        tab.size(390, 840, dark)
        tab.open(f"file://{tmp_path / 'study.html'}")
        assert not tab.errors and len(tab.requests) == 1
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert tab.run("getComputedStyle(document.body).backgroundColor") == paper
        heights = tab.run("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)")
        assert len(heights) > 20 and min(heights) > 50


def test_a_piece_is_what_the_features_stage_reads(tmp_path: Path) -> None:
    """A part of a recording of two channels: offset, length and channel are the cut's."""
    left, right = tone(1.0, 300), tone(1.0, 5000)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    (wave,) = pieces.read(tmp_path / "two.wav", RATE, [samples._Piece(0.25, 0.5, (1,))])
    assert np.array_equal(wave, right[RATE // 4 : RATE // 4 + RATE // 2])
