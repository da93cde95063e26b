"""The command line: one verb per stage, and a few that look at or change the set-up."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from birq import __version__, ranks
from birq.errors import BirqError, Stopped
from birq.pipeline import dag, digests, keys, locations, references, sharing, snakemake, sources, stage
from birq.progress import say
from birq.settings import lineage, params

# encoder sizes of the paper, input 80 bins stacked by 2
PAPER_SIZES = {"137 M": (5, 1024, 8, 200), "155 M": (10, 768, 6, 0), "275 M": (10, 1024, 8, 200)}  # layers, width, heads, window
WILDCARDS = {"corpus": "a name from `corpora`", "method": "one of run.methods or study.parts", "seed": "one of their seeds"}
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's name for its settings, and an older one


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
    p = verb("live", "write the curves of trainings, also of those that run now, for DVCLive; ends when all are done")
    p.add_argument("--dir", default="dvclive", help="folder to write (default: dvclive)")
    p.add_argument("--once", action="store_true", help="write the lines that are there now, and end")
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


def _run_stage(args: argparse.Namespace, loaded: params.Params) -> None:
    node = dag.node(args.verb, {w: getattr(args, w) for w in dag.STAGES[args.verb].wildcards}, loaded)
    if ranks.rank():
        return stage.follow(node)
    references.register()
    if not ranks.launched():
        _make_before(node, args.params)
    part = getattr(args, "part", None)
    _make(node, args.argv, part)
    return None


def _make(node: dag.Node, argv: list[str], part: stage.Part | None = None) -> None:
    sources.settle(node)
    stamp = snakemake.write_stamp(node)
    stage.run(node, part=part, launch=partial(_ranks, argv) if node.stage.ranks else None)
    if part is None:
        snakemake.after_verb(node, stamp)


def _make_before(node: dag.Node, params_file: str) -> None:
    """Inputs that no stage of DVC makes, such as labels and the encoders behind them. Under Snakemake they are in place."""
    lacking: dict[str, dag.Node] = {}
    for one in dag.on_the_way(node):
        if any(b.name in lacking for b in one.before) or not keys.in_place(one):  # what is made of another input is another one
            lacking[one.name] = one
    if lacking:
        say(f"{node.name}: made from {', '.join(lacking)}, which come first")
    for one in lacking.values():
        wildcards = [x for name, value in one.wildcards.items() for x in (f"--{name}", value)]
        _make(one, [one.stage.name, *wildcards, "--params", params_file])


def _ranks(argv: list[str]) -> Callable[[], None] | None:
    from birq.train.runtime import launch  # only where something has to be trained

    return launch.needed(argv)


def _store(args: argparse.Namespace, loaded: params.Params) -> None:
    from birq.pipeline import store

    if args.action == "ls":
        print(store.ls())
    elif args.action == "gc":
        print(store.gc(loaded, dry_run=args.dry_run, forget=args.forget))
    else:
        print(store.check())


def _accept(args: argparse.Namespace, loaded: params.Params) -> None:
    from birq.pipeline import accept

    def ask(question: str) -> bool:
        if args.yes:
            return True
        if not sys.stdin.isatty():
            raise BirqError(f"{question} Nobody is there to answer: run it in a terminal, or with --yes")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    accept.accept(args.artifacts, loaded, print, ask)


def _reproduce(args: argparse.Namespace) -> int:
    from birq.pipeline import reproduce

    def say(text: str) -> None:
        print(text, flush=True)

    comparison = reproduce.reproduce(args.result, args.folder, args.settings, args.cores, args.present_code, args.use_store, say)
    say("\n".join(["", *comparison.lines, f"{args.result}: {comparison.verdict}"]))
    return 0 if comparison.good else 1


def _record(name: str, loaded: params.Params) -> None:
    from birq.pipeline import reproduce

    print(f"{reproduce.record(name, loaded)}: written")


def _plan(args: argparse.Namespace, loaded: params.Params) -> None:
    from birq.study import plan

    hours = {}
    for given in args.hours:
        name, _, value = given.partition("=")
        if not value.replace(".", "", 1).isdigit():
            raise BirqError(f"--hours {given}: must be CORPUS=HOURS, such as yodas=5000")
        hours[name] = float(value)
    if args.mfu <= 0 or args.mfu > 1 or min(args.gpus) < 1 or (args.cores is not None and args.cores < 1):
        raise BirqError("--mfu must be above 0 and at most 1, --gpus and --cores at least 1")
    machine = plan.Machine(args.gpu, args.mfu, args.gpus_per_node, args.node_bandwidth, args.network_bandwidth, args.price)
    if args.time:
        from birq.study import duration

        return print(duration.line(loaded, plan.corpus_hours(loaded, hours), args.cores))
    made = plan.make(loaded, hours, study=args.study)
    if args.measure or args.tune:
        machine, measured = plan.measured(loaded, made, machine, tune=args.tune)
    else:
        measured = []
    print(plan.text(made, machine, args.gpus, measured))


def _count(loaded: params.Params) -> None:
    from birq.model.encoder import Shape, count_parameters  # torch: only this verb needs it

    here = loaded.model.shape
    n_mels = loaded.features.n_mels
    rows = [("params.yaml", here, n_mels)]
    for name, (layers, width, heads, window) in PAPER_SIZES.items():
        paper = {"n_stack": 2, "d_model": width, "n_layers": layers, "n_heads": heads, "ff_expansion": 4, "conv_kernel": 15}
        paper |= {"conv_expansion": 2, "positions": "relative", "attention_window": window}
        rows.append((f"paper, {name}", paper, 80))
    for name, model, mels in rows:
        count = count_parameters(Shape(**model, n_mels=mels))
        print(f"{name:<14} {model['n_layers']:>3} layers x {model['d_model']:>5}  {count / 1e6:8.1f} M parameters")


def _table(args: argparse.Namespace) -> None:
    from birq.report import parts, tables

    if args.parts:
        return print(parts.table(params.load(args.params), markdown=args.markdown))
    print(tables.from_file(parts.made(locations.data_root() / "report" / "metrics.json"), markdown=args.markdown))


def _compare(args: argparse.Namespace) -> None:
    from birq.report.study import verb

    asked = {name: getattr(args, name) for name in ("part", "against", "layer", "markdown", "into", "source", "html", "prose")}
    print(verb.look(None if args.source else params.load(args.params), **asked))


def _dispatch(args: argparse.Namespace) -> int | None:
    """Returns an exit status where a verb's answer is one."""
    if args.verb == "table":
        return _table(args)
    if args.verb == "params" and args.action == "schema":
        return print(json.dumps(params.schema(), indent=1))
    if args.verb == "preset":
        from birq.settings import presets

        return presets.command(args.name, args.settings, Path(args.params))
    if args.verb == "reproduce":
        return _reproduce(args)
    if args.verb == "compare":
        return _compare(args)
    loaded = params.load(args.params)
    if args.verb in dag.STAGES:
        _run_stage(args, loaded)
    elif args.verb == "stamp":
        snakemake.write_stamps(loaded)
    elif args.verb == "digests":
        digests.write(loaded)
    elif args.verb == "download":
        from birq.downloads import verb

        print((verb.look if args.dry_run else verb.fetch)(loaded, args.corpus))
    elif args.verb == "accept":
        _accept(args, loaded)
    elif args.verb == "verify":
        from birq.pipeline import verify

        print(verify.everything(loaded))
    elif args.verb == "why":
        from birq.pipeline import why

        print(why.explain(args.artifact, loaded))
    elif args.verb == "live":
        from birq.pipeline import live

        live.follow(loaded, Path(args.dir), print, once=args.once)
    elif args.verb == "store":
        _store(args, loaded)
    elif args.verb == "record":
        _record(args.name, loaded)
    elif args.verb == "plan":
        _plan(args, loaded)
    elif args.verb == "dag":
        from birq.report import dagdraw

        print(dagdraw.svg(dag.nodes(loaded)), end="")
    elif args.action == "count":
        _count(loaded)
    else:
        runs = " ".join(f"{m}-{s}" for m in loaded.run.methods for s in loaded.run.seeds)
        print(f"{args.params}: every value is legal; corpora {', '.join(loaded.corpora)}; runs {runs}")
        for line in (*lineage.also_made(loaded), *lineage.studied(loaded)):
            print(line)
    return None


