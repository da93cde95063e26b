"""Edits of code and params, and the nodes whose own key parts each changes: rows of the table in docs/workflow.md.

A stamp holds a node's code, params and corpus files, so the stamps that an edit changes are the stages that compute. Stages after them
compute only where the bytes that they read come out different.
"""

from __future__ import annotations

from dataclasses import dataclass

METHODS = ("birq", "best_rq", "scratch", "hubert", "relabel", "phones")  # run.methods
ENCODERS = ("hubert1", *METHODS)  # hubert needs the first one
LEARNED = tuple(m for m in ENCODERS if m not in ("birq", "best_rq", "scratch"))  # labels from a file
CORPORA = ("spoken", "synth")  # one of kind local, one of kind synth
RUN_STAGES = ("labels", "pretrain", "finetune", "decode", "search", "score", "probe")
ORDER = ("corpus", "features", "tokenizer", "lm", *RUN_STAGES, "report")
OWN = {"corpus": CORPORA, "features": CORPORA, "labels": LEARNED, "pretrain": ENCODERS} | dict.fromkeys(RUN_STAGES[2:], METHODS)


@dataclass(frozen=True)
class Edit:
    """A row. `file` and what replaces what in it; or `setting`, for params.yaml. `computes`: as `python -m birq stamp` names them."""

    title: str
    computes: str
    file: str = ""
    old: str = ""
    new: str = ""
    setting: str = ""


def _all(*stages: str) -> str:
    return " ".join(f"{s}-{m}" for s in stages for m in OWN[s])


TRAINED = " ".join(f"pretrain-{m}" for m in ENCODERS if m != "scratch")
OFFLINE = " ".join(f"pretrain-{m}" for m in LEARNED)


def _corpora(stage: str) -> str:
    return " ".join(f"{stage}-{c}" for c in CORPORA)


