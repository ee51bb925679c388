"""What NeMo's trainer is asked to do besides training: save at given steps, and say how it goes."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from nemo.lightning.pytorch.callbacks import ModelCheckpoint

from nemo_demix.progress import BETWEEN_S, tell
from nemo_demix.progress import Progress as Told
from nemo_demix.runtime.lifetime import StopRequest
from nemo_demix.training.jobs import step_folder

logger = logging.getLogger(__name__)


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
            return  # `Progress` ends the run
        if (step in self._save_steps or stops) and step != self._last_global_step_saved:
            self._save_checkpoint(trainer, f"{step_folder(self._folder, step)}.ckpt")
            self._prune(trainer, step)
        if stops:
            self.stopped_at = step
            trainer.should_stop = True

    def _prune(self, trainer: Any, step: int) -> None:
        """Remove what was only for resuming and lies before `step`."""
        kept = {step_folder(self._folder, kept).name for kept in self._keep_steps}
        newest = step_folder(self._folder, step).name
        found = sorted(path.name for path in self._folder.glob("step_????????") if path.is_dir())
        for name in trainer.strategy.broadcast([name for name in found if name < newest and name not in kept]):
            self._remove_checkpoint(trainer, f"{self._folder / name}.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Nothing: steps decide."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Nothing: steps decide."""


class Diverged(RuntimeError):
    """A model's loss is no longer a number: known to every rank at the same step, since all see the reduced loss."""


class Progress(Callback):
    """Says on rank 0 how far it is, as a line every few steps; and writes every step's loss to `losses.jsonl`.

    After a resume the steps since the checkpoint stand in that file twice, with the same values.
    """

    def __init__(self, label: str, num_steps: int, tokens_per_step: int, every_steps: int, losses: str) -> None:
        self.label = label
        self._losses = Path(losses)
        self.num_steps = num_steps
        self.tokens_per_step = tokens_per_step
        self.every_steps = every_steps
        self.final_loss: float | None = None
        self.diverged: str | None = None  # why the run was ended early
        self._started: tuple[float, int] | None = None
        self._showed = 0.0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log; the first step of a run pays warm-up and is left out of the rate."""
        step = trainer.global_step
        loss = _reduced_loss(trainer)
        if not math.isfinite(loss):
            self.diverged = f"{self.label}: the loss is {loss} at step {step}; lower max_lr or look at the data"
            trainer.should_stop = True  # an orderly end: an exception from here would leave NeMo's telemetry open
            return
        self.final_loss = loss
        if trainer.is_global_zero:
            with open(self._losses, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "loss": loss}) + "\n")
        now = time.monotonic()
        if self._started is None:
            self._started = (now, step)
            return
        speaks = step % self.every_steps == 0 or step == self.num_steps
        if not trainer.is_global_zero or not (speaks or now - self._showed > BETWEEN_S):
            return
        self._showed = now
        seconds = (now - self._started[0]) / (step - self._started[1])
        pace = self.tokens_per_step / seconds
        shown = Told(
            self.label,
            step,
            self.num_steps,
            "step",
            f"loss {loss:.4f} nats/token",
            f"{pace:,.0f} tokens/s",
            (self.num_steps - step) * seconds,
            pace,
            is_line=speaks,
        )
        tell(logger, shown)
        if speaks:
            for tracker in trainer.loggers:
                tracker.log_metrics({"tokens_per_s": pace}, step)


def from_rank_0(flag: bool) -> bool:
    """Rank 0's flag, on every rank; it costs one small message. Collective."""
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    box = torch.tensor(int(flag), device=device)
    torch.distributed.broadcast(box, src=0)
    return bool(box.item())


def _reduced_loss(trainer: Any) -> float:
    """The last step's loss, over all ranks, nats a token."""
    return float(trainer.callback_metrics["reduced_train_loss"])
