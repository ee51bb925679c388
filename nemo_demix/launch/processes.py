"""The ranks that one agent started: processes of their own, watched and signalled."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.launch.placement import Placement
from nemo_demix.runtime.lifetime import STOP

# What Slurm says about the agents' own step; libraries in a rank would take themselves for srun's tasks.
_STEP_VARIABLES = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
_TAIL_LINES = 30


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
        address, port: Of the store that the ranks meet in.
        host_place: The agent's place among those of its host.
    """

    number: int
    config: Path
    logs: Path
    placement: Placement
    agent: int
    host_place: int
    address: str
    port: int


class LocalRanks:
    """Ranks running as children of this process; the kernel ends them with it."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._running = {rank: self._start(rank) for rank in assignment.placement.ranks_of(assignment.agent)}

    @property
    def any_running(self) -> bool:
        """Whether a rank has not ended yet, or its end was not polled."""
        return bool(self._running)

    def poll(self) -> list[Ended]:
        """The ranks that have ended since the last call."""
        codes = {rank: process.poll() for rank, process in self._running.items()}
        ended = [self._report(rank, code) for rank, code in codes.items() if code is not None]
        for one in ended:
            _end_session(self._running.pop(one.rank))
        return ended

    def signal(self, number: int, group: int | None = None) -> None:
        """Send a signal to the ranks of a group, or to all."""
        for rank, process in self._running.items():
            if group is None or self._assignment.placement.group_of(rank) == group:
                process.send_signal(number)

    def close(self) -> None:
        """Kill what still runs, and wait for it."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
            _end_session(process)
        self._running.clear()

    def _start(self, rank: int) -> "subprocess.Popen[bytes]":
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
        }
        environment = {name: value for name, value in os.environ.items() if name not in _STEP_VARIABLES}
        environment = {**_defaults(), **environment, **{name: str(value) for name, value in variables.items()}}
        command = [sys.executable, "-m", "nemo_demix.launch.worker", str(given.config), str(given.logs), str(rank)]
        # A session of their own: a signal to the agent's process group is the agent's to pass on.
        return subprocess.Popen([*command, str(group)], env=environment, start_new_session=True)

    def _report(self, rank: int, code: int) -> Ended:
        logs = self._assignment.logs
        error, log = logs / f"error_{rank}.txt", logs / f"rank_{rank}.log"
        if code == 2 and error.exists():
            return Ended(rank, code, error.read_text(encoding="utf-8"), "")
        if code in (0, 128 + signal.SIGTERM, -signal.SIGKILL, -STOP) or not log.exists():
            return Ended(rank, code, None, "")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return Ended(rank, code, None, "".join(lines[-_TAIL_LINES:]))


def _end_session(process: "subprocess.Popen[bytes]") -> None:
    """Kill what a rank that has ended left behind: loaders and writers, which would keep a Slurm step from ending."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _defaults() -> dict[str, str]:
    """Of the ranks' environment; what the user has set wins."""
    import torch

    defaults = {"TOKENIZERS_PARALLELISM": "false"}
    if torch.cuda.is_available():
        return defaults | {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}  # Megatron's overlap of communication needs the order
    # One core a rank; megatron-core's fused helpers would each be compiled.
    return defaults | {"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}


def wait_for_file(path: Path, text: str, patience_s: float = 30.0) -> bool:
    """Whether a file with this text appears; other nodes of a shared file system see it a little later."""
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
