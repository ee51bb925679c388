"""Lightning's loggers, as NeMo takes them: TensorBoard and Weights & Biases, for what `track` asks for."""

from typing import Any

from nemo_demix.config import DemixConfig


def tensorboard_arguments(config: DemixConfig, name: str) -> dict[str, Any] | None:
    """Return arguments of a `TensorBoardLogger` for one model or stage; None: not asked for."""
    if not config.track.tensorboard:
        return None
    return {"save_dir": str(config.run_dir.absolute() / "tensorboard"), "name": name, "version": ""}


def wandb_arguments(config: DemixConfig, name: str) -> dict[str, Any] | None:
    """Return arguments of a `WandbLogger` for one model or stage, grouped by the run; None: not asked for."""
    if config.track.wandb_project is None:
        return None
    return {
        "project": config.track.wandb_project,
        "name": f"{config.name}/{name}",
        "group": config.name,
        "save_dir": str(config.run_dir.absolute()),
        "offline": config.track.wandb_mode == "offline",
    }


def open_trackers(config: DemixConfig, name: str) -> list[Any]:
    """Return the loggers themselves; imports Lightning where there are any."""
    board, bias = tensorboard_arguments(config, name), wandb_arguments(config, name)
    if board is None and bias is None:
        return []
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    return [make(**given) for make, given in ((TensorBoardLogger, board), (WandbLogger, bias)) if given is not None]


def close_trackers(loggers: list[Any]) -> None:
    """Write what is pending; the next model is a run of its own. On the rank that logs."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.finish()
            wandb.teardown()  # a run that has finished may still be written, by a process that ends with this one
