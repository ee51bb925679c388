"""One process at a time in a folder."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nemo_demix.errors import ConfigError

_PATIENCE_S = 1.0
_PATIENCE_WITH_THE_DEAD_S = 120.0  # what a killed process had written may take long to reach the disk


@contextmanager
def folder_lock(folder: Path, remedy: str) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go when it dies, however it dies.

    Args:
        remedy: What to set to work elsewhere, for the message.

    Raises:
        ConfigError: if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to ({error.strerror}); set another {remedy}") from None
    with file:
        # The forked workers of a killed process hold its lock until the kernel has ended them too.
        started = time.monotonic()
        while not _take(file):
            file.seek(0)
            holder = file.read().strip()
            if time.monotonic() - started > (_PATIENCE_S if _is_alive(holder) else _PATIENCE_WITH_THE_DEAD_S):
                raise ConfigError(f"{folder}: in use by process {holder or '?'}; wait for it, or set another {remedy}")
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _is_alive(process: str) -> bool:
    """Whether a process runs here, as far as is known; one of another machine's is waited for longer, to no harm."""
    return not process.isdecimal() or Path(f"/proc/{process}").exists()


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
