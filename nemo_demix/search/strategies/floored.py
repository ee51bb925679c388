"""Floors under mixed predictions: the exact optimum above them.

Axes: M mixtures, C components.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from nemo_demix.config import SearchConfig
from nemo_demix.mixture import Array
from nemo_demix.scoring.identity import shares_by
from nemo_demix.search.convex import Limit, Optimum
from nemo_demix.search.floors import AboveFloors, Told
from nemo_demix.search.objective import Scale, above_floors
from nemo_demix.search.ranking import floors_of
from nemo_demix.search.strategies.base import Problem, Screen
from nemo_demix.search.strategies.fixed import screened


class Floored(AboveFloors):
    """What mixed predictions say of mixtures above the floors of a problem's settings.

    Args:
        problem: Its floors are under the predicted capabilities, and under held-out text where some is scored.
    Raises:
        ConfigError: if floors are counted from a baseline that there is not.
    """

    def __init__(self, problem: Problem, screen: Screen) -> None:
        super().__init__(problem.settings, problem.space, bool(problem.space.heldout))
        self._problem, self._screen = problem, screen
        self._shares = shares_by(self.space.objective_capabilities, self.space.weights)
        self._floors = floors_of(self.settings, self.space)
        self._heldout = self._heldout_limit(self.settings)

    def optimum(self, by_capability: Mapping[str, float]) -> Optimum:
        """Return the least weighted sum of capabilities above the floors.

        Args:
            by_capability: Weights of the capabilities.
        Raises:
            MixtureError: if no mixture was found that keeps the floors.
        """
        return self._above(self.settings, by_capability)

    def best(self, settings: SearchConfig, by_capability: Mapping[str, float]) -> Array:
        """Return the exact optimum above the floors of these settings, shape (C,)."""
        return self._above(settings, by_capability).weights_C

    def told(self, weights_C: Array) -> Told:
        """Return what mixed predictions say of a mixture."""
        heldout = self._total(weights_C, self.space.heldout_weights()) if self.space.heldout else None
        return Told(screened(self._problem, self._screen, weights_C), heldout)

    def kept(
        self, weights_MC: Array, averages: Mapping[str, Array], scales: Mapping[str, Scale]
    ) -> npt.NDArray[np.bool_]:
        """Return which mixtures of these capability averages are above the floors, bool, shape (M,)."""
        kept_M = above_floors(averages, self.baseline.averages, self._floors, scales)
        if self._heldout is not None:
            kept_M[kept_M] = self._totals_M(weights_MC[kept_M], self._heldout.objective) <= self._heldout.most
        return kept_M

    def heldout_note(self, weights_C: Array) -> dict[str, dict[str, float]]:
        """Return a mixture's held-out score, and the most that it may be; empty without that floor."""
        if self._heldout is None:
            return {}
        return {"heldout": {"score": self._total(weights_C, self._heldout.objective), "most": self._heldout.most}}

    def _above(self, settings: SearchConfig, by_capability: Mapping[str, float]) -> Optimum:
        floors, heldout = floors_of(settings, self.space), self._heldout_limit(settings)
        limits = [Limit(self._shares[name], self.baseline.averages[name] + floor) for name, floor in floors.items()]
        limits += [] if heldout is None else [heldout]
        weights = {
            name: by_capability[owner] * share
            for owner, scores in self._shares.items()
            for name, share in scores.items()
        }
        return self._screen.optimum(self.space.constraints, weights, limits)

    def _heldout_limit(self, settings: SearchConfig) -> Limit | None:
        if settings.heldout_floor is None or self.baseline.heldout is None:
            return None
        return Limit(self.space.heldout_weights(), self.baseline.heldout + settings.heldout_floor)

    def _total(self, weights_C: Array, weights: Mapping[str, float]) -> float:
        return float(self._totals_M(weights_C[None], weights)[0])

    def _totals_M(self, weights_MC: Array, weights: Mapping[str, float]) -> Array:
        found = self._screen.scores_MB(weights_MC, list(weights))
        return np.sum([weight * found[name] for name, weight in weights.items()], axis=0)
