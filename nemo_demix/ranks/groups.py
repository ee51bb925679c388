"""Groups of ranks that score different proxies at once, served from one list by the process of the search.

Each group is a world of its own: one that dies takes no other with it, and what it was at goes back on the list. What a
request gives does not depend on the group, so neither does a search's result.

Keys of the store, under the launch's: `group/<g>/request/<i>` (JSON) and `group/<g>/reply/<i>` (a line of JSON, then
the array as .npy). All are sealed (`seal.py`); a reply is taken once, and only where its request was made.
"""

import io
import itertools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from nemo_demix.config import DemixConfig, ParallelConfig
from nemo_demix.errors import ClusterError
from nemo_demix.ranks.leader import Running, start_ranks_of
from nemo_demix.ranks.seal import Seal
from nemo_demix.ranks.team import this_team
from nemo_demix.search.layout import proxy_groups, proxy_layout
from nemo_demix.search.proxies.groups import Reply, Request

logger = logging.getLogger(__name__)
_POLL_S = 0.01
_IDLE_POLL_S = 0.2
_MAX_DEATHS = 2  # of groups, after which a request is taken for their cause


@dataclass
class _Chunk:
    """Requests that one group serves one after another."""

    number: int
    requests: Sequence[Request]
    served: int = 0
    deaths: int = 0


@dataclass
class _Group:
    """What a group is at."""

    sent: int = 0
    chunk: _Chunk | None = None


