"""TensorBoard and Weights & Biases, for what `track` asks for.

A model's own entry is written by its framework: by Lightning's loggers where NeMo trains, by Megatron-Bridge's own
where that does. `Tracker` is for the run's entry, and needs no framework.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nemo_demix.config import DemixConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def tensorboard_folder(config: DemixConfig) -> Path | None:
    """Return where event files go, in a folder for each model or stage; None: not asked for."""
    return config.run_dir.absolute() / "tensorboard" if config.track.tensorboard else None


def tensorboard_arguments(config: DemixConfig, name: str) -> dict[str, Any] | None:
    """Return arguments of a `TensorBoardLogger` of Lightning for one model; None: not asked for."""
    folder = tensorboard_folder(config)
    return None if folder is None else {"save_dir": str(folder), "name": name, "version": ""}


def wandb_arguments(config: DemixConfig, name: str) -> dict[str, Any] | None:
    """Return arguments of a `WandbLogger` of Lightning, for a model or stage, by the run; None: not asked for."""
    if config.track.wandb_project is None:
        return None
    return {
        "project": config.track.wandb_project,
        "name": f"{config.name}/{name}",
        "group": config.name,
        "save_dir": str(config.run_dir.absolute()),
        "offline": config.track.wandb_mode == "offline",
    }


def close_trackers(loggers: list[Any]) -> None:
    """Have Lightning's loggers write what is pending; the next model is a run of its own. On the rank that logs."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.finish()
            wandb.teardown()  # a run that has finished may still be written, by a process that ends with this one


class Tracker(Protocol):
    """Where numbers and files of a run go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, at a step."""
        ...

    def add(self, name: str, shares: Mapping[str, float] | None, files: list[Path]) -> None:
        """Log the mixture that was found, and the files that say more."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


def open_trackers(config: DemixConfig, name: str) -> list[Tracker]:
    """Return the trackers that are asked for, with an entry for one stage."""
    found: list[Tracker] = []
    folder = tensorboard_folder(config)
    if folder is not None:
        from torch.utils.tensorboard import SummaryWriter

        found.append(_TensorBoard(SummaryWriter(str(folder / name))))
    arguments = wandb_arguments(config, name)
    if arguments is not None:
        import wandb

        kept_in, is_offline = arguments.pop("save_dir"), arguments.pop("offline")  # as Lightning calls them
        run = wandb.init(**arguments, dir=kept_in, mode="offline" if is_offline else "online")
        found.append(_WeightsAndBiases(run))
    return found


class _TensorBoard:
    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def add(self, name: str, shares: Mapping[str, float] | None, files: list[Path]) -> None:
        """Log the shares as text, and where the files are: event files hold none."""
        if shares is not None:
            text = json.dumps(shares, indent=2, ensure_ascii=False)
            listed = ", ".join(str(path.absolute()) for path in files)
            self._writer.add_text("mixture", f"```\n{text}\n```\n\nFiles: {listed}")

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def add(self, name: str, shares: Mapping[str, float] | None, files: list[Path]) -> None:
        """Log the files as one artifact."""
        import wandb

        artifact = wandb.Artifact(name, type="report")
        for path in files:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """Finish, and wait until all is written: by a process that ends with this one."""
        import wandb

        self._run.finish()
        wandb.teardown()
