"""`launch`: a run's stages as Slurm jobs that wait for each other; `cancel`: end these."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import nemo_demix
from nemo_demix.artifacts import fingerprint, write_text
from nemo_demix.cluster import slurm
from nemo_demix.cluster.executors import executor_errors, executor_of
from nemo_demix.cluster.job_log import JobLog, task_name
from nemo_demix.cluster.site import load_site
from nemo_demix.cluster.submit import Option, Outcome, PlannedJob, check_plan, submit_missing
from nemo_demix.config import DemixConfig, LaunchJobConfig
from nemo_demix.config.stages import STAGES
from nemo_demix.errors import ClusterError, ConfigError, refuse
from nemo_demix.plain_yaml import parse_yaml
from nemo_demix.ranks.lock import folder_lock
from nemo_demix.runtime.ranks import world_size
from nemo_demix.stages.pipeline import PipelineStage, pipeline, trained_jobs
from nemo_demix.stages.retraining import confirm_retraining

logger = logging.getLogger(__name__)
THROUGH = ("slurm", "nemo_run", "local")


def launch_stage(config: DemixConfig) -> None:
    """Submit what is neither done nor queued; the jobs run this configuration, whatever becomes of its recipe.

    Raises:
        ClusterError: if there is no Slurm, it refuses a job, or jobs of another configuration are queued or running.
        ConfigError: if the configuration cannot be launched.
    """
    settings = config.launch
    if settings.through not in THROUGH:
        raise ConfigError(f"launch.through={settings.through}: expected one of {', '.join(THROUGH)}")
    if config.force:
        raise ConfigError(
            "force=true: a job that is requeued would start over; remove what is to be done again instead"
        )
    refuse(executor_errors(config))
    executor = executor_of(settings)
    if executor is None and not settings.dry_run and not slurm.has_slurm():
        raise ClusterError(
            "no Slurm here: sbatch, squeue, scancel, scontrol are not on PATH; `nemo-demix run` with the same "
            "arguments does all of it on this machine, and --dry-run shows the jobs"
        )
    stages = pipeline(config)
    _check_layouts(stages)
    site = load_site(settings.site, scripts_folder())
    plan = planned_jobs(config, stages)
    if settings.dry_run and executor is not None:
        from nemo_demix.cluster.experiments import describe

        for line in describe(plan, executor, site):
            print(line)
        return
    if settings.dry_run:
        log = job_log(config)
        _print_dry_run(submit_missing(plan, log, site, "", dry_run=True), settings.site)
        if log.jobs and log.silence:
            print(f"# not known: which of the {len(log.jobs)} jobs submitted before are queued ({log.silence})")
        return
    confirm_retraining(config, trained_jobs(stages))
    with folder_lock(launch_folder(config), "name="):
        log = job_log(config, settle=True)
        if log.silence and executor is None:
            raise ClusterError(log.silence)
        recipe = configuration_fingerprint(config)
        check_same_configuration(config, log, recipe)
        write_recipe(config)
        if executor is not None:
            from nemo_demix.cluster.experiments import run_waiting

            run_waiting(plan, executor, site, launch_folder(config))
            return
        check_plan(plan, slurm.max_array_size())
        if settings.through == "slurm":
            outcomes = submit_missing(plan, log, site, recipe, dry_run=False)
        else:
            from nemo_demix.cluster.nemo_run import submit_through_nemo_run

            outcomes = submit_through_nemo_run(plan, log, site, recipe, launch_folder(config))
    _print_outcomes(stages, outcomes)


def cancel_stage(config: DemixConfig) -> None:
    """End the run's queued and running jobs, and wait until they have ended."""
    log = job_log(config)
    if log.jobs and log.silence:
        raise ClusterError(f"the jobs of {log.path} cannot be ended from here: {log.silence}")
    tasks = [task_name(task) for task in log.live()]
    slurm.cancel(tasks)
    logger.info("cancel: %s", f"ended {', '.join(tasks)}" if tasks else "no job of this run is queued or running")


def scripts_folder() -> Path:
    """Return the shipped sbatch files: inside an installed package, or beside it in a checkout."""
    package = Path(nemo_demix.__file__).resolve().parent
    inside = package / "slurm"
    return inside if inside.is_dir() else package.parent / "slurm"


def launch_folder(config: DemixConfig) -> Path:
    """Return `runs/<name>/launch`."""
    return config.run_dir.absolute() / "launch"


def job_log(config: DemixConfig, settle: bool = False) -> JobLog:
    """Return the run's jobs, with their states where a Slurm answers; else `silence` says why not."""
    log = JobLog(launch_folder(config) / "jobs.json")
    if not slurm.has_slurm():
        log.silence = "no Slurm here: squeue is not on PATH"
        return log
    try:
        log.states = slurm.job_states((job.job for job in log.jobs), settle)
    except ClusterError as error:
        log.silence = str(error)
    return log


