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


@contextmanager
def folder_lock(folder: Path, remedy: str) -> Iterator[None]:
    """Hold a folder for this process; the kernel lets go when it dies, however it dies.

    Args:
        remedy: What to set to work elsewhere, for the message.

    Raises:
        ConfigError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        # The forked workers of a killed process hold its lock until the kernel has ended them too.
        deadline = time.monotonic() + _PATIENCE_S
        while not _take(file):
            if time.monotonic() > deadline:
                file.seek(0)
                raise ConfigError(
                    f"{folder}: in use by process {file.read().strip() or '?'}; wait for it, or set another {remedy}"
                )
            time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
