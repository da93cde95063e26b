"""A recogniser for Hugging Face's transformers: custom code, since none of its own classes has this encoder.

`birq export FOLDER --hf` writes FOLDER/huggingface. There:

    AutoModelForCTC.from_pretrained(folder, trust_remote_code=True), AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)

The remote code is one file that imports this module, so birq has to be installed.

Shape suffixes: B utterances, T log-mel frames, N encoder frames, F mel bins, V units with the blank.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birq.model.ctc import CtcModel, Targets, ctc_loss
from birq.model.encoder import Encoder
from birq.saved.weights import shape_of
from birq.speech.batches import collate
from birq.speech.frontend import from_config
from birq.speech.resampling import torchaudio
from birq.speech.utterances import InMemory
from birq.text import tokenizer as tokens
from birq.use.recogniser import Recogniser

torchaudio()  # before transformers, which imports it too and fails beside a CPU build of torch
from transformers import (  # noqa: E402
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizer,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.modeling_outputs import CausalLMOutput  # noqa: E402

FOLDER, CODE = "huggingface", "modeling_birq.py"
BLANK = "<blank>"
NO_LABEL = -100  # of padding in labels, as everywhere in transformers


class BirqConfig(PreTrainedConfig):
    """`birq`: the config.json of a recogniser; vocab_size: with the blank."""

    model_type = "birq"

    def __init__(self, birq: dict[str, Any] | None = None, vocab_size: int = 0, **kwargs: Any):
        self.birq, self.vocab_size = birq or {}, vocab_size
        super().__init__(**kwargs)

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples in one encoder frame, for the pipeline's times."""
        features = self.birq["features"]
        return round(features["sample_rate_hz"] * features["frame_shift_ms"] / 1000) * int(self.birq["model"]["n_stack"])


