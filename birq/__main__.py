"""The verbs: what each of `birq.commandline` does."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from birq import ranks
from birq.commandline import parser
from birq.errors import BirqError, Stopped
from birq.pipeline import dag, digests, keys, locations, references, sharing, snakemake, sources, stage
from birq.progress import say
from birq.settings import lineage, params

# encoder sizes of the paper, input 80 bins stacked by 2
PAPER_SIZES = {"137 M": (5, 1024, 8, 200), "155 M": (10, 768, 6, 0), "275 M": (10, 1024, 8, 200)}  # layers, width, heads, window
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch's name for its settings, and an older one


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


def _transcribe(args: argparse.Namespace) -> int:
    from birq.use import transcribe

    asked = {key: getattr(args, key) for key in ("model", "lm", "greedy", "lm_weight", "word_bonus", "beam", "n_best")}
    return transcribe.command(args.files, args.format.split(","), args.output, args.piece_seconds, args.skip, args.overwrite, **asked)


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
    if args.verb == "transcribe":
        return _transcribe(args)
    if args.verb == "export":
        from birq.use import export

        return print(
            "\n".join(str(args.folder / name) for name in export.export(args.folder, args.model, not args.no_lm, args.onnx, args.hf))
        )
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
        from birq.live import follow

        follow.follow(loaded, args.to or ["dvclive"], args.dir, print, once=args.once)
    elif args.verb == "ui":
        from birq.live import serve

        serve.serve(args.params, args.host, args.port, lambda text: print(text, flush=True))
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
    except ModuleNotFoundError as e:
        if (e.name or "birq").partition(".")[0] == "birq":
            raise
        _say_last(f"error: the package {e.name} is not installed; what birq needs besides trained models: pip install 'birq[pipeline]'")
        return BirqError.status
    except BrokenPipeError:  # `birq table | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(args.verb in dag.STAGES)  # a stage, though, was in the middle of its work
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoint" if args.verb in dag.STAGES else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
