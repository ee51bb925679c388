"""Programs in, outcomes out: the caller's side of the sandbox."""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

from nemo_demix.errors import ScoreError
from nemo_demix.sandbox.contract import Isolation, Limits, Outcome
from nemo_demix.sandbox.interpreter import Interpreter
from nemo_demix.temporary import sockets_root

_log = logging.getLogger(__name__)


def run_programs(programs: Sequence[str], limits: Limits, workers: int, packages: Sequence[str] = ()) -> list[Outcome]:
    """Run each program in a process of its own, cut off from this machine as far as it allows.

    A program passes if it runs to its end. To leave before, with whatever code, is to fail: the tests stand last. It
    finds the standard library, no input, no environment, and an empty folder that it may write to.

    Args:
        programs: Python source texts.
        limits: Limits of each one.
        workers: How many to run at a time.
        packages: What programs may import beside the standard library, by the names it has here: `numpy`.
    Returns:
        The outcomes, in the order of the programs.
    Raises:
        ScoreError: if this machine can isolate nothing, a package is not installed, or a worker fails.
    Collective: none; one rank calls.
    Memory: 20 MiB a worker, and what its program takes, up to `limits.memory_mib`.
    """
    return _run(programs, limits, workers, packages)[0]


def _run(
    programs: Sequence[str], limits: Limits, workers: int, packages: Sequence[str]
) -> tuple[list[Outcome], Isolation | None]:
    assert workers > 0
    outcomes: dict[int, Outcome] = {}
    waiting = deque(range(len(programs)))
    busy: dict[Interpreter, int] = {}
    isolation = None
    locations = _locations(packages)
    with contextlib.ExitStack() as stack:
        idle: list[Interpreter] = []
        for _ in range(min(workers, len(programs))):
            idle.append(Interpreter(limits, locations))
            stack.callback(idle[-1].end)
        for worker in idle:
            isolation = worker.isolation()
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                busy[worker] = waiting.popleft()
                worker.start(programs[busy[worker]])
            earliest = min(worker.deadline for worker in busy)
            wait([worker.fileno() for worker in busy], max(0.0, earliest - time.monotonic()))
            for worker in [worker for worker in busy if worker.is_due]:
                outcomes[busy.pop(worker)] = worker.outcome()
                idle.append(worker)
    return [outcomes[number] for number in range(len(programs))], isolation


def _locations(packages: Sequence[str]) -> dict[str, list[str]]:
    """Find each package's folders and files, with that of the shared libraries that a wheel brings beside it."""
    locations = {}
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ScoreError(
                f"sandbox: package {name!r} is not installed; programs of this suite import it: install it"
            )
        path = Path(*spec.submodule_search_locations) if spec.submodule_search_locations else Path(spec.origin)
        beside = path.with_name(f"{name}.libs")
        locations[name] = [str(path), *([str(beside)] if beside.exists() else [])]
    return locations


@functools.cache
def available_isolation() -> Isolation:
    """Return what keeps a program from the rest of this machine; tried once, with programs that try to get out.

    Raises:
        ScoreError: as `run_programs`.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=sockets_root(len("/tmpabcdefgh/socket"))))
        os.chmod(folder, 0o777)
        python = os.path.realpath(sys.executable)
        receiver = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.bind(f"{folder}/socket")
        os.chmod(f"{folder}/socket", 0o777)
        trials = {
            "this account's files can be read, and with them its processes' memory": f"open({python!r}, 'rb').read(1)",
            "files can be written": f"open({folder + '/file'!r}, 'w').close()",
            "names and sizes of this machine's files can be seen": f"import os; os.stat({folder!r})",
            "sockets of other processes can be sent to": (
                "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]"
                f".sendto(b'x', {folder + '/socket'!r})"
            ),
            "which processes exist can be seen": f"import os; os.sched_getaffinity({os.getpid()})",
            "the network can be used": "import socket; socket.socket()",
            "other processes can be started": "import os; os.fork() or os._exit(0)",
            "other processes can be sent signals": f"import os; os.kill({os.getpid()}, 0)",
        }
        outcomes, isolation = _run(list(trials.values()), Limits(), 1, ())
    assert isolation is not None
    unprotected = tuple(name for name, outcome in zip(trials, outcomes, strict=True) if outcome.passed)
    isolation = dataclasses.replace(isolation, unprotected=unprotected)
    if unprotected:
        _log.warning("sandbox: %s", isolation.describe())
    return isolation
