"""Stopping when asked: SIGTERM (preemption, scancel) and SIGUSR1 (Slurm's warning before the time limit)."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """This process was told to stop; what it was doing can be gone on with. Not an error: nothing may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)


class _State:
    deferred = False
    requested: int | None = None


def listen() -> None:
    """Make these signals raise `Stopped` in the main thread, wherever it is, unless they are deferred."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _take)


@contextmanager
def deferred() -> Iterator[None]:
    """Note signals, and do nothing more, while inside: ask `requested`. Slurm sends some twice, for a step and for
    its job.
    """
    _State.deferred, _State.requested = True, None
    try:
        yield
    finally:
        _State.deferred = False


def requested() -> int | None:
    """Return the signal that has come since `deferred` was entered."""
    return _State.requested


def _take(number: int, frame: FrameType | None) -> None:
    if not _State.deferred:
        raise Stopped(number)
    _State.requested = _State.requested or number