def planned_jobs(config: DemixConfig, stages: Sequence[PipelineStage]) -> list[PlannedJob]:
    """Return a job a stage, also for stages that are done: their jobs may still be ending."""
    recipe = recipe_path(config)
    jobs = []
    for stage in stages:
        own: LaunchJobConfig = getattr(config.launch.jobs, stage.name)
        options = {name: Option(value, f"launch.options.{name}") for name, value in config.launch.options.items()}
        where = f"launch.jobs.{stage.name}.options"
        options |= {name: Option(value, f"{where}.{name}") for name, value in own.options.items()}
        numbers = "%j" if stage.models is None else "%A_%a"
        jobs.append(
            PlannedJob(
                stage=stage.name,
                name=f"demix-{config.name}-{stage.name}",
                script=scripts_folder() / f"{stage.name}.sbatch",
                command=STAGES[stage.name].command,
                arguments=(f"recipe={recipe}", *own.overrides),
                nodes=1 if stage.name == "prepare" else stage.config.parallel.nodes,
                after=stage.after,
                indices=stage.todo,
                max_parallel=config.launch.max_parallel,
                options=options,
                output=config.run_dir.absolute() / "logs" / "slurm" / f"{stage.name}-{numbers}.out",
            )
        )
    return jobs


def recipe_path(config: DemixConfig) -> Path:
    """Return the configuration that the jobs run."""
    return launch_folder(config) / "recipe.yaml"


def write_recipe(config: DemixConfig) -> None:
    """Write the configuration whole, as a recipe that depends on no other file or environment variable."""
    head = "# Written by `nemo-demix launch`: what the queued jobs run. Edit your own recipe, not this one.\n"
    content = {"defaults": ["demix_schema", "_self_"], **_content(config)}
    write_text(recipe_path(config), head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def configuration_fingerprint(config: DemixConfig) -> str:
    """Fingerprint all that the jobs run; how they are queued is no part of it."""
    return fingerprint(configuration=_identity(_content(config)))


def check_same_configuration(config: DemixConfig, log: JobLog, recipe: str) -> None:
    """Refuse to mix jobs of two configurations in one run.

    Raises:
        ClusterError: if a job of another configuration is queued or running.
    """
    others = [task_name(task) for task, job in log.live().items() if job.recipe != recipe]
    if not others:
        return
    path = recipe_path(config)
    earlier = _identity(parse_yaml(path.read_bytes()))
    differences = _differences(earlier, _identity(_content(config)))
    raise ClusterError(
        f"jobs {', '.join(others)} of this run are queued or running with another configuration ({path}), which "
        f"differs in {', '.join(differences[:6])}; `nemo-demix cancel` ends them, or set another name="
    )


def _content(config: DemixConfig) -> dict[str, Any]:
    """Return the configuration as plain values, without what belongs to one command."""
    launch = replace(config.launch, dry_run=False)
    whole = replace(config, role=None, component=None, index=None, yes=False, launch=launch)
    return OmegaConf.to_container(OmegaConf.structured(whole), resolve=True)  # type: ignore[return-value]


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    launch = content["launch"]
    overrides = {stage: own["overrides"] for stage, own in launch["jobs"].items() if own["overrides"]}
    return {name: value for name, value in content.items() if name not in ("launch", "defaults")} | {
        "launch": {"verify": launch["verify"], "jobs": overrides}
    }


def _differences(one: Any, two: Any, key: str = "") -> list[str]:
    """Return keys with different values."""
    if not isinstance(one, dict) or not isinstance(two, dict):
        return [] if one == two else [key]
    names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
    return [
        found for name in names for found in _differences(one.get(name), two.get(name), f"{key}.{name}".lstrip("."))
    ]


def _check_layouts(stages: Sequence[PipelineStage]) -> None:
    """Find out now, not after hours in a queue, that ranks do not divide."""
    for stage in stages:
        try:
            world_size(stage.config.parallel)
        except ConfigError as error:
            raise ConfigError(f"{stage.name}: {error}") from None


def _print_dry_run(outcomes: Sequence[Outcome], site: str | None) -> None:
    print(
        f"# {f'in the environment of {site}' if site else 'in this environment'}; a stage's name stands for its job id"
    )
    for outcome in outcomes:
        if outcome.submitted:
            print(shlex.join(outcome.command))
        else:
            print(f"# {outcome.plan.stage}: {_attached(outcome) or 'done'}")


def _print_outcomes(stages: Sequence[PipelineStage], outcomes: Sequence[Outcome]) -> None:
    table = Table(title="Jobs", title_justify="left")
    for heading in ("stage", "job", "nodes", "waits for", "to do"):
        table.add_column(heading)
    for stage, outcome in zip(stages, outcomes, strict=True):
        new = f"submitted {outcome.submitted}" if outcome.submitted else ""
        text = ", ".join(filter(None, (_attached(outcome), new))) or ("done" if stage.is_done else "-")
        models = "" if stage.models is None else f"{len(stage.todo)} of {len(stage.models)} models"
        waits = ", ".join(outcome.waits_for) if outcome.submitted or outcome.attached else ""
        table.add_row(stage.name, escape(text), str(outcome.plan.nodes), waits, models)
    Console(width=118).print(table)
    if all(stage.is_done for stage in stages) and not any(outcome.attached for outcome in outcomes):
        print("launch: done already")


def _attached(outcome: Outcome) -> str:
    return f"queued already: {', '.join(outcome.attached)}" if outcome.attached else ""
