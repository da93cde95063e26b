"""Word and character error rates with bootstrap intervals, and the table of utterances behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from birq.errors import BirqError
from birq.evaluate.bootstrap import interval, ratio, resampled_sums, sums_by
from birq.settings.params import Score

SPLITS = ("train", "dev", "test")
UTTERANCES = pa.schema(
    [
        ("split", pa.string()),
        ("id", pa.string()),
        ("speaker", pa.string()),
        ("duration_s", pa.float64()),
        ("text", pa.string()),
        ("hypothesis", pa.string()),
        ("words", pa.int32()),
        ("substitutions", pa.int32()),
        ("deletions", pa.int32()),
        ("insertions", pa.int32()),
        ("errors", pa.int32()),
        ("characters", pa.int32()),
        ("char_errors", pa.int32()),
        # with the language model; null without one
        ("lm_hypothesis", pa.string()),
        ("lm_errors", pa.int32()),
        ("lm_char_errors", pa.int32()),
    ]
)
BESIDE = ("hypothesis", "errors", "char_errors")


def _per_utterance(output: jiwer.WordOutput | jiwer.CharacterOutput) -> np.ndarray:
    """jiwer's alignments -> int64 [N, 4]: units of the reference, substitutions, deletions, insertions."""
    counts_N4 = np.zeros((len(output.references), 4), np.int64)
    for row, reference, chunks in zip(counts_N4, output.references, output.alignments, strict=True):
        row[0] = len(reference)
        for c in chunks:
            if c.type == "substitute":
                row[1] += c.ref_end_idx - c.ref_start_idx
            elif c.type == "delete":
                row[2] += c.ref_end_idx - c.ref_start_idx
            elif c.type == "insert":
                row[3] += c.hyp_end_idx - c.hyp_start_idx
    return counts_N4


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Words and characters: two int64 [N, 4] arrays of units in the reference, S, D, I per utterance.

    Runs of white space are one space. With an empty reference all words are insertions, with an empty hypothesis all are deletions.
    """
    if not references:
        return np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64)
    refs, hyps = [" ".join(t.split()) for t in references], [" ".join(t.split()) for t in hypotheses]
    return _per_utterance(jiwer.process_words(refs, hyps)), _per_utterance(jiwer.process_characters(refs, hyps))


def rates(words_N4: np.ndarray, chars_N4: np.ndarray, speakers: list[str], confidence: float, samples: int, seed: int) -> dict[str, Any]:
    """WER and CER as fractions, their intervals by utterance, WER's by speaker (null below two speakers), and the counts.

    The intervals are percentiles over resamples of the test set; they say nothing about how another training run would fare.
    """
    counts_N4 = np.stack([words_N4[:, 1:].sum(1), words_N4[:, 0], chars_N4[:, 1:].sum(1), chars_N4[:, 0]], axis=1)
    total = counts_N4.sum(0)
    drawn_R4 = resampled_sums(counts_N4, samples, seed)
    wer_low, wer_high = interval(ratio(drawn_R4[:, 0], drawn_R4[:, 1]), confidence)
    cer_low, cer_high = interval(ratio(drawn_R4[:, 2], drawn_R4[:, 3]), confidence)
    by_speaker_S4 = sums_by(speakers, counts_N4)
    speaker_low = speaker_high = None
    if len(by_speaker_S4) > 1:  # one speaker says nothing about others, and an interval of width 0 would be wrong
        drawn_R4 = resampled_sums(by_speaker_S4, samples, seed)
        speaker_low, speaker_high = interval(ratio(drawn_R4[:, 0], drawn_R4[:, 1]), confidence)
    w, c = words_N4.sum(0).tolist(), chars_N4.sum(0).tolist()
    return {
        "wer": float(total[0] / total[1]),
        "wer_low": wer_low,
        "wer_high": wer_high,
        "wer_speaker_low": speaker_low,
        "wer_speaker_high": speaker_high,
        "cer": float(total[2] / total[3]),
        "cer_low": cer_low,
        "cer_high": cer_high,
        "words": w[0],
        "substitutions": w[1],
        "deletions": w[2],
        "insertions": w[3],
        "characters": c[0],
        "char_substitutions": c[1],
        "char_deletions": c[2],
        "char_insertions": c[3],
        "utterances": len(counts_N4),
        "speakers": len(by_speaker_S4),
    }


def read_hypotheses(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as e:
        raise BirqError(f"{path}: not readable ({e}); delete the folder {path.parent} and run again, it is made anew") from None


def score_split(name: str, table: pa.Table, section: Score) -> tuple[dict[str, Any], pa.Table]:
    """Figures and per-utterance table of one decoded split. Errors: BirqError if no reference holds a word."""
    texts, hypotheses, speakers = (table[c].to_pylist() for c in ("text", "hypothesis", "speaker"))
    words_N4, chars_N4 = count_errors(texts, hypotheses)
    if not words_N4[:, 0].sum():
        raise BirqError(
            f"{name}: no reference holds a word, so there is no error rate; leave {name} out of decode.splits or add transcripts"
        )
    figures = rates(words_N4, chars_N4, speakers, section.confidence, section.bootstrap_samples, section.seed)
    figures["hours"] = round(float(np.sum(table["duration_s"].to_numpy())) / 3600, 6)
    columns = {
        "split": [name] * len(table),
        "id": table["id"],
        "speaker": table["speaker"],
        "duration_s": table["duration_s"],
        "text": table["text"],
        "hypothesis": table["hypothesis"],
        "words": words_N4[:, 0],
        "substitutions": words_N4[:, 1],
        "deletions": words_N4[:, 2],
        "insertions": words_N4[:, 3],
        "errors": words_N4[:, 1:].sum(1),
        "characters": chars_N4[:, 0],
        "char_errors": chars_N4[:, 1:].sum(1),
    }
    return figures, pa.table(columns).cast(pa.schema([f for f in UTTERANCES if not f.name.startswith("lm_")]))


def beside(table: pa.Table, lm: pa.Table | None) -> pa.Table:
    """A split's table of utterances with the hypotheses and errors of the same split with the language model.

    Errors: BirqError where they hold other utterances.
    """
    if lm is not None and lm["id"] != table["id"]:
        raise BirqError("the hypotheses with and without the language model are of other utterances; delete data/search and run again")
    for name in BESIDE:
        kind = UTTERANCES.field(f"lm_{name}").type
        table = table.append_column(f"lm_{name}", pa.nulls(len(table), kind) if lm is None else lm[name].cast(kind))
    return table
