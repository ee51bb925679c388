"""DeMix's own search, and the two searches over trained proxies that are special cases of its steps.

`regmix` is one step and the mean of the top; `climb` takes the same steps and ends with the single best prediction.
Both mix datasets and train each proxy.
"""

from typing import ClassVar, Literal

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.mixture import Array
from nemo_demix.search.choose import (
    DRAW_STREAM,
    FIRST_STREAM,
    POOL_STREAM,
    Choice,
    RankedPool,
    best_mean,
    choose_from_rows,
    describe,
    draw,
    rank_pool,
)
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.select import draw_next
from nemo_demix.search.strategies.base import TRAINED, FromRows, Problem, Screen, Strategy
from nemo_demix.search.strategies.screened import Screened


class Resampling(Strategy):
    """Sample, score, fit, predict a pool, resample from its top, and again; the mixture is the mean of the last top.

    Source: DeMix §2.4 and Table 3.
    """

    is_iterated: ClassVar[bool] = True

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        self._iterations = self.steps(problem.settings)
        self._select_top = problem.settings.select_top
        self._step = 0

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many proxies all steps have together."""
        return sum(settings.iterations)

    @staticmethod
    def steps(settings: SearchConfig) -> list[int]:
        """Return proxies of each step."""
        return list(settings.iterations)

    def ask(self) -> list[Array]:
        """Return the next step's mixtures, each of shape (C,): at random first, then from the top of a fresh pool."""
        if self._step == len(self._iterations):
            return []
        settings, space, seed = self._problem.settings, self._problem.space, self._problem.seed
        count, step = self._iterations[self._step], self._step
        self._step += 1
        if step == 0:
            return list(draw(settings, space, count, [seed, 0, FIRST_STREAM]))
        pool = rank_pool(*self._pool(step))
        scored_MC = np.array([space.as_array(row.merge_weights) for row in self._rows])
        rng = np.random.default_rng([seed, step, DRAW_STREAM])
        return list(draw_next(pool.weights_MC, pool.objective_M, settings.resample_top, count, scored_MC, rng))

    def result(self) -> Choice:
        """Return the mean of the top of the last pool."""
        ranking, pool, weights_C = self._last()
        return describe(ranking, pool, weights_C)

    def chosen(self) -> Array:
        """Return the result's weights alone, shape (C,), without what else is said of them."""
        return self._last()[2]

    def _last(self) -> tuple[Ranking, RankedPool, Array]:
        ranking, pool_MC = self._pool(self._step)
        pool = rank_pool(ranking, pool_MC)
        return ranking, pool, best_mean(ranking, pool, self._select_top)

    def _pool(self, step: int) -> tuple[Ranking, Array]:
        settings, space, seed = self._problem.settings, self._problem.space, self._problem.seed
        ranking = Ranking(settings, space, self._rows, seed)
        return ranking, draw(settings, space, settings.pool_size, [seed, step, POOL_STREAM])


class Demix(Resampling):
    """The paper's three iterations over proxies of the components."""

    name: ClassVar[str] = "demix"
    proxies: ClassVar[tuple[str, ...]] = ("merge", "predictions", "both")
    from_rows: ClassVar[FromRows | None] = staticmethod(choose_from_rows)

    @classmethod
    def variant(cls, settings: SearchConfig) -> type[Strategy]:
        """Return the class itself; `Screened` where both kinds of proxy are asked for: predictions screen, merges
        confirm.
        """
        return Screened if settings.proxy == "both" else cls


class RegMix(Resampling):
    """All proxies drawn at once, as many as `search.iterations` has in all (RegMix, arXiv:2407.01492)."""

    name: ClassVar[str] = "regmix"
    mixes: ClassVar[Literal["components", "datasets"]] = "datasets"
    proxies: ClassVar[tuple[str, ...]] = (TRAINED,)
    from_rows: ClassVar[FromRows | None] = staticmethod(choose_from_rows)

    @staticmethod
    def steps(settings: SearchConfig) -> list[int]:
        """Return all proxies in one step."""
        return [sum(settings.iterations)]


class Climb(Resampling):
    """Iterations, then the single best prediction (CLIMB, arXiv:2504.13161)."""

    name: ClassVar[str] = "climb"
    mixes: ClassVar[Literal["components", "datasets"]] = "datasets"
    proxies: ClassVar[tuple[str, ...]] = (TRAINED,)

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        self._select_top = 1
