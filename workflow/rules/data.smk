rule corpus:
    input:
        unpack(reads("corpus")),
    output:
        "data/corpus/{corpus}/provenance.json",
    log:
        "data/logs/corpus/{corpus}.log",
    benchmark:
        "data/logs/corpus/{corpus}.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 16
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq corpus --corpus {wildcards.corpus}{params.override} 2>&1 | tee -a {log}"


rule features_part:
    input:
        unpack(reads("features")),
    output:
        temp(touch("data/.stamps/parts/features-{corpus}-{i}-of-{n}")),
    log:
        "data/logs/features/{corpus}-{i}-of-{n}.log",
    benchmark:
        "data/logs/features/{corpus}-{i}-of-{n}.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 16
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq features --corpus {wildcards.corpus} --part {wildcards.i}/{wildcards.n}{params.override} 2>&1 | tee -a {log}"


rule features:
    input:
        unpack(reads("features")),
        parts=feature_parts,
    output:
        "data/features/{corpus}/provenance.json",
    log:
        "data/logs/features/{corpus}.log",
    benchmark:
        "data/logs/features/{corpus}.benchmark.tsv"
    conda:
        "../envs/birq.yaml"
    threads: 16
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq features --corpus {wildcards.corpus}{params.override} 2>&1 | tee -a {log}"


rule tokenizer:
    input:
        unpack(reads("tokenizer")),
    output:
        "data/tokenizer/provenance.json",
    log:
        "data/logs/tokenizer.log",
    benchmark:
        "data/logs/tokenizer.benchmark.tsv"
    # seconds; every fine-tuning waits for it
    priority: 50
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq tokenizer{params.override} 2>&1 | tee -a {log}"


# before the trainings, because it checks a file of the user's
rule lm:
    input:
        unpack(reads("lm")),
    output:
        "data/lm/provenance.json",
    log:
        "data/logs/lm.log",
    benchmark:
        "data/logs/lm.benchmark.tsv"
    priority: 50
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq lm{params.override} 2>&1 | tee -a {log}"
