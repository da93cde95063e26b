"""The words of the report. docs/glossary.md says the same, and a test holds them equal."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "WER": "Word error rate: substituted, deleted and inserted words over the words of the reference. It can exceed 100 %.",
    "CER": "Character error rate: the same, over characters, the space between words being one.",
    "S, D, I": "Substitutions, deletions and insertions in the cheapest alignment of reference and hypothesis.",
    "Interval": (
        "What the rate could have been had other utterances (or other speakers) been drawn for the test: a bootstrap over them. "
        "It says nothing about other seeds."
    ),
    "Paired difference": (
        "The difference of two methods' WER on the same utterances, with its interval. Two methods are told apart where "
        "both the interval by utterance and the one by speaker leave out 0."
    ),
    "Pre-training": "Learning from speech without transcripts: masked stretches are predicted from what surrounds them.",
    "Fine-tuning": "Learning to transcribe (CTC) from the pre-trained encoder and a limited amount of transcribed speech.",
    "Anchoring labels": (
        "The nearest code, in a fixed random codebook, of each frame of the input after a fixed random projection. "
        "They never change: BEST-RQ."
    ),
    "Enhanced labels": (
        "The same kind of code, but of the encoder's own layer k on the unmasked input, drawn with Gumbel noise, "
        "with the gradient flowing through them."
    ),
    "F and G": "The two losses of BiRQ: cross-entropy on masked frames against enhanced labels (F) and against anchoring labels (G).",
    "Masked accuracy": "Share of masked frames for which the likeliest code is the anchoring label.",
    "Code perplexity": (
        "How many codes are in use: e to the entropy of the code frequencies, from 1 (one code for all) to the codebook's size. "
        "Enhanced codes hold if theirs stays within a factor of 2 of the anchoring codes'."
    ),
    "Label fidelity": "Share of drawn enhanced labels that are the nearest code; low values mean that noise, not speech, makes the labels.",
    "h/h": "Hours of audio that a training goes through in an hour, all ranks together.",
    "MFU": (
        "Share of the cards' peak (dense bf16) that the objective's own operations take. Recomputed activations and bookkeeping do not "
        "count. Only where the card's peak is known."
    ),
    "GiB": "In the log: the most memory that the first rank has held, of its card or, without one, of the machine.",
    "Phone purity": "Share of frames that are named right when each code is given its most frequent phone.",
    "Cluster purity": "Share of frames that are in the most frequent code of their phone.",
    "PNMI": (
        "Phone-normalised mutual information: the share of the uncertainty about the phone that the code takes away. "
        "The floor is its value for labels shifted in time; it is not 0 because frames are finite."
    ),
    "Key": "The name of everything that made an artifact: params, inputs, code. Equal keys, equal artifacts.",
}


def markdown() -> str:
    """docs/glossary.md."""
    body = "\n\n".join(f"**{term}.** {text}" for term, text in TERMS.items())
    return f"# Glossary\n\nThe words used in the report, the tables and the log.\n\n{body}\n"
