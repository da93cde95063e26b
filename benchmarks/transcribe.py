"""What `birq transcribe` makes of the demo's test recordings, beside what the pipeline made of them; and long recordings.

    make demo && python -m benchmarks.transcribe [--model data/finetune/birq-0] [--hours 8]

1. Texts: how many of the test split differ from the pipeline's, greedy and with the language model.
2. Words: when they begin and end, against the synthesiser's own times, in recordings whose text is right.
3. Seams: test recordings joined into one, in pieces of several lengths and undivided; word errors of each.
4. A recording of so many hours, as a command: wall seconds and peak memory.
5. The model exported: texts that differ from torch's, in onnxruntime, sherpa-onnx, transformers (birq[onnx,hf], sherpa-onnx).

Writes benchmarks/results/transcribe.json, prints tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch

import birq
from benchmarks.harness import RESULTS
from birq.recognise.greedy import greedy
from birq.speech.utterances import InMemory
from birq.use import export, onnx
from birq.use.cutting import pieces
from birq.use.recogniser import Recogniser, Transcript

JOINED = 240  # recordings
PIECES_S = (10.0, 20.0, 35.0, 60.0, 1e9)


def recordings() -> dict[str, tuple[np.ndarray, int]]:
    """Samples and rate of the test split, by id."""
    folder = Path("data/corpus/synth")
    cuts = map(json.loads, (folder / "test.jsonl").read_text(encoding="utf-8").splitlines())
    return {cut["id"]: soundfile.read(folder / cut["recording"]["sources"][0]["source"], dtype="float32") for cut in cuts}


def times() -> dict[str, list[tuple[str, float, float]]]:
    """Words with their true begin and end in s, by id."""
    rows = pq.read_table("data/corpus/synth/alignments.parquet").to_pylist()
    found: dict[str, list[tuple[str, float, float]]] = {}
    for (name, word), phones in itertools.groupby(rows, key=lambda row: (row["id"], row["word"])):
        spans = [(p["start_s"], p["end_s"]) for p in phones]
        if word:
            found.setdefault(name, []).append((word, spans[0][0], spans[-1][1]))
    return found


def of_words(heard: dict[str, Transcript]) -> dict[str, Any]:
    """Differences of begin and end, in ms, of the words of recordings in which all words are right."""
    true, differences = times(), []
    for name, transcript in heard.items():
        if [w.text for w in transcript.words] == [w for w, _, _ in true.get(name, [])]:
            differences += [(w.start_s - s, w.end_s - e) for w, (_, s, e) in zip(transcript.words, true[name], strict=True)]
    ms_N2 = 1000 * np.array(differences)
    facts: dict[str, Any] = {"words": len(ms_N2)}
    for side, ms in zip(("begin", "end"), ms_N2.T, strict=True):
        facts[side] = {"mean_ms": ms.mean(), "mean_absolute_ms": np.abs(ms).mean(), "within_90_percent_ms": np.quantile(np.abs(ms), 0.9)}
    return facts


def of_seams(recogniser: Recogniser, audio: dict[str, tuple[np.ndarray, int]], table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Word errors of one long recording, by the length of its pieces."""
    rows = table[:JOINED]
    rate = audio[rows[0]["id"]][1]
    wave, reference = np.concatenate([audio[r["id"]][0] for r in rows]), " ".join(r["text"] for r in rows)
    found = [{"pieces": len(rows), "longest_s": None, "text": " ".join(r["hypothesis"] for r in rows)}]
    for longest_s in PIECES_S:
        heard = [h for _, h in recogniser.hear(("", p) for p in pieces([wave], rate, longest_s))]
        found.append({"pieces": len(heard), "longest_s": min(longest_s, len(wave) / rate), "text": Transcript.of(heard).text})
    for row in found:
        errors = jiwer.process_words(reference, row.pop("text"))
        row |= {"wer": errors.wer, "deletions": errors.deletions, "insertions": errors.insertions}
    return found


