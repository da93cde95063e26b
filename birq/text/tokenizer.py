"""Text to token ids and back: characters, or sentencepiece's unigram and BPE pieces. The CTC blank is not a token; its id is `size`."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birq.errors import BirqError

FILE, MODEL_FILE = "tokenizer.json", "tokenizer.model"
KINDS = ("characters", "unigram", "bpe")


class Tokenizer:
    """`vocab[i]` is token i as text; `size` = len(vocab), the blank not counted."""

    def __init__(self, kind: str, vocab: Sequence[str], alphabet: str, model: bytes | None = None):
        self.kind, self.vocab, self.alphabet, self.model = kind, list(vocab), alphabet, model
        self.size = len(self.vocab)
        self._ids = {piece: i for i, piece in enumerate(self.vocab)}
        self._pieces = _processor(model) if model is not None else None

    def encode(self, text: str) -> list[int]:
        """Ids in [0, size). Errors: BirqError for a character outside the alphabet."""
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise BirqError(f"{text!r}: {unknown} not in tokenizer.alphabet {self.alphabet!r}; add them there, or clean the transcripts")
        if self._pieces is None:
            return [self._ids[c] for c in text]
        return [i - 1 for i in self._pieces.encode(text)]  # sentencepiece's 0 is its unknown piece, which no text here needs

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; any ids make a text."""
        if self._pieces is None:
            return "".join(self.vocab[i] for i in ids)
        return self._pieces.decode([int(i) + 1 for i in ids])

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and tokenizer.model for pieces."""
        folder = Path(folder)
        facts = {"kind": self.kind, "alphabet": self.alphabet, "vocab": self.vocab}
        (folder / FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.model is not None:
            (folder / MODEL_FILE).write_bytes(self.model)


def _processor(model: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=model)


def load(folder: str | Path) -> Tokenizer:
    """The tokenizer saved in a folder. Errors: BirqError naming the file that is missing or damaged."""
    folder = Path(folder)
    path = folder / FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        kind, vocab, alphabet = facts["kind"], facts["vocab"], facts["alphabet"]
        model = None
        if kind != "characters":
            path = folder / MODEL_FILE
            model = path.read_bytes()
        return Tokenizer(kind, vocab, alphabet, model)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise BirqError(f"{path}: not a readable tokenizer ({e}); delete the folder {folder} and run again, it is made anew") from None


def characters(alphabet: str) -> Tokenizer:
    """One token per character of the alphabet, in code point order, whatever order it was written in."""
    return Tokenizer("characters", sorted(set(alphabet)), alphabet)


def pieces(kind: str, texts: list[str], vocab_size: int, alphabet: str) -> Tokenizer:
    """Train `unigram` or `bpe` pieces on the texts; the same texts in the same order give the same model.

    Every character of the alphabet is a piece of its own, so any text over it can be encoded.
    Errors: BirqError where the texts cannot fill `vocab_size`, or it does not hold the alphabet.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size + 1,  # the unknown piece is not one of ours
            required_chars="".join(sorted(set(alphabet) - {" "})),
            character_coverage=1.0,
            normalization_rule_name="identity",
            byte_fallback=False,
            hard_vocab_limit=True,
            num_threads=1,
            max_sentence_length=1 << 24,  # longer ones would be left out
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as e:
        raise _limit(e, kind, vocab_size, len(texts), alphabet) from None
    processor = _processor(model.getvalue())
    vocab = [processor.id_to_piece(i) for i in range(1, processor.get_piece_size())]
    return Tokenizer(kind, vocab, alphabet, model.getvalue())


def _limit(error: Exception, kind: str, vocab_size: int, n_texts: int, alphabet: str) -> BirqError:
    """sentencepiece's words about the vocabulary, in terms of params.yaml."""
    text = str(error)
    if match := re.search(r"too high \(\d+\).*?<= (\d+)", text, re.DOTALL):
        most = int(match[1]) - 1
        return BirqError(
            f"tokenizer.vocab_size: {vocab_size} is too many {kind} pieces for {n_texts} transcripts; the legal maximum is {most}"
        )
    if match := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        least = int(match[1]) - 1
        return BirqError(f"tokenizer.vocab_size: {vocab_size} does not hold the alphabet {alphabet!r}; the legal minimum is {least}")
    return BirqError(f"tokenizer: sentencepiece cannot make {vocab_size} {kind} pieces of {n_texts} transcripts: {text}")


def build(settings: Any, texts: list[str]) -> Tokenizer:
    """The tokenizer of params' tokenizer section (`kind`, `vocab_size`, `alphabet`) for training transcripts."""
    if not texts:
        raise BirqError(
            "no labelled speech in the train split: the tokenizer needs transcripts; name a corpus that has them in run.finetune_corpora"
        )
    strange = sorted({c for t in texts for c in set(t)} - set(settings.alphabet))
    if strange:
        text = next(t for t in texts if strange[0] in t)
        raise BirqError(f"{text!r}: {strange} not in tokenizer.alphabet {settings.alphabet!r}; add them there, or clean the transcripts")
    if settings.kind == "characters":
        return characters(settings.alphabet)
    return pieces(settings.kind, texts, settings.vocab_size, settings.alphabet)
