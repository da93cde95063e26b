"""params.yaml and presets: what is wrong is named with its value and the way out, and nothing stands there that no stage reads."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from ruamel.yaml import YAML

from birq.errors import BirqError
from birq.pipeline import code, dag
from birq.settings import corpora, params, presets, yamlfile
from birq.settings.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
PRESETS = presets.names(ROOT / "presets")


@pytest.fixture
def tree() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def put(tree: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        node = node[part]
    node[last] = value
    return tree


def test_the_tracked_params_are_legal_and_frozen(tree: dict[str, Any]) -> None:
    """A stage cannot change what its key was made from."""
    loaded = params.load(ROOT / "params.yaml")
    with pytest.raises(Exception, match="frozen"):
        loaded.pretrain.steps = 1
    assert loaded.pretrain.model_dump() == tree["pretrain"]
    assert params.section(loaded, "birq") == tree["birq"]


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("pretrain.stepz", 5, ["pretrain.stepz", "unknown key", "'steps'"]),
        ("pretrain.whatever", 5, ["pretrain.whatever", "unknown key", "remove it"]),
        ("whatever", 5, ["whatever", "unknown key"]),
        ("pretrain.steps", "many", ["pretrain.steps", "'many'", "integer"]),
        ("pretrain.steps", 0, ["pretrain.steps", "0", "greater than or equal to 1"]),
        ("pretrain.steps", 1.5, ["pretrain.steps", "1.5", "integer"]),
        ("pretrain.steps", True, ["pretrain.steps", "True", "integer"]),
        ("pretrain.steps", "0 epochs", ["pretrain.steps", "'0 epochs'", "such as '100 epochs'"]),
        ("pretrain.steps", "-3 epochs", ["pretrain.steps", "'-3 epochs'", "such as '100 epochs'"]),
        ("finetune.steps", "ten epochs", ["finetune.steps", "'ten epochs'", "such as '100 epochs'"]),
        ("pretrain.warmup_steps", -1, ["pretrain.warmup_steps", "-1", "greater than or equal to 0"]),
        ("pretrain.learning_rate", -1.0, ["pretrain.learning_rate", "-1.0", "greater than 0"]),
        ("random_projection.codebook_size", 1, ["random_projection.codebook_size", "1", "greater than or equal to 2"]),
        ("birq.label_layer", 9, ["birq.label_layer", "9", "1 to model.n_layers = 4"]),
        ("birq.labels", "firm", ["birq.labels", "'firm'", "'soft' or 'hard'"]),
        ("birq.noise", "yes please", ["birq.noise", "'yes please'", "'gumbel', 'reversed' or 'none'"]),
        ("birq.gumbel_noise", True, ["birq.gumbel_noise", "it is birq.noise now: gumbel for true, none for false, or reversed"]),
        ("birq.begins_share", 1.0, ["birq.begins_share", "1.0", "less than 1"]),
        ("random_projection.distance", "cosine", ["random_projection.distance", "'cosine'", "'unit' or 'raw'"]),
        ("pretrain.snapshots", [0.0, 0.5], ["pretrain.snapshots.0", "0.0", "greater than 0"]),
        ("pretrain.snapshots", [0.5, 1.0], ["pretrain.snapshots.1", "1.0", "less than 1"]),
        ("pretrain.snapshots", [1.5], ["pretrain.snapshots.0", "1.5", "less than 1"]),
        ("pretrain.snapshots", [0.5, 0.5], ["pretrain.snapshots", "[0.5, 0.5] must rise, each share once", "above 0 and below 1"]),
        ("pretrain.snapshots", [0.5, 0.2], ["pretrain.snapshots", "[0.5, 0.2] must rise, each share once", "above 0 and below 1"]),
        ("pretrain.snapshots", 0.5, ["pretrain.snapshots", "0.5", "list"]),
        ("pretrain.reduction", "sum", ["pretrain.reduction", "'sum'", "'frames' or 'utterances'"]),
        ("pretrain.micro_batch_seconds", 61.0, ["pretrain.micro_batch_seconds", "61.0", "above pretrain.batch_seconds = 30.0"]),
        ("pretrain.dropout", 1.0, ["pretrain.dropout", "1.0", "less than 1"]),
        ("run.methods", ["wav2vec"], ["run.methods", "'wav2vec'", "birq, best_rq, scratch"]),
        ("pretrain.label_layer", 2, ["pretrain.label_layer", "unknown key", "it is birq.label_layer now"]),
        ("run.methods", [], ["run.methods", "at least 1"]),
        ("run.seeds", [0, 0], ["run.seeds", "twice"]),
        ("run.pretrain_corpora", ["an4"], ["run.pretrain_corpora", "'an4'", "synth"]),
        ("corpora.synth.kind", "hubert", ["corpora.synth", "'hubert'", "'synth', 'an4', 'librispeech'"]),
        ("corpora.synth.train_hours", 0, ["corpora.synth.train_hours", "0", "greater than 0"]),
        ("corpora.synth.pitch", [70, 30], ["corpora.synth.pitch", "70", "30"]),
        ("corpora.synth.pitches", [70, 30], ["corpora.synth.pitches", "unknown key"]),
        ("corpora.other", {"kind": "local", "root": "x"}, ["corpora", "other", "run.pretrain_corpora"]),
        ("model.d_model", 98, ["model.d_model", "98", "n_heads (4)"]),
        ("model.input_mean", "speaker", ["model.input_mean", "'speaker'", "'corpus' or 'utterance'"]),
        ("model.conv_kernel", 16, ["model.conv_kernel", "16", "odd"]),
        ("features.low_hz", 9000.0, ["features.low_hz", "9000", "8000"]),
        ("finetune.hold_share", 0.95, ["finetune.warmup_share", "0.95", "above 1"]),
        ("report.main_split", "train", ["report.main_split", "'train'", "decode.splits"]),
        ("tokenizer", None, ["tokenizer"]),
        ("tokenizer.alphabet", "ABCabc ", ["tokenizer.alphabet", "'ABC' are capitals", "remove them"]),
        ("tokenizer.alphabet", "ÄBc ", ["tokenizer.alphabet", "'ÄB' are capitals", "write 'äb'"]),
        ("tokenizer.alphabet", "abca ", ["tokenizer.alphabet", "'a' stands there twice"]),
        ("tokenizer.alphabet", "e\u0301bé ", ["tokenizer.alphabet", "'é' stands there twice"]),
        ("tokenizer.alphabet", "abc", ["tokenizer.alphabet", "'abc' has no space", "quotes"]),
        ("tokenizer.alphabet", "世界abc", ["tokenizer.alphabet", "'a' is of a script that writes spaces"]),
        ("tokenizer.alphabet", "ab\t ", ["tokenizer.alphabet", "U+0009 is a control character"]),
        ("tokenizer.alphabet", "\ufeffab ", ["tokenizer.alphabet", "U+FEFF"]),
        ("tokenizer.alphabet", "ab\u00a0 ", ["tokenizer.alphabet", "U+00A0 is another kind of space"]),
        ("tokenizer.alphabet", "abı ", ["tokenizer.language", "'en' has no letter ı", "tr, az"]),
        ("tokenizer.language", "tr_TR", ["tokenizer.language", "'tr_TR'", "BCP 47", "such as en, tr"]),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(tree: dict[str, Any], key: str, value: Any, names: list[str]) -> None:
    with pytest.raises(BirqError) as error:
        params.parse(put(tree, key, value))
    for name in ["params.yaml", *names]:
        assert name in str(error.value), f"{name!r} is not in:\n{error.value}"
    assert "tagged-union" not in str(error.value)


VARIANT = {"method": "birq", "birq.label_layer": 2}


@pytest.mark.parametrize(
    ("name", "variant", "names"),
    [
        ("birq_k2", {"method": "wav2vec"}, ["variants.birq_k2.method", "'wav2vec'", "birq, best_rq, scratch"]),
        ("birq_k2", {"birq.label_layer": 2}, ["variants.birq_k2.method", "None", "birq, best_rq, scratch"]),
        ("scratch", VARIANT, ["variants.scratch", "is the name of a method"]),
        ("birq_k2", VARIANT | {"birq.label_layerz": 2}, ["birq.label_layerz", "did you mean birq.label_layer"]),
        ("rq_k2", {"method": "best_rq", "birq.label_layer": 2}, ["birq.label_layer is not read by a variant of best_rq", "pretrain"]),
        ("raw", {"method": "scratch", "pretrain.steps": 2}, ["pretrain.steps is not read by a variant of scratch", "random_projection"]),
        ("raw", {"method": "scratch", "random_projection.anchor_weight": 1.0}, ["random_projection.anchor_weight is not read"]),
        ("birq_k9", {"method": "birq", "birq.label_layer": 9}, ["variants.birq_k9", "label_layer: 9", "1 to model.n_layers = 4"]),
        ("birq_k2", {"method": "birq", "birq.labels": "firm"}, ["variants.birq_k2", "birq.labels", "'firm'"]),
        (
            "birq_k2",
            {"method": "birq", "birq.gumbel_noise": False},
            ["birq.gumbel_noise is not read", "it is birq.noise now", "none for false"],
        ),
        ("birq_k2", {"method": "birq", "score.seed": 1}, ["score.seed is not read by a variant"]),
        ("birq_k2", {"method": "birq", "birq": {"label_layer": 2}}, ["birq is not read by a variant", "such as birq.label_layer"]),
        ("Birq-2", VARIANT, ["variants.Birq-2"]),
    ],
)
def test_a_wrong_variant_is_refused_with_the_legal_ones(tree: dict[str, Any], name: str, variant: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(BirqError) as error:
        params.parse(put(tree, "variants", {name: variant}))
    for text in names:
        assert text in str(error.value), f"{text!r} is not in:\n{error.value}"


def test_a_variant_is_its_method_with_other_numbers(tree: dict[str, Any]) -> None:
    """And nothing else: what it does not name follows params.yaml."""
    tree = put(put(tree, "variants", {"birq_k2": VARIANT | {"finetune.steps": 7}}), "run.methods", ["birq", "birq_k2"])
    loaded = params.parse(tree)
    assert loaded.method("birq_k2") is loaded.method("birq")
    varied = loaded.of_run("birq_k2")
    assert (varied.birq.label_layer, varied.finetune.steps) == (2, 7)
    assert varied.birq.model_dump() == loaded.birq.model_dump() | {"label_layer": 2}
    assert varied.pretrain == loaded.pretrain and loaded.of_run("birq").birq.label_layer == 3


def test_a_method_that_is_no_row_and_no_variant_is_refused(tree: dict[str, Any]) -> None:
    tree = put(put(tree, "variants", {"birq_k2": VARIANT}), "run.methods", ["birq_k3"])
    with pytest.raises(
        BirqError,
        match=rf"'birq_k3' is neither a method nor in variants; legal: {', '.join(METHODS)}, birq_k2",
    ):
        params.parse(tree)


def test_every_mistake_is_told_at_once(tree: dict[str, Any]) -> None:
    with pytest.raises(BirqError) as error:
        params.parse(put(put(tree, "pretrain.steps", 0), "finetune.steps", 0))
    assert "pretrain.steps" in str(error.value) and "finetune.steps" in str(error.value)


def test_a_missing_key_is_named(tree: dict[str, Any]) -> None:
    del tree["pretrain"]["steps"]
    with pytest.raises(BirqError, match=r"pretrain\.steps: missing"):
        params.parse(tree)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no such file"), ("a: [", "not readable as YAML"), ("- 1", "holds no sections"), ("", "is empty")]
)
def test_a_file_that_is_no_params_yaml(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BirqError, match=message):
        params.load(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a:\n  x: 1\n  y: 2\n  x: 3\n", r"a\.x stands twice, in line 2 and in line 4"),
        (b"a: {x: 1, x: 2}\n", r"a\.x stands twice, in line 1;"),
        (b"a: 1\r\nb: [{c: 1, d: 2,\r\n c: 3}]\r\n", r"b\.0\.c stands twice, in line 2 and in line 3"),
        (b"a:\n\tx: 1\n", r"a tab stands where YAML wants spaces \(line 2\)"),
        (b"a: 1\nb: [http://server/x]\n", r'DVC cannot read it: .*\(line 2\).*needs quotes: \["http://server/x"\]'),
        (b"a: {b: http://x}\n", "DVC cannot read it"),
        ("a: 1\nb: é\n".encode("latin-1"), r"not UTF-8 \(line 2, byte 8"),
        ("a: 1\n".encode("utf-16"), "not UTF-8"),
        (b"\n \n", "is empty"),
        (b"# a comment\n", "holds no sections"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(tmp_path: Path, raw: bytes, message: str) -> None:
    """Editors and merges leave such files; the reader's own words would not help whoever has to mend it."""
    (tmp_path / "params.yaml").write_bytes(raw)
    with pytest.raises(BirqError, match=r"params\.yaml: .*" + message):
        params.load(tmp_path / "params.yaml")
    with pytest.raises(BirqError, match=message):
        presets.read(tmp_path / "params.yaml")


