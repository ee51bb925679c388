"""An agent other than the leader: starts its part of the ranks whenever the leader says so."""

import itertools
import logging
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nemo_demix.ranks.placement import Placement
from nemo_demix.ranks.processes import Assignment, LocalRanks, start_fork_server, wait_for_file
from nemo_demix.ranks.team import POLL_S, Team

logger = logging.getLogger(__name__)


def follow(team: Team) -> int:
    """Serve the leader until it ends; returns 0, or 1 where it was lost.

    The command's exit code is the leader's alone: an agent that failed with it, and sooner, would have srun kill it.
    """
    # Slurm sends these to every task of a step. What they mean for the ranks is the leader's to say.
    for ignored in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    start_fork_server()
    try:
        team.introduce()
        for number in itertools.count(1):
            while (message := team.read(f"launch/{number}")) is None:
                time.sleep(POLL_S)
            if "end" in message:
                team.write(f"left/{team.peers.rank}", True)
                return 0
            _take_part(team, number, message)
    except RuntimeError as error:  # of the store: its host is gone
        logger.debug("the leader was lost: %s", error)
    return 1


def _take_part(team: Team, number: int, message: dict[str, Any]) -> None:
    logs = Path(message["logs"])
    if not wait_for_file(logs / "sentinel.txt", message["sentinel"]):
        _tell(team, number, 0, {"agent": team.peers.rank, "not_shared": str(logs)})
        return
    members = team.read(f"agent/{team.peers.rank}")
    assignment = Assignment(
        number=number,
        config=Path(message["config"]),
        logs=logs,
        placement=Placement(**message["placement"]),
        agent=team.peers.rank,
        host_place=members["place"],
        address=team.address,
        port=team.store.port,
        seal=team.seal.derived(f"launch/{number}"),
    )
    ranks = LocalRanks(assignment)
    orders = events = 0
    try:
        while ranks.any_running:
            for ended in ranks.poll():
                _tell(team, number, events, asdict(ended))
                events += 1
            while (order := team.read(f"launch/{number}/order/{orders}")) is not None:
                ranks.signal(order["signal"], order["group"])
                orders += 1
            time.sleep(POLL_S)
    finally:
        ranks.close()


def _tell(team: Team, number: int, place: int, event: dict[str, Any]) -> None:
    team.write(f"launch/{number}/event/{team.peers.rank}/{place}", event)
