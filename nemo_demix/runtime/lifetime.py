"""How a rank's process ends: with the one that started it, or when it is told to, at a place where it can go on."""

import ctypes
import signal
from multiprocessing import resource_tracker
from types import FrameType, TracebackType

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# Slurm sends them to every process of a job; what they mean for the ranks is the launcher's to say, by `STOP`.
JOB_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Set the name by which `ps`, `top` and a debugger show this process: at most 15 characters."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


class StoppedEarly(BaseException):
    """Work was ended at a place where it can be gone on with, as was asked: on every rank. Not an error."""


STOP = signal.SIGUSR2  # how a rank is told to stop


def block_jobs_signals() -> None:
    """Keep `JOB_SIGNALS` from this process and those it will start.

    Loaders and writers of data would die of them, and Lightning would end each rank at a step of its own.
    """
    resource_tracker.ensure_running()  # where it is started later, it unblocks SIGTERM in the one that starts it
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)


class StopRequest:
    """While it is open, `STOP` is only noted, in `seen`; otherwise it ends the process."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> "StopRequest":
        signal.signal(STOP, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Ranks are told one after another: one that has stopped with the others may yet hear of it.
        signal.signal(STOP, signal.SIG_IGN if kind is StoppedEarly else signal.SIG_DFL)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