def test_what_birq_writes_is_read_by_dvc(tmp_path: Path) -> None:
    """DVC reads by libyaml, which wants quotes around some values in brackets; birq puts them there, and leaves others as they were."""
    path = tmp_path / "params.yaml"
    path.write_text("a: {}\nsource: librispeech:4-gram # as it was\nb: [plain, 'quoted: here']\n")
    tree = presets.read(path)
    presets.assign(tree, 'a={x: "http://s/x", y: [http://s/y, {z: "?"}, c]}')
    path.write_text(presets.dump(tree))
    wanted = {"x": "http://s/x", "y": ["http://s/y", {"z": "?"}, "c"]}
    assert yamlfile.read(path, yamlfile.plain()) == {"a": wanted, "source": "librispeech:4-gram", "b": ["plain", "quoted: here"]}
    assert parse_yaml(path.read_text(), path)["a"] == wanted
    assert "source: librispeech:4-gram # as it was\n" in path.read_text() and "b: [plain, 'quoted: here']\n" in path.read_text()


def test_libyaml_is_what_dvc_reads_by() -> None:
    """With ruamel's own parser an idle `dvc repro` takes a third longer."""
    assert YAML(typ="safe").Parser.__module__ != "ruamel.yaml.parser"


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    """Some editors write one at the head of every UTF-8 file."""
    (tmp_path / "params.yaml").write_bytes(b"\xef\xbb\xbf" + (ROOT / "params.yaml").read_bytes())
    assert params.load(tmp_path / "params.yaml") == params.load(ROOT / "params.yaml")


