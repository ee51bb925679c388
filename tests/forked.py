"""Commands and rank programs as forks of a process that has imported torch, Megatron and NeMo, one a test session.

What runs is what a user runs: the command line's own entry point, in a process of its own, with its own ranks. Only the
imports are shared. Where the start itself is what is tested, `tests.helpers` starts a Python instead.

The process is Python's own fork server. It imports what the product's does, and `tests.warm`.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing import util as multiprocessing_util
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")


def preload(*more: str) -> None:
    """What the process imports, before the first of its forks; `more` is what its environment has besides."""
    multiprocessing.set_forkserver_preload(["nemo_demix.ranks.preloaded", "tests.warm", *more])


preload()


class Started:
    """A process, with the part of `subprocess.Popen`'s interface that tests use."""

    def __init__(self, target: Any, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.args = list(arguments)
        self._files = [tempfile.NamedTemporaryFile(prefix="out"), tempfile.NamedTemporaryFile(prefix="err")]  # noqa: SIM115
        names = [file.name for file in self._files]
        self._process = CONTEXT.Process(target=_start, args=(target, self.args, dict(environment), str(folder), names))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, as `subprocess` has it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, self.printed(0), self.printed(1))
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, when it has ended."""
        self.wait(timeout)
        return self.printed(0), self.printed(1)

    def printed(self, stream: int) -> str:
        """What it has printed so far: 0 stdout, 1 stderr."""
        return Path(self._files[stream].name).read_text(encoding="utf-8", errors="replace")


def start_cli(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Started:
    """`nemo-demix ARGUMENTS`."""
    return Started(_cli, arguments, environment, folder)


def run_ranks(
    script: Path, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, ranks: int, timeout: float
) -> str:
    """Run a program on so many ranks, as torchrun does; returns what rank 0 printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "tests",
    }
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        Started(
            _program,
            [str(script), *arguments],
            {**environment, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            folder,
        )
        for rank in range(ranks)
    ]
    deadline = time.monotonic() + timeout
    try:
        while any(one.poll() is None for one in started):
            failed = [rank for rank, one in enumerate(started) if one.poll()]
            assert not failed, f"rank {failed[0]} of {script.name} failed\n{started[failed[0]].printed(1)[-6000:]}"
            assert time.monotonic() < deadline, f"{script.name} took over {timeout} s\n{started[0].printed(1)[-6000:]}"
            time.sleep(0.02)
    finally:
        for one in started:
            one.kill()
            one.wait(30)
    failed = [rank for rank, one in enumerate(started) if one.returncode]
    assert not failed, f"rank {failed[0]} of {script.name} failed\n{started[failed[0]].printed(1)[-6000:]}"
    return started[0].printed(0)


def _start(target: Any, arguments: list[str], environment: dict[str, str], folder: str, files: list[str]) -> None:
    """In the new process: make it one that a shell could have started, and go."""
    from nemo_demix.runtime.lifetime import JOB_SIGNALS, die_with_parent

    die_with_parent()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)
    for descriptor, name in zip((1, 2), files, strict=True):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    target(arguments)


def _cli(arguments: list[str]) -> None:
    from nemo_demix.cli import main

    multiprocessing_util.spawnv_passfds = _fork_instead  # type: ignore[attr-defined]
    sys.argv = ["nemo-demix", *arguments]
    main()


def _program(arguments: list[str]) -> None:
    from nemo_demix.ranks.environment import renew_after_fork

    renew_after_fork(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]))
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


_spawn = multiprocessing_util.spawnv_passfds  # type: ignore[attr-defined]


def _fork_instead(path: bytes, arguments: list[Any], descriptors: Sequence[int]) -> int:
    """Start the command's fork server as a fork, too: it would import again what is here already."""
    program = arguments[-1]
    if "multiprocessing.forkserver" not in str(program):
        return _spawn(path, arguments, descriptors)  # type: ignore[no-any-return]
    if child := os.fork():
        return child
    try:
        from nemo_demix.ranks import preloaded

        preloaded.settle()
        multiprocessing_util.spawnv_passfds = _spawn  # type: ignore[attr-defined]
        forkserver._forkserver = forkserver.ForkServer()  # type: ignore[attr-defined]
        kept = {0, 1, 2, *descriptors}
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor not in kept:
                _close(descriptor)
        exec(program, {"__name__": "__main__"})
    finally:
        os._exit(1)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:  # that of the listing itself
        return
