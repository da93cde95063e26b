import time


# With `--sdm apptainer`, jobs run in the image that docs/cluster.md builds.
container: "birq.sif"


# Under `--profile slurm`: an error that would fail every job is reported once, before the first one is submitted.


def ask_slurm(*command):
    """The answer of one of Slurm's commands. Errors: WorkflowError when the controller cannot be asked."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        trouble = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        trouble = f"there is no {command[0]} on this machine; a login node of the cluster has it"
    except subprocess.TimeoutExpired as error:
        trouble = (error.stderr or b"").decode().strip() or "no answer within 30 s"
    if trouble:
        raise WorkflowError(f"Slurm cannot be reached, nothing was submitted: {trouble.splitlines()[0]}")
    return done.stdout


def check_partitions(jobs):
    """Errors: WorkflowError for a partition that the cluster does not have."""
    asked = {p for job in jobs for p in str(job.resources.get("slurm_partition") or "").split(",") if p}
    known = set(ask_slurm("sinfo", "--noheader", "--format=%R").split())
    if wrong := sorted(asked - known):
        raise WorkflowError(
            f"no such Slurm partition: {', '.join(wrong)}; this cluster has {', '.join(sorted(known))}. "
            "Nothing was submitted: correct slurm_partition in workflow/profiles/slurm/config.yaml"
        )


def check_status_command(settings):
    """Errors: WorkflowError where Snakemake would miss the end of a job, and wait for it for ever."""
    said = dict(line.split("=", 1) for line in ask_slurm("scontrol", "show", "config").splitlines() if "=" in line)
    said = {name.strip(): value.strip() for name, value in said.items()}
    accounts = said["AccountingStorageType"] != "accounting_storage/none"
    # the plugin asks at most 180 s apart; below three times its first interval it turns from squeue to sacct by itself
    age, turns = int(said["MinJobAge"].split()[0]), 3 * settings.init_seconds_before_status_checks
    if settings.status_command == "sacct":
        if not accounts:
            raise WorkflowError("this cluster keeps no accounts, so sacct knows nothing: set slurm-status-command: squeue in the profile")
    elif accounts and turns <= age < 180:
        raise WorkflowError(f"this cluster forgets a job {age} s after its end (MinJobAge): set slurm-status-command: sacct in the profile")
    elif not accounts and age < max(180, turns):
        raise WorkflowError(
            f"this cluster keeps no accounts and forgets a job {age} s after its end: ask for MinJobAge=300, Slurm's default"
        )
    elif not accounts:
        # plugin 2.8 asks for MinJobAge at every check, and turns to sacct for good when the controller does not answer just then
        sys.modules["snakemake_executor_plugin_slurm"].get_min_job_age = lambda: age


STARTED = time.time()


def fresh(log):
    """Whether a log was written in this run: a job that was refused at submission has the log of an earlier one."""
    return os.path.exists(log) and os.path.getmtime(log) >= STARTED


def last_words(job, lines=6):
    """The end of a failed job's log and, where Slurm ended it, Slurm's words, each under its path."""
    for log in filter(fresh, job.log):
        yield f"{log} ends with:"
        yield from (f"    {line}" for line in Path(log).read_text(errors="replace").splitlines()[-lines:])
    if workflow.executor_plugin.name != "slurm":
        return
    logs = Path(".snakemake/slurm_logs", f"rule_{job.rule.name}", "_".join(job.wildcards)).glob("*.log")
    for log in sorted(filter(fresh, logs), key=os.path.getmtime)[-1:]:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("slurmstepd")]
        if said:
            yield f"{log} holds:"
            yield from (f"    {line}" for line in dict.fromkeys(said[-lines:]))


onstart:
    if workflow.executor_plugin.name == "slurm":
        check_status_command(workflow.executor_settings)
        check_partitions(workflow.dag.needrun_jobs())


onerror:
    for job in getattr(workflow.scheduler, "failed", ()):
        if words := list(last_words(job)):
            logger.error("\n".join(words))
