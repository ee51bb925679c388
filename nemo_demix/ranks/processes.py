"""The ranks that one agent started: processes of their own, watched and signalled.

They are forks of the node's fork server, which has imported what ranks need: a launch does not wait for imports, and a
node reads them from the file system once.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing import util as multiprocessing_util
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from nemo_demix.ranks import seal
from nemo_demix.ranks.environment import STEP_VARIABLES, TEMPORARIES
from nemo_demix.ranks.placement import Placement
from nemo_demix.ranks.seal import Seal
from nemo_demix.ranks.team import LOOPBACK
from nemo_demix.ranks.worker import become_rank
from nemo_demix.runtime.lifetime import JOB_SIGNALS, STOP
from nemo_demix.temporary import sockets_root

_TAIL_LINES = 30
_PRELOADED = "nemo_demix.ranks.preloaded"


def start_fork_server() -> None:
    """Start this node's fork server, unless it runs already. Returns at once: it imports while others work.

    It ends with this process, however that ends; its temporary files are this process's to remove.
    """
    multiprocessing.set_forkserver_preload([_PRELOADED])
    resource_tracker.ensure_running()  # it unblocks what the next lines block, where it is started after
    os.environ[TEMPORARIES] = _temporaries()
    try:
        with _blocked():
            forkserver.ensure_running()
    finally:
        del os.environ[TEMPORARIES]


def _temporaries() -> str:
    """Return multiprocessing's own folder of temporary files, which has its sockets, too."""
    usual = tempfile.tempdir
    tempfile.tempdir = sockets_root(len("/pymp-abcdefgh/listener-abcdefgh"))
    try:
        return multiprocessing_util.get_temp_dir()
    finally:
        tempfile.tempdir = usual


@contextmanager
def _blocked() -> Iterator[None]:
    """Let new processes ignore, while inside, what Slurm sends to all of a job's until they see to it themselves."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Ended:
    """A rank that has ended."""

    rank: int  # over all groups
    code: int  # negative: the signal that killed it
    error: str | None  # the user's mistake that it found
    tail: str  # the end of its log, where it failed


@dataclass(frozen=True)
class Assignment:
    """What an agent is to start.

    Attributes:
        address, port: Where the store is that the ranks meet in.
        host_place: The agent's place among those of its host.
        seal: Seal of the messages between the command and the ranks.
    """

    number: int
    config: Path
    logs: Path
    placement: Placement
    agent: int
    host_place: int
    address: str
    port: int
    seal: Seal


class LocalRanks:
    """Ranks running on this node for this process; the kernel ends them with it."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._running: dict[int, ForkServerProcess] = {}
        start_fork_server()
        try:
            for rank in assignment.placement.ranks_of(assignment.agent):
                self._running[rank] = self._start(rank)
        except BaseException:  # stopped while it waited for the server
            self.close()
            raise

    @property
    def any_running(self) -> bool:
        """Whether a rank has not ended yet, or its end was not polled."""
        return bool(self._running)

    def poll(self) -> list[Ended]:
        """Return the ranks that have ended since the last call."""
        codes = {rank: process.exitcode for rank, process in self._running.items()}
        ended = [self._report(rank, code) for rank, code in codes.items() if code is not None]
        for one in ended:
            _end_session(self._running.pop(one.rank))
        return ended

    def signal(self, number: int, group: int | None = None) -> None:
        """Send a signal to the ranks of a group, or to all."""
        for rank, process in self._running.items():
            if group is None or self._assignment.placement.group_of(rank) == group:
                _send(process, number)

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        for process in self._running.values():
            _send(process, signal.SIGKILL)
        for process in self._running.values():
            process.join()
            _end_session(process)
        self._running.clear()

    def _start(self, rank: int) -> ForkServerProcess:
        given = self._assignment
        placement, group = given.placement, given.placement.group_of(rank)
        here = placement.ranks_of(given.agent)
        local = given.host_place * len(here) + rank - here.start
        variables = {
            "RANK": rank % placement.group_size,
            "WORLD_SIZE": placement.group_size,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": len(here),
            "GROUP_RANK": given.agent,  # these two: by which Lightning knows that the ranks exist already
            "TORCHELASTIC_RUN_ID": f"demix-{given.number}",
            "MASTER_ADDR": given.address,
            "MASTER_PORT": given.port,
            "NEMO_DEMIX_WORLD": f"world/{given.number}/{group}",
            seal.VARIABLE: given.seal.hexadecimal,
        }
        environment = {name: value for name, value in os.environ.items() if name not in STEP_VARIABLES}
        if given.address == LOOPBACK and "lo" in (name for _, name in socket.if_nameindex()):
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are here: gloo need not listen elsewhere
        environment |= {name: str(value) for name, value in variables.items()}
        arguments = [str(given.config), str(given.logs), str(rank), str(group)]
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=become_rank, args=(arguments, environment, os.getcwd()))
        process.start()
        return process

    def _report(self, rank: int, code: int) -> Ended:
        logs = self._assignment.logs
        error, log = logs / f"error_{rank}.txt", logs / f"rank_{rank}.log"
        if code == 2 and error.exists():
            return Ended(rank, code, error.read_text(encoding="utf-8"), "")
        if code in (0, 128 + signal.SIGTERM, -signal.SIGKILL, -STOP) or not log.exists():
            return Ended(rank, code, None, "")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return Ended(rank, code, None, "".join(lines[-_TAIL_LINES:]))


def _send(process: ForkServerProcess, number: int) -> None:
    if process.exitcode is None and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):  # its end has not been told yet
            os.kill(process.pid, number)


def _end_session(process: ForkServerProcess) -> None:
    """Kill what a rank that has ended left behind: loaders and writers, which would keep a Slurm step from ending."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for_file(path: Path, text: str, patience_s: float = 30.0) -> bool:
    """Return whether a file with this text appears; other nodes of a shared file system see it a little later."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if path.read_text(encoding="utf-8") == text:
                return True
            os.listdir(path.parent)  # asks the file server again
        except OSError:
            pass
        time.sleep(0.5)
    return False
