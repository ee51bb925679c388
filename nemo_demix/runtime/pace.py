"""How a training run says how far it is: a line every few steps, and every step's loss in a file."""

import json
import logging
import math
import time
from pathlib import Path

from nemo_demix.progress import BETWEEN_S, Progress, tell

logger = logging.getLogger(__name__)


class Pace:
    """Pace of one training run, on one rank; rank 0 writes and speaks. After a resume steps may come a second time."""

    def __init__(self, label: str, num_steps: int, tokens_per_step: int, every_steps: int, losses: Path) -> None:
        self.label = label
        self.num_steps = num_steps
        self.tokens_per_step = tokens_per_step
        self.every_steps = every_steps
        self.final_loss: float | None = None
        self.diverged: str | None = None  # why the run has to be ended
        self._losses = losses
        self._started: tuple[float, int] | None = None
        self._showed = 0.0

    def step(self, step: int, loss: float, is_main: bool) -> float | None:
        """Take note of a finished step; the first of a run pays warm-up and is left out of the rate.

        Args:
            loss: The loss over all ranks, nats a token.
        Returns:
            Tokens a second, where it has just said so.
        """
        if not math.isfinite(loss):
            self.diverged = f"{self.label}: the loss is {loss} at step {step}; lower max_lr or look at the data"
            return None
        self.final_loss = loss
        if is_main:
            with open(self._losses, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "loss": loss}) + "\n")
        now = time.monotonic()
        if self._started is None:
            self._started = (now, step)
            return None
        speaks = step % self.every_steps == 0 or step == self.num_steps
        if not is_main or not (speaks or now - self._showed > BETWEEN_S):
            return None
        self._showed = now
        seconds = (now - self._started[0]) / (step - self._started[1])
        pace = self.tokens_per_step / seconds
        shown = Progress(
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
        return pace if speaks else None
