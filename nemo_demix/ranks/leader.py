"""Starts a stage's ranks, here and on the other nodes of the team, and reports what became of them."""

import logging
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nemo_demix.artifacts import write_json, write_text
from nemo_demix.config import DemixConfig, ParallelConfig, save_resolved
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.progress import doing
from nemo_demix.ranks import stopping
from nemo_demix.ranks.placement import Placement, place
from nemo_demix.ranks.processes import Assignment, Ended, LocalRanks
from nemo_demix.ranks.said import Relay
from nemo_demix.ranks.team import POLL_S, this_team
from nemo_demix.runtime.lifetime import STOP
from nemo_demix.search.layout import group_layout

logger = logging.getLogger(__name__)
_GRACE_S = 150.0  # to save a checkpoint; slurm/*.sbatch ask for a warning 180 s before the time limit


class RankFailure(RuntimeError):
    """A rank ended with an error that is not the user's mistake; its trace is in its log."""


def launch(config: DemixConfig, label: str, task: dict[str, Any]) -> None:
    """Run a task on all ranks and wait for it.

    Args:
        label: The stage, and the part of it where several run side by side: names the folder of logs.
    Raises:
        DemixError: the user's mistake that a rank found.
        RankFailure: any other failure of a rank.
        Stopped: if this process was told to stop; a training run has saved a checkpoint.
    """
    with start_ranks_of(config, label, task, config.parallel, 1) as running:
        running.wait()


@contextmanager
def start_ranks_of(
    config: DemixConfig, label: str, task: dict[str, Any], layout: ParallelConfig, num_groups: int
) -> Iterator["Running"]:
    """Start a task on groups of ranks; when this is left, none of them runs any more.

    The resolved configuration is saved for the run, and with a group's layout for the ranks, which read that file. What
    rank 0 says is shown here; everything else that the ranks print goes to `logs/<label>/rank_<n>.log`.

    Args:
        layout: Layout of all ranks: the configuration's own, or that of scoring proxies.
    Raises:
        ConfigError: if the layout does not fit the team, or its nodes do not share the run's folder.
    """
    team = this_team()
    members = team.members()
    placement = place(layout, num_groups, members)
    for member in team.skewed():
        logger.warning(
            "the clock of %s is %.0f s ahead of this node's: times in logs differ", member.host, member.skew_s
        )
    logs = config.run_dir.resolve() / "logs" / label
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("error_*.txt"):
        old.unlink()
    save_resolved(config, config.run_dir / "config.yaml")
    ranks_config = logs / "config.yaml"
    save_resolved(replace(config, parallel=group_layout(layout, num_groups)), ranks_config)
    write_json(logs / "task.json", {**task, "wanted": time.time()})
    sentinel = uuid.uuid4().hex
    write_text(logs / "sentinel.txt", sentinel)

    doing(logger, f"{label}: starting {placement.num_ranks} ranks")
    number = team.next_launch()
    assignment = Assignment(
        number=number,
        config=ranks_config,
        logs=logs,
        placement=placement,
        agent=0,
        host_place=members[0].place,
        address=team.address,
        port=team.store.port,
        seal=team.seal.derived(f"launch/{number}"),
    )
    running = Running(assignment)
    try:
        if placement.num_agents > 1:
            message = {"config": str(ranks_config), "logs": str(logs), "sentinel": sentinel}
            team.write(f"launch/{number}", message | {"placement": placement.to_json()})
        yield running
    finally:
        running.close()


class Running:
    """The ranks of one launch.

    Attributes:
        dead: The first failure of each group that failed, by group.
        seal: Seal of the messages between the command and these ranks.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.placement: Placement = assignment.placement
        self.dead: dict[int, Ended] = {}
        self._number, self._logs = assignment.number, assignment.logs
        self._team = this_team()
        self._ended: dict[int, Ended] = {}
        self.seal = assignment.seal
        self._events = dict.fromkeys(range(1, assignment.placement.num_agents), 0)
        self._orders = 0
        self._stopping_since: float | None = None
        self._said = Relay(assignment.logs)
        self._local = LocalRanks(assignment)

    @property
    def prefix(self) -> str:
        """What this launch's keys in the team's store begin with."""
        return f"launch/{self._number}"

    @property
    def all_ended(self) -> bool:
        """Whether no rank runs any more."""
        return len(self._ended) == self.placement.num_ranks

    def wait(self) -> None:
        """Wait until all ranks have ended well. Raises as `launch` does."""
        with stopping.deferred():
            while not self.all_ended:
                self.poll()
                if self.dead:
                    raise self.failure(next(iter(self.dead)))
                time.sleep(POLL_S)

    def wait_for_living(self) -> None:
        """Wait until the ranks of all groups that have not failed have ended. Raises as `launch` does."""
        while not self.all_ended:
            self.poll()
            time.sleep(POLL_S)

    def poll(self) -> None:
        """See which ranks have ended. A rank that fails ends its group.

        Raises:
            DemixError: the user's mistake that a rank found.
            Stopped: if this process was told to stop, and the ranks have.
        """
        found = [*self._local.poll(), *self._remote()]
        self._said.relay()  # what ranks said before they ended is there
        for ended in found:
            self._take(ended)
        number = stopping.requested()
        if number is None:
            return
        if self._stopping_since is None:
            logger.info("%s: stopping", signal.Signals(number).name)
            self._stopping_since = time.monotonic()
            self.signal(STOP)
        if self.all_ended or time.monotonic() - self._stopping_since > _GRACE_S:
            raise stopping.Stopped(number)

    def signal(self, number: int, group: int | None = None) -> None:
        """Send a signal to the ranks of a group, or to all."""
        self._local.signal(number, group)
        if self.placement.num_agents > 1:
            self._team.write(f"{self.prefix}/order/{self._orders}", {"signal": int(number), "group": group})
            self._orders += 1

    def failure(self, group: int) -> RankFailure:
        """Return what became of a group that failed."""
        ended = self.dead[group]
        log = self._logs / f"rank_{ended.rank}.log"
        return RankFailure(f"rank {ended.rank} {_how(ended)}; the end of {log}:\n{ended.tail}")

    def close(self) -> None:
        """Kill what still runs, here and elsewhere."""
        if not self.all_ended and self.placement.num_agents > 1:
            self.signal(signal.SIGKILL)
        self._local.close()
        self._said.close()

    def _take(self, ended: Ended) -> None:
        self._ended[ended.rank] = ended
        if self._stopping_since is not None:
            if ended.code not in (0, 128 + signal.SIGTERM):
                logger.info("rank %d %s while it was stopped", ended.rank, _how(ended))
            return
        if ended.code == 0:
            return
        if ended.error is not None:
            raise DemixError(ended.error)
        group = self.placement.group_of(ended.rank)
        if group not in self.dead:
            self.dead[group] = ended
            self.signal(signal.SIGKILL, group)  # the others would wait for it in a collective

    def _remote(self) -> list[Ended]:
        found = []
        for agent in self._events:
            while (event := self._team.read(f"{self.prefix}/event/{agent}/{self._events[agent]}")) is not None:
                self._events[agent] += 1
                if "not_shared" in event:
                    host = self._team.members()[agent].host
                    raise ConfigError(
                        f"{event['not_shared']}: written here, but not seen by {host} within 30 s; runs_dir must be on "
                        "a file system that all nodes share"
                    )
                found.append(Ended(**event))
        return found


def _how(ended: Ended) -> str:
    return (
        f"was killed by {signal.Signals(-ended.code).name}" if ended.code < 0 else f"ended with exit code {ended.code}"
    )
