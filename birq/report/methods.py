"""The Methods paragraph of a paper: every number from params.yaml, versions from the artifacts."""

from __future__ import annotations

from birq import __version__
from birq.errors import BirqError
from birq.evaluate.compare import MIN_SEEDS
from birq.pipeline import artifact, dag, environment
from birq.report.words import listed
from birq.settings.corpora import SynthCorpus
from birq.settings.decoding import with_lm
from birq.settings.methods import FROM_ANEW
from birq.settings.params import Optimisation, Params

# what the software is cited by; the others by name and version
CITED = {
    "torch": "PyTorch (Paszke et al. 2019)",
    "lhotse": "Lhotse (arXiv 2110.12561)",
    "sentencepiece": "SentencePiece (arXiv 1808.06226)",
}
SNAKEMAKE = "Snakemake (Mölder et al. 2021)"


def _number(x: float) -> str:
    return f"{x:,}" if isinstance(x, int) else f"{x:,g}"


def _count(n: int, one: str) -> str:
    return f"{n} {one}" if n == 1 else f"{_number(n)} {one}s"


def _corpora(p: Params) -> str:
    texts = []
    for name, c in p.corpora.items():
        if isinstance(c, SynthCorpus):
            texts.append(
                f"{name} is synthetic speech (espeak-ng; {_number(c.train_hours)} h to train on, {_number(c.dev_hours)} h dev, "
                f"{_number(c.test_hours)} h test; {c.n_voices} voices, those of dev and test unseen in training)"
            )
        else:
            texts.append(f"{name} is recorded speech ({c.kind})")
    f, top = p.features, p.features.high_hz
    own = "" if p.model.input_mean == "corpus" else "; the encoder's input had each utterance's mean removed in place of the corpus' mean"
    high = _number(top if top > 0 else p.features.sample_rate_hz / 2 + top)
    return (
        f"Corpora: {'; '.join(texts)}. Audio at {_number(f.sample_rate_hz / 1000)} kHz became {f.n_mels} log-mel bins "
        f"({_number(f.low_hz)} to {high} Hz, windows of {_number(f.frame_length_ms)} ms every {_number(f.frame_shift_ms)} ms), "
        f"normalised per bin over the corpus{own}."
    )


def _encoder(p: Params) -> str:
    m = p.model
    rate = 1000 / (p.features.frame_shift_ms * m.n_stack)
    window = f", attention in blocks of {m.attention_window} frames" if m.attention_window else ""
    return (
        f"The encoder is a Conformer (arXiv 2005.08100) of {_count(m.n_layers, 'layer')}, width {m.d_model}, {_count(m.n_heads, 'head')}, "
        f"convolution kernel {m.conv_kernel}, {m.positions} positions{window}, at {_number(rate)} frames per second."
    )


def _birq(p: Params) -> str:
    t = p.birq
    form = "" if t.entropy_weight == 0 else f", with the entropy of the mean label inside F at weight {_number(t.entropy_weight)}"
    return (
        f"BiRQ (arXiv 2509.15430) with enhanced labels of layer {t.label_layer}, weights {_number(t.enhanced_weight)} "
        f"(enhanced) and {_number(p.random_projection.anchor_weight)} (anchoring), temperature {_number(t.temperature)}, logit scale "
        f"{_number(t.logit_scale)}, labels for {_number(100 * t.label_share)} % of each batch, gradient through the labels at weight "
        f"{_number(t.label_gradient)}{form}"
    )


VIEWS = {"log_mel": "log-mel", "mean_removed": "mean removed log-mel", "cepstra": "cepstra", "cmvn": "mean and variance normalised cepstra"}


def _from_file(p: Params, run: str) -> str:
    """Masked prediction of labels that were made before."""
    k, layer = p.kmeans, p.relabel.layer
    view = VIEWS[k.view]
    clusters = f"{_number(k.clusters)} k-means clusters of {view} of the input"
    labels = {
        "cmvn_kmeans": f"prediction of {_number(k.clusters)} k-means clusters of {VIEWS['cmvn']} of the input",
        "hubert1": f"the first iteration of HuBERT (arXiv 2106.07447), whose labels are {clusters}",
        "hubert": f"HuBERT (arXiv 2106.07447) in two iterations, whose labels are {clusters}, then of layer {k.layer} of that encoder",
        "relabel": f"prediction of random codes of layer {layer} of a finished BEST-RQ encoder",
        "relabel2": f"prediction of random codes of layer {layer} of a BEST-RQ encoder that was relabelled so once",
        "relabel_birq": f"prediction of random codes of layer {layer} of a finished BiRQ encoder",
        "phones": "prediction of phones from time alignments, the ceiling of what labels can teach",
        "shuffled": "prediction of phones that are half an utterance off, the floor",
    }
    return labels[p.method(run).name]


def _method(p: Params, run: str) -> str:
    """A name in run.methods; of a variant, the numbers that differ."""
    if run in p.variants:
        changes = listed([f"{key} {value}" for key, value in p.variants[run].items() if key != "method"] or ["nothing changed"])
        return f"{run}, a variant of {p.method(run).title} ({changes})"
    if p.method(run).predicts == "input and layer codes":
        return _birq(p)
    if p.method(run).predicts == "labels from a file":
        return _from_file(p, run)
    return "BEST-RQ (arXiv 2202.01855), which is the same with the anchoring labels alone"