@dataclass
class RankGroups:
    """The groups of one stage; no rank is started before the first request.

    Args:
        label: Names the folder of logs.
        num_groups: Number of groups; 1 where requests need all ranks together.
        layout: Layout of all their ranks; None: the configuration's own.
    """

    config: DemixConfig
    label: str
    num_groups: int
    layout: ParallelConfig | None = None
    _running: Running | None = None
    _groups: dict[int, _Group] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of_proxies(cls, config: DemixConfig, label: str) -> "RankGroups":
        """Return as many groups as the configuration has for scoring proxies, in their own layout."""
        return cls(config, label, proxy_groups(config), proxy_layout(config))

    def __enter__(self) -> "RankGroups":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        running = self._running
        if running is not None and error is None:
            for group in self._groups:
                self._send(running, group, None)
            running.wait_for_living()
        self._stack.close()

    def run(self, chunks: Sequence[Sequence[Request]]) -> Iterator[tuple[int, int, Reply]]:
        """See `nemo_demix.search.proxies.groups.Groups`.

        Raises:
            DemixError: the user's mistake that a rank found.
            RankFailure: if no group is left.
        """
        if self._running is None:
            task = {"task": "serve"}
            layout = self.layout or self.config.parallel
            ranks = start_ranks_of(self.config, self.label, task, layout, self.num_groups)
            self._running = self._stack.enter_context(ranks)
            self._groups = {group: _Group() for group in range(self.num_groups)}
        running = self._running
        waiting = deque(_Chunk(number, requests) for number, requests in enumerate(chunks) if requests)
        while waiting or any(group.chunk for group in self._groups.values()):
            running.poll()
            yield from self._bury(running, waiting)
            came = False
            for number, group in self._groups.items():
                if group.chunk is None and waiting:
                    group.chunk = waiting.popleft()
                    self._send(running, number, group.chunk.requests[group.chunk.served])
                reply = self._reply(running, number) if group.chunk is not None else None
                if reply is not None:
                    came = True
                    yield self._take(running, number, reply)
            if not came:
                time.sleep(_POLL_S)

    def _take(self, running: Running, number: int, reply: Reply) -> tuple[int, int, Reply]:
        group = self._groups[number]
        chunk = group.chunk
        assert chunk is not None
        place, chunk.served = chunk.served, chunk.served + 1
        if chunk.served < len(chunk.requests):
            self._send(running, number, chunk.requests[chunk.served])
        else:
            group.chunk = None
        return chunk.number, place, reply

    def _bury(self, running: Running, waiting: deque[_Chunk]) -> Iterator[tuple[int, int, Reply]]:
        """Take what dead groups were at back on the list; give up a request that groups die of."""
        for number in [number for number in self._groups if number in running.dead]:
            chunk = self._groups.pop(number).chunk
            failure = running.failure(number)
            if not self._groups:
                raise failure
            logger.warning("group %d died, %d go on: %s", number, len(self._groups), str(failure).splitlines()[0])
            if chunk is None:
                continue
            chunk.deaths += 1
            if chunk.deaths < _MAX_DEATHS:
                waiting.appendleft(_Chunk(chunk.number, self._again(chunk), chunk.served, chunk.deaths))
                continue
            told = {"error": f"{chunk.deaths} groups of ranks died of it; the last: {failure}"}
            yield chunk.number, chunk.served, (told, None)
            if chunk.served + 1 < len(chunk.requests):
                waiting.appendleft(_Chunk(chunk.number, self._again(chunk), chunk.served + 1))

    @staticmethod
    def _again(chunk: _Chunk) -> list[Request]:
        """Return the chunk for a group that has not heard its first request, which announces the others."""
        return [{**request, "announce": chunk.requests[0].get("announce", [])} for request in chunk.requests]

    def _send(self, running: Running, number: int, request: Request | None) -> None:
        group, store = self._groups[number], this_team().store
        prefix = f"{running.prefix}/group/{number}"
        for index, what in ((group.sent, "was not asked for"), (group.sent - 1, "came twice")):
            if store.check([f"{prefix}/reply/{index}"]):
                raise ClusterError(
                    f"{prefix}/reply/{index}: a reply that {what}; another process writes into this run's store. The "
                    "run ends here, what it has scored is kept: look at who else is on this machine, and run again"
                )
        key = f"{prefix}/request/{group.sent}"
        store.set(key, running.seal.close(key, json.dumps(request).encode()))  # type: ignore[arg-type]  # bytes do
        group.sent += 1

    def _reply(self, running: Running, number: int) -> Reply | None:
        store = this_team().store
        key = f"{running.prefix}/group/{number}/reply/{self._groups[number].sent - 1}"
        if not store.check([key]):
            return None
        line, _, array = running.seal.open(key, store.get(key)).partition(b"\n")
        store.delete_key(key)
        return json.loads(line), np.load(io.BytesIO(array), allow_pickle=False) if array else None


class StoreChannel:
    """A rank's end: it looks for requests by itself, since a collective would time out while the search is thinking."""

    def __init__(self, group: int) -> None:
        from torch.distributed import TCPStore

        self._store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self._seal = Seal.from_environment()
        launch = os.environ["NEMO_DEMIX_WORLD"].split("/")[1]
        self._prefix = f"launch/{launch}/group/{group}"
        self._index = -1

    def next(self) -> Request | None:
        """See `nemo_demix.search.proxies.groups.Channel`.

        Raises:
            ClusterError: if the command did not write it.
        """
        self._index += 1
        key = f"{self._prefix}/request/{self._index}"
        for waited in itertools.count():
            if self._store.check([key]):
                request: Request | None = json.loads(self._seal.open(key, self._store.get(key)))
                return request
            time.sleep(_POLL_S if waited < 100 else _IDLE_POLL_S)
        raise AssertionError("unreachable")

    def reply(self, reply: Reply) -> None:
        """See `nemo_demix.search.proxies.groups.Channel`."""
        told, array = reply
        buffer = io.BytesIO()
        if array is not None:
            np.save(buffer, array, allow_pickle=False)
        key = f"{self._prefix}/reply/{self._index}"
        message = json.dumps(told).encode() + b"\n" + buffer.getvalue()
        self._store.set(key, self._seal.close(key, message))  # type: ignore[arg-type]  # bytes are taken as they are
