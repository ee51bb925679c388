"""How far long work has come, as log records that a terminal shows as a bar and everything else as lines."""

import logging
import time
from dataclasses import dataclass

ATTRIBUTE = "progress"  # of such a record
BETWEEN_S = 0.25  # two records of one piece of work, at least
LINE_EVERY_S = 10.0


@dataclass(frozen=True)
class Progress:
    """A piece of work that is not finished, or has just been.

    Attributes:
        what: The stage, and its model or phase.
        total: Number of `unit`s; 0: not known, as while something is fitted.
        facts: What it gives so far, with its unit.
        rate: Speed, with its unit.
        remaining_s: Time it will still take at this rate; None: not known.
        tokens_per_s: Speed of a training; what other models will take is worked out from it.
        is_line: Whether it is a line where there is no bar; else it only moves the bar.
    """

    what: str
    done: float = 0
    total: float = 0
    unit: str = ""
    facts: str = ""
    rate: str = ""
    remaining_s: float | None = None
    tokens_per_s: float | None = None
    is_line: bool = True

    @property
    def is_finished(self) -> bool:
        """Whether all of it is done."""
        return 0 < self.total <= self.done

    def __str__(self) -> str:
        counted = f"{self.unit} {self.done:,.{self._digits}f}/{self.total:,.{self._digits}f}" if self.total else ""
        left = "" if self.remaining_s is None or not self.total else f"ETA {self.remaining_s:.0f} s"
        parts = ", ".join(filter(None, (counted, self.facts, self.rate, left)))
        return f"{self.what}: {parts}" if parts else self.what

    @property
    def _digits(self) -> int:
        return 0 if float(self.total).is_integer() else 1


def tell(logger: logging.Logger, progress: Progress) -> None:
    """Log it."""
    logger.info("%s", progress, extra={ATTRIBUTE: progress})


def doing(logger: logging.Logger, what: str) -> None:
    """Say what is done from here on, where it cannot be said how far it is."""
    tell(logger, Progress(what))


def progress_of(record: logging.LogRecord) -> Progress | None:
    """Return what a record says of work's progress."""
    found: Progress | None = getattr(record, ATTRIBUTE, None)
    return found


def is_line(record: logging.LogRecord) -> bool:
    """Return whether a record is to be read, not only to move a bar."""
    progress = progress_of(record)
    return progress is None or progress.is_line


class Meter:
    """Counts up to a total, by phase.

    Args:
        total: What each phase counts up to.
        unit: What is counted, with the number of it that is shown as one.
    """

    def __init__(self, logger: logging.Logger, what: str, total: int, unit: tuple[str, float]) -> None:
        self._logger, self._what, self._total, (self._unit, self._scale) = logger, what, total, unit
        self._done: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._spoke = self._showed = time.monotonic()

    def __call__(self, phase: str, count: int) -> None:
        """Count more."""
        now = time.monotonic()
        started = self._started.setdefault(phase, now)
        done = self._done[phase] = self._done.get(phase, 0) + count
        if now - self._showed < BETWEEN_S or done >= self._total:
            return
        self._showed = now
        rate = done / max(now - started, 1e-9)
        speaks = now - self._spoke > LINE_EVERY_S
        if speaks:
            self._spoke = now
        tell(self._logger, Progress(
            f"{self._what}: {phase}", done / self._scale, self._total / self._scale, self._unit,
            rate=f"{rate / self._scale:.2f} {self._unit}/s", remaining_s=(self._total - done) / rate, is_line=speaks,
        ))  # fmt: skip
