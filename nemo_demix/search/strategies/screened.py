"""A search by both kinds of proxy: prediction proxies screen a whole pool, merged proxies confirm its best.

No predictor is fitted: the screen scores every mixture of the pool itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array
from nemo_demix.prediction.cross_validation import spearman
from nemo_demix.search.choose import POOL_STREAM, Choice, RankedPool, front, prediction, share_intervals
from nemo_demix.search.objective import OBJECTIVES, above_floors, nearest_miss
from nemo_demix.search.pool import REFINE_STREAM, Judge, capped, refined, wide_draw
from nemo_demix.search.ranking import Scored, floor_weights, floors_of, objective_scales
from nemo_demix.search.select import spread_rows, up_to_top_rows
from nemo_demix.search.strategies.base import Problem, ProxyPlan, Screen, Strategy
from nemo_demix.search.strategies.fixed import screened, screened_averages, screened_baselines

_SPACING = 0.05  # least L1 distance between the mixtures that are confirmed


class Screened(Strategy):
    """Asks once, for the best of the pool that are apart; the best *measured* of them is the mixture."""

    name: ClassVar[str] = "demix"  # its variant for search.proxy=both
    proxies: ClassVar[tuple[str, ...]] = ("both",)
    is_iterated: ClassVar[bool] = True  # by the name that it goes under

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(replace(problem, prior_rows=()), screen)  # what is confirmed is scored anew
        assert screen is not None, "the plan asks for one"
        self._with = screen
        self._asked = False
        self._pool: RankedPool | None = None

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many merged proxies it asks for; the pool is not counted."""
        return settings.confirm

    @classmethod
    def plan(cls, settings: SearchConfig, can_mix: bool, shown_std: Mapping[str, float] | None = None) -> ProxyPlan:
        """Let predictions screen and merges choose."""
        return ProxyPlan("merge", "merge", screen=True)

    def ask(self) -> list[Array]:
        """Return the best `search.confirm` of the pool, each of shape (C,), at least a little apart."""
        if self._asked:
            return []
        self._asked = True
        pool = self._screened_pool()
        none_EC = np.empty((0, pool.weights_MC.shape[1]))
        return list(spread_rows(pool.weights_MC, pool.objective_M, self._problem.settings.confirm, _SPACING, none_EC))

    def result(self) -> Choice:
        """Return the best by measured objective; its predictions are the screen's, their std how far these were off."""
        settings, space = self._problem.settings, self._problem.space
        if not self._rows:
            raise ScoreError("search.proxy=both: no mixture was confirmed; raise search.confirm")
        pool = self._screened_pool()
        scored = Scored(space, self._rows)
        measured = scored.averages()
        scales = objective_scales(settings, space, measured)
        objective_M = OBJECTIVES[settings.objective](measured, scales)
        best_C = scored.weights_MC[int(np.argmin(objective_M))]
        predicted = screened_averages(self._problem, self._with, scored.weights_MC)
        rmse = {name: float(np.sqrt(np.mean((predicted[name] - measured[name]) ** 2))) for name in measured}
        top_MC = pool.weights_MC[up_to_top_rows(pool.objective_M, settings.select_top)]
        return Choice(
            space.as_weights(best_C),
            predicted={
                name: prediction(score, 0.0, rmse[name])
                for name, score in screened(self._problem, self._with, best_C).items()
            },
            baselines=screened_baselines(self._problem, self._with),
            intervals=share_intervals(space, space.blend.data_shares_MD(top_MC), None),
            pareto=front(space, pool.weights_MC, pool.averages),
            notes={
                "screened": settings.pool_size,
                "confirmed": len(self._rows),
                "confirmed_rho": {name: spearman(measured[name], predicted[name]) for name in measured},
            },
        )

    def _screened_pool(self) -> RankedPool:
        if self._pool is None:
            settings, space = self._problem.settings, self._problem.space
            pool_MC = wide_draw(settings, space, settings.pool_size, [self._problem.seed, 0, POOL_STREAM])
            averages = screened_averages(self._problem, self._with, pool_MC)
            scales = objective_scales(settings, space, averages)
            floors = floors_of(settings, space)
            baseline = screened(self._problem, self._with, floor_weights(settings, space)) if floors else {}
            judge = Judge(
                partial(screened_averages, self._problem, self._with),
                lambda _, averages: above_floors(averages, baseline, floors, scales),
                lambda averages: OBJECTIVES[settings.objective](averages, scales),
            )
            kept_M = judge.kept(pool_MC, averages)
            if not kept_M.any():
                raise nearest_miss(averages, baseline, floors, scales)
            averages = {name: values[kept_M] for name, values in averages.items()}
            pool = RankedPool(pool_MC[kept_M], averages, judge.objective(averages))
            constraints = capped(settings.sampler, space.prior, space.constraints)
            stream = [self._problem.seed, 0, REFINE_STREAM]
            self._pool = refined(settings.sampler, constraints, pool, judge, stream)
        return self._pool