@pytest.mark.parametrize(
    ("written", "language", "read"),
    [
        ("cafe\u0301 ", "fr", "café "),  # typed on a Mac
        ("กขค", "th", "กขค"),
        ("こん世ー", "ja", "こん世ー"),
        ("क\u0958ख ", "hi", "क\u093cख "),  # a letter that NFC takes apart
        ("abıi ", "tr", "abıi "),
        ("abß ", "de", "abß "),
        ("אב ", "he", "אב "),
        ("اب\u200c ", "fa", "اب\u200c "),
    ],
)
def test_an_alphabet_of_any_script_is_taken_in_its_composed_form(tree: dict[str, Any], written: str, language: str, read: str) -> None:
    """Transcripts are compared in NFC; an alphabet in another form would lack its own letters."""
    tree = put(put(tree, "tokenizer.alphabet", written), "tokenizer.language", language)
    assert params.parse(tree).tokenizer.alphabet == read


def _read_names(modules: set[str]) -> set[str]:
    """Every attribute and string in the text of some modules: what they could read a key by."""
    found: set[str] = set()
    for module in modules:
        for node in ast.walk(ast.parse(code.module_source(module).read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
                if re.fullmatch(r"[a-z_]+\.[a-z_]+", node.value):  # job.read("kmeans.layer")
                    found.add(node.value.partition(".")[2])
    return found


def test_every_key_is_read_by_a_stage_that_declares_it() -> None:
    """A number that nobody reads is a promise that is not kept."""
    loaded = params.load(ROOT / "params.yaml")
    parts = {"parts": {"a": {"names": ["birq"], "seeds": [0]}}}
    tree = loaded.model_dump(mode="json")
    loaded = params.parse(tree | {"run": tree["run"] | {"methods": list(METHODS)}, "study": parts})
    unread = []
    nodes = dag.every(loaded)
    readers_of_corpora = code.modules("birq.stages.corpus", *(f"birq.corpora.{kind}" for kind in ("synth", "an4", "librispeech", "local")))
    for name in set(params.Params.model_fields) - {"corpora", "variants"}:
        readers = {m for n in nodes if any(x.split(".")[0] == name for x in n.sections) for m in n.code}
        others = {"features": set(readers_of_corpora), "lm": {"birq.pipeline.sources", "birq.downloads.rules"}}.get(name, set())
        known = _read_names(readers | {"birq.pipeline.dag"} | others)
        unread += [f"{name}.{key}" for key in type(getattr(loaded, name)).model_fields if key not in known]
    known = _read_names({*readers_of_corpora, "birq.pipeline.sources", "birq.downloads.rules"})
    for kind in (corpora.SynthCorpus, corpora.An4Corpus, corpora.LibriSpeechCorpus, corpora.LocalCorpus):
        unread += [f"{kind.__name__}.{key}" for key in kind.model_fields if key not in known]
    assert not unread, f"no stage reads {unread}"


def test_every_line_of_params_yaml_says_what_it_is() -> None:
    """A number without unit or source cannot be judged; names of sections and of plain choices need none."""
    lines = (ROOT / "params.yaml").read_text().splitlines()
    bare = [x.strip() for x in lines if x.startswith("  ") and not x.rstrip().endswith(":") and "#" not in x]
    plain = (
        "weight_decay",
        "adam_beta2",
        "clip_norm",
        "dropout",
        "log_every_steps",
        "cpu_threads",
        "bootstrap_samples",
        "worst_utterances",
    )
    odd = [x for x in bare if x.split(":")[0] not in (*plain, "kind", "splits")]
    assert not odd, f"lines without a comment: {odd}"


def test_the_schema_for_editors_is_up_to_date() -> None:
    """`python -m birq params schema > workflow/schemas/params.schema.json` makes it."""
    tracked = json.loads((ROOT / "workflow" / "schemas" / "params.schema.json").read_text())
    assert tracked == params.schema()


# ---- presets


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A params.yaml of one's own, with the presets beside it."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_legal_params_and_keeps_the_comments(copied: Path, name: str) -> None:
    """Every key of the preset arrives, every other key keeps its value, and no section loses its comments."""
    before, preset = yaml.safe_load(copied.read_text()), yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())
    presets.apply(name, [], copied)
    after = yaml.safe_load(copied.read_text())
    assert params.load(copied)
    for section, values in before.items():
        if section == "corpora" and "corpora" in preset:
            assert after["corpora"] == preset["corpora"]
        else:
            assert after[section] == values | preset.get(section, {})
    for comment in ("# K; the paper: 5 or 10", "# w1 of eq. 9, the paper", "# Every number of a run, by stage."):
        assert comment in copied.read_text()


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())


