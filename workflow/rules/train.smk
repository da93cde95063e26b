# labels of methods that learn from a file; where an encoder makes them, the rules labels and pretrain take turns
rule labels:
    input:
        unpack(reads("labels")),
    output:
        "data/labels/{method}-{seed}/provenance.json",
    log:
        "data/logs/labels/{method}-{seed}.log",
    benchmark:
        "data/logs/labels/{method}-{seed}.benchmark.tsv"
    priority: 40
    conda:
        "../envs/birq.yaml"
    threads: 1
    resources:
        local_gpu=GPU,
        mem_mb=growing(8000),
        runtime=growing(240),
    params:
        override=OVERRIDE,
    shell:
        "python -m birq labels --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


# the longest chains start first: pretrain before finetune before everything that waits for them
rule pretrain:
    input:
        unpack(reads("pretrain")),
    output:
        "data/pretrain/{method}-{seed}/provenance.json",
    log:
        "data/logs/pretrain/{method}-{seed}.log",
    benchmark:
        "data/logs/pretrain/{method}-{seed}.benchmark.tsv"
    priority: 30
    conda:
        "../envs/birq.yaml"
    threads: lambda wildcards: P.of_run(wildcards.method).pretrain.cpu_threads
    resources:
        local_gpu=GPU,
        mem_mb=growing(8000),
        runtime=growing(1440),
    params:
        override=OVERRIDE,
        nodes=over_nodes,
    shell:
        "{params.nodes}python -m birq pretrain --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"


rule finetune:
    input:
        unpack(reads("finetune")),
    output:
        "data/finetune/{method}-{seed}/provenance.json",
    log:
        "data/logs/finetune/{method}-{seed}.log",
    benchmark:
        "data/logs/finetune/{method}-{seed}.benchmark.tsv"
    priority: 20
    conda:
        "../envs/birq.yaml"
    threads: lambda wildcards: P.of_run(wildcards.method).finetune.cpu_threads
    resources:
        local_gpu=GPU,
        mem_mb=growing(8000),
        runtime=growing(1440),
    params:
        override=OVERRIDE,
        nodes=over_nodes,
    shell:
        "{params.nodes}python -m birq finetune --method {wildcards.method} --seed {wildcards.seed}{params.override} 2>&1 | tee -a {log}"