def _say_last(text: str) -> None:
    """Print to stderr. Its reader may be gone (a signal to a whole job ends `tee` first); the exit status must be right even then."""
    try:
        print(text, file=sys.stderr, flush=True)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)


def _restore_signals() -> None:
    """In a Slurm job, the workflow's shells ignore the stop signals, and their children inherit that; a verb must react to them."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _let_gpu_memory_grow() -> None:
    """On a GPU nearly every batch has another shape: memory in segments that grow is not lost between them. The user's own setting stays.

    torch reads it when it first asks a GPU for memory, and ranks inherit it.
    """
    if not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"


def main(argv: list[str] | None = None) -> int:
    """Run one verb. A mistake of the user gives one message and exit status 2; a stop at a checkpoint gives 75."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv, argparse.Namespace(argv=argv))
    _restore_signals()
    locations.lend_home()
    _let_gpu_memory_grow()
    try:
        with sharing.explained():
            status = _dispatch(args)
        sys.stdout.flush()
    except BirqError as e:
        if str(e) and not (ranks.rank() and e.everywhere):
            where = f" (rank {ranks.rank()})" if ranks.rank() else ""
            _say_last(f"{'stopped' if isinstance(e, Stopped) else 'error'}{where}: {e}")
        return e.status
    except BrokenPipeError:  # `birq table | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(args.verb in dag.STAGES)  # a stage, though, was in the middle of its work
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