def test_every_preset_stands_in_the_docs() -> None:
    """With a line in the table of presets."""
    text = (ROOT / "docs" / "parameters.md").read_text()
    assert not [name for name in PRESETS if f"| `{name}` |" not in text]


@pytest.mark.parametrize(("study", "base"), [("study-recorded-an4", "an4"), ("study-recorded-books", "real-speech")])
def test_a_study_of_recorded_speech_has_the_numbers_of_its_preset(study: str, base: str) -> None:
    """So its runs of seed 0 are those that docs/results.md speaks of."""
    numbers = preset(study)
    (part,) = numbers.pop("study")["parts"].values()
    assert part["words"] and numbers == preset(base)


def test_the_study_of_more_hours_differs_in_the_hours_alone() -> None:
    """Else it would compare more than hours with the finalists."""
    hours, finalists = preset("study-hours"), preset("study-final")
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())["corpora"]["synth"]
    assert hours["corpora"] == {"synth": shipped | {"train_hours": 16.0}} and hours["pretrain"] == finalists["pretrain"]
    assert hours["finetune"] == finalists["finetune"] and set(hours) == {"study", "corpora", "pretrain", "finetune"}


def test_the_study_by_step_trains_as_the_finalists_do() -> None:
    """So that its last row continues theirs."""
    steps, finalists = preset("study-steps"), preset("study-final")
    shares = steps["pretrain"].pop("snapshots")
    assert shares == [0.1, 0.2, 0.4, 0.7] and steps["pretrain"] == finalists["pretrain"] and steps["finetune"] == finalists["finetune"]
    assert steps["study"]["parts"]["steps"]["names"] == finalists["study"]["parts"]["finalists"]["names"]


