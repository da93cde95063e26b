"""params.yaml: read, checked, frozen. An unknown key, a wrong type or a value out of range is an error with the way out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from birq.errors import BirqError
from birq.settings import alphabet as alphabets
from birq.settings import explain, lineage, variants, yamlfile
from birq.settings.corpora import Corpus
from birq.settings.decoding import Decode, Lm, Search, check_search
from birq.settings.lengths import Length, LengthOrNone, SharesOfSteps
from birq.settings.methods import FROM_ANEW, METHODS, Method
from birq.settings.section import Count, Name, NonNegative, Positive, Section, Seed, Share, ordered
from birq.settings.study import Study


class Run(Section):
    """The methods, seeds and corpora of one DAG."""

    methods: Annotated[list[Name], Field(min_length=1)]  # of birq/settings/methods.py, or names from `variants`
    seeds: Annotated[list[Seed], Field(min_length=1)]
    pretrain_corpora: Annotated[list[Name], Field(min_length=1)]
    finetune_corpora: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Run:
        for key in type(self).model_fields:
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: {values} names one of its values twice")
        return self


class Features(Section):
    """Log-mel filterbank (Kaldi's definition) and how it is stored."""

    sample_rate_hz: Annotated[int, Field(ge=8000, le=48000)]
    n_mels: Annotated[int, Field(ge=10, le=256)]
    frame_length_ms: Positive
    frame_shift_ms: Positive
    low_hz: NonNegative
    high_hz: float
    storage: Literal["int16", "float32"]
    shard_utterances: Count
    min_seconds: Positive
    max_seconds: Positive
    max_quarantined_share: Share

    @model_validator(mode="after")
    def _ranges(self) -> Features:
        ordered("min_seconds, max_seconds", (self.min_seconds, self.max_seconds))
        nyquist = self.sample_rate_hz / 2
        if not self.low_hz < (self.high_hz if self.high_hz > 0 else nyquist + self.high_hz) <= nyquist:
            raise ValueError(f"low_hz, high_hz: {self.low_hz} and {self.high_hz} leave no band below {nyquist:g} Hz")
        return self


class Tokenizer(Section):
    kind: Literal["characters", "unigram", "bpe"]
    vocab_size: Annotated[int, Field(ge=8, le=65536)]
    alphabet: Annotated[str, Field(min_length=2)]
    language: Annotated[str, Field(json_schema_extra={"pattern": alphabets.LANGUAGE})] = "en"  # BCP 47; it decides about capitals

    @field_validator("alphabet")
    @classmethod
    def _composed(cls, value: str) -> str:
        return alphabets.composed(value)

    @field_validator("language")
    @classmethod
    def _tag(cls, value: str) -> str:
        return alphabets.language_tag(value)

    @model_validator(mode="after")
    def _fits(self) -> Tokenizer:
        alphabets.check(self.alphabet, self.language)
        return self


class Model(Section):
    """The Conformer encoder, and what its input is."""

    n_stack: Literal[1, 2, 4, 8]
    input_mean: Literal["corpus", "utterance"] = "corpus"
    d_model: Annotated[int, Field(ge=8)]
    n_layers: Count
    n_heads: Count
    ff_expansion: Count
    conv_kernel: Annotated[int, Field(ge=1)]
    conv_expansion: Count
    positions: Literal["rotary", "relative"]
    attention_window: Annotated[int, Field(ge=0)]
    norms: Literal["float32", "bf16"]

    @model_validator(mode="after")
    def _shapes(self) -> Model:
        if self.d_model % self.n_heads or (self.positions == "rotary" and self.d_model // self.n_heads % 2):
            raise ValueError(f"d_model: {self.d_model} must be n_heads ({self.n_heads}) times an even number")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel: {self.conv_kernel} must be odd")
        return self

    @property
    def shape(self) -> dict[str, Any]:
        """The keys that make the encoder's shape, JSON-ready; the others are the front end's."""
        return self.model_dump(mode="json", exclude={"input_mean"})


class Optimisation(Section):
    """Params shared by pre-training and fine-tuning."""

    unkeyed: ClassVar = frozenset({"checkpoint_seconds"})  # decides the time of a checkpoint, not its content

    steps: Length  # birq/train/epochs.py turns epochs into steps
    batch_seconds: Positive
    micro_batch_seconds: Positive
    learning_rate: Positive
    final_rate_share: Share
    weight_decay: NonNegative
    adam_beta2: Annotated[float, Field(gt=0, lt=1)]
    clip_norm: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    log_every_steps: Count
    checkpoint_seconds: NonNegative
    cpu_threads: Count


class Pretrain(Optimisation):
    """Read by every method that trains."""

    unkeyed: ClassVar = Optimisation.unkeyed | {"starts_from"}  # that encoder is an input, and counts by its content

    starts_from: Name  # a method, a name from `variants`, or none
    warmup_steps: LengthOrNone
    mask_start_probability: Annotated[float, Field(gt=0, le=1)]
    mask_span_ms: Positive
    mask_fill_std: NonNegative
    reduction: Literal["frames", "utterances"]
    snapshots: SharesOfSteps = Field(default=[])  # what params.yaml of earlier commits lacks


class RandomProjection(Section):
    """The random-projection quantizers of BEST-RQ and BiRQ, and the weight of the labels that they make of the input."""

    n_codebooks: Annotated[int, Field(ge=1, le=64)]
    codebook_size: Annotated[int, Field(ge=2, le=65536)]
    codebook_dim: Annotated[int, Field(ge=2)]
    view: Literal["log_mel", "mean_removed", "cepstra", "cmvn"]
    view_window_frames: Annotated[int, Field(ge=0)]
    distance: Literal["unit", "raw"]
    projection: Literal["random", "pca"]
    codebook: Literal["random", "refined"]
    refine_every_steps: Count
    anchor_weight: NonNegative
    similarity_weight: NonNegative
    similarity_temperature: Positive
    distil_weight: NonNegative
    distil_codes: Annotated[int, Field(ge=2)]
    distil_layers: Annotated[list[Count], Field(min_length=1)]
    distil_begins_share: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _further(self) -> RandomProjection:
        if self.distil_weight and self.distil_codes > self.codebook_size:
            raise ValueError(
                f"distil_codes: {self.distil_codes} is above codebook_size = {self.codebook_size}, with whose codes the further codebook "
                "begins; lower the one, or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _window(self) -> RandomProjection:
        if self.view_window_frames and self.view == "log_mel":
            raise ValueError(
                f"view_window_frames: {self.view_window_frames} needs a view that removes the mean: mean_removed, cepstra or cmvn"
            )
        return self


class Birq(Section):
    """The enhanced labels of BiRQ; the paper's symbols stand in params.yaml."""

    label_layer: Count
    enhanced_weight: NonNegative
    temperature: Positive
    logit_scale: Positive
    label_share: Annotated[float, Field(gt=0, le=1)]
    label_gradient: NonNegative
    entropy_weight: NonNegative
    labels: Literal["soft", "hard"]
    noise: Literal["gumbel", "reversed", "none"]
    label_norm: Literal["standardise", "layer_norm", "none"]
    heads: Literal["shared", "separate"]
    label_projection: Literal["random", "pca"]
    label_codebook: Literal["random", "refined"]
    begins_share: Annotated[float, Field(ge=0, lt=1)]
    min_perplexity: Annotated[float, Field(ge=1)]
    gradient_cosine_every_steps: Annotated[int, Field(ge=0)]


class Kmeans(Section):
    """Labels that are clusters of frames, of the input or of a layer."""

    clusters: Annotated[int, Field(ge=2, le=65535)]
    fit_minutes: Positive
    view: Literal["log_mel", "mean_removed", "cepstra", "cmvn"]
    layer: Count


class Relabel(Section):
    """The labels of a method that learns codes of another method's encoder, seen through a random quantizer."""

    layer: Count


class Finetune(Optimisation):
    labelled_minutes: Positive
    head_rate_factor: Positive
    reset_layers: Annotated[int, Field(ge=0)]
    frozen_steps: Annotated[int, Field(ge=0)]
    warmup_share: Share
    hold_share: Share
    anneal_stairs: Annotated[int, Field(ge=0)]
    time_masks: Annotated[int, Field(ge=0)]
    time_mask_ms: NonNegative
    freq_masks: Annotated[int, Field(ge=0)]
    freq_mask_bins: Annotated[int, Field(ge=0)]
    evaluations: Count

    @model_validator(mode="after")
    def _shares(self) -> Finetune:
        if self.warmup_share + self.hold_share > 1:
            raise ValueError(f"warmup_share, hold_share: {self.warmup_share} + {self.hold_share} is above 1")
        return self


class Score(Section):
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    bootstrap_samples: Annotated[int, Field(ge=100)]
    seed: Seed


class Probe(Section):
    split: Literal["train", "dev", "test"]
    max_minutes: Positive
    train_minutes: Positive
    penalty: Positive
    abx_tokens: Annotated[int, Field(ge=0)]


class Report(Section):
    main_split: Literal["train", "dev", "test"]
    worst_utterances: Count
    audio_samples: Annotated[int, Field(ge=0, le=100)] = 8


class Params(Section):
    """All of params.yaml, frozen."""

    run: Run
    variants: dict[Name, dict[str, Any]] = Field(default={})  # checked in birq/settings/variants.py
    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    features: Features
    tokenizer: Tokenizer
    model: Model
    pretrain: Pretrain
    random_projection: RandomProjection
    birq: Birq
    kmeans: Kmeans
    relabel: Relabel
    finetune: Finetune
    decode: Decode
    lm: Lm = Lm()  # what params.yaml of earlier commits lacks
    search: Search = Search()  # the same
    score: Score
    probe: Probe
    report: Report
    study: Study = Study()  # what params.yaml of earlier commits lacks

    @model_validator(mode="after")
    def _across(self, info: ValidationInfo) -> Params:
        legal = [*METHODS, *self.variants]
        for name in self.run.methods:
            if name not in legal:
                raise ValueError(f"run.methods: {name!r} is neither a method nor in variants; legal: {', '.join(legal)}")
        self.study.check(legal)
        for key in ("pretrain_corpora", "finetune_corpora"):
            for name in getattr(self.run, key):
                if name not in self.corpora:
                    raise ValueError(f"run.{key}: {name!r} is not in corpora, which has {sorted(self.corpora)}")
        unused = set(self.corpora) - set(self.run.pretrain_corpora) - set(self.run.finetune_corpora)
        if unused:
            raise ValueError(f"corpora: {sorted(unused)} stands in neither run.pretrain_corpora nor run.finetune_corpora")
        if self.birq.enhanced_weight == 0 and self.random_projection.anchor_weight == 0:
            raise ValueError("birq.enhanced_weight, random_projection.anchor_weight: both are 0, nothing would be learned")
        if self.birq.label_layer > self.model.n_layers:
            raise ValueError(
                f"birq.label_layer: {self.birq.label_layer} is above the depth; legal: 1 to model.n_layers = {self.model.n_layers}"
            )
        if self.random_projection.distil_weight and max(self.random_projection.distil_layers) > self.model.n_layers:
            raise ValueError(
                f"random_projection.distil_layers: {self.random_projection.distil_layers} has one above the depth; "
                f"legal: 1 to model.n_layers = {self.model.n_layers}"
            )
        if self.finetune.reset_layers > self.model.n_layers:
            raise ValueError(
                f"finetune.reset_layers: {self.finetune.reset_layers} is above the depth; "
                f"legal: 0 to model.n_layers = {self.model.n_layers}"
            )
        for stage in (self.pretrain, self.finetune, self.decode):
            longest = getattr(stage, "micro_batch_seconds", stage.batch_seconds)
            name = type(stage).__name__.lower()
            if longest > stage.batch_seconds:
                raise ValueError(f"{name}.micro_batch_seconds: {longest} is above {name}.batch_seconds = {stage.batch_seconds}")
        if self.report.main_split not in self.decode.splits:
            raise ValueError(f"report.main_split: {self.report.main_split!r} is not decoded; decode.splits = {self.decode.splits}")
        check_search(self.lm, self.search, self.decode.splits, self.tokenizer.alphabet)
        _ = self._runs  # a variant that is not legal is refused here
        if not info.context:  # a variant's labels may come from an encoder of these params, so it is not judged by its own alone
            for name in dict.fromkeys((*self.run.methods, *self.variants, *(name for name, _ in self.study.runs()))):
                lineage.check(self, name)
        return self

    @cached_property
    def _runs(self) -> dict[str, Params]:
        """The params under which each variant runs."""
        return {name: variants.varied(self, name, variant) for name, variant in self.variants.items()}

    def method(self, run: str) -> Method:
        """The method of a name in run.methods: a row of the table, or the base of a variant."""
        row = METHODS[self.variants[run]["method"] if run in self.variants else run]
        return row.branched if row.trains and self.of_run(run).pretrain.starts_from != FROM_ANEW else row

    def starts_from(self, run: str) -> str | None:
        """The run with whose finished encoder the pre-training of a name in run.methods begins; None: with weights as they are drawn."""
        return self.of_run(run).pretrain.starts_from if self.method(run).own_task else None

    def of_run(self, run: str) -> Params:
        """These params as a name in run.methods reads them: a variant has numbers of its own."""
        return self._runs.get(run, self)


def _lists_to_pairs(tree: Any) -> Any:
    """YAML has no tuples; a strict pydantic pair wants one."""
    if isinstance(tree, dict):
        pairs = ("speed_wpm", "pitch", "snr_db")
        return {k: tuple(v) if k in pairs and isinstance(v, list) else _lists_to_pairs(v) for k, v in tree.items()}
    return tree


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Errors: BirqError names the key, its value and the legal range.
    """
    path = Path(path)
    return parse(yamlfile.read(path, yamlfile.plain()), path)


def parse(tree: dict[str, Any], path: str | Path = "params.yaml") -> Params:
    """Check a tree as it comes from YAML."""
    try:
        return Params.model_validate(_lists_to_pairs(tree))
    except ValidationError as e:
        raise BirqError(explain.explain(Path(path), e, Params)) from None


def at(params: Params, dotted: str) -> Any:
    """The value at `pretrain`, `run.seeds`, `corpora.an4`, ..."""
    value: Any = params
    for part in dotted.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def section(params: Params, dotted: str) -> Any:
    """The plain (JSON-ready) value of a section such as `pretrain` or `run.seeds`, without the unkeyed fields."""
    value = at(params, dotted)
    return value.model_dump(mode="json", exclude=set(value.unkeyed)) if isinstance(value, Section) else value


def numbers(params: Params, method: Method) -> dict[str, Any]:
    """The params that a method reads besides those of every encoder: keys of its sections and their values."""
    out: dict[str, Any] = {}
    for dotted in method.sections:
        value = at(params, dotted)
        out |= value.model_dump(mode="json") if isinstance(value, Section) else {dotted.rpartition(".")[2]: value}
    return out


def schema() -> dict[str, Any]:
    """JSON schema of params.yaml, for editors; workflow/schemas/params.schema.json is a copy."""
    return Params.model_json_schema()