def _budget(section: Optimisation) -> str:
    steps, batch = section.steps, f"{_number(section.batch_seconds)} s"
    return f"{steps} in steps of {batch}" if isinstance(steps, str) else f"{_count(steps, 'step')} of {batch}"


def _warmup(length: int | str) -> str:
    return f"{length} of warm-up" if isinstance(length, str) else _count(length, "warm-up step")


def _pretraining(p: Params) -> str:
    trained = [m for m in p.run.methods if p.method(m).trains]
    also = " The encoder without pre-training is the reference." if len(trained) < len(p.run.methods) else ""
    if not trained:
        return "Nothing was pre-trained."
    t, q = p.pretrain, p.random_projection
    start = f" It began with the encoder of {t.starts_from}." if t.starts_from != FROM_ANEW else ""
    how = "; by ".join(_method(p, m) for m in trained)
    return (
        f"It was pre-trained on {listed(list(p.run.pretrain_corpora))} without transcripts for "
        f"{_budget(t)} of speech (AdamW, peak rate {_number(t.learning_rate)}, "
        f"{_warmup(t.warmup_steps)}, cosine), with {_count(q.n_codebooks, 'codebook')} of "
        f"{_number(q.codebook_size)} codes of {q.codebook_dim} dimensions and masked spans of {_number(t.mask_span_ms)} ms "
        f"that start at a frame with probability {_number(t.mask_start_probability)}: by {how}.{start}{also}"
    )


def _finetuning(p: Params) -> str:
    t = p.finetune
    units = "characters" if p.tokenizer.kind == "characters" else f"{_number(p.tokenizer.vocab_size)} {p.tokenizer.kind} pieces"
    fresh = f", with the top {_count(t.reset_layers, 'layer')} initialised again" if t.reset_layers else ""
    masks = ", SpecAugment (arXiv 1904.08779)" if t.time_masks or t.freq_masks else ""
    return (
        f"Each encoder was fine-tuned with CTC (Graves et al. 2006) on {_number(t.labelled_minutes)} min of transcribed speech from "
        f"{listed(list(p.run.finetune_corpora))}, in {units}, for {_budget(t)} "
        f"(AdamW, peak rate {_number(t.learning_rate)}, dropout {_number(t.dropout)}{masks}{fresh}); of "
        f"{_count(t.evaluations, 'evaluation')} on dev, the one with the lowest word error rate was kept. {_decoding(p)} "
        f"Runs: {_count(len(p.run.seeds), 'seed')} ({listed([str(s) for s in p.run.seeds])}) per method; methods share "
        f"data, first weights and codebooks."
    )


def _decoding(p: Params) -> str:
    lm, s = p.lm, p.search
    if not with_lm(lm, p.tokenizer.alphabet):
        return "Decoding is greedy, without a language model."
    source = (
        f"{lm.order}-gram of words from the transcripts of fine-tuning" if lm.kind == "transcripts" else "n-gram of words of another source"
    )
    weights, bonuses = (listed([_number(x) for x in values]) for values in (s.weights, s.bonuses))
    if len(s.weights) * len(s.bonuses) == 1:
        how = f"at weight {weights}, with {bonuses} nats for a word"
    else:
        how = f"at the weight (of {weights}) and the bonus for a word (of {bonuses} nats) with the fewest word errors on dev"
    return f"Decoding is greedy and, beside it, by beam search (KenLM, beam {s.beam}) with a {source}, {how}."


def _scoring(p: Params) -> str:
    s, n = p.score, len(p.run.seeds)
    seeds = " and cover the training seeds (Student's t)" if n >= MIN_SEEDS else "; they are about these models, not about methods"
    return (
        f"Word and character error rates on {p.report.main_split} have {_number(100 * s.confidence)} % intervals from "
        f"{_number(s.bootstrap_samples)} bootstrap samples of the utterances. Comparisons are paired by utterance and speaker "
        f"(bootstrap, Bisani and Ney 2004){seeds}."
    )


def _software(p: Params) -> str:
    try:
        made = artifact.read_provenance(dag.nodes(p, "finetune")[0].folder)
    except BirqError:  # nothing was made yet: what would make it
        made = {"birq": __version__, "environment": environment.environment(), "notes": {}}
    e = made["environment"]
    versions = [f"{CITED.get(name, name)} {version}" for name, version in e["packages"].items()]
    commit = f", commit {e['git']['commit'][:12]}{' with changes' if e['git']['dirty'] else ''}" if e.get("git") else ""
    threads = f" with {_count(p.finetune.cpu_threads, 'thread')}" if made["notes"].get("device") == "cpu" else ""
    device = f" Models were fine-tuned on {made['notes']['device']}{threads}." if made["notes"].get("device") else ""
    return f"Software: birq {made['birq']}{commit}, run by {SNAKEMAKE}, on Python {e['python']} with {listed(versions)}.{device}"


def paragraph(p: Params) -> str:
    """The whole paragraph, plain text."""
    parts = (_corpora, _encoder, _pretraining, _finetuning, _scoring, _software)
    return " ".join(part(p) for part in parts)
