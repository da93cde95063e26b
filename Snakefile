# From a speech corpus to a word error rate. Every number stands in params.yaml.
# `snakemake --cores all` here, `snakemake --profile slurm` on a cluster.
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"


# seconds of work: on a cluster not worth a place in the queue
localrules:
    all,
    score,
    report,
    study,


# every artifact, so that one that was deleted is put back; `snakemake report --rulegraph` draws the rules without these edges
rule all:
    default_target: True
    input:
        rules.report.output,
        [str(node.provenance) for node in dag.nodes(P) if not node.stage.files_declared],
