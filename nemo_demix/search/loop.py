"""The loop of every search: a strategy asks for mixtures, they are scored, it is told, until it has its mixture.

Nothing here knows how a mixture is chosen (the strategy does) or scored (`evaluate` does). A mixture that the log holds
is not scored again, so a search that was cut off and one that was not end in the same bytes.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemo_demix.errors import ScoreError
from nemo_demix.search.choose import Choice
from nemo_demix.search.score_log import Row, ScoreLog
from nemo_demix.search.strategies.base import Problem, Strategy

logger = logging.getLogger(__name__)
Evaluate = Callable[[Mapping[str, float]], dict[str, Any]]  # merge weights -> {scores, capabilities, *_time_s}
Announce = Callable[[list[dict[str, float]]], None]  # the merge weights that will be evaluated next


@dataclass(frozen=True)
class SearchResult:
    """The mixture and every proxy that it asked for."""

    choice: Choice
    rows: list[Row]  # the OK ones, in order
    num_failed: int


def run_loop(
    problem: Problem,
    strategy: Strategy,
    log: ScoreLog,
    evaluate: Evaluate,
    announce: Announce = lambda mixtures: None,
) -> SearchResult:
    """Ask, score and tell until the strategy is done.

    Raises:
        ScoreError: if more than `search.max_failed_share` of the proxies of one step failed.
        DemixError: if the strategy cannot choose.
    """
    limit = problem.settings.max_failed_share
    rows: list[Row] = []
    num_failed = step = 0
    progress = _Progress(strategy.num_proxies)
    while batch := [problem.space.as_weights(weights_C) for weights_C in strategy.ask()]:
        announce([mixture for mixture in batch if log.find(mixture) is None])
        told: list[Row] = []
        failed: list[Row] = []
        for mixture in batch:
            name = f"mix_{len(rows) + num_failed + len(told) + len(failed)}"
            row = score_proxy(log, evaluate, step, name, mixture)
            (told if row["status"] == "OK" else failed).append(row)
            progress.tell(step, row)
        rows += told
        num_failed += len(failed)
        if len(failed) > limit * len(batch):
            raise ScoreError(
                f"iteration {step}: {len(failed)} of {len(batch)} proxies failed, more than search.max_failed_share="
                f"{limit:g}; the first with: {failed[0]['reason']}"
            )
        strategy.tell(told)
        step += 1
    return SearchResult(strategy.result(), rows, num_failed)


def score_proxy(
    log: ScoreLog, evaluate: Evaluate, iteration: int | None, name: str, merge_weights: dict[str, float]
) -> Row:
    """The proxy's row: from the log if it is there, else scored now. A failure is a row too, with its reason."""
    found = log.find(merge_weights)
    if found is not None:
        return found
    row: dict[str, Any] = {"iteration": iteration, "name": name, "merge_weights": merge_weights}
    try:
        row |= {"status": "OK", "reason": None, **evaluate(merge_weights)}
    except ScoreError as error:
        row |= {"status": "FAILED", "reason": str(error)}
        logger.warning("%s FAILED: %s", name, error)
    return log.append(row)


class _Progress:
    """One line a few proxies: how many, the best so far, the rate, the ETA. Rows read from the log count as done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._best = float("inf")
        self._started = self._spoke = time.monotonic()

    def tell(self, iteration: int, row: Row) -> None:
        self._done += 1
        if row["status"] == "OK":
            self._best = min(self._best, float(np.mean([c["score"] for c in row["capabilities"].values()])))
        now = time.monotonic()
        if now - self._spoke < 15 and self._done < self._total:
            return
        rate = self._done / (now - self._started)
        self._spoke = now
        logger.info(
            "search: iteration %d, proxy %d/%d, best macro %.4f bits/byte, %.0f proxies/min, ETA %.0f s",
            iteration,
            self._done,
            self._total,
            self._best,
            60 * rate,
            (self._total - self._done) / rate,
        )
