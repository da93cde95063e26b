rule decode:
    input:
        unpack(reads("decode")),
    output:
        "data/decode/{method}-{seed}/provenance.json",
    log:
        "data/logs/decode/{method}-{seed}.log",
    benchmark:
        "data/logs/decode/{method}-{seed}.benchmark.tsv"
    priority: 10
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        local_gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq decode --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule search:
    input:
        unpack(reads("search")),
    output:
        "data/search/{method}-{seed}/provenance.json",
    log:
        "data/logs/search/{method}-{seed}.log",
    benchmark:
        "data/logs/search/{method}-{seed}.benchmark.tsv"
    priority: 10
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq search --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule score:
    input:
        unpack(reads("score")),
    output:
        "data/score/{method}-{seed}/provenance.json",
    log:
        "data/logs/score/{method}-{seed}.log",
    benchmark:
        "data/logs/score/{method}-{seed}.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq score --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule probe:
    input:
        unpack(reads("probe")),
    output:
        "data/probe/{method}-{seed}/provenance.json",
    log:
        "data/logs/probe/{method}-{seed}.log",
    benchmark:
        "data/logs/probe/{method}-{seed}.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        local_gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq probe --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule report:
    input:
        unpack(reads("report")),
    output:
        "data/report/provenance.json",
        "data/report/metrics.json",
        "data/report/wer.json",
        report("data/report/index.html", labels={"shown": "the whole report on one page"}, category="Page", caption="../report/page.rst"),
        figure("wer", "Results", "word error rate by method"),
        figure("differences", "Results", "differences on the same utterances"),
        figure("dev_wer", "Fine-tuning", "word error rate on dev by step"),
        figure("finetune", "Fine-tuning", "CTC loss by step"),
        figure("linear", "Layers", "linear phone probe by layer"),
        figure("pretrain_losses", "Pre-training", "losses F and G by step"),
        figure("masked_accuracy", "Pre-training", "masked accuracy by step"),
        figure("perplexity", "Labels", "perplexity of the codes by step"),
        figure("label_fidelity", "Labels", "label fidelity by step"),
        figure("pnmi", "Labels", "PNMI by layer"),
        figure("usage", "Labels", "share of frames of each code"),
    log:
        "data/logs/report.log",
    benchmark:
        "data/logs/report.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq report{params.override} 2>&1 | tee -a {log}"


# only where it is asked for: `snakemake --cores all study`
rule study:
    input:
        unpack(reads("study")),
    output:
        "data/study/provenance.json",
    log:
        "data/logs/study.log",
    benchmark:
        "data/logs/study.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq study{params.override} 2>&1 | tee -a {log}"
