"""The processes that torchrun or srun started for one command: a leader, and agents that start ranks when it says so.

    leader (agent 0)    composes the configuration, holds the run folder, runs the stage
    agent 1, 2, ...     wait; start their part of the ranks; report how these end

All of them meet in one TCP store, which the leader hosts on MASTER_PORT; the ranks' process groups meet there too, so
that one port is enough for everything. A command started by neither torchrun nor srun is a team of one.

Keys of the store:

    agent/<i>                host, clock and place of an agent, once
    launch/<n>               what to start, or {"end": true}
    launch/<n>/order/<i>     from the leader: a signal for the ranks, or for those of one group
    launch/<n>/event/<i>     from the agents: a rank that ended
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_demix.errors import ConfigError
from nemo_demix.launch.cohort import find_cohort
from nemo_demix.merging.cohort import Cohort

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_GATHER_S = 600.0  # imports from a shared file system can take minutes on the first day of a large job
_SKEW_S = 60.0
POLL_S = 0.1


@dataclass(frozen=True)
class Member:
    """An agent as it introduced itself."""

    host: str
    place: int  # among the agents of its host
    skew_s: float  # of its clock against the leader's, as far as the store's delay allows


class Team:
    """This process among the team's.

    Args:
        cohort: Its number, and how many there are.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._store: TCPStore | None = None
        self._members: list[Member] = []
        self._number = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process runs the stage."""
        return self.cohort.rank == 0

    @property
    def address(self) -> str:
        """The host that the store is reached at."""
        return os.environ["MASTER_ADDR"] if self.cohort.size > 1 else "127.0.0.1"

    @property
    def store(self) -> "TCPStore":
        """The store; on the leader its first use opens it.

        Raises:
            ConfigError: if an agent cannot reach the leader.
        """
        if self._store is None:
            self._store = self._connect()
        return self._store

    def _connect(self) -> "TCPStore":
        from datetime import timedelta

        from torch.distributed import DistNetworkError, TCPStore

        timeout = timedelta(seconds=_GATHER_S)
        if self.cohort.size == 1:
            return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        # torchrun's agent hosts a store at this address already.
        hosts = self.is_leader and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        port = int(os.environ["MASTER_PORT"])
        try:
            return TCPStore(self.address, port, is_master=hosts, wait_for_workers=False, timeout=timeout)
        except DistNetworkError as error:
            verb = "open" if hosts else "reach"
            raise ConfigError(
                f"MASTER_ADDR={self.address}, MASTER_PORT={port}: cannot {verb} it ({str(error).splitlines()[0]}); set "
                "another MASTER_PORT in the environment of srun, or see that the nodes reach each other"
            ) from None

    def introduce(self) -> None:
        """Say where this agent is."""
        place = os.environ.get("SLURM_LOCALID") or os.environ.get("LOCAL_RANK") or "0"
        about = {"host": socket.gethostname(), "time": time.time(), "place": int(place)}
        self.store.set(f"agent/{self.cohort.rank}", json.dumps(about))

    def members(self) -> list[Member]:
        """All agents, when they have come; on the leader.

        Raises:
            ConfigError: if some do not come.
        """
        if self._members:
            return self._members
        if self.cohort.size == 1:
            self._members = [Member(socket.gethostname(), 0, 0.0)]
            return self._members
        deadline = time.monotonic() + _GATHER_S
        keys = [f"agent/{number}" for number in range(self.cohort.size)]
        arrived: dict[str, float] = {}
        while len(arrived) < len(keys):
            for key in keys:
                if key not in arrived and self.store.check([key]):
                    arrived[key] = time.time()
            if time.monotonic() > deadline:
                missing = [key for key in keys if key not in arrived]
                raise ConfigError(
                    f"{len(arrived)} of {len(keys)} processes came within {_GATHER_S:.0f} s; {missing[0]} did not: "
                    "look at its node"
                )
            time.sleep(POLL_S)
        for key in keys:
            about = json.loads(self.store.get(key))
            # An agent that came before the leader looked shows a clock that is behind by that wait: only ahead is sure.
            self._members.append(Member(about["host"], about["place"], about["time"] - arrived[key]))
        return self._members

    def skewed(self) -> list[Member]:
        """Agents whose clock is ahead of the leader's by more than a minute; on the leader."""
        return [member for member in self.members() if member.skew_s > _SKEW_S]

    def next_launch(self) -> int:
        """The number of the next launch; on the leader."""
        self._number += 1
        return self._number

    def read(self, key: str) -> Any:
        """A JSON value of the store, or None where there is none yet."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def write(self, key: str, value: Any) -> None:
        """Put a JSON value into the store."""
        self.store.set(key, json.dumps(value))

    def end(self) -> None:
        """Let the agents go; on the leader."""
        if self.cohort.size > 1:
            self.write(f"launch/{self.next_launch()}", {"end": True})
            deadline = time.monotonic() + 10
            # The store ends with this process: wait until everyone has read it.
            while self.store.add("left", 0) < self.cohort.size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_S / 4)


_TEAM = Team(Cohort())


def join_team() -> Team:
    """Find out which team this process is of, from torchrun's or srun's environment."""
    global _TEAM
    _TEAM = Team(find_cohort())
    return _TEAM


def this_team() -> Team:
    """The team of this process: itself alone unless `join_team` found others."""
    return _TEAM
