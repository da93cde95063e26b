"""Greedy CTC decoding of given log-probabilities, and scoring of given hypotheses."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import jiwer
import torch

from benchmarks.harness import ROOT, Contender, Part, race
from benchmarks.training import load, shape_of
from birq.evaluate.rates import count_errors, rates
from birq.model.ctc import CtcModel
from birq.model.encoder import Encoder
from birq.recognise.greedy import greedy
from birq.text.tokenizer import characters

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
BLANK = len(LETTERS)
REPEATS = 50  # a call takes less than a millisecond


def log_probabilities(n_utterances: int, n_units: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Peaky as a trained recogniser's: most frames are blank, letters last one or two frames. [B, T, V] and lengths."""
    generator = torch.Generator().manual_seed(0)
    frames = 320
    best_BT = torch.randint(0, n_units - 1, (n_utterances, frames), generator=generator)
    best_BT = best_BT.where(torch.rand(best_BT.shape, generator=generator) < 0.4, torch.tensor(n_units - 1))
    logits_BTV = torch.randn(n_utterances, frames, n_units, generator=generator)
    logits_BTV.scatter_add_(-1, best_BT[:, :, None], torch.full((n_utterances, frames, 1), 12.0))
    return logits_BTV.log_softmax(-1), torch.randint(250, frames + 1, (n_utterances,), generator=generator)


def by_speechbrain(logp_BTV: torch.Tensor, lengths_B: torch.Tensor) -> list[list[int]]:
    from speechbrain.decoders.ctc import ctc_greedy_decode

    return ctc_greedy_decode(logp_BTV, lengths_B / logp_BTV.shape[1], blank_id=logp_BTV.shape[-1] - 1)


def transformers_tokenizer(scratch: Path):
    """Wav2Vec2's CTC tokenizer over birq's letters; its padding token is the blank."""
    from transformers import Wav2Vec2CTCTokenizer

    units = {("|" if c == " " else c): i for i, c in enumerate(LETTERS)} | {"<pad>": BLANK}
    (scratch / "vocab.json").write_text(json.dumps(units))
    return Wav2Vec2CTCTokenizer(str(scratch / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None)


def decoding(scratch: Path, quick: bool) -> Part:
    from birq.speech import resampling

    resampling.torchaudio()  # SpeechBrain imports it unguarded
    n = 20  # 240 s, a batch of the decode stage
    logp_BTV, lengths_B = log_probabilities(n, BLANK + 1)
    ours, theirs = characters(LETTERS), transformers_tokenizer(scratch)
    inside_BT = torch.arange(logp_BTV.shape[1]) < lengths_B[:, None]

    def by_transformers() -> list[str]:
        return theirs.batch_decode(logp_BTV.argmax(-1).masked_fill(~inside_BT, BLANK).numpy())

    def birq_texts() -> list[str]:
        return [ours.decode(ids) for ids in greedy(logp_BTV, lengths_B, BLANK)]

    def again(call: Callable[[], object]) -> Callable[[], None]:
        return lambda: [call() for _ in range(REPEATS)] and None

    part = race(
        "greedy",
        f"{REPEATS} times {n} utterances of 250 to 320 frames, {BLANK + 1} units, one thread",
        [
            Contender("transformers Wav2Vec2CTCTokenizer, to text", again(by_transformers)),
            Contender("birq, to text", again(birq_texts)),
            Contender("SpeechBrain ctc_greedy_decode, to units", again(lambda: by_speechbrain(logp_BTV, lengths_B))),
            Contender("birq, to units", again(lambda: greedy(logp_BTV, lengths_B, BLANK))),
            Contender("floor: argmax by numpy", again(lambda: logp_BTV.numpy().argmax(-1))),
            Contender("floor: argmax by torch", again(lambda: logp_BTV.argmax(-1))),
        ],
        5 if quick else 15,
    )
    part.facts["equal_units"] = by_speechbrain(logp_BTV, lengths_B) == greedy(logp_BTV, lengths_B, BLANK)
    part.facts["equal_texts"] = [" ".join(t.split()) for t in by_transformers()] == [" ".join(t.split()) for t in birq_texts()]
    return part


# ---- scoring, beside the recognition that gives the hypotheses


def transcripts(n: int) -> tuple[list[str], list[str]]:
    """References of 15 to 25 words, and hypotheses in which one word of eight is wrong, missing or new."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3000)]
    references, hypotheses = [], []
    for _ in range(n):
        spoken = draw.choices(words, k=draw.randint(15, 25))
        recognised = []
        for word in spoken:
            kind = draw.random()
            recognised += (
                [word] if kind > 0.12 else [draw.choice(words)] if kind > 0.06 else [] if kind > 0.03 else [word, draw.choice(words)]
            )
        references.append(" ".join(spoken))
        hypotheses.append(" ".join(recognised))
    return references, hypotheses


def recogniser() -> CtcModel:
    return CtcModel(Encoder(shape_of(load(ROOT / "params.yaml"))), BLANK).eval()


def scoring(quick: bool) -> Part:
    n = 64 if quick else 512
    references, hypotheses = transcripts(n)
    section = load(ROOT / "params.yaml").score
    model, feats_BTF = recogniser(), torch.randn(16, 1232, 80)
    lengths_B = torch.full((16,), 1232 // model.encoder.shape.n_stack)

    def recognise() -> None:
        for _ in range(n // 16):
            greedy(*model(feats_BTF, lengths_B), model.blank)

    def score(samples: int) -> Callable[[], None]:
        return lambda: rates(*count_errors(references, hypotheses), ["a", "b"] * (n // 2), section.confidence, samples, 0) and None

    contenders = [
        Contender("recognition of the same utterances, 12.3 s each", recognise),
        Contender("birq: WER, CER, counts, bootstrap intervals", score(section.bootstrap_samples)),
        Contender(
            "floor: jiwer, words and characters alone",
            lambda: (jiwer.process_words(references, hypotheses), jiwer.process_characters(references, hypotheses)),
        ),
    ]
    part = race("scoring", f"{n} utterances of 15 to 25 words, the model of params.yaml, one thread", contenders, 2 if quick else 7)
    part.facts["utterances"] = n
    return part


@torch.inference_mode()
def run(scratch: Path, quick: bool) -> list[Part]:
    torch.set_num_threads(1)
    return [decoding(scratch, quick), scoring(quick)]
