"""What NeMo's trainer is asked to do besides training: save at given steps, and say how it goes."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from nemo.lightning.pytorch.callbacks import ModelCheckpoint

from nemo_demix.runtime.lifetime import StopRequest
from nemo_demix.runtime.pace import Pace
from nemo_demix.runtime.ranks import from_rank_0
from nemo_demix.runtime.steps import outdated, step_folder


class StepCheckpoint(ModelCheckpoint):
    """Saves at given steps; keeps some, and of the others only the newest, which is what a resume needs.

    NeMo's own callback saves periodically; a run here has to save at given token counts, which need not be periodic.
    The finished model is saved without optimizer state unless `optimizer_at_end`. A run that is told to stop saves at
    the step it is at, and ends.

    Attributes:
        stop_request: Set by the one who runs the training; rank 0's counts.
        stopped_at: The step that the run was ended after, if it was.
    """

    stop_request: StopRequest | None = None
    stopped_at: int | None = None

    def __init__(self, folder: str, save_steps: list[int], keep_steps: list[int], optimizer_at_end: bool) -> None:
        super().__init__(
            dirpath=folder,
            monitor=None,
            save_last=False,
            save_top_k=-1,
            every_n_train_steps=1,
            save_optim_on_train_end=optimizer_at_end,
        )
        self._folder = Path(folder)
        self._save_steps = set(save_steps)
        self._keep_steps = set(keep_steps)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if this is one of the steps, or the last by request. Collective: every rank."""
        step = trainer.global_step
        stops = step < max(self._save_steps) and self.stop_request is not None and from_rank_0(self.stop_request.seen)
        if not math.isfinite(_reduced_loss(trainer)):
            return  # `StepReport` ends the run
        if (step in self._save_steps or stops) and step != self._last_global_step_saved:
            self._save_checkpoint(trainer, f"{step_folder(self._folder, step, 'nemo')}.ckpt")
            self._prune(trainer, step)
        if stops:
            self.stopped_at = step
            trainer.should_stop = True

    def _prune(self, trainer: Any, step: int) -> None:
        """Remove what was only for resuming and lies before `step`."""
        for path in trainer.strategy.broadcast(outdated(self._folder, step, self._keep_steps, "nemo")):
            self._remove_checkpoint(trainer, f"{path}.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save nothing: steps decide, not epochs."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save nothing: steps decide, not validations."""


class StepReport(Callback):
    """Tells `Pace` of every step, and the trackers of its rate."""

    def __init__(self, label: str, num_steps: int, tokens_per_step: int, every_steps: int, losses: str) -> None:
        self.pace = Pace(label, num_steps, tokens_per_step, every_steps, Path(losses))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log; end the run where the loss is no number."""
        tokens_per_s = self.pace.step(trainer.global_step, _reduced_loss(trainer), trainer.is_global_zero)
        if self.pace.diverged:
            trainer.should_stop = True  # an orderly end: an exception from here would leave NeMo's telemetry open
        if tokens_per_s is not None:
            for tracker in trainer.loggers:
                tracker.log_metrics({"tokens_per_s": tokens_per_s}, trainer.global_step)


def _reduced_loss(trainer: Any) -> float:
    """Return the last step's loss, over all ranks, nats a token."""
    return float(trainer.callback_metrics["reduced_train_loss"])