EDITS = (
    Edit("a comment", "", "birq/model/objectives.py", "SMALLEST = 1e-12", "SMALLEST = 1e-12  # small"),
    Edit(
        "a card in the table of GPU speeds", "", "birq/train/runtime/hardware.py", '"H200": 989.0,', '"H200": 989.0,\n    "X900": 9000.0,'
    ),
    Edit(
        "the margin before the end of a Slurm job", "", "birq/train/runtime/interrupt.py", "MARGIN_SECONDS = 60.0", "MARGIN_SECONDS = 90.0"
    ),
    Edit("a new corpus reader", "", "birq/corpora/timit.py", "", "SAMPLE_RATE_HZ = 16000\n"),
    Edit("the reader of another kind of corpus", "", "birq/corpora/librispeech.py", "SAMPLE_RATE_HZ = 16000", "SAMPLE_RATE_HZ = 16001"),
    Edit("utterances in long recordings (`kind: lhotse`)", "", "birq/corpora/excerpts.py", "DRIFT_S = 0.5", "DRIFT_S = 0.6"),
    Edit("the reader of local folders", "corpus-spoken", "birq/corpora/local.py", 'TABLE = "transcripts.tsv"', 'TABLE = "texts.tsv"'),
    Edit("the sentences of the synthetic corpus", "corpus-synth", "birq/corpora/synth.py", "PAUSE_SHARE = 0.3", "PAUSE_SHARE = 0.4"),
    Edit(
        "the pieces of long recordings (the report plays some)",
        f"{_corpora('features')} report",
        "birq/speech/pieces.py",
        "done >= last_s",
        "last_s <= done",
    ),
    Edit("the filterbank", _corpora("features"), "birq/speech/fbank.py", "PREEMPHASIS = 0.97", "PREEMPHASIS = 0.98"),
    Edit(
        "the batches",
        f"lm {TRAINED} " + _all("labels", "finetune", "decode", "search", "probe"),
        "birq/speech/batches.py",
        "WINDOW = 16384",
        "WINDOW = 8192",
    ),
    Edit("the loss of BiRQ", "pretrain-birq", "birq/model/objectives.py", "SMALLEST = 1e-12", "SMALLEST = 1e-13"),
    Edit(
        "the loss that all trained methods share",
        TRAINED,
        "birq/model/prediction.py",
        "return -logp_RNV.gather",
        "return -1.0 * logp_RNV.gather",
    ),
    Edit(
        "the prediction of labels from a file",
        OFFLINE,
        "birq/model/offline.py",
        "return h_KD, given.codes_KN, None, max(1,",
        "return h_KD, given.codes_KN, None, 1 * max(1,",
    ),
    Edit(
        "the steps of the snapshots",
        TRAINED,
        "birq/train/snapshots.py",
        "max(round(share * steps), 1)",
        "max(1, round(share * steps))",
    ),
    Edit("the clusters of HuBERT", "labels-hubert1 labels-hubert", "birq/labels/kmeans.py", "DRAWS = 5", "DRAWS = 6"),
    Edit("the form of a file of labels", f"{_all('labels')} {OFFLINE}", "birq/saved/labels.py", "DIGITS = 6", "DIGITS = 5"),
    Edit(
        "the encoder",
        _all("labels", "pretrain", "finetune", "decode", "search", "probe"),
        "birq/model/encoder.py",
        "RELATIVE_REACH = 512",
        "RELATIVE_REACH = 256",
    ),
    Edit(
        "the greedy decoder (fine-tuning keeps the model with the best dev WER)",
        _all("finetune", "decode", "search"),
        "birq/recognise/greedy.py",
        "rows, begin = [], 0",
        "begin, rows = 0, []",
    ),
    Edit("the search with a language model", _all("search"), "birq/recognise/beam.py", "PRUNE_LOGP = -10.0", "PRUNE_LOGP = -12.0"),
    Edit("the estimation of the n-gram", "lm", "birq/text/ngram.py", "FALLBACK = (0.5, 1.0, 1.5)", "FALLBACK = (0.4, 1.0, 1.5)"),
    Edit(
        "the parser of MP3", f"corpus-spoken {_corpora('features')} report", "birq/speech/mpeg.py", "LOST_BYTES = 1024", "LOST_BYTES = 1025"
    ),
    Edit("the normal form of transcripts", "corpus-spoken lm", "birq/text/normal.py", '("tr", "az", "crh"', '("az", "tr", "crh"'),
    Edit("the walk of a corpus' folder", "corpus-spoken", "birq/corpora/tree.py", 'LISTS = (".tsv",', 'LISTS = (".csv", ".tsv",'),
    Edit("the error rates", _all("search", "score"), "birq/evaluate/rates.py", '"hours"] = round', '"hours"] = 1 * round'),
    Edit("the probe", _all("probe"), "birq/evaluate/layers.py", "SEED = 20", "SEED = 22"),
    Edit("the report's page", "report", "birq/report/templates/page.html", "<h1>", '<h1 class="large">'),
    Edit("the stage contract", "", "birq/pipeline/stage.py", "RESERVE_BYTES = 4 << 20", "RESERVE_BYTES = 8 << 20"),
    Edit("the table of methods: a title", "", "birq/settings/methods.py", '"BEST-RQ"', '"BEST-RQ (2022)"'),
    Edit("`pretrain.steps`", TRAINED, setting="pretrain.steps=7"),
    Edit("`pretrain.snapshots`", TRAINED, setting="pretrain.snapshots=[0.5]"),
    Edit("`pretrain.checkpoint_seconds`", "", setting="pretrain.checkpoint_seconds=7.0"),
    Edit("`random_projection.codebook_size`", f"labels-relabel {_all('pretrain')}", setting="random_projection.codebook_size=64"),
    Edit("`random_projection.anchor_weight`", TRAINED, setting="random_projection.anchor_weight=1.0"),
    Edit("`birq.label_layer` (the report shows the probe at it)", "pretrain-birq report", setting="birq.label_layer=2"),
    Edit("`kmeans.clusters`", "labels-hubert1 labels-hubert", setting="kmeans.clusters=64"),
    Edit("`kmeans.view`", "labels-hubert1", setting="kmeans.view=log_mel"),
    Edit("`kmeans.layer`", "labels-hubert", setting="kmeans.layer=3"),
    Edit("`relabel.layer`", "labels-relabel", setting="relabel.layer=2"),
    Edit("`model.conv_kernel`", _all("pretrain"), setting="model.conv_kernel=5"),
    Edit("`finetune.steps`", _all("finetune"), setting="finetune.steps=7"),
    Edit("`finetune.labelled_minutes`", f"lm {_all('finetune')}", setting="finetune.labelled_minutes=30.0"),
    Edit("`decode.batch_seconds`", _all("decode", "search"), setting="decode.batch_seconds=100.0"),
    Edit("`decode.keep_mb`", _all("decode"), setting="decode.keep_mb=0.0"),
    Edit("`lm.order`", "lm", setting="lm.order=4"),
    Edit("`search.weights`", _all("search"), setting="search.weights=[0.3]"),
    Edit("`score.confidence`", _all("score", "probe"), setting="score.confidence=0.9"),
    Edit("`probe.max_minutes`", _all("probe"), setting="probe.max_minutes=1.0"),
    Edit("`report.worst_utterances`", "report", setting="report.worst_utterances=3"),
    Edit("`tokenizer.vocab_size`", "tokenizer", setting="tokenizer.vocab_size=300"),
    Edit("`tokenizer.alphabet`", f"{_corpora('corpus')} tokenizer lm", setting='tokenizer.alphabet="abcdefghijklmnopqrstuvwxyz\' é"'),
    Edit("`tokenizer.language`", "corpus-spoken lm", setting="tokenizer.language=tr"),
    Edit("`model.input_mean`", _all("pretrain"), setting="model.input_mean=utterance"),
    Edit("`model.norms`", _all("pretrain"), setting="model.norms=bf16"),
    Edit("`features.n_mels`", _corpora("features"), setting="features.n_mels=40"),
    Edit("`features.sample_rate_hz`", f"corpus-synth {_corpora('features')}", setting="features.sample_rate_hz=8000"),
    Edit("`features.max_seconds`", _corpora("corpus"), setting="features.max_seconds=30.0"),
    Edit("`features.max_quarantined_share`", "corpus-spoken", setting="features.max_quarantined_share=0.02"),
    Edit("`corpora.synth.seed`", "corpus-synth", setting="corpora.synth.seed=2"),
    Edit("`run.seeds`", "report", setting="run.seeds=[0, 1]"),
    Edit("`run.pretrain_corpora`", f"{_all('labels', 'pretrain')} report", setting="run.pretrain_corpora=[synth]"),
    Edit(
        "`run.finetune_corpora`",
        f"tokenizer lm {_all('finetune', 'decode', 'search', 'probe')} report",
        setting="run.finetune_corpora=[spoken]",
    ),
    Edit("`variants`: one that `run.methods` does not name", "", setting="variants={birq_k2: {method: birq, birq.label_layer: 2}}"),
)


def shown(computes: str) -> str:
    """The nodes of a row by stage, as the page has them."""
    wanted = set(computes.split())
    cells = []
    for stage in ORDER:
        own = OWN.get(stage, ())
        here = [o for o in own if f"{stage}-{o}" in wanted]
        if stage in wanted or (own and len(here) == len(own)):
            cells.append(stage)
        elif here:
            cells.append(f"{stage} ({', '.join(here)})")
    return ", ".join(cells) or "–"


def table() -> str:
    """The rows as Markdown."""
    lines = ["| edit | stages that compute |", "| --- | --- |", *(f"| {e.title} | {shown(e.computes)} |" for e in EDITS)]
    return "\n".join(lines)
