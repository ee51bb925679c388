"""The memory that a stage and all its processes hold together."""

import threading
from types import TracebackType

import psutil

_INTERVAL_S = 2.0


class MemoryWatch:
    """Samples the proportional set size of this process and its descendants while it is open.

    Shared pages are counted once, in equal parts; peaks shorter than the interval can be missed.
    """

    def __init__(self) -> None:
        self.peak_gib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while True:
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:  # it ended in between
                    continue
            self.peak_gib = max(self.peak_gib, total / 2**30)
            if self._stop.wait(_INTERVAL_S):
                return
