"""The terms of the report. docs/glossary.md has the same text, and a test compares them."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "WER": "Word error rate: substituted, deleted and inserted words over the words of the reference. It can exceed 100 %.",
    "WER with LM": (
        "The same of a beam search with a language model, an n-gram of words. Without the mark, decoding is greedy: the best unit of every "
        "frame, and no word is more likely than another."
    ),
    "CER": "Character error rate: the same over characters. A space between words counts as one.",
    "S, D, I": "Substitutions, deletions and insertions in the cheapest alignment of reference and hypothesis.",
    "Interval": (
        "The range of a rate over other draws of test utterances (or speakers), by a bootstrap over them. A comparison of methods with "
        "three seeds or more also covers the training seed. All other intervals do not."
    ),
    "Paired difference": (
        "The difference of two WERs on the same utterances, with its interval. It is significant if both the interval by utterance and "
        "the one by speaker exclude 0. With fewer than three seeds it is about two models, not about two methods."
    ),
    "Pre-training": "Training on speech without transcripts: labels of masked spans are predicted from their context.",
    "Pre-training time": (
        "Wall time of the training. Of a method that learns labels from a file, or begins with another encoder, with that of making "
        "them and all encoders before."
    ),
    "Fine-tuning": "Training the pre-trained encoder to transcribe (CTC) on a limited amount of transcribed speech.",
    "Anchoring labels": (
        "The nearest code, in a fixed random codebook, of each frame of the input after a fixed random projection. "
        "They never change. BEST-RQ predicts these alone."
    ),
    "Enhanced labels": (
        "Codes of the encoder's own layer k on the unmasked input, by the same kind of projection and codebook. They are drawn with "
        "Gumbel noise, and the gradient flows through them."
    ),
    "F and G": "The two losses of BiRQ: cross-entropy on masked frames against enhanced labels (F) and against anchoring labels (G).",
    "Masked accuracy": "Share of masked frames for which the likeliest code is the anchoring label, or the label from a file.",
    "Code perplexity": (
        "The effective number of codes in use: e to the entropy of the code frequencies, from 1 (one code for all) to the codebook's size. "
        "Enhanced codes are within bounds if theirs is within a factor of 2 of the anchoring codes' and label fidelity is above one half."
    ),
    "Label fidelity": "Share of drawn enhanced labels that are the nearest code. Low values mean that noise decides the labels.",
    "h/h": "Hours of audio that a training processes in an hour, all ranks together.",
    "MFU": (
        "Model FLOPs utilisation: share of the GPU's peak (dense bf16) that the objective's own operations take. Recomputed activations do "
        "not count. Shown only where the GPU's peak is known."
    ),
    "GiB": "In the log: peak memory of the first rank, on its GPU or, without one, in the machine.",
    "Phone purity": "Share of frames whose phone is the most frequent one of their code.",
    "Cluster purity": "Share of frames whose code is the most frequent one of their phone.",
    "Linear phone probe": (
        "Share of frames of unseen utterances whose phone a multinomial logistic regression finds from a frozen layer. It is trained on "
        "minutes of other, mostly other people's, speech. The primary measure of pre-training is its accuracy at one layer that is fixed "
        "beforehand (birq.label_layer)."
    ),
    "ABX": (
        "Share of triples of phones in which X, of the same phone as A, is nearer to B, which has another phone: within a speaker, "
        "or across speakers, where X comes from another one. A phone is the mean of the layer's outputs over it, nearness is the angle. "
        "0 is perfect, ½ is chance."
    ),
    "Effective rank": (
        "e to the entropy of the shares of variance along the principal axes of a layer's outputs: how many directions they use."
    ),
    "PNMI of k-means": (
        "PNMI of clusters fitted to a layer's outputs, as many as there are codes: what the layer knows. "
        "PNMI of its random codes is what a label made of it says."
    ),
    "Repeats": (
        "Share of neighbouring frames of an utterance that have the same code; 1 minus it is the churn. "
        "The phones' own repeats stand beside it."
    ),
    "Dev loss": "CTC loss on dev in nats per character of the transcripts. It moves where WER does not yet.",
    "PNMI": (
        "Phone-normalised mutual information: the share of the phone entropy that the code explains. "
        "The floor is its value for labels shifted in time. It is above 0 because the number of frames is finite."
    ),
    "Key": "A hash of all that an artifact depends on: params, inputs and code. Equal keys mean equal artifacts.",
}


def markdown() -> str:
    """docs/glossary.md."""
    body = "\n\n".join(f"**{term}.** {text}" for term, text in TERMS.items())
    return f"# Glossary\n\nThe terms of the report, the tables and the log.\n\n{body}\n"
