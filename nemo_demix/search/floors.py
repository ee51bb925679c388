"""What floors lead to, and what others would: the best mixture above each, by whichever proxies choose.

Axes: C components.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nemo_demix.config import SearchConfig
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array
from nemo_demix.search.ranking import floor_weights
from nemo_demix.search.space import SearchSpace

LADDER = (0.0, 0.005, 0.01, 0.02, None)  # floors, in the scores' unit; None: none
FLOORS_COST = "What floors cost (predicted, minus what they are counted from)"
NOTHING_GAINED = (
    "above these floors no mixture is predicted to be better than the {} one: what one capability gains, another pays "
    "for. What lower floors would buy is told with the result (search.default_floor, search.heldout_floor)"
)


@dataclass(frozen=True)
class Told:
    """What the proxies that choose say of a mixture.

    Attributes:
        averages: Averages by capability, in their scores' unit.
        heldout: The macro score on held-out text, bits per byte; None: there is none.
    """

    averages: Mapping[str, float]
    heldout: float | None


class AboveFloors(ABC):
    """The best mixtures above the floors of settings, and above other floors.

    Args:
        has_heldout: Whether held-out text is told of.
    Raises:
        ConfigError: if floors are counted from a baseline that there is not.
    """

    def __init__(self, settings: SearchConfig, space: SearchSpace, has_heldout: bool) -> None:
        self.settings, self.space, self._has_heldout = settings, space, has_heldout
        self.baseline_C = floor_weights(settings, space)

    @abstractmethod
    def best(self, settings: SearchConfig, by_capability: Mapping[str, float]) -> Array:
        """Return the mixture with the least weighted sum of capabilities above the floors of these settings, (C,).

        Raises:
            MixtureError: if no mixture was found that keeps the floors.
        """

    @abstractmethod
    def told(self, weights_C: Array) -> Told:
        """Return what is predicted of a mixture."""

    @cached_property
    def baseline(self) -> Told:
        """What is predicted of the mixture that floors are counted from."""
        return self.told(self.baseline_C)

    def prices(self, by_capability: Mapping[str, float], weights_C: Array) -> list[dict[str, Any]]:
        """Return what floors cost: a row each for those of the settings, first, and for all of `LADDER`.

        Args:
            by_capability: What a unit of each capability counts in the objective.
            weights_C: The best mixture above the floors of the settings.

        Returns:
            Mappings of `default_floor` and `heldout_floor` (null: none), `data_shares`, and what the best above them
            differs by, as predicted, from the mixture that floors are counted from: `objective`, `capabilities` by
            name, `heldout` (macro, bits per byte; null: none is scored). Floors that nothing keeps are left out; those
            of single capabilities hold in all rows.
        """
        settings = self.settings
        own = (settings.default_floor, settings.heldout_floor if self._has_heldout else None)
        rows = [self._price(*own, by_capability, weights_C)]
        for floor in LADDER:
            floors = (floor, floor if self._has_heldout else None)
            if floors == own:
                continue
            changed = replace(settings, default_floor=floors[0], heldout_floor=floors[1])
            try:
                other_C = self.best(changed, by_capability)
            except MixtureError:
                continue
            rows.append(self._price(*floors, by_capability, other_C))
        return rows

    def _price(
        self,
        default_floor: float | None,
        heldout_floor: float | None,
        by_capability: Mapping[str, float],
        weights_C: Array,
    ) -> dict[str, Any]:
        told, baseline = self.told(weights_C), self.baseline
        differences = {name: told.averages[name] - baseline.averages[name] for name in told.averages}
        heldout = None
        if told.heldout is not None and baseline.heldout is not None:
            heldout = told.heldout - baseline.heldout
        return {
            "default_floor": default_floor,
            "heldout_floor": heldout_floor,
            "objective": sum(weight * differences[name] for name, weight in by_capability.items()),
            "capabilities": differences,
            "heldout": heldout,
            "data_shares": self.space.blend.data_shares(self.space.as_weights(weights_C)),
        }


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