def test_the_study_of_tuning_is_a_whole_grid() -> None:
    """Every density with every rate, once, best_rq's own among them; all else is that of the other parts at 600 steps."""
    tuning, shipped = preset("study-tuning"), yaml.safe_load((ROOT / "params.yaml").read_text())["pretrain"]
    (part,) = tuning["study"]["parts"].values()
    keys = ("pretrain.mask_start_probability", "pretrain.learning_rate")
    own = {key: shipped[key.partition(".")[2]] for key in keys}
    cells = [tuple((own | tuning["variants"].get(name, {}))[key] for key in keys) for name in part["names"]]
    assert sorted(cells) == [(m, rate) for m in (0.01, 0.02, 0.03, 0.042) for rate in (0.0015, 0.003, 0.006)]
    assert all(tuning[section] == preset("study-codebooks")[section] for section in ("pretrain", "finetune"))


@pytest.mark.parametrize(("name", "part"), [("study-short", "short"), ("study-final", "finalists")])
def test_birq_at_equal_time_has_the_steps_of_the_measured_ratio(name: str, part: str) -> None:
    """benchmarks/results/equal_time.json: a step of the default form over BEST-RQ's."""
    measured = json.loads((ROOT / "benchmarks" / "results" / "equal_time.json").read_text())["ratios"]
    found = preset(name)
    (ratio,) = [value for form, value in measured.items() if "quarter" in form]
    steps = found["variants"]["birq_equal_time"]["pretrain.steps"]
    assert steps == round(found["pretrain"]["steps"] / ratio)
    equal_steps, equal_time = found["study"]["parts"][part], found["study"]["parts"][f"{part}_time"]
    assert equal_steps["seeds"] == equal_time["seeds"] and equal_time["names"] == ["best_rq", "birq_equal_time"]


