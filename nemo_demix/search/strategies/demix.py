"""DeMix's own search, and the two searches over trained proxies that are special cases of its steps.

`regmix` is one step and the mean of the top; `climb` takes the same steps and ends with the single best prediction.
Both mix datasets and train each proxy.
"""

from collections.abc import Sequence

import numpy as np

from nemo_demix.mixture import Array
from nemo_demix.search.choose import (
    DRAW_STREAM,
    FIRST_STREAM,
    POOL_STREAM,
    Choice,
    RankedPool,
    best_mean,
    describe,
    draw,
    rank_pool,
)
from nemo_demix.search.ranking import Ranking, Row
from nemo_demix.search.select import draw_next
from nemo_demix.search.strategies.base import Problem


class Resampling:
    """Sample, score, fit, predict a pool, resample from its top, and again; the mixture is the mean of the last top.

    Args:
        iterations: Proxies of each step.
        select_top: The mixture is the mean of so many.
    Source: DeMix §2.4 and Table 3.
    """

    def __init__(self, problem: Problem, iterations: Sequence[int], select_top: int) -> None:
        self._problem, self._iterations, self._select_top = problem, list(iterations), select_top
        self._rows: list[Row] = list(problem.prior_rows)
        self._step = 0

    @property
    def num_proxies(self) -> int:
        """Of all steps."""
        return sum(self._iterations)

    def ask(self) -> list[Array]:
        """The next step's mixtures: at random first, then from the top 2 % of a fresh pool."""
        if self._step == len(self._iterations):
            return []
        settings, space, seed = self._problem.settings, self._problem.space, self._problem.seed
        count, step = self._iterations[self._step], self._step
        self._step += 1
        if step == 0:
            return list(draw(settings, space, count, [seed, 0, FIRST_STREAM]))
        pool = rank_pool(*self._pool(step))
        scored_MC = np.array([space.as_array(row["merge_weights"]) for row in self._rows])
        rng = np.random.default_rng([seed, step, DRAW_STREAM])
        return list(draw_next(pool.weights_MC, pool.objective_M, settings.resample_top, count, scored_MC, rng))

    def tell(self, rows: Sequence[Row]) -> None:
        """Add a step's rows."""
        self._rows += rows

    def result(self) -> Choice:
        """The mean of the top of the last pool."""
        ranking, pool, weights_C = self._last()
        return describe(ranking, pool, weights_C)

    def chosen(self) -> Array:
        """The result's weights alone, shape (C,), without what else is said of them."""
        return self._last()[2]

    def _last(self) -> tuple[Ranking, RankedPool, Array]:
        ranking, pool_MC = self._pool(self._step)
        pool = rank_pool(ranking, pool_MC)
        return ranking, pool, best_mean(ranking, pool, self._select_top)

    def _pool(self, step: int) -> tuple[Ranking, Array]:
        settings, space, seed = self._problem.settings, self._problem.space, self._problem.seed
        ranking = Ranking(settings, space, self._rows, seed)
        return ranking, draw(settings, space, settings.pool_size, [seed, step, POOL_STREAM])


def demix(problem: Problem) -> Resampling:
    """The paper's three iterations over merged proxies."""
    return Resampling(problem, problem.settings.iterations, problem.settings.select_top)


def regmix(problem: Problem) -> Resampling:
    """All proxies drawn at once, as many as `search.iterations` has in all (RegMix, arXiv:2407.01492)."""
    return Resampling(problem, [sum(problem.settings.iterations)], problem.settings.select_top)


def climb(problem: Problem) -> Resampling:
    """Iterations, then the single best prediction (CLIMB, arXiv:2504.13161)."""
    return Resampling(problem, problem.settings.iterations, 1)
