"""The processes that torchrun or srun started for one command: a leader, and agents that start ranks when it says so.

    leader (agent 0)    composes the configuration, holds the run folder, runs the stage
    agent 1, 2, ...     wait; start their part of the ranks; report how these end

All of them meet in one TCP store, which the leader hosts on MASTER_PORT; the ranks' process groups meet there too, so
that one port is enough for everything. A command started by neither torchrun nor srun is a team of one.

The store listens where the team's processes are: on this machine alone for a team of one, otherwise at MASTER_ADDR.
Keys of the store, all of whose values but the first are sealed (`seal.py`):

    nonce                    random, of this run
    agent/<i>                host, clock and place of an agent, once
    launch/<n>               what to start, or {"end": true}
    launch/<n>/order/<i>     from the leader: a signal for the ranks, or for those of one group
    launch/<n>/event/<a>/<i> from agent a: a rank that ended
    left/<i>                 agent i has read the end
"""

import errno
import ipaddress
import json
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_demix.errors import ConfigError
from nemo_demix.merging.peers import Peers
from nemo_demix.ranks.peers import find_peers
from nemo_demix.ranks.seal import Seal, shared_seal
from nemo_demix.remembered import cache_folder

if TYPE_CHECKING:
    from torch.distributed import TCPStore

logger = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
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
        peers: Which of the started processes this is, and how many there are.
    """

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self._store: TCPStore | None = None
        self._seal: Seal | None = None
        self._members: list[Member] = []
        self._number = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process runs the stage."""
        return self.peers.rank == 0

    @property
    def address(self) -> str:
        """The host that the store is reached at."""
        return os.environ["MASTER_ADDR"] if self.peers.size > 1 else LOOPBACK

    @property
    def store(self) -> "TCPStore":
        """The store; on the leader its first use opens it.

        Raises:
            ConfigError: if an agent cannot reach the leader.
        """
        if self._store is None:
            self._store = self._connect()
        return self._store

    @property
    def seal(self) -> Seal:
        """The seal of this run's messages.

        Raises:
            ConfigError: as `shared_seal`.
        """
        if self._seal is None:
            if self.peers.size == 1:
                self._seal = Seal.random()
            else:
                if self.is_leader:
                    self.store.set("nonce", secrets.token_hex(16))
                self._seal = shared_seal(cache_folder(), bytes.fromhex(self.store.get("nonce").decode()))
        return self._seal

    def _connect(self) -> "TCPStore":
        from datetime import timedelta

        from torch.distributed import DistNetworkError, TCPStore

        timeout = timedelta(seconds=_GATHER_S)
        # torchrun's agent hosts a store at this address already.
        hosts = self.is_leader and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        port = int(os.environ["MASTER_PORT"]) if self.peers.size > 1 else 0
        try:
            if not hosts:
                return TCPStore(self.address, port, is_master=False, timeout=timeout)
            listening = _listen(self.address, port)
            port = listening.getsockname()[1]
            return TCPStore(
                self.address,
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=timeout,
                master_listen_fd=listening.detach(),
            )
        except (DistNetworkError, OSError) as error:
            verb = "open" if hosts else "reach"
            raise ConfigError(
                f"MASTER_ADDR={self.address}, MASTER_PORT={port}: cannot {verb} it ({str(error).splitlines()[0]}); set "
                "another MASTER_PORT in the environment of srun, or see that the nodes reach each other"
            ) from None

    def introduce(self) -> None:
        """Say where this agent is."""
        place = os.environ.get("SLURM_LOCALID") or os.environ.get("LOCAL_RANK") or "0"
        about = {"host": socket.gethostname(), "time": time.time(), "place": int(place)}
        self.write(f"agent/{self.peers.rank}", about)

    def members(self) -> list[Member]:
        """Return all agents, when they have come; on the leader.

        Raises:
            ConfigError: if some do not come.
        """
        if self._members:
            return self._members
        if self.peers.size == 1:
            self._members = [Member(socket.gethostname(), 0, 0.0)]
            return self._members
        deadline = time.monotonic() + _GATHER_S
        keys = [f"agent/{number}" for number in range(self.peers.size)]
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
            about = self.read(key)
            # An agent that came before the leader looked shows a clock that is behind by that wait: only ahead is sure.
            self._members.append(Member(about["host"], about["place"], about["time"] - arrived[key]))
        return self._members

    def skewed(self) -> list[Member]:
        """Return agents whose clock is ahead of the leader's by more than a minute; on the leader."""
        return [member for member in self.members() if member.skew_s > _SKEW_S]

    def next_launch(self) -> int:
        """Return the number of the next launch; on the leader."""
        self._number += 1
        return self._number

    def read(self, key: str) -> Any:
        """Return a JSON value of the store, or None where there is none yet.

        Raises:
            ClusterError: if no process of this run has written it.
        """
        return json.loads(self.seal.open(key, self.store.get(key))) if self.store.check([key]) else None

    def write(self, key: str, value: Any) -> None:
        """Put a JSON value into the store."""
        self.store.set(key, self.seal.close(key, json.dumps(value).encode()))  # type: ignore[arg-type]  # bytes do

    def end(self) -> None:
        """Let the agents go; on the leader."""
        if self.peers.size > 1:
            self.write(f"launch/{self.next_launch()}", {"end": True})
            deadline = time.monotonic() + 10
            # The store ends with this process: wait until everyone has read it.
            waited_for = [f"left/{number}" for number in range(1, self.peers.size)]
            while not self.store.check(waited_for) and time.monotonic() < deadline:
                time.sleep(POLL_S / 4)


def _listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens where `address` is, and nowhere else on this machine if that can be helped.

    Raises:
        OSError: if the port is taken, or the address is unknown.
    """
    family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    where = str(place[0])
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if nodes > 1 and ipaddress.ip_address(where.partition("%")[0]).is_loopback:
        why = f"it is {where} here, which other nodes cannot reach"
    else:
        try:
            return socket.create_server((where, port), family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            why = f"no interface of this node has {where}"
    logger.warning("MASTER_ADDR=%s: %s; listening on all interfaces, port %d", address, why, port)
    return socket.create_server(("", port), backlog=1024)


_TEAM = Team(Peers())


def join_team() -> Team:
    """Find out which team this process is of, from torchrun's or srun's environment."""
    global _TEAM
    _TEAM = Team(find_peers())
    return _TEAM


def this_team() -> Team:
    """Return the team of this process: itself alone unless `join_team` found others."""
    return _TEAM
