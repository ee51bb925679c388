"""The loop of every search: a strategy asks for mixtures, they are scored, it is told, until it has its mixture.

Nothing here knows how a mixture is chosen (the strategy does) or scored (`Proxies` do). A mixture that the log holds
is not scored again, so a search that was cut off and one that was not end in the same mixture; nor does it matter in
which order the mixtures of one step are finished.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nemo_demix.artifacts import write_json
from nemo_demix.errors import ScoreError
from nemo_demix.progress import LINE_EVERY_S, Progress, doing, tell
from nemo_demix.scoring.items import Scores
from nemo_demix.scoring.scores import macro
from nemo_demix.search.choose import Choice
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.score_log import ScoreLog
from nemo_demix.search.strategies.base import Problem, Strategy

if TYPE_CHECKING:
    from nemo_demix.search.proxies.base import Proxies

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """The mixture and every proxy that it asked for."""

    choice: Choice
    rows: list[ProxyRow]  # the OK ones, in order
    num_failed: int


class Search:
    """A search by asking and telling, step by step: what `run_loop` drives, and `nemo_demix.Study`.

    Attributes:
        rows: Rows told so far that have scores, in order.
        num_failed: How many of the rows told so far have none.
        step: Which step is asked for next, counted from 0.
    """

    def __init__(self, problem: Problem, strategy: Strategy) -> None:
        self.rows: list[ProxyRow] = []
        self.num_failed = self.step = 0
        self._problem, self._strategy = problem, strategy

    def ask(self) -> dict[str, dict[str, float]]:
        """Return the next step's mixtures by name, each by component; empty: the strategy has all that it wants."""
        start = len(self.rows) + self.num_failed
        batch_MC = self._strategy.ask()
        return {f"mix_{start + place}": self._problem.space.as_weights(row_C) for place, row_C in enumerate(batch_MC)}

    def tell(self, scored: Sequence[ProxyRow]) -> None:
        """Take the rows of the mixtures asked for last, in their order, FAILED ones too.

        Raises:
            ScoreError: if more than `search.max_failed_share` of them failed.
        """
        limit = self._problem.settings.max_failed_share
        told = [row for row in scored if row.is_ok]
        failed = [row for row in scored if not row.is_ok]
        self.rows += told
        self.num_failed += len(failed)
        if len(failed) > limit * len(scored):
            raise ScoreError(
                f"iteration {self.step}: {len(failed)} of {len(scored)} proxies failed, more than "
                f"search.max_failed_share={limit:g}; the first with: {failed[0].reason}"
            )
        doing(logger, f"search: fitting the predictor on {len(self.rows)} proxies")
        self._strategy.tell(told)
        self.step += 1

    def result(self) -> SearchResult:
        """Return the mixture.

        Raises:
            DemixError: if the strategy cannot choose.
        """
        doing(logger, "search: choosing the mixture, and how sure it is")
        return SearchResult(self._strategy.result(), self.rows, self.num_failed)


def run_loop(
    problem: Problem,
    strategy: Strategy,
    log: ScoreLog,
    proxies: "Proxies",
) -> SearchResult:
    """Ask, score and tell until the strategy is done.

    Raises:
        ScoreError: if more than `search.max_failed_share` of the proxies of one step failed.
        DemixError: if the strategy cannot choose.
    """
    search = Search(problem, strategy)
    progress = _Progress(strategy.num_proxies(problem.settings))
    while mixtures := search.ask():
        search.tell(score_proxies(log, proxies, search.step, mixtures, partial(progress.tell, search.step)))
    return search.result()


def score_proxies(
    log: ScoreLog,
    proxies: "Proxies",
    iteration: int | None,
    mixtures: Mapping[str, Mapping[str, float]],
    tell: Callable[[ProxyRow], None] = lambda row: None,
) -> list[ProxyRow]:
    """Return the proxies' rows, in the order of the mixtures: from the log if they are there, else scored now.

    A row is logged as soon as its proxy is scored, with lm-eval's own results, if any, as `lm_eval/<name>.json` beside.
    A failure is a row too, with its reason. Of the same mixture twice, the first is scored.

    Args:
        mixtures: Merge weights, by name.
        tell: Called with every row as it is there.
    """
    todo: dict[str, Mapping[str, float]] = {}
    for name, weights in mixtures.items():
        if (known := log.find(weights)) is not None:
            tell(known)
        elif weights not in todo.values():
            todo[name] = weights
    names = list(todo)
    for place, found in proxies.evaluate(list(todo.values())) if todo else ():
        name = names[place]
        if isinstance(found, ScoreError):
            row = ProxyRow(name, dict(todo[name]), iteration, reason=str(found))
            logger.warning("%s FAILED: %s", name, found)
        else:
            row = found.row(proxies.suite, name, todo[name], iteration)
            if found.result.lm_eval is not None:
                assert log.path is not None, "models are scored in a run's folder"
                write_json(log.path.parent / "lm_eval" / f"{name}.json", found.result.lm_eval)
        tell(log.append(row))
    rows = [log.find(weights) for weights in mixtures.values()]
    assert None not in rows, "every mixture was scored"
    return [row for row in rows if row is not None]


class _Progress:
    """One line a few proxies: how many, the best so far, the rate, the ETA. Rows read from the log count as done.

    The first row is left out of the rate: ranks may have to be started for it.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._best: float | None = None
        self._unit: str | None = ""
        self._first: float | None = None
        self._spoke = time.monotonic()

    def tell(self, iteration: int, row: ProxyRow) -> None:
        self._done += 1
        if row.is_ok:
            self._note(row.capabilities)
        now = time.monotonic()
        if self._first is None:
            self._first = self._spoke = now
            return
        speaks = now - self._spoke >= LINE_EVERY_S or self._done >= self._total
        if speaks:
            self._spoke = now
        rate = (self._done - 1) / max(now - self._first, 1e-9)
        best = "" if self._best is None else f", best macro {self._best:.4f} {self._unit}"
        left = (self._total - self._done) / rate
        tell(
            logger,
            Progress(
                "search", self._done, self._total, "proxy", f"iteration {iteration}{best}",
                f"{60 * rate:.0f} proxies/min", left, is_line=speaks,
            ),
        )  # fmt: skip

    def _note(self, capabilities: Scores) -> None:
        """Note the best macro score so far, where the capabilities are of one unit: others have no mean."""
        if len(kinds := {(score.unit, score.higher_is_better) for score in capabilities.values()}) > 1:
            return
        ((self._unit, higher_is_better),) = kinds
        value = macro(capabilities)
        if self._best is None or (value > self._best if higher_is_better else value < self._best):
            self._best = value
