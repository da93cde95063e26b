"""The command line: one verb per stage, and a few that look at or change the set-up, with their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from birq import __version__
from birq.pipeline import dag, stage

WILDCARDS = {"corpus": "a name from `corpora`", "method": "one of run.methods or study.parts", "seed": "one of their seeds"}


def _reads(spec: dag.Stage) -> str:
    """The inputs and params of a stage, for its help."""
    inputs = list(dict.fromkeys(dag.STAGES[i.removeprefix("+").partition(":")[0]].pattern for i in spec.inputs))
    sections = list(dict.fromkeys(s.partition(".")[0] if s.startswith("features.") else s for s in spec.sections))
    own = f", and the params of its {'kind' if 'corpus' in spec.wildcards else 'method'}" if spec.own is not dag.Stage.own else ""
    text = f", from {', '.join(inputs) or 'audio'} and the params {', '.join(sections)}{own}. "
    return text + "An artifact of the store is not computed again; a killed run goes on."


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="birq",
        description="From a speech corpus to a word error rate, with BiRQ pre-training in between.",
        epilog="`snakemake --cores all` or `dvc repro` call the stages in their order; `birq pretrain --help` says what a stage reads. "
        "Run in the project's root folder: every number stands in params.yaml there.",
    )
    top.add_argument("--version", action="version", version=f"birq {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=text, description=text + more)
        p.add_argument("--params", default="params.yaml", help="file with the numbers (default: params.yaml)")
        return p

    for name, spec in dag.STAGES.items():
        p = verb(name, f"stage: makes {spec.pattern}", _reads(spec))
        for wildcard in spec.wildcards:
            p.add_argument(f"--{wildcard}", required=True, metavar=wildcard.upper(), help=WILDCARDS[wildcard])
        if name == "features":
            p.add_argument(
                "--part", type=_part, metavar="I/N", help="make every N-th shard only, from the I-th on; the verb without it collects"
            )
    p = verb("preset", "rewrite params.yaml with a preset; comments stay")
    p.add_argument("name", nargs="?", help="without it, the presets are listed")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="dotted key and YAML value; repeatable")
    p = verb("params", "check params.yaml, count the encoder's parameters, or print the schema")
    p.add_argument("action", choices=("check", "count", "schema"))
    p = verb("download", "fetch what corpora with `download: true` and a published n-gram lack, before a run; the run itself does it too")
    p.add_argument("--corpus", metavar="NAME", help="only this one of params.yaml")
    p.add_argument("--dry-run", action="store_true", help="only list what is missing, with size, checksum and addresses")
    verb("verify", "walk from the report back to the audio: hash everything again, hold every key against params, inputs and code")
    p = verb("why", "say why an artifact would be made again: the param, the input or the line of code that differs")
    p.add_argument("artifact", help="such as finetune/birq-0 or report")
    p = verb("store", "list the stored artifacts and who refers to them, remove those without a reference, or hash all of them again")
    p.add_argument("action", choices=("ls", "gc", "verify"))
    p.add_argument("--dry-run", action="store_true", help="gc: only count the artifacts that would be removed")
    p.add_argument(
        "--forget", action="append", default=[], metavar="FOLDER", help="gc: a clone that used the store and is gone; repeatable"
    )
    _results(verb)
    _plan_options(verb("plan", "estimate disk, memory, GPU-hours and jobs of a run before it starts, or time its steps here"))
    p = verb("table", "print the report's table")
    p.add_argument("--markdown", action="store_true", help="as Markdown, for a README or an issue")
    p.add_argument("--parts", action="store_true", help="WER of each part of the splits, such as test-clean and test-other")
    _compare_options(verb("compare", "print the study's tables of what is there so far, or of a record"))
    text = "audio and video files to text and subtitles, with a model that was fine-tuned"
    _transcribe_options(verbs.add_parser("transcribe", help=text, description=text))
    text = "one folder with a fine-tuned model, its tokenizer, its language model and a card, for use elsewhere"
    p = verbs.add_parser("export", help=text, description=text)
    p.add_argument("folder", type=Path, help="a new one")
    p.add_argument("--model", metavar="DIR", help="such as data/finetune/birq-0 (default: that of this project with the lowest WER on dev)")
    p.add_argument("--no-lm", action="store_true", help="without the language model")
    p.add_argument("--onnx", action="store_true", help="with model.onnx and tokens.txt, for onnxruntime and sherpa-onnx")
    p.add_argument("--hf", action="store_true", help="with a folder huggingface, for transformers")
    p = verb("live", "hand the curves of trainings, also of those that run now, to DVCLive, TensorBoard, W&B or MLflow, until all are done")
    p.add_argument("--to", action="append", metavar="TOOL", help="dvclive (default), tensorboard, wandb, mlflow; repeatable")
    p.add_argument("--dir", type=Path, help="folder to write (default: the tool's name)")
    p.add_argument("--once", action="store_true", help="write the lines that are there now, and end")
    p = verb("ui", "a page that shows a run while it goes on: jobs, curves, speed, time left; it only reads")
    p.add_argument("--host", default="127.0.0.1", help="address to answer at (default: 127.0.0.1, reached from this machine alone)")
    p.add_argument("--port", type=int, default=8787, help="0 takes any free one (default: 8787)")
    verb("dag", "print the pipeline's picture as SVG")
    p = verb("accept", "declare artifacts good under changed code, and those made from them: for an edit that cannot change the result")
    p.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="such as pretrain/birq-0")
    p.add_argument("--yes", action="store_true", help="do not ask")
    verb("stamp", "write the files by which Snakemake sees changed params, code and audio")
    verb("digests", "write the files by which DVC sees changed code, and changed audio in folders of yours")
    return top


def _results(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Verbs that write a result down and run it again."""
    p = verb("record", "record settings, software and results of the present run for `birq reproduce`: benchmarks/results/NAME.json")
    p.add_argument("name")
    p = verb("reproduce", "run a recorded result again, in a folder of its own, and say: same, within the interval, or different")
    p.add_argument("result", metavar="RESULT", help="a name from benchmarks/results, or a record's file")
    p.add_argument("--cores", default="all", help="for Snakemake (default: all); the result does not depend on it")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="such as corpora.an4.root=YOUR/COPY; repeatable",
    )
    p.add_argument("--present-code", action="store_true", help="run the code that lies here, not that of the record's commit")
    p.add_argument("--use-store", action="store_true", help="take artifacts from the project's store; without it, all are computed again")
    p.add_argument("--folder", type=Path, help="where to run (default: data/.reproduce/NAME)")