class BirqForCTC(PreTrainedModel):
    """Normalised log-mel in, logits per encoder frame out. The blank is the last unit."""

    config_class = BirqConfig
    main_input_name = "input_features"
    base_model_prefix = "model"

    def __init__(self, config: BirqConfig):
        super().__init__(config)
        self.model = CtcModel(Encoder(shape_of(config.birq)), config.vocab_size - 1)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Modules have their start values from their own constructors."""

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """input_features [B, T, F], attention_mask [B, T], labels [B, L] with -100 for padding -> loss, a mean over utterances, and logits.

        Logits [B, N, V] are log probabilities; frames of padding say blank.
        """
        b, t, _bins = input_features.shape
        n_stack = self.model.encoder.shape.n_stack
        lengths_B = torch.full((b,), t, device=input_features.device) if attention_mask is None else attention_mask.sum(-1)
        lengths_B = lengths_B // n_stack
        logp_BNV, lengths_B = self.model(input_features[:, : t // n_stack * n_stack], lengths_B)
        loss = None
        if labels is not None:
            targets = Targets.of([[int(i) for i in row if i != NO_LABEL] for row in labels.tolist()])
            loss = ctc_loss(logp_BNV, lengths_B.cpu(), targets, self.model.blank) / b
        padding_BN = torch.arange(logp_BNV.shape[1], device=logp_BNV.device) >= lengths_B[:, None]
        silent_V = torch.full((logp_BNV.shape[2],), -1e4, device=logp_BNV.device)
        silent_V[self.model.blank] = 0.0
        logits_BNV = torch.where(padding_BN[:, :, None], silent_V, logp_BNV)
        if return_dict is False:
            return (logits_BNV,) if loss is None else (loss, logits_BNV)
        return CausalLMOutput(loss=loss, logits=logits_BNV)


class BirqFeatureExtractor(SequenceFeatureExtractor):
    """Samples to normalised log-mel, as the pipeline makes it."""

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  the base class wants a list

    def __init__(self, birq: dict[str, Any] | None = None, **kwargs: Any):
        self.birq = birq or {}
        features = self.birq.get("features", {})
        size = {"feature_size": features.get("n_mels", 80), "sampling_rate": features.get("sample_rate_hz", 16000), "padding_value": 0.0}
        super().__init__(**(kwargs | size))

    def __call__(
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray] | Sequence[float],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Mono samples [n] in [-1, 1], or a list of them -> input_features [B, T, F], attention_mask [B, T].

        Errors: ValueError for another rate than the model's, as transformers' own extractors have it.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the model hears {self.sampling_rate} Hz, not {sampling_rate}: resample the samples")
        many = isinstance(raw_speech, (list, tuple)) and len(raw_speech) and not np.isscalar(raw_speech[0]) and np.ndim(raw_speech[0]) > 0
        waves = [np.asarray(w, np.float32) for w in raw_speech] if many else [np.asarray(raw_speech, np.float32)]
        front_end = from_config(self.birq)
        utterances = InMemory([(w, self.sampling_rate) for w in waves], front_end)
        batch = collate(utterances, np.arange(len(waves)), front_end)
        feats_BTF = batch.feats_BTF.numpy()
        heard_BT = np.arange(feats_BTF.shape[1]) < batch.lengths_B.numpy()[:, None] * front_end.n_stack
        return BatchFeature({"input_features": feats_BTF, "attention_mask": heard_BT.astype(np.int64)}, tensor_type=return_tensors)


class BirqTokenizer(PreTrainedTokenizer):
    """birq's tokenizer and a blank. `decode` merges repeats and drops blanks, as CTC has it, unless group_tokens is False."""

    vocab_files_names = {"tokenizer_file_birq": "birq_tokenizer.json", "model_file_birq": "birq_tokenizer.model"}  # noqa: RUF012
    model_input_names = ["input_ids"]  # noqa: RUF012
    word_delimiter_token = " "
    replace_word_delimiter_char = " "

    def __init__(self, tokenizer_file_birq: str | None = None, model_file_birq: str | None = None, **kwargs: Any):
        facts = json.loads(Path(str(tokenizer_file_birq)).read_text(encoding="utf-8"))
        self.own = tokens.Tokenizer(**facts, model=Path(model_file_birq).read_bytes() if model_file_birq else None)
        self._units = [*self.own.vocab, BLANK]
        self._numbers = {unit: i for i, unit in enumerate(self._units)}
        super().__init__(pad_token=BLANK, **{k: v for k, v in kwargs.items() if k != "pad_token"})

    @property
    def vocab_size(self) -> int:
        return self.own.size + 1

    def get_vocab(self) -> dict[str, int]:
        return dict(self._numbers)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self.own.vocab[i] for i in self.own.encode(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._numbers[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._units[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self._text([self._numbers[t] for t in tokens if t != BLANK])

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self.own.decode(ids).split())

    def _decode(
        self, token_ids: Any, skip_special_tokens: bool = False, group_tokens: bool = True, output_char_offsets: bool = False, **_: Any
    ) -> Any:
        """Text of CTC's best units per frame; with offsets, each token with the frames in which it was said."""
        frames = [int(i) for i in np.atleast_1d(np.asarray(token_ids))]
        spans: list[tuple[int, int, int]] = []
        for at, unit in enumerate(frames):
            if unit == self.own.size:
                continue
            if group_tokens and at and frames[at - 1] == unit:
                spans[-1] = (unit, spans[-1][1], at + 1)
            else:
                spans.append((unit, at, at + 1))
        text = self._text([unit for unit, _, _ in spans])
        if not output_char_offsets:
            return text
        shown = [(self.own.vocab[unit].replace("▁", " "), begin, end) for unit, begin, end in spans]
        return {"text": text, "char_offsets": [{"char": c, "start_offset": a, "end_offset": b} for c, a, b in shown]}

    @staticmethod
    def _get_word_offsets(offsets: list[dict[str, Any]], delimiter: str = " ") -> list[dict[str, Any]]:
        """Words of `char_offsets`, for the pipeline's return_timestamps="word"."""
        words: list[dict[str, Any]] = []
        begun = False
        for offset in offsets:
            if offset["char"].startswith(delimiter):
                begun = False
            char = offset["char"].strip(delimiter)
            if char and begun:
                words[-1] = words[-1] | {"word": words[-1]["word"] + char, "end_offset": offset["end_offset"]}
            elif char:
                words.append({"word": char, "start_offset": offset["start_offset"], "end_offset": offset["end_offset"]})
                begun = True
        return words

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """birq's own files, under names that transformers does not take for those of its fast tokenizers."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        made = []
        with tempfile.TemporaryDirectory() as scratch:
            self.own.save(scratch)
            for name, saved in zip(self.vocab_files_names.values(), (tokens.FILE, tokens.MODEL_FILE), strict=True):
                if (Path(scratch) / saved).is_file():
                    made.append(shutil.copyfile(Path(scratch) / saved, Path(save_directory) / f"{prefix}{name}"))
        return tuple(map(str, made))


class BirqProcessor(ProcessorMixin):
    """Feature extractor and tokenizer in one."""

    def __init__(self, feature_extractor: BirqFeatureExtractor, tokenizer: BirqTokenizer, **kwargs: Any):
        super().__init__(feature_extractor, tokenizer, **kwargs)

    def __call__(self, audio: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> BatchFeature:
        """`audio` to the model's inputs, `text` to `labels` (a list of ids each)."""
        made = self.feature_extractor(audio, **kwargs) if audio is not None else BatchFeature({})
        if text is not None:
            made["labels"] = [self.tokenizer.own.encode(t) for t in ([text] if isinstance(text, str) else text)]
        return made

    def batch_decode(self, ids: Any, **kwargs: Any) -> list[str]:
        return [self.tokenizer.decode(row, **kwargs) for row in ids]


def register() -> None:
    """The Auto classes know birq's in this process without remote code."""
    AutoConfig.register("birq", BirqConfig, exist_ok=True)
    AutoModelForCTC.register(BirqConfig, BirqForCTC, exist_ok=True)
    AutoFeatureExtractor.register(BirqConfig, BirqFeatureExtractor, exist_ok=True)
    AutoTokenizer.register(BirqConfig, slow_tokenizer_class=BirqTokenizer, exist_ok=True)
    AutoProcessor.register(BirqConfig, BirqProcessor, exist_ok=True)


REMOTE = '''"""Custom code for transformers: the classes are birq's. pip install birq"""

from birq.use.huggingface import BirqConfig, BirqFeatureExtractor, BirqForCTC, BirqProcessor, BirqTokenizer

__all__ = ["BirqConfig", "BirqFeatureExtractor", "BirqForCTC", "BirqProcessor", "BirqTokenizer"]
'''


def write(folder: Path, recogniser: Recogniser, card: str) -> None:
    """Write a model's folder as `from_pretrained` and `push_to_hub` want it. Nothing is sent."""
    module = Path(CODE).stem
    config = BirqConfig(birq=recogniser.config, vocab_size=recogniser.tokenizer.size + 1, architectures=["BirqForCTC"])
    config.auto_map = {"AutoConfig": f"{module}.BirqConfig", "AutoModelForCTC": f"{module}.BirqForCTC"}
    model = BirqForCTC(config).eval()
    model.model.load_state_dict(recogniser.model.state_dict())
    model.save_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        recogniser.tokenizer.save(scratch)
        file, pieces = (Path(scratch) / name for name in (tokens.FILE, tokens.MODEL_FILE))
        tokenizer = BirqTokenizer(str(file), str(pieces) if pieces.is_file() else None)
    extractor = BirqFeatureExtractor(birq=recogniser.config)
    for part in (BirqProcessor(extractor, tokenizer), extractor, tokenizer):  # also by themselves, as the pipeline loads them
        part.save_pretrained(folder)
    _name_code(folder, module)
    (folder / CODE).write_text(REMOTE, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")


def _name_code(folder: Path, module: str) -> None:
    """Which class of the remote code each Auto class takes, in every file that may be asked."""
    extractor = {"AutoFeatureExtractor": f"{module}.BirqFeatureExtractor", "AutoProcessor": f"{module}.BirqProcessor"}
    tokenizer = {"AutoTokenizer": [f"{module}.BirqTokenizer", None], "AutoProcessor": f"{module}.BirqProcessor"}
    known = {"preprocessor_config.json": extractor, "tokenizer_config.json": tokenizer, "processor_config.json": extractor}
    for name, auto_map in known.items():
        path = folder / name
        facts = json.loads(path.read_text(encoding="utf-8")) | {"auto_map": auto_map}
        if "feature_extractor" in facts:  # transformers 5 asks here first
            facts["feature_extractor"]["auto_map"] = auto_map
        path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
