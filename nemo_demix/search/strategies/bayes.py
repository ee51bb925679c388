"""Bayesian search: fewer proxies, each batch where the predictor's lower bound on the objective is lowest."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ConfigError, DemixError
from nemo_demix.mixture import Array
from nemo_demix.search.choose import FIRST_STREAM, POOL_STREAM, Choice, best_mean, describe, draw
from nemo_demix.search.objective import LINEAR
from nemo_demix.search.pool import counted_from, wide_draw, wide_pool
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.refine import choose_refined
from nemo_demix.search.select import spread_rows
from nemo_demix.search.strategies.base import Problem, Screen, Strategy

BOUND = 1.0  # standard deviations below the prediction: what a mixture could be, if the predictor is too pessimistic
_SPACING = 0.1  # least L1 distance between proxies of a batch and from scored ones: nearer ones tell little more


class Bayes(Strategy):
    """Asks for random mixtures, then for batches by their acquisition: the objective of optimistic predictions.

    The bound is taken on capability averages, before the objective, so that it serves every objective, ranks included.
    The members of a batch keep a distance from each other (a local penalty), since they are chosen from one fit.
    """

    name: ClassVar[str] = "bayes"

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        self._settings = problem.settings.bayes
        self._asked = self._step = 0

    @classmethod
    def section_errors(cls, settings: SearchConfig) -> Iterator[DemixError]:
        """Yield errors for numbers of proxies that do not go together."""
        own = settings.bayes
        if not 1 <= own.initial <= own.budget or own.batch < 1 or own.candidates < own.batch:
            yield ConfigError(
                "search.bayes: expected 1 <= initial <= budget, batch >= 1 and candidates >= batch, found "
                f"initial={own.initial}, budget={own.budget}, batch={own.batch}, candidates={own.candidates}"
            )

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many mixtures it asks for in all: its budget."""
        return settings.bayes.budget

    def ask(self) -> list[Array]:
        """Return the initial mixtures, then the next batch, each of shape (C,); none where the budget is spent."""
        settings, space, seed = self._problem.settings, self._problem.space, self._problem.seed
        step, first = self._step, self._asked == 0
        count = min(self._settings.initial if first else self._settings.batch, self._settings.budget - self._asked)
        self._step += 1
        self._asked += count
        if not count:
            return []
        if first:
            return list(draw(settings, space, count, [seed, 0, FIRST_STREAM]))
        ranking = Ranking(settings, space, self._rows, seed)
        candidates_MC = wide_draw(settings, space, self._settings.candidates, [seed, step, POOL_STREAM])
        if ranking.floors or ranking.heldout:  # tight ones may be met by no draw, and are by what they are counted from
            candidates_MC = np.vstack([candidates_MC, counted_from(settings, space)])
        return list(spread_rows(*self._acquisition(ranking, candidates_MC), count, _SPACING, ranking.scored.weights_MC))

    def result(self) -> Choice:
        """Return what the last fit's predictions are least at, without any bound; of ranks, the mean of a
        pool's top.
        """
        settings, space = self._problem.settings, self._problem.space
        seed, step = self._problem.seed, self._step
        if settings.objective in LINEAR:
            return choose_refined(settings, space, self._rows, seed, step)
        ranking = Ranking(settings, space, self._rows, seed)
        pool = wide_pool(ranking, step)
        return describe(ranking, pool, best_mean(ranking, pool, settings.select_top))

    def _acquisition(self, ranking: Ranking, candidates_MC: Array) -> tuple[Array, Array]:
        """Return candidates that could be above the floors, and the objective of what they could be."""
        means, stds = ranking.averages(candidates_MC), ranking.averages_std(candidates_MC)
        optimistic = {
            name: means[name] + (BOUND if ranking.scales[name].higher_is_better else -BOUND) * stds[name]
            for name in means
        }
        kept_M = ranking.kept(candidates_MC, optimistic, BOUND)
        if not kept_M.any():
            raise ranking.nearest_miss(optimistic)
        return candidates_MC[kept_M], ranking.objective({name: values[kept_M] for name, values in optimistic.items()})
