"""Slurm jobs through NeMo-Run, for teams that keep their experiments there: one `run.Experiment` of a run's stages.

Its other executors are in `experiments`.
"""

import os
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nemo_demix.cluster.experiments import environment, title
from nemo_demix.cluster.job_log import JobLog, SubmittedJob, task_name
from nemo_demix.cluster.site import Site
from nemo_demix.cluster.submit import Outcome, PlannedJob, array_option
from nemo_demix.errors import ClusterError

# NeMo-Run's own batch script around ours: `requeue` is that of slurm/common.sh, and it has to outlive signals too.
_SETUP = """
source "$DEMIX_SLURM/common.sh"
trap '[[ $? -ne 138 && $? -ne 143 ]] || requeue' EXIT
trap : TERM USR1
"""


def submit_through_nemo_run(
    plan: Sequence[PlannedJob], log: JobLog, site: Site, recipe: str, folder: Path
) -> list[Outcome]:
    """Submit what is not done as one experiment with a SlurmExecutor a stage; its job ids go into the log as well.

    Args:
        folder: The run's launch folder; the experiment lies in `experiments/` below it.

    Raises:
        ClusterError: if jobs of the run are queued or running, or no account is set.
    """
    import nemo_run as run

    if live := log.live():
        raise ClusterError(
            f"jobs {', '.join(map(task_name, live))} of this run are queued or running; NeMo-Run submits an experiment "
            "as a whole: wait for them, or end them with `nemo-demix cancel`"
        )
    if "/nemo_run" in str(folder) and "DEMIX_CONTAINER_IMAGE" not in site.environment:
        raise ClusterError(
            f"{folder}: NeMo-Run replaces /nemo_run in paths where there is no container; set another runs_dir="
        )
    todo = [job for job in plan if job.indices]
    names = {job.stage for job in todo}
    tasks: dict[str, str] = {}
    with environment(site), run.Experiment(title(plan), base_dir=str(folder)) as experiment:
        for job in todo:
            tasks[job.stage] = experiment.add(
                run.Script(inline=_task(job)),
                executor=_slurm_executor(job, site, folder),
                name=job.stage,
                dependencies=[tasks[stage] for stage in job.after if stage in names],
            )
        experiment.run(detach=True)
        handles = {job.stage: task.handle for job, task in zip(todo, experiment.jobs, strict=True)}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    outcomes = []
    ids = {stage: handle.partition("://")[2].split("/")[1] for stage, handle in handles.items()}
    for job in plan:
        waits_for = tuple(ids[stage] for stage in job.after if stage in ids)
        outcomes.append(Outcome(job, ids.get(job.stage), (), waits_for, ()))
        if job.stage in ids:
            indices = [index for index in job.indices if index is not None] or None
            command = ["nemo-demix", *job.command, *job.arguments]
            log.append(SubmittedJob(job.stage, ids[job.stage], job.name, indices, command, recipe, now))
    return outcomes


def _task(job: PlannedJob) -> str:
    """Return what a task runs: as slurm/common.sh does, but in the folder that this process is in, not NeMo-Run's."""
    recipe, *overrides = job.arguments
    words = [*job.command, "--config-name", recipe.removeprefix("recipe="), *overrides]
    index = ' ${SLURM_ARRAY_TASK_ID:+index="$SLURM_ARRAY_TASK_ID"}'
    return f'cd {shlex.quote(os.getcwd())}\neval "${{DEMIX_SETUP:-}}"\nexec nemo-demix {shlex.join(words)}{index}\n'


def _slurm_executor(job: PlannedJob, site: Site, folder: Path) -> Any:
    """Return a SlurmExecutor with the sbatch file's own settings, the site's and the configuration's over them."""
    import nemo_run as run

    settings: dict[str, Any] = _directives(job.script)
    settings |= {name: site.environment[variable] for name, variable in
                 (("account", "SBATCH_ACCOUNT"), ("partition", "SBATCH_PARTITION"), ("qos", "SBATCH_QOS"),
                  ("time", "SBATCH_TIMELIMIT")) if variable in site.environment}  # fmt: skip
    settings |= {name: True if option.value is None else option.value for name, option in job.options.items()}
    settings |= {"nodes": job.nodes, "array": array_option(job.indices, job.max_parallel), "job-name": job.name}
    settings |= {"kill-on-invalid-dep": "yes"}
    settings = {name.replace("-", "_"): value for name, value in settings.items() if value is not False}
    if not settings.get("account"):
        raise ClusterError("NeMo-Run does not submit without an account: set launch.options.account, or SBATCH_ACCOUNT")
    known = {field.name for field in fields(run.SlurmExecutor) if field.init}
    mounts = site.environment.get("DEMIX_CONTAINER_MOUNTS")
    return run.SlurmExecutor(
        **{name: value for name, value in settings.items() if name in known},
        additional_parameters={name: value for name, value in settings.items() if name not in known},
        container_image=site.environment.get("DEMIX_CONTAINER_IMAGE"),
        container_mounts=mounts.split(",") if mounts else [],
        srun_args=["--cpu-bind=none", *shlex.split(site.environment.get("DEMIX_SRUN_ARGS", ""))],
        setup_lines=_SETUP,
        packager=run.Packager(),
        tunnel=run.LocalTunnel(job_dir=str(folder / "experiments")),
        poll_estimated_start_time=False,
    )


def _directives(script: Path) -> dict[str, Any]:
    """Return the `#SBATCH --name=value` lines of a file."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", script.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: value or True for name, value in found if name not in ("output", "array", "job-name")}
