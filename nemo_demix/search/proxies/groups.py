"""Proxies made and scored by groups of ranks, as the search sees them.

The search runs in a process of its own and knows no rank. It sends requests (JSON) to groups; every rank of a group
reads the same request and does its part (`nemo_demix.search.proxies.serve`); the group's rank 0 replies.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.progress import Progress, tell
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.proxies.base import Evaluation

logger = logging.getLogger(__name__)
Request = dict[str, Any]
Reply = tuple[dict[str, Any], np.ndarray | None]


class Groups(Protocol):
    """Groups of ranks that serve requests."""

    def run(self, chunks: Sequence[Sequence[Request]]) -> Iterator[tuple[int, int, Reply]]:
        """Have all requests served: (chunk, place in it, reply), as they come. A chunk is one group's, in its order."""


class GroupProxies:
    """Proxies of one kind, by groups of ranks.

    Args:
        kind: merge | trained.
        suite: What they are scored on, of benchmarks used for `uses`.
        chunk: So many mixtures go to one group at a time; 0: all to the first.
    """

    def __init__(self, kind: str, suite: Suite, uses: Collection[str] | None, groups: Groups, chunk: int) -> None:
        self.kind, self.suite = kind, suite
        self._uses = None if uses is None else list(uses)
        self._groups, self._chunk = groups, chunk

    def evaluate(self, mixtures: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, Evaluation | ScoreError]]:
        """See `Proxies.evaluate`; which group a mixture goes to does not change what it gives."""
        size = self._chunk or max(1, len(mixtures))
        chunks = [
            [dict(weights) for weights in mixtures[start : start + size]] for start in range(0, len(mixtures), size)
        ]
        requests = [
            [
                {"kind": self.kind, "uses": self._uses, "weights": weights, "announce": [] if place else chunk}
                for place, weights in enumerate(chunk)
            ]
            for chunk in chunks
        ]
        for number, place, (told, packed) in self._groups.run(requests):
            index = number * size + place
            if "error" in told:
                yield index, ScoreError(told["error"])
            else:
                assert packed is not None
                yield index, Evaluation.unpack(told, packed)


def score_components_by(groups: Groups, uses: Collection[str] | None, names: Sequence[str]) -> None:
    """Have components' log-probabilities stored, for `PredictionProxies`.

    Raises:
        ScoreError: if a component's scores are not finite.
    """
    request = {"kind": "predictions", "uses": None if uses is None else list(uses)}
    tell(logger, Progress("search: scoring components", 0, len(names), "component", is_line=False))
    replies = groups.run([[{**request, "component": name}] for name in names])
    for done, (_, _, (told, _)) in enumerate(replies, 1):
        if "error" in told:
            raise ScoreError(told["error"])
        tell(logger, Progress("search: scoring components", done, len(names), "component", is_line=False))