def _transcribe_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="+", metavar="FILE", help="audio, video (with FFmpeg), a folder of them, or - for standard input")
    p.add_argument("--model", metavar="DIR", help="such as data/finetune/birq-0 (default: that of this project with the lowest WER on dev)")
    p.add_argument("-f", "--format", default="txt", metavar="F[,F]", help="txt, srt, vtt, tsv, json (default: txt)")
    p.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write FOLDER/NAME.FORMAT (default: print)")
    p.add_argument("--skip", action="store_true", help="leave out files whose outputs are there and younger, such as after a kill")
    p.add_argument("--overwrite", action="store_true", help="replace outputs that are there; without it they are left alone")
    decoder = p.add_mutually_exclusive_group()
    decoder.add_argument("--greedy", action="store_true", help="without a language model")
    decoder.add_argument("--lm", metavar="DIR", help="language model, such as data/lm (default: that of the model's project, if any)")
    p.add_argument("--lm-weight", type=float, metavar="W", help="of the language model (default: as chosen on dev)")
    p.add_argument("--word-bonus", type=float, metavar="B", help="for every word (default: as chosen on dev)")
    p.add_argument("--beam", type=int, metavar="N", help="hypotheses that the search keeps (default: as the project's)")
    p.add_argument("--n-best", type=int, default=1, metavar="N", help="texts of each piece in the JSON, by the search (default: 1)")
    p.add_argument("--piece-seconds", type=float, default=35.0, metavar="S", help="longer recordings are cut at quiet places (default: 35)")


def _compare_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--part", metavar="NAME", help="of study.parts (default: all)")
    p.add_argument("--against", metavar="NAME", help="differences are from it (default: study.against)")
    p.add_argument("--layer", type=int, help="in which differences are taken (default: birq.label_layer)")
    p.add_argument("--markdown", action="store_true", help="as Markdown")
    files = p.add_mutually_exclusive_group()
    files.add_argument(
        "--record", type=Path, metavar="FILE", dest="into", help="merge the runs that are there into a record, and show that"
    )
    files.add_argument("--from", type=Path, metavar="FILE", dest="source", help="show a record; needs no artifact")
    p.add_argument("--page", type=Path, metavar="FILE.html", dest="html", help="write the page as well")
    p.add_argument("--notes", type=Path, metavar="FILE.md", dest="prose", help="prose of the page, such as docs/study.md")


def _plan_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--hours", action="append", default=[], metavar="CORPUS=HOURS", help="of a corpus whose features are not made; repeatable"
    )
    p.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs to plan for (default: 1 8 64)")
    p.add_argument("--gpu", default="H200", help="kind of GPU (default: H200)")
    p.add_argument("--mfu", type=float, default=0.15, help="share of its bf16 peak that is reached (default: 0.15, an assumption)")
    p.add_argument("--gpus-per-node", type=int, default=8)
    p.add_argument("--node-bandwidth", type=float, default=300.0, metavar="GB/S", help="of an all-reduce in a node (default: 300)")
    p.add_argument("--network-bandwidth", type=float, default=50.0, metavar="GB/S", help="of an all-reduce over nodes (default: 50)")
    p.add_argument("--price", type=float, help="of a GPU-hour, in your currency")
    p.add_argument("--study", action="store_true", help="plan what `snakemake study` makes, instead of what the report compares")
    p.add_argument("--time", action="store_true", help="time a few steps and print one line: how long what is not in place will take here")
    p.add_argument("--cores", type=int, metavar="N", help="with --time: that Snakemake gets (default: all)")
    p.add_argument("--measure", action="store_true", help="time a few steps of every method here; on a GPU, its share of peak is then used")
    p.add_argument("--tune", action="store_true", help="find the largest pretrain.micro_batch_seconds that fits this GPU")


def _part(text: str) -> stage.Part:
    first, _, n = text.partition("/")
    if not (first.isdigit() and n.isdigit() and 1 <= int(first) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N, such as 1/4")
    return int(first), int(n)
