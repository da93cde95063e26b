"""params.yaml and presets: what is wrong is named with its value and the way out, and nothing stands there that no stage reads."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from birq.errors import BirqError
from birq.pipeline import code, dag
from birq.settings import params, presets

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
    assert params.section(loaded, "pretrain") == tree["pretrain"]


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ("pretrain.stepz", 5, ["pretrain.stepz", "unknown key", "'steps'"]),
        ("pretrain.whatever", 5, ["pretrain.whatever", "unknown key", "remove it"]),
        ("whatever", 5, ["whatever", "unknown key"]),
        ("pretrain.steps", "many", ["pretrain.steps", "'many'", "integer"]),
        ("pretrain.steps", 0, ["pretrain.steps", "0", "greater than or equal to 1"]),
        ("pretrain.steps", 1.5, ["pretrain.steps", "1.5", "integer"]),
        ("pretrain.learning_rate", -1.0, ["pretrain.learning_rate", "-1.0", "greater than 0"]),
        ("random_projection.codebook_size", 1, ["random_projection.codebook_size", "1", "greater than or equal to 2"]),
        ("birq.label_layer", 9, ["birq.label_layer", "9", "1 to model.n_layers = 4"]),
        ("birq.labels", "firm", ["birq.labels", "'firm'", "'soft' or 'hard'"]),
        ("birq.gumbel_noise", "yes please", ["birq.gumbel_noise", "boolean"]),
        ("pretrain.micro_batch_seconds", 61.0, ["pretrain.micro_batch_seconds", "61.0", "batch_seconds = 60.0"]),
        ("pretrain.dropout", 1.0, ["pretrain.dropout", "1.0", "less than 1"]),
        ("run.methods", ["hubert"], ["run.methods.0", "'hubert'", "'birq', 'best_rq' or 'scratch'"]),
        ("run.methods", [], ["run.methods", "at least 1"]),
        ("run.seeds", [0, 0], ["run.seeds", "twice"]),
        ("run.pretrain_corpora", ["an4"], ["run.pretrain_corpora", "'an4'", "synth"]),
        ("corpora.synth.kind", "hubert", ["corpora.synth", "'hubert'", "'synth', 'an4', 'librispeech', 'local'"]),
        ("corpora.synth.train_hours", 0, ["corpora.synth.train_hours", "0", "greater than 0"]),
        ("corpora.synth.pitch", [70, 30], ["corpora.synth.pitch", "70", "30"]),
        ("corpora.synth.pitches", [70, 30], ["corpora.synth.pitches", "unknown key"]),
        ("corpora.other", {"kind": "local", "root": "x"}, ["corpora", "other", "run.pretrain_corpora"]),
        ("model.d_model", 98, ["model.d_model", "98", "n_heads (4)"]),
        ("model.conv_kernel", 16, ["model.conv_kernel", "16", "odd"]),
        ("features.low_hz", 9000.0, ["features.low_hz", "9000", "8000"]),
        ("finetune.hold_share", 0.95, ["finetune.warmup_share", "0.95", "above 1"]),
        ("report.main_split", "train", ["report.main_split", "'train'", "decode.splits"]),
        ("tokenizer", None, ["tokenizer"]),
    ],
)
def test_a_bad_value_is_named_with_the_way_out(tree: dict[str, Any], key: str, value: Any, names: list[str]) -> None:
    with pytest.raises(BirqError) as error:
        params.parse(put(tree, key, value))
    for name in ["params.yaml", *names]:
        assert name in str(error.value), f"{name!r} is not in:\n{error.value}"
    assert "tagged-union" not in str(error.value)


def test_every_mistake_is_told_at_once(tree: dict[str, Any]) -> None:
    with pytest.raises(BirqError) as error:
        params.parse(put(put(tree, "pretrain.steps", 0), "finetune.steps", 0))
    assert "pretrain.steps" in str(error.value) and "finetune.steps" in str(error.value)


def test_a_missing_key_is_named(tree: dict[str, Any]) -> None:
    del tree["pretrain"]["steps"]
    with pytest.raises(BirqError, match=r"pretrain\.steps: missing"):
        params.parse(tree)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no such file"), ("a: [", "not readable as YAML"), ("- 1", "holds no sections"), ("", "holds no sections")]
)
def test_a_file_that_is_no_params_yaml(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BirqError, match=message):
        params.load(path)


def _read_names(modules: set[str]) -> set[str]:
    """Every attribute and string in the text of some modules: what they could read a key by."""
    found: set[str] = set()
    for module in modules:
        for node in ast.walk(ast.parse(code.module_source(module).read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_every_key_is_read_by_a_stage_that_declares_it() -> None:
    """A number that nobody reads is a promise that is not kept."""
    loaded = params.load(ROOT / "params.yaml")
    unread = []
    for name in set(params.Params.model_fields) - {"corpora"}:
        readers = {m for s in dag.STAGES.values() if any(x.split(".")[0] == name for x in s.sections) for m in code.modules(s.code)}
        known = _read_names(readers | {"birq.pipeline.dag"})
        unread += [f"{name}.{key}" for key in type(getattr(loaded, name)).model_fields if key not in known]
    known = _read_names({m for m in code.modules(dag.STAGES["corpus"].code)} | {"birq.pipeline.stage"})
    for kind in (params.SynthCorpus, params.An4Corpus, params.LibriSpeechCorpus, params.LocalCorpus):
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
