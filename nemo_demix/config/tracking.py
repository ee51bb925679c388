"""Where losses, scores and the page go besides the run's folder: nowhere, unless this says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from nemo_demix.errors import ConfigError, DemixError, near

MODES = ("online", "offline")


@dataclass
class TrackConfig:
    """TensorBoard and Weights & Biases, for models by the back end's own loggers."""

    tensorboard: bool = False  # event files under runs/<name>/tensorboard
    wandb_project: str | None = None  # of Weights & Biases; its entity and key are those of the environment
    wandb_mode: str = "online"  # online | offline: kept under runs/<name>/wandb, for `wandb sync`


def track_errors(config: TrackConfig) -> Iterator[DemixError]:
    """Yield errors for a mode that does not exist, and packages that are not here."""
    if config.wandb_mode not in MODES:
        yield ConfigError(
            f"track.wandb_mode: expected one of {', '.join(MODES)}, found {config.wandb_mode!r}"
            f"{near(config.wandb_mode, MODES)}"
        )
    wanted = {"tensorboard": config.tensorboard, "wandb": config.wandb_project is not None}
    for package, is_wanted in wanted.items():
        if is_wanted and find_spec(package) is None:
            key = "track.tensorboard=true" if package == "tensorboard" else "track.wandb_project"
            yield ConfigError(f"{key}: the package {package} is not installed; pip install {package}, or leave it out")
