"""Where a run writes: whether it may, whether what comes fits on the disk, and what the run is called."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nemo_demix.config import DemixConfig
from nemo_demix.config.demix import name_errors
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.memory import GIB, checkpoint_bytes
from nemo_demix.memory_check import known_shape
from nemo_demix.search.baselines import final_names
from nemo_demix.search.strategies import strategy_of


def place_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield what is wrong with the run's folder."""
    if errors := list(name_errors(config)):
        yield from errors
        return
    folder = config.run_dir.absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        yield ConfigError(f"runs_dir={config.runs_dir}: {there} is a file; expected a folder, or one that can be made")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield ConfigError(f"runs_dir={config.runs_dir}: {there} cannot be written by this user; name another folder")
    else:
        yield from _space_errors(config, there)


def _space_errors(config: DemixConfig, there: Path) -> Iterator[DemixError]:
    needed = checkpoints_to_come(config)
    free = shutil.disk_usage(there).free
    if needed is not None and needed > free:
        yield ConfigError(
            f"runs_dir={config.runs_dir}: {free / GIB:.1f} GiB are free at {there}, and the checkpoints to come take "
            f"about {needed / GIB:.1f}; free space, or name another folder"
        )


def checkpoints_to_come(config: DemixConfig) -> float | None:
    """Return bytes of the checkpoints that are not there yet; None where the model's sizes are not known.

    Each model keeps one checkpoint, components perhaps with the optimizer's state, and those of `keep_tokens`; in
    training, one more with that state.
    """
    shape = known_shape(config)
    if shape is None:
        return None
    kept, resumed = checkpoint_bytes(shape, config.train.precision)
    roles = {"base": (config.base, ["base"]), "final": (config.final, final_names(config))}
    if strategy_of(config.search).mixes_components():
        roles["component"] = (config.components, list(config.datasets))
    total, in_training = 0.0, False
    for role, (settings, names) in roles.items():
        brought = (
            {*config.components.checkpoints} if role == "component" else {*names} if settings.checkpoint else set()
        )
        to_train = [
            name
            for name in names
            if name not in brought and not (config.run_dir / "models" / role / name / "record.json").exists()
        ]
        total += len(to_train) * (1 + len(settings.keep_tokens)) * kept
        if role == "component" and config.components.save_optimizer:
            total += len(to_train) * (resumed - kept)
        in_training |= bool(to_train)
    return total + (resumed if in_training else 0.0)
