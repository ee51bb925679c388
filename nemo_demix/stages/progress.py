"""How far long work has come: a bar on a terminal, lines elsewhere."""

import logging
import sys
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class Meter:
    """Counts up to a total, by phase.

    Args:
        total: Of each phase.
        unit: What is counted, with the number of it that is shown as one.
    """

    def __init__(self, what: str, total: int, unit: tuple[str, float]) -> None:
        self._what, self._total, (self._unit, self._scale) = what, total, unit
        self._done: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._spoke = time.monotonic()
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"),
                             TimeRemainingColumn()) if sys.stderr.isatty() else None  # fmt: skip
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, phase: str, count: int) -> None:
        """Count more."""
        now = time.monotonic()
        started = self._started.setdefault(phase, now)
        done = self._done[phase] = self._done.get(phase, 0) + count
        rate = done / max(now - started, 1e-9)
        text = f"{rate / self._scale:.2f} {self._unit}/s"
        if self._bar is not None:
            if phase not in self._tasks:
                self._tasks[phase] = self._bar.add_task(f"{self._what}: {phase}", total=self._total, rate=text)
            self._bar.update(self._tasks[phase], completed=done, rate=text)
        elif now - self._spoke > _LINE_EVERY_S and done < self._total:
            self._spoke = now
            logger.info(
                "%s: %s %.1f/%.1f %s, %s, ETA %.0f s",
                self._what, phase, done / self._scale, self._total / self._scale, self._unit, text,
                (self._total - done) / rate,
            )  # fmt: skip
