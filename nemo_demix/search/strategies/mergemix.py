"""MergeMix: one shot of seed mixtures, a regressor a capability, and a few predicted optima verified by scoring them.

Source: MergeMix (arXiv:2601.17858). Departs from it: constraints hold, and several predicted optima are verified, of
which the best measured one is taken.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.mixture import Array
from nemo_demix.search.choose import FIRST_STREAM, POOL_STREAM, Choice, best_mean, describe, draw, rank_pool
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.select import NEAR_DUPLICATE_L1, spread_rows
from nemo_demix.search.strategies.base import Problem, Screen, Strategy

_SPACING = 0.05  # least L1 distance between the optima that are verified


class MergeMix(Strategy):
    """Asks twice: the seeds, then the predicted optima."""

    name: ClassVar[str] = "mergemix"

    def __init__(self, problem: Problem, screen: Screen | None = None) -> None:
        super().__init__(problem, screen)
        self._verified: list[ProxyRow] = []
        self._step = 0

    @classmethod
    def num_proxies(cls, settings: SearchConfig) -> int:
        """Return how many mixtures it asks for in all: seeds and verified optima."""
        return settings.mergemix.seeds + settings.mergemix.verified

    def ask(self) -> list[Array]:
        """Return the seeds, each of shape (C,); then the mean of the predicted top, and its best mixtures that are
        apart.
        """
        settings, space = self._problem.settings, self._problem.space
        self._step += 1
        if self._step == 1:
            return list(seed_mixtures(self._problem, settings.mergemix.seeds))
        if self._step > 2 or settings.mergemix.verified < 1:
            return []
        ranking = self._ranking()
        pool = rank_pool(ranking, self._pool())
        first_C = best_mean(ranking, pool, settings.select_top)
        scored_MC = np.array([first_C, *(space.as_array(row.merge_weights) for row in self._rows)])
        others_MC = spread_rows(pool.weights_MC, pool.objective_M, settings.mergemix.verified - 1, _SPACING, scored_MC)
        return [first_C, *others_MC]

    def tell(self, rows: Sequence[ProxyRow]) -> None:
        """Add the seeds' or the optima's rows."""
        if self._step == 2:
            self._verified = list(rows)
        super().tell(rows)

    def result(self) -> Choice:
        """Return the optimum with the best measured objective among all proxies; the predicted one where none is
        verified.
        """
        from scipy.spatial.distance import cdist

        ranking = self._ranking()
        pool = rank_pool(ranking, self._pool())
        if not self._verified:
            weights_C = best_mean(ranking, pool, self._problem.settings.select_top)
            return describe(ranking, pool, weights_C, {"verified": 0})
        objective_M = ranking.objective(ranking.scored.averages())  # measured, of all proxies: ranks need them all
        verified_MC = np.array([self._problem.space.as_array(row.merge_weights) for row in self._verified])
        place_V = cdist(verified_MC, ranking.scored.weights_MC, "cityblock").argmin(axis=1)
        best = int(np.argmin(objective_M[place_V]))
        return describe(ranking, pool, verified_MC[best], {"verified": len(self._verified), "taken": best})

    def _ranking(self) -> Ranking:
        return Ranking(self._problem.settings, self._problem.space, self._rows, self._problem.seed, by_capability=True)

    def _pool(self) -> Array:
        settings = self._problem.settings
        return draw(settings, self._problem.space, settings.pool_size, [self._problem.seed, 1, POOL_STREAM])


def seed_mixtures(problem: Problem, count: int) -> Array:
    """Return seed mixtures: the token-proportional and the equal mixture, the components, their pairs, and random ones.

    At most half of the seeds are pairs, which are drawn where there are more. Each is moved to the nearest mixture
    that satisfies the constraints, and what then comes twice is left out.

    Returns:
        Merge weights, float64, shape (count, C).
    """
    settings, space = problem.settings, problem.space
    num_components = len(space.names)
    rng = np.random.default_rng([problem.seed, 0, FIRST_STREAM])
    pairs = list(combinations(range(num_components), 2))
    some = [pairs[index] for index in rng.permutation(len(pairs))[: max(0, count // 2)]]
    pairs_PC = np.zeros((len(some), num_components))
    for row, pair in enumerate(some):
        pairs_PC[row, list(pair)] = 0.5
    prior_C = space.as_array(space.prior)
    grid_MC = np.vstack([prior_C, np.full(num_components, 1.0 / num_components), np.eye(num_components), pairs_PC])
    inside_M = space.constraints.satisfied_M(grid_MC)
    nearest = [
        row_C if inside else space.constraints.nearest(row_C) for row_C, inside in zip(grid_MC, inside_M, strict=True)
    ]
    kept: list[Array] = []
    for row_C in [*nearest, *draw(settings, space, count, [problem.seed, 0, POOL_STREAM])]:
        if all(np.abs(row_C - other_C).sum() >= NEAR_DUPLICATE_L1 for other_C in kept):
            kept.append(row_C)
    return np.array(kept[:count])
