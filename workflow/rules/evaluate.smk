rule decode:
    input:
        stamp=stamp("decode"),
        finetune="data/finetune/{method}-{seed}/provenance.json",
        features=made("features", "finetune"),
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
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq decode --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule score:
    input:
        stamp=stamp("score"),
        decode="data/decode/{method}-{seed}/provenance.json",
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
        stamp=stamp("probe"),
        pretrain="data/pretrain/{method}-{seed}/provenance.json",
        features=made("features", "finetune"),
        corpus=made("corpus", "finetune"),
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
        gpu=GPU,
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq probe --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule report:
    input:
        stamp=stamp("report"),
        corpus=made("corpus", "all"),
        features=made("features", "all"),
        pretrain=made("pretrain"),
        finetune=made("finetune"),
        score=made("score"),
        probe=made("probe"),
    output:
        "data/report/provenance.json",
        "data/report/metrics.json",
        "data/report/wer.json",
        report("data/report/index.html", category="Page", caption="../report/page.rst"),
        report("data/report/plots/wer.svg", category="Results", caption="../report/wer.rst"),
        report("data/report/plots/differences.svg", category="Results", caption="../report/differences.rst"),
        report("data/report/plots/dev_wer.svg", category="Fine-tuning", caption="../report/dev_wer.rst"),
        report("data/report/plots/finetune.svg", category="Fine-tuning", caption="../report/finetune.rst"),
        report("data/report/plots/pretrain_losses.svg", category="Pre-training", caption="../report/pretrain_losses.rst"),
        report("data/report/plots/masked_accuracy.svg", category="Pre-training", caption="../report/masked_accuracy.rst"),
        report("data/report/plots/perplexity.svg", category="Labels", caption="../report/perplexity.rst"),
        report("data/report/plots/label_fidelity.svg", category="Labels", caption="../report/label_fidelity.rst"),
        report("data/report/plots/pnmi.svg", category="Labels", caption="../report/pnmi.rst"),
        report("data/report/plots/usage.svg", category="Labels", caption="../report/usage.rst"),
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
