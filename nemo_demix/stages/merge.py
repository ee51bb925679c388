"""`merge`: K sharded checkpoints and M mixtures -> M sharded checkpoints."""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nemo_demix.artifacts import write_json
from nemo_demix.checkpoints.store import StorePath, checkpoint_path
from nemo_demix.config import DemixConfig, MergeConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError, refuse
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.peers import Peers
from nemo_demix.merging.settings import DTYPES, setting_errors
from nemo_demix.mixture import checked_mixtures, is_folder_name, load_mixtures
from nemo_demix.progress import Meter
from nemo_demix.ranks.lock import folder_lock
from nemo_demix.ranks.peers import find_peers

if TYPE_CHECKING:
    from nemo_demix.merging.merge import MergeOptions, MergeReport
    from nemo_demix.merging.plan import MergePlan

logger = logging.getLogger(__name__)
_MAX_WORKERS = 8
_REPORT = "last_merge.json"  # in the output: what the last merge cost


def merge_stage(config: DemixConfig) -> None:
    """Merge the components into a checkpoint for every mixture of a file.

    Under torchrun or srun every process calls it, and each takes its part.
    """
    settings = config.merge
    plan = plan_merge(config)
    output = checkpoint_path(settings.output) if settings.output is not None else config.run_dir / "merged"
    staging = config.run_dir / "staging"
    peers = find_peers()
    if settings.dry_run:
        if peers.rank == 0:
            from nemo_demix.stages.merge_plan import print_plan

            print_plan(plan, output, staging, _options(settings, config.force))
        return
    signal.signal(signal.SIGTERM, _stop)
    report = carry_out(plan, settings, output, staging, config.force, peers)
    if peers.rank == 0:
        _tell(plan, output, report)


def carry_out(
    plan: "MergePlan", settings: MergeConfig, output: Path, staging: Path, force: bool, peers: Peers
) -> "MergeReport":
    """Merge what is planned. Collective: every peer.

    Args:
        staging: A folder here for outputs on their way to an object store.

    Raises:
        DemixError: as `merging.merge.merge`, with what is published of several mixtures and what is not; and where
            another process is at work in the output.
    """
    from nemo_demix.merging.merge import merge, merge_into_store
    from nemo_demix.merging.output import what_stands

    peers.join()
    here, remedy = (staging, "name=") if isinstance(output, StorePath) else (output, "merge.output=")
    lock = folder_lock(here, remedy) if peers.rank == 0 else nullcontext()
    with lock:
        meter = Meter(logger, "merge", plan.num_elements, ("billion parameters", 1e9))
        try:
            options = _options(settings, force)
            if isinstance(output, StorePath):
                report = merge_into_store(plan, output, staging, options, peers, meter)
            else:
                report = merge(plan, output, options, peers, meter)
        except DemixError as error:
            raise type(error)(f"{error}{what_stands(plan, output)}") from error
    peers.leave()
    return report


def _options(settings: MergeConfig, force: bool) -> "MergeOptions":
    from nemo_demix.merging.merge import MergeOptions  # torch comes after all that is refused without it

    return MergeOptions(
        workers=settings.workers or min(os.cpu_count() or 1, _MAX_WORKERS),
        memory_gib=settings.memory_gib,
        force=force,
        staging_gib=settings.staging_gib,
    )


def _stop(number: int, frame: object) -> NoReturn:
    """End the process when a signal asks for it; what is finished is kept, and the workers end with this process."""
    print(f"stopped by {signal.Signals(number).name}; the same command goes on from here", file=sys.stderr)
    sys.exit(128 + number)


def plan_merge(config: DemixConfig) -> "MergePlan":
    """Return what `merge` will do.

    Raises:
        DemixError: if the checkpoints, the mixtures or the settings do not go together.
    """
    settings = config.merge
    if settings.mixtures is None:
        raise ConfigError('merge.mixtures: not set; expected a JSON file {"mix_0": {"component": weight, ...}, ...}')
    refuse(setting_errors(settings, settings.components or config.datasets))
    components, base = _checkpoints(config)
    mixtures = load_mixtures(Path(settings.mixtures), list(components), any_weights=settings.any_weights)
    return plan_of(settings, components, base, mixtures, settings.mixtures)


def plan_of(
    settings: MergeConfig,
    components: Mapping[str, Path],
    base: Path | None,
    mixtures: Mapping[str, Mapping[str, float]],
    what: str,
) -> "MergePlan":
    """Return the plan of a merge of given checkpoints into given mixtures.

    Args:
        what: Where the mixtures are from, for messages.

    Raises:
        DemixError: if the checkpoints, the mixtures or the settings do not go together.
    """
    refuse(setting_errors(settings, components))
    checked = checked_mixtures(mixtures, list(components), what, settings.any_weights)
    for name in checked:
        if not is_folder_name(name) or name == _REPORT:
            raise MixtureError(f"{what}: {name!r} cannot be a folder's name here; rename the mixture")
    method = build_method(settings.method, settings.parameters, settings.seed, len(components), base is not None)
    import torch

    from nemo_demix.merging.plan import make_plan
    from nemo_demix.merging.sources import open_sources

    sources, base_source = open_sources(
        dict(components), base if method.uses_base else None, settings.objects_from, method.uses_moments
    )
    return make_plan(
        sources,
        base_source,
        method,
        checked,
        dtype=None if settings.dtype is None else getattr(torch, DTYPES[settings.dtype]),
        objects_from=settings.objects_from,
        allow_nonfinite=settings.allow_nonfinite,
    )


def _checkpoints(config: DemixConfig) -> tuple[dict[str, Path], Path | None]:
    """Return the components by name, and the base: those given, or this run's own."""
    settings = config.merge
    if settings.components:
        return {name: checkpoint_path(path) for name, path in settings.components.items()}, _given_base(settings)
    # Only a run's own components need what the other stages are made of.
    from nemo_demix.prepared import PreparedRun
    from nemo_demix.training.jobs import load_model

    run = PreparedRun.open(config)
    components = {job.name: checkpoint_path(load_model(job).checkpoint) for job in run.components}
    return components, _given_base(settings) or checkpoint_path(load_model(run.base).checkpoint)


def _given_base(settings: MergeConfig) -> Path | None:
    return None if settings.base is None else checkpoint_path(settings.base)


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
    if not isinstance(output, StorePath):
        write_json(output / _REPORT, report)