def test_settings_are_yaml_and_come_after_the_preset(copied: Path) -> None:
    presets.apply("an4", ["corpora.an4.root=/somewhere/an4", "run.seeds=[0, 1]", "pretrain.learning_rate=3e-4"], copied)
    loaded = params.load(copied)
    assert loaded.corpora["an4"].root == "/somewhere/an4"
    assert loaded.run.seeds == [0, 1]
    assert loaded.pretrain.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("an5", [], "did you mean 'an4'.*legal: an4, "),
        ("an4", ["pretrain.steps"], "not of the form key=value"),
        ("an4", ["pretrane.steps=1"], "no 'pretrane' in params.yaml"),
        ("an4", ["corpora.synth.seed=1"], "no 'synth' in corpora; corpora has an4"),
        ("an4", ["pretrain.stepz=1"], "pretrain.stepz: unknown key"),
        ("an4", ["pretrain.steps=0"], "pretrain.steps: 0 is not legal"),
        ("an4", ["pretrain.steps=[1"], "not readable as YAML"),
        ("an4", ["pretrain.steps.more=1"], "holds a value, not keys"),
    ],
)
def test_a_wrong_preset_or_setting_changes_nothing(copied: Path, name: str, settings: list[str], message: str) -> None:
    """What is not legal is not written."""
    before = copied.read_bytes()
    with pytest.raises(BirqError, match=message):
        presets.apply(name, settings, copied)
    assert copied.read_bytes() == before
    assert sorted(p.name for p in copied.parent.iterdir()) == ["params.yaml", "presets"]


def test_the_same_preset_twice_changes_nothing_more(copied: Path) -> None:
    presets.apply("an4", [], copied)
    once = copied.read_bytes()
    assert presets.apply("an4", [], copied) == []
    assert copied.read_bytes() == once
