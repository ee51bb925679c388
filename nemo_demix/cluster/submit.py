"""Jobs that wait for each other: what is queued already is kept, what is missing is submitted."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nemo_demix.cluster import slurm
from nemo_demix.cluster.job_log import JobLog, SubmittedJob, task_name
from nemo_demix.cluster.site import Site
from nemo_demix.config import LaunchConfig
from nemo_demix.errors import ClusterError, DemixError, refuse

logger = logging.getLogger(__name__)
# What `launch` itself says to sbatch.
_RESERVED = "array dependency job-name kill-on-invalid-dep nodes parsable wait wrap".split()
_OPTION_OF = {"SBATCH_TIMELIMIT": "time", "SBATCH_MEM_PER_NODE": "mem"}  # the others are named as the option


@dataclass(frozen=True)
class Option:
    """A long option of sbatch, and the key of the configuration that set it."""

    value: str | int | float | bool | None  # True, None: a flag; False: left out
    key: str


@dataclass(frozen=True)
class PlannedJob:
    """A stage as a job, or as an array of them."""

    stage: str
    name: str
    script: Path
    command: tuple[str, ...]  # of nemo-demix: what the script runs
    arguments: tuple[str, ...]  # what comes after the script, and after that command
    nodes: int
    after: tuple[str, ...]  # stages that have to end well first
    indices: tuple[int | None, ...]  # what is still to do: array indices, (None,) for a job of its own, () for nothing
    max_parallel: int
    options: Mapping[str, Option]
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    plan: PlannedJob
    submitted: str | None  # job id; of a dry run its placeholder
    attached: tuple[str, ...]  # tasks that were queued or running before
    waits_for: tuple[str, ...]
    command: tuple[str, ...]


def check_plan(plan: Sequence[PlannedJob], array_limit: int | None) -> None:
    """Refuse what cannot be submitted, before anything is.

    Args:
        array_limit: MaxArraySize; None: not known here.

    Raises:
        ClusterError: if an array is too large, or an option is not free to set.
    """
    for job in plan:
        largest = max((index for index in job.indices if index is not None), default=0)
        if array_limit is not None and largest >= array_limit:
            raise ClusterError(
                f"{job.stage}: {largest + 1} models, but arrays of this cluster have at most {array_limit} "
                "(MaxArraySize in slurm.conf); ask for more there, or take fewer"
            )
        for name, option in job.options.items():
            refuse(_option_errors(name, option))


def option_errors(config: LaunchConfig) -> Iterator[DemixError]:
    """Yield errors for options of sbatch that are not free to set, or whose value YAML has changed; of all jobs and of
    one stage's.
    """
    if config.executor != "slurm":  # its own fields: `executors.executor_errors`
        return
    for name, value in config.options.items():
        yield from _option_errors(name, Option(value, f"launch.options.{name}"))
    for stage in fields(config.jobs):
        for name, value in getattr(config.jobs, stage.name).options.items():
            yield from _option_errors(name, Option(value, f"launch.jobs.{stage.name}.options.{name}"))


def _option_errors(name: str, option: Option) -> Iterator[DemixError]:
    if name in _RESERVED:
        yield ClusterError(
            f"{option.key}: `launch` sets --{name} itself; nodes come from parallel.nodes, "
            "tasks at a time from launch.max_parallel"
        )
    if name == "time" and isinstance(option.value, int) and option.value >= 3600:
        yield ClusterError(
            f'{option.key}={option.value}: expected a time in quotes, as in "8:00:00": YAML reads 8:00:00 as '
            "a number of seconds, which sbatch would take for minutes"
        )


def submit_missing(plan: Sequence[PlannedJob], log: JobLog, site: Site, recipe: str, dry_run: bool) -> list[Outcome]:
    """Submit, in order, what is neither done nor queued; make queued jobs wait for what was submitted before them.

    Args:
        plan: Stages, each after those it waits for.
        log: Log of the run's earlier jobs, with their states; every job is added as soon as it is submitted.
        recipe: Fingerprint of the configuration, for the log.
        dry_run: Whether to submit nothing; the outcomes have the commands.

    Raises:
        ClusterError: if sbatch refuses a job; those before it are submitted.
    """
    outcomes: dict[str, Outcome] = {}
    for job in plan:
        parents = [outcomes[stage] for stage in job.after]
        waits_for = tuple(task for parent in parents for task in (*parent.attached, parent.submitted) if task)
        attached = log.live(job.stage)
        if any(parent.submitted for parent in parents) and not dry_run:
            _wait_for_more(log, attached, waits_for)
        queued = {index for _, index in attached}
        missing = [index for index in job.indices if index not in queued]
        command = sbatch_command(job, missing, waits_for)
        submitted = None
        if missing:
            submitted = job.stage.upper() if dry_run else _submit(job, command, site)
            if not dry_run:
                indices = [index for index in missing if index is not None] or None
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                log.append(SubmittedJob(job.stage, submitted, job.name, indices, list(command), recipe, now))
        outcomes[job.stage] = Outcome(job, submitted, tuple(map(task_name, attached)), waits_for, command)
    return list(outcomes.values())


def sbatch_command(job: PlannedJob, indices: Sequence[int | None], waits_for: Sequence[str]) -> tuple[str, ...]:
    """Return the command line that submits a stage."""
    options: dict[str, Any] = {"job-name": job.name, "nodes": job.nodes, "output": job.output}
    if array := array_option(indices, job.max_parallel):
        options["array"] = array
    if waits_for:
        options |= {"dependency": f"afterok:{':'.join(waits_for)}", "kill-on-invalid-dep": "yes"}
    options |= {name: option.value for name, option in job.options.items()}
    flags = [f"--{name}" if value is True or value is None else f"--{name}={value}"
             for name, value in options.items() if value is not False]  # fmt: skip
    return ("sbatch", "--parsable", *flags, str(job.script), *job.arguments)


def array_option(indices: Sequence[int | None], max_parallel: int) -> str | None:
    """Return `0-2,5%4` for 0, 1, 2 and 5, four at a time; None where there is no index."""
    runs: list[list[int]] = []
    for number in sorted(index for index in indices if index is not None):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{text}%{max_parallel}" if text and max_parallel else text or None


def _wait_for_more(
    log: JobLog, attached: Mapping[tuple[str, int | None], SubmittedJob], waits_for: Sequence[str]
) -> None:
    """Make queued jobs wait for a parent that was submitted anew."""
    pending = {job.job for task, job in attached.items() if log.states[task].state == "PENDING"}
    for job in sorted(pending):
        slurm.set_dependency(job, f"afterok:{':'.join(waits_for)}")


def _submit(job: PlannedJob, command: Sequence[str], site: Site) -> str:
    job.output.parent.mkdir(parents=True, exist_ok=True)  # where there is no such folder, Slurm ends the job unheard
    try:
        return slurm.sbatch(command, site.environment)
    except ClusterError as error:
        raise ClusterError(f"{job.script.name}: {error}; {_who_set(job, site, str(error))}") from None


def _who_set(job: PlannedJob, site: Site, said: str) -> str:
    """Return where the settings come from that sbatch may have meant: those it names, or else all."""
    settings = {
        _OPTION_OF.get(name, name.removeprefix("SBATCH_").lower().replace("_", "-")): f"{name} in {origin} is "
        f"{site.environment[name]}"
        for name, origin in site.origins.items()
    }
    settings |= {name: f"{option.key} is {option.value}" for name, option in job.options.items()}
    settings["nodes"] = f"parallel.nodes is {job.nodes}"
    named = [text for name, text in settings.items() if name.partition("-")[0] in said.lower()]
    missing = [name for name in ("account", "partition", "qos") if name in said.lower() and name not in settings]
    hint = [f"nothing sets {name}: launch.options.{name}, or SBATCH_{name.upper()} in a site file" for name in missing]
    return "; ".join(hint + named or list(settings.values()))
