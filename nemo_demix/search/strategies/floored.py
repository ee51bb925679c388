"""Floors under mixed predictions: the exact optimum above them, and what other floors would cost.

Axes: M mixtures, C components.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_demix.config import SearchConfig
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array
from nemo_demix.scoring.identity import shares_by
from nemo_demix.search.convex import Limit, Optimum
from nemo_demix.search.objective import Scale, above_floors
from nemo_demix.search.ranking import floor_weights, floors_of
from nemo_demix.search.strategies.base import Problem, Screen
from nemo_demix.search.strategies.fixed import screened

LADDER = (0.0, 0.005, 0.01, 0.02, None)  # floors, in the scores' unit; None: none
FLOORS_COST = "What floors cost (predicted, minus what they are counted from)"


class Floored:
    """What mixed predictions say of mixtures above the floors of a problem's settings.

    Args:
        problem: Its floors are under the predicted capabilities, and under held-out text where some is scored.
    Raises:
        ConfigError: if floors are counted from a baseline that there is not.
    """

    def __init__(self, problem: Problem, screen: Screen) -> None:
        settings, space = problem.settings, problem.space
        self._problem, self._screen = problem, screen
        self._shares = shares_by(space.objective_capabilities, space.weights)
        self._baseline_C = floor_weights(settings, space)
        self._baseline = screened(problem, screen, self._baseline_C)
        self._floors = floors_of(settings, space)
        self._heldout = self._heldout_limit(settings)

    def optimum(self, by_capability: Mapping[str, float]) -> Optimum:
        """Return the least weighted sum of capabilities above the floors.

        Args:
            by_capability: Weights of the capabilities.
        Raises:
            MixtureError: if no mixture was found that keeps the floors.
        """
        return self._above(self._problem.settings, by_capability)

    def kept(
        self, weights_MC: Array, averages: Mapping[str, Array], scales: Mapping[str, Scale]
    ) -> npt.NDArray[np.bool_]:
        """Return which mixtures of these capability averages are above the floors, bool, shape (M,)."""
        kept_M = above_floors(averages, self._baseline, self._floors, scales)
        if self._heldout is not None:
            kept_M[kept_M] = self._totals_M(weights_MC[kept_M], self._heldout.objective) <= self._heldout.most
        return kept_M

    def heldout_note(self, weights_C: Array) -> dict[str, dict[str, float]]:
        """Return a mixture's held-out score, and the most that it may be; empty without that floor."""
        if self._heldout is None:
            return {}
        return {"heldout": {"score": self._total(weights_C, self._heldout.objective), "most": self._heldout.most}}

    def prices(self, by_capability: Mapping[str, float], found: Optimum) -> list[dict[str, Any]]:
        """Return what floors cost: a row each for those of the settings, first, and for all of `LADDER`.

        Args:
            found: The optimum above the floors of the settings.

        Returns:
            Mappings of `default_floor` and `heldout_floor` (null: none), `data_shares`, and what the optimum above them
            differs by, as predicted, from the mixture that floors are counted from: `objective`, `capabilities` by
            name, `heldout` (macro, bits per byte; null: none is scored). Floors that nothing keeps are left out; those
            of single capabilities hold in all rows.
        """
        settings, has_heldout = self._problem.settings, bool(self._problem.space.heldout)
        own = (settings.default_floor, settings.heldout_floor if has_heldout else None)
        rows = [self._price(*own, by_capability, found.weights_C)]
        for default_floor, heldout_floor in ((floor, floor if has_heldout else None) for floor in LADDER):
            if (default_floor, heldout_floor) == own:
                continue
            changed = replace(settings, default_floor=default_floor, heldout_floor=heldout_floor)
            try:
                other = self._above(changed, by_capability)
            except MixtureError:
                continue
            rows.append(self._price(default_floor, heldout_floor, by_capability, other.weights_C))
        return rows

    def _above(self, settings: SearchConfig, by_capability: Mapping[str, float]) -> Optimum:
        floors, heldout = floors_of(settings, self._problem.space), self._heldout_limit(settings)
        limits = [Limit(self._shares[name], self._baseline[name] + floor) for name, floor in floors.items()]
        limits += [] if heldout is None else [heldout]
        weights = _by_score(self._shares, by_capability)
        return self._screen.optimum(self._problem.space.constraints, weights, limits)

    def _price(
        self,
        default_floor: float | None,
        heldout_floor: float | None,
        by_capability: Mapping[str, float],
        weights_C: Array,
    ) -> dict[str, Any]:
        space = self._problem.space
        averages = screened(self._problem, self._screen, weights_C)
        differences = {name: averages[name] - self._baseline[name] for name in averages}
        heldout = None
        if space.heldout:
            weights = space.heldout_weights()
            heldout = self._total(weights_C, weights) - self._total(self._baseline_C, weights)
        return {
            "default_floor": default_floor,
            "heldout_floor": heldout_floor,
            "objective": sum(weight * differences[name] for name, weight in by_capability.items()),
            "capabilities": differences,
            "heldout": heldout,
            "data_shares": space.blend.data_shares(space.as_weights(weights_C)),
        }

    def _heldout_limit(self, settings: SearchConfig) -> Limit | None:
        if settings.heldout_floor is None or not self._problem.space.heldout:
            return None
        weights = self._problem.space.heldout_weights()
        return Limit(weights, self._total(self._baseline_C, weights) + settings.heldout_floor)

    def _total(self, weights_C: Array, weights: Mapping[str, float]) -> float:
        return float(self._totals_M(weights_C[None], weights)[0])

    def _totals_M(self, weights_MC: Array, weights: Mapping[str, float]) -> Array:
        found = self._screen.scores_MB(weights_MC, list(weights))
        return np.sum([weight * found[name] for name, weight in weights.items()], axis=0)


def nothing_gained(prices: Sequence[Mapping[str, Any]], least: float = 1e-4) -> bool:
    """Return whether the floors of the settings leave nothing better than what they are counted from, though without
    them there is something.
    """
    return bool(prices) and prices[0]["objective"] > -least and prices[-1]["objective"] <= -least


def differences_of(prices: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return `prices` as a table: what the columns are called, and the differences in each row, by what it is called;
    those of the settings' floors first.
    """
    rows = {}
    for place, price in enumerate(prices):
        label = _label(price) + ("" if place else " (this run's)")
        rows[label] = [price["objective"], *price["capabilities"].values(), price["heldout"]]
    return ["objective", *prices[0]["capabilities"], "held-out text"], rows


def _label(price: Mapping[str, Any]) -> str:
    """Return the floor, or both where they differ."""
    floor, heldout = (
        f"{price[key]:g}" if price[key] is not None else "none" for key in ("default_floor", "heldout_floor")
    )
    return floor if floor == heldout or price["heldout"] is None else f"{floor}, held-out {heldout}"


def _by_score(shares: Mapping[str, Mapping[str, float]], by_capability: Mapping[str, float]) -> dict[str, float]:
    return {name: by_capability[owner] * share for owner, scores in shares.items() for name, share in scores.items()}