def of_hours(model: str, hours: float, audio: dict[str, tuple[np.ndarray, int]]) -> dict[str, Any]:
    """The command on one recording of so many hours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as f:
            for wave, _ in itertools.cycle(audio.values()):
                f.write(wave)
                if f.frames >= hours * 3600 * 16000:
                    break
        command = [sys.executable, "-m", "birq", "transcribe", str(path), "--model", model, "-f", "txt,srt,json", "-o", folder]
        # by a small process: one that this large one starts would be counted as large as this
        small = "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)\n"
        small += "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20))"
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", small, *command], check=True, stdout=subprocess.PIPE)
        return {"hours": hours, "wall_s": time.perf_counter() - begun, "peak_gib": json.loads(done.stdout)}


def of_exports(model: str, audio: dict[str, tuple[np.ndarray, int]], heard: dict[str, Transcript]) -> dict[str, Any]:
    """How many texts differ from torch's. sherpa-onnx hears samples, so its log-mel is not rounded as the shards store it."""
    import onnxruntime
    import sherpa_onnx

    from birq.use import huggingface  # before transformers

    import transformers  # isort: skip

    recogniser = birq.load(model, False)
    with tempfile.TemporaryDirectory() as folder:
        export.export(Path(folder) / "m", model, with_onnx=True, with_hf=True)
        by_transformers = transformers.pipeline(
            "automatic-speech-recognition", model=str(Path(folder) / "m" / huggingface.FOLDER), trust_remote_code=True
        )
        file, tokens = (str(Path(folder) / "m" / name) for name in (onnx.FILE, onnx.TOKENS))
        session = onnxruntime.InferenceSession(file)
        there = sherpa_onnx.OfflineRecognizer.from_fire_red_asr_ctc(model=file, tokens=tokens, num_threads=1)
    utterances = InMemory(list(audio.values()), recogniser.front_end)
    by_runtime, by_sherpa, by_hf = 0, 0, 0
    for i, (name, (wave, rate)) in enumerate(audio.items()):
        log_mel = utterances.raw(i)[None] * np.float32(utterances.step)
        logp_BNV, n_B = session.run(None, {"log_mel": log_mel, "log_mel_lengths": utterances.n_frames[i : i + 1]})
        ids = greedy(torch.from_numpy(logp_BNV), torch.from_numpy(n_B), recogniser.model.blank)[0]
        by_runtime += " ".join(recogniser.tokenizer.decode(ids).split()) != heard[name].text
        by_hf += by_transformers({"raw": wave, "sampling_rate": rate})["text"] != heard[name].text
        stream = there.create_stream()
        stream.accept_waveform(rate, wave)
        there.decode_stream(stream)
        by_sherpa += " ".join(stream.result.text.split()) != heard[name].text
    return {"recordings": len(audio), "onnxruntime": by_runtime, "sherpa_onnx": by_sherpa, "transformers": by_hf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="data/finetune/birq-0")
    parser.add_argument("--hours", type=float, default=8.0)
    args = parser.parse_args()
    audio, facts = recordings(), dict[str, Any]()
    for decoder, stage, lm in (("greedy", "decode", False), ("language model", "search", True)):
        recogniser = birq.load(args.model, lm)
        table = pq.read_table(f"data/{stage}/{Path(args.model).name}/test.parquet").to_pylist()
        heard = dict(zip(audio, recogniser.transcribe(list(audio.values())), strict=True))
        wrong = [row["id"] for row in table if heard[row["id"]].text != row["hypothesis"]]
        wer = jiwer.wer([r["text"] for r in table], [heard[r["id"]].text for r in table])
        facts[decoder] = {"recordings": len(table), "texts_that_differ": len(wrong), "wer": wer, "times": of_words(heard)}
        if stage == "decode":
            facts["joined"] = of_seams(recogniser, audio, table)
            facts["exported"] = of_exports(args.model, audio, heard)
    facts["long"] = of_hours(args.model, args.hours, audio)
    about = {"date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "model": args.model}
    about["command"] = " ".join(["python -m benchmarks.transcribe", *sys.argv[1:]])
    rounded = json.loads(json.dumps(about | facts), parse_float=lambda text: round(float(text), 4))
    (RESULTS / "transcribe.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    for decoder in ("greedy", "language model"):
        print(decoder, rounded[decoder])
    print(*rounded["joined"], rounded["exported"], rounded["long"], sep="\n")


if __name__ == "__main__":
    main()
