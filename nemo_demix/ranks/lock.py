"""One process at a time in a folder, or in one part of it; on one machine, and between nodes that share a file system.

On one machine, and on file systems that carry locks between nodes, the kernel keeps the lock and lets go of it when its
holder dies, however it dies. Where they do not, the holder's record in the file counts as long as it keeps touching it:
times are compared on the file server, so clocks of nodes may differ.

Files: `.lock`, held alone by whoever works on all of the folder and shared by those who work on a part; `.lock.<part>`.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nemo_demix.errors import ConfigError

_PATIENCE_S = 1.0
_PATIENCE_WITH_THE_DEAD_S = 120.0  # what a killed process had written may take long to reach the disk
_TOUCH_S = 10.0
_STALE_S = 25.0  # of not being touched, after which a holder on another node is taken for dead


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str
    process: int
    job: str | None  # of Slurm
    restarts: int = 0  # of that job

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}"

    @classmethod
    def here(cls) -> "Holder":
        """Describe this process."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
        return cls(socket.gethostname(), os.getpid(), job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))


@contextmanager
def folder_lock(folder: Path, remedy: str, part: str | None = None) -> Iterator[None]:
    """Hold a folder, or a part of it, for this process.

    Args:
        remedy: What to set to work elsewhere, for the message.
        part: Others may hold other parts meanwhile, and none the whole.

    Raises:
        ConfigError: if another process holds it.
    """
    with ExitStack() as stack:
        if part is None:
            stack.enter_context(_held(folder / ".lock", fcntl.LOCK_EX, remedy))
            for path in sorted(folder.glob(".lock.*")):  # only where the file system does not carry locks between nodes
                _refuse_if_alive(path, remedy)
        else:
            stack.enter_context(_held(folder / ".lock", fcntl.LOCK_SH, remedy))
            stack.enter_context(_held(folder / f".lock.{part}", fcntl.LOCK_EX, remedy))
        yield


@contextmanager
def _held(path: Path, kind: int, remedy: str) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written to ({error.strerror}); set another {remedy}") from None
    with file:
        # The forked workers of a killed process hold its lock until the kernel has ended them too.
        started = time.monotonic()
        while not _take(file, kind):
            holder = _holder(path)
            if time.monotonic() - started > (_PATIENCE_S if _may_live(holder) else _PATIENCE_WITH_THE_DEAD_S):
                raise _in_use(path, str(holder or "another process"), remedy)
            time.sleep(0.05)
        _refuse_if_alive(path, remedy)
        if kind == fcntl.LOCK_SH:
            yield
            return
        this = Holder.here()
        file.truncate(0)
        file.write(json.dumps(asdict(this)))
        file.flush()
        os.fsync(file.fileno())
        if _holder(path) != this:  # another node was as quick, and the file system keeps no locks
            raise _in_use(path, str(_holder(path)), remedy)
        with _touching(path):
            yield
        file.truncate(0)


@contextmanager
def _touching(path: Path) -> Iterator[None]:
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_TOUCH_S):
            os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _refuse_if_alive(path: Path, remedy: str) -> None:
    """Refuse a lock whose record says that a process on another node has it, if that one still touches the record."""
    holder, this = _holder(path), Holder.here()
    if holder is None or holder.host == this.host:  # of this host the kernel would know
        return
    if holder.job is not None and holder.job == this.job and holder.restarts < this.restarts:
        return  # this job, before it was requeued
    first = path.stat().st_mtime
    while _now(path.parent) - path.stat().st_mtime < _STALE_S:
        if path.stat().st_mtime != first:
            raise _in_use(path, str(holder), remedy)
        time.sleep(0.5)


def _now(folder: Path) -> float:
    """Return the file server's time."""
    probe = folder / f".clock.{socket.gethostname()}.{os.getpid()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _holder(path: Path) -> Holder | None:
    """Read who holds the lock by its record; None where it names no one."""
    try:
        text = path.read_text(encoding="utf-8")
        return Holder(**json.loads(text)) if text else None
    except (ValueError, TypeError):  # being written, or of an earlier release
        return None


def _may_live(holder: Holder | None) -> bool:
    """Return whether the holder runs, as far as is known here."""
    return holder is None or holder.host != socket.gethostname() or Path(f"/proc/{holder.process}").exists()


def _in_use(path: Path, holder: str, remedy: str) -> ConfigError:
    part = path.name.removeprefix(".lock").removeprefix(".")
    what = f"{path.parent} ({part})" if part else str(path.parent)
    return ConfigError(f"{what}: in use by {holder}; wait for it, or set another {remedy}")


def _take(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
