"""A run's stages by NeMo-Run's executors other than Slurm's, each when those it needs have ended well.

NeMo-Run keeps an order of jobs for Slurm alone: for all other executors this process waits, and goes on only where all
that was started has succeeded. The jobs run scripts in the run's folder, which all of them share.
"""

import os
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import write_text
from nemo_demix.cluster.executors import LOCAL, Executor, check_client, values_of
from nemo_demix.cluster.site import Site
from nemo_demix.cluster.submit import PlannedJob
from nemo_demix.errors import ClusterError

_SCRIPTS = "scripts"
_EXPERIMENTS = "experiments"  # NeMo-Run's own name


def run_waiting(plan: Sequence[PlannedJob], executor: Executor, site: Site, folder: Path) -> None:
    """Run what is not done, and wait for it; an experiment for each set of stages that may run at once.

    Args:
        folder: The run's launch folder; scripts lie in `scripts/` below it, NeMo-Run's files in `experiments/`.

    Raises:
        ClusterError: if a stage failed; none that needs it was started.
        StackError: if the executor's client library is not installed.
    """
    check_client(executor)
    import nemo_run as run

    for stages in _waves([job for job in plan if job.indices], executor):
        (folder / _EXPERIMENTS).mkdir(parents=True, exist_ok=True)
        (folder / _EXPERIMENTS).chmod(0o700)  # it keeps what executors were given, secrets too
        with _surroundings(site, folder), run.Experiment(title(plan), base_dir=str(folder)) as experiment:
            _add(experiment, stages, executor, site, folder)
            experiment.run()
        failed = [job.id for job in experiment.jobs if str(job.state) != "SUCCEEDED"]
        if failed:
            raise ClusterError(
                f"{', '.join(failed)}: did not succeed; what they printed is in {folder / _EXPERIMENTS}, or with the "
                "executor's own service. The same command goes on with what is not done"
            )


def describe(plan: Sequence[PlannedJob], executor: Executor, site: Site) -> Iterator[str]:
    """Build every job as it would be started, by NeMo-Run's own dry run, and say what it is; nothing is started.

    Raises:
        ClusterError, StackError: as `run_waiting`.
    """
    check_client(executor)
    import nemo_run as run

    todo = [job for job in plan if job.indices]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stages in _waves(todo, executor):
            with _surroundings(site, folder), run.Experiment(title(plan), base_dir=name) as experiment:
                _add(experiment, stages, executor, site, folder)
                experiment.dryrun(log=False)
            for job in stages:
                given = values_of(executor, job, site.environment) | dict.fromkeys(executor.secrets, "...")
                waits = (
                    f", after {', '.join(after)}" if (after := [one for one in job.after if _is_in(one, todo)]) else ""
                )
                yield f"{job.stage}{waits}: {executor.class_name}({', '.join(f'{k}={v!r}' for k, v in given.items())})"
                yield from (f"    {_command(job, index)}" for index in _indices(job, executor))


def _waves(todo: Sequence[PlannedJob], executor: Executor) -> Iterator[list[PlannedJob]]:
    """Stages that may run at once, in order; on one machine one after another."""
    if executor.nodes is None:
        yield from ([job] for job in todo)
        return
    sorter = TopologicalSorter({job.stage: [one for one in job.after if _is_in(one, todo)] for job in todo})
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        yield [job for job in todo if job.stage in ready]
        sorter.done(*ready)


def _is_in(stage: str, jobs: Sequence[PlannedJob]) -> bool:
    return any(job.stage == stage for job in jobs)


def _indices(job: PlannedJob, executor: Executor) -> Sequence[int | None]:
    """Return the models that are to do, a job each, where each has its own machines; else `None`: one job for all."""
    return (None,) if executor.nodes is None else job.indices


def _add(experiment: Any, stages: Sequence[PlannedJob], executor: Executor, site: Site, folder: Path) -> None:
    """Add the jobs of some stages, of each stage `max_parallel` at a time."""
    import nemo_run as run

    for job in stages:
        names: list[str] = []
        for number, index in enumerate(_indices(job, executor)):
            name = job.stage if index is None else f"{job.stage}-{index}"
            script = folder / _SCRIPTS / f"{name}.sh"
            script.parent.mkdir(exist_ok=True)
            lines = [
                "#!/bin/bash",
                f"cd {shlex.quote(os.getcwd())}",
                'eval "${DEMIX_SETUP:-}"',
                f"exec {_command(job, index)}",
            ]
            write_text(script, "\n".join(lines) + "\n")
            script.chmod(0o755)  # torchrun starts it by itself
            first = number - job.max_parallel
            names.append(
                experiment.add(
                    run.Script(path=str(script)),
                    executor=_build(executor, job, site),
                    name=name,
                    tail_logs=executor.nodes is None,
                    dependencies=[names[first]] if job.max_parallel and first >= 0 else None,
                )
            )


def _command(job: PlannedJob, index: int | None) -> str:
    recipe, *overrides = job.arguments
    words = ["nemo-demix", *job.command, "--config-name", recipe.removeprefix("recipe="), *overrides]
    return shlex.join([*words, f"index={index}"] if index is not None else words)


def _build(executor: Executor, job: PlannedJob, site: Site) -> Any:
    """Build an executor with its own fields as they are configured; several nodes are started by torchrun.

    Raises:
        ClusterError: if NeMo-Run refuses them.
    """
    import nemo_run as run

    values = values_of(executor, job, site.environment)
    if executor is not LOCAL:  # which inherits all of it
        given = {name: value for name, value in site.environment.items() if name.startswith("DEMIX_")}
        if job.nodes > 1:  # by this the processes know each other's messages
            given["NEMO_DEMIX_SECRET"] = secrets.token_hex(32)
        values["env_vars"] = given | dict(values.get("env_vars") or {})
    if not executor.takes_git:
        values["packager"] = run.Packager()
    if executor.nodes is not None and job.nodes > 1:
        values["launcher"] = "torchrun"
    try:
        return getattr(run, executor.class_name)(**values)
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise ClusterError(
            f"{executor.class_name}: refused what it was given: {' '.join(str(error).split())}"
        ) from None


def title(plan: Sequence[PlannedJob]) -> str:
    """Return the experiment's name: the jobs' without the stage."""
    return plan[0].name.removesuffix(f"-{plan[0].stage}")


@contextmanager
def _surroundings(site: Site, folder: Path) -> Iterator[None]:
    """Let NeMo-Run start what it starts in a site's environment, and call `folder` its home.

    Some of its executors work out where a job's files lie elsewhere from where they lie below that home.
    """
    from nemo_run.config import get_nemorun_home, set_nemorun_home

    home = get_nemorun_home()
    set_nemorun_home(str(folder))
    try:
        with environment(site):
            yield
    finally:
        set_nemorun_home(home)


@contextmanager
def environment(site: Site) -> Iterator[None]:
    """NeMo-Run starts its clients in this process's environment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(site.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
