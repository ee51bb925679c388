"""How a rank's process ends: with the one that started it, or when it is told to, at a place where it can go on."""

import ctypes
import signal
from types import FrameType, TracebackType

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class StoppedEarly(BaseException):
    """Work was ended at a place where it can be gone on with, as was asked: on every rank. Not an error."""


class StopRequest:
    """While it is open, a first SIGTERM is only noted, in `seen`; a second one ends the process, as SIGTERM does."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> "StopRequest":
        self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
