"""The report stage: metrics, figures, comparisons and one page, from everything that the run made."""

from __future__ import annotations

from dataclasses import replace

from birq.evaluate.compare import compare_methods
from birq.pipeline.stage import Job
from birq.report import page, plots
from birq.report.build import _dump, by_method, records
from birq.report.gather import gather
from birq.report.verdict import health
from birq.settings.params import Report, Run


def compute(job: Job) -> None:
    """Write metrics.json, wer.json, comparisons.json, plots/ and index.html into `job.out`.

    Errors: BirqError for an artifact that is damaged or lacks `report.main_split`.
    """
    section: Report = job.read("report")
    run: Run = job.read("run")
    facts = gather(job.inputs, section.main_split, section.worst_utterances, list(run.pretrain_corpora), list(run.finetune_corpora))
    how = facts.score_params
    folders = {(r.method, r.seed): r.score_folder for r in facts.runs}
    if len(facts.methods) > 1:
        pairs = compare_methods(folders, facts.main_split, how["confidence"], how["bootstrap_samples"], how["seed"])
        facts = replace(facts, comparisons=pairs)
    codes = [h for h in map(health, facts.runs) if h]
    _dump(job.out / "metrics.json", records(facts))
    _dump(job.out / "wer.json", by_method(facts))
    rest = {"main_split": facts.main_split, "synthetic": facts.synthetic, "comparisons": facts.comparisons, "health": codes}
    _dump(job.out / "comparisons.json", rest)
    svgs = plots.write(facts, job.out / "plots")
    (job.out / "index.html").write_text(page.render(facts, codes, svgs), encoding="utf-8")
    job.notes["device"] = "cpu"
