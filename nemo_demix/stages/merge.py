"""`merge`: K sharded checkpoints and M mixtures -> M sharded checkpoints."""

import logging
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nemo_demix.artifacts import write_json
from nemo_demix.config import DemixConfig, MergeConfig
from nemo_demix.errors import ConfigError, MixtureError, refuse
from nemo_demix.launch.cohort import find_cohort
from nemo_demix.launch.lock import folder_lock
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.settings import DTYPES, setting_errors
from nemo_demix.mixture import is_folder_name, load_mixtures
from nemo_demix.progress import Meter

if TYPE_CHECKING:
    from nemo_demix.merging.plan import MergePlan
    from nemo_demix.merging.run import MergeReport

logger = logging.getLogger(__name__)
_MAX_WORKERS = 8
_REPORT = "last_merge.json"  # in the output: what the last merge cost


def merge_stage(config: DemixConfig) -> None:
    """Merge the components into a checkpoint for every mixture of a file.

    Under torchrun or srun every process calls it, and each takes its part.
    """
    settings = config.merge
    plan = plan_merge(config)
    from nemo_demix.merging.run import MergeOptions, merge  # torch comes after all that is refused without it

    output = Path(settings.output) if settings.output is not None else config.run_dir / "merged"
    options = MergeOptions(
        workers=settings.workers or min(os.cpu_count() or 1, _MAX_WORKERS),
        memory_gib=settings.memory_gib,
        force=config.force,
    )
    cohort = find_cohort()
    if settings.dry_run:
        if cohort.rank == 0:
            from nemo_demix.stages.merge_plan import print_plan

            print_plan(plan, output, options)
        return
    signal.signal(signal.SIGTERM, _stop)
    cohort.join()
    lock = folder_lock(output, "merge.output=") if cohort.rank == 0 else nullcontext()
    with lock:
        meter = Meter(logger, "merge", plan.num_elements, ("billion parameters", 1e9))
        report = merge(plan, output, options, cohort, meter)
    cohort.leave()
    if cohort.rank == 0:
        _tell(plan, output, report)


def _stop(number: int, frame: object) -> NoReturn:
    """Slurm's way to end a job; what is finished is kept, and the workers end with this process."""
    print(f"stopped by {signal.Signals(number).name}; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + number)


def plan_merge(config: DemixConfig) -> "MergePlan":
    """What `merge` will do.

    Raises:
        DemixError: if the checkpoints, the mixtures or the settings do not go together.
    """
    settings = config.merge
    if settings.mixtures is None:
        raise ConfigError('merge.mixtures: not set; expected a JSON file {"mix_0": {"component": weight, ...}, ...}')
    refuse(setting_errors(settings, settings.components or config.datasets))
    components, base = _checkpoints(config)
    mixtures = load_mixtures(Path(settings.mixtures), list(components), any_weights=settings.any_weights)
    for name in mixtures:
        if not is_folder_name(name) or name == _REPORT:
            raise MixtureError(f"{settings.mixtures}: {name!r} cannot be a folder's name here; rename the mixture")
    method = build_method(settings.method, settings.parameters, settings.seed, len(components), base is not None)
    import torch

    from nemo_demix.merging.plan import make_plan
    from nemo_demix.merging.sources import open_sources

    sources, base_source = open_sources(components, base if method.uses_base else None, settings.objects_from)
    return make_plan(
        sources,
        base_source,
        method,
        mixtures,
        dtype=None if settings.dtype is None else getattr(torch, DTYPES[settings.dtype]),
        objects_from=settings.objects_from,
        allow_nonfinite=settings.allow_nonfinite,
    )


def _checkpoints(config: DemixConfig) -> tuple[dict[str, Path], Path | None]:
    """The components by name, and the base: those given, or this run's own."""
    settings = config.merge
    if settings.components:
        return {name: Path(path) for name, path in settings.components.items()}, _given_base(settings)
    # Only a run's own components need what the other stages are made of.
    from nemo_demix.stages.identity import load_manifest
    from nemo_demix.training.jobs import base_job, component_jobs, load_model

    manifest = load_manifest(config)
    components = {job.name: Path(load_model(job).checkpoint) for job in component_jobs(config, manifest)}
    return components, _given_base(settings) or Path(load_model(base_job(config, manifest)).checkpoint)


def _given_base(settings: MergeConfig) -> Path | None:
    return None if settings.base is None else Path(settings.base)


def _tell(plan: "MergePlan", output: Path, report: "MergeReport") -> None:
    if not report.merged:
        logger.info("merge: done already")
        return
    logger.info(
        "merge: %d mixtures by %s into %s: %.2f GiB read, %.2f GiB written in %.1f s (%.2f s a mixture)",
        len(report.merged),
        plan.method.name,
        output,
        report.bytes_read / 2**30,
        report.bytes_written / 2**30,
        report.merge_time_s,
        report.merge_time_s / len(report.merged),
    )
    write_json(output / _REPORT, report)
