"""The predicted objective along straight lines through the chosen mixture: is the answer flat or sharp?

Axes: P points of all lines, N refits, C components.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_demix.mixture import Array
from nemo_demix.search.space import SearchSpace

Averages = Callable[[Array], Mapping[str, Array]]  # weights_XC -> capability averages, each of shape (X,)
INTERVAL = (5, 95)  # percentiles over refits, as of the shares
POINTS = 17  # a line
BEYOND = 1.5  # of the way from the baseline to the chosen mixture, where the simplex goes so far
WIDEST = 0.3  # of a component's weight, or three times the chosen one where that is more


@dataclass
class Slices:
    """Lines through a mixture, and what is predicted along them.

    Attributes:
        weights_PC: All points: the chosen mixture first, then the lines'.
        line: The line from the baseline: the places of its points, and where each lies on its axis; None: no baseline.
        datasets: The same for the line of each dataset, and its chosen share.
    """

    weights_PC: Array
    baseline: str | None
    line: tuple[slice, list[float]] | None
    datasets: dict[str, tuple[slice, list[float], float]] = field(default_factory=dict)

    def record(
        self, averages: Averages, objective: Callable[[Mapping[str, Array]], Array], refits: Iterable[Averages]
    ) -> dict[str, Any]:
        """Return the lines as plain values.

        Args:
            averages: What the predictor gives: capability averages of mixtures.
            objective: The objective from averages, each mixture's by itself; lower is better.
            refits: Averages of predictors fitted on resampled mixtures or items; none: there are no intervals.

        Returns:
            line: from a baseline (0) to the chosen mixture (1) and beyond; datasets: along the share of each. A point
            has its place `at`, the `difference` of its objective to the chosen mixture's, and `low` and `high`, the
            5th and 95th percentile of that over the refits (null: none).
        """
        values_P = _differences(objective(averages(self.weights_PC)))
        bands_NP = np.array([_differences(objective(refit(self.weights_PC))) for refit in refits])
        band_2P = np.percentile(bands_NP, INTERVAL, axis=0) if len(bands_NP) else None

        def points(place: slice, at: list[float]) -> list[dict[str, float | None]]:
            found: list[dict[str, float | None]] = []
            for number, where in zip(range(place.start, place.stop), at, strict=True):
                low, high = (None, None) if band_2P is None else band_2P[:, number].tolist()
                found.append({"at": where, "difference": float(values_P[number]), "low": low, "high": high})
            return found

        line = None if self.line is None else {"baseline": self.baseline, "points": points(*self.line)}
        datasets = {
            name: {"chosen": chosen, "points": points(place, at)} for name, (place, at, chosen) in self.datasets.items()
        }
        return {"line": line, "datasets": datasets}


def slices(space: SearchSpace, weights_C: Array) -> Slices:
    """Return the lines through a mixture: from the first baseline to it, and along the share of each component's own
    dataset.

    Along a component its merge weight goes up from 0, all others in proportion; `at` is the data share that follows.
    """
    rows, place = [weights_C[None]], 1
    found = Slices(weights_C[None], None, None)
    baseline = next(iter(space.baselines), None)
    if baseline is not None:
        start_C = space.as_array(space.blend.merge_weights_for(space.baselines[baseline])[0])
        at = np.linspace(0.0, _farthest(start_C, weights_C), POINTS)
        rows.append(start_C + at[:, None] * (weights_C - start_C))
        found.baseline, found.line = baseline, (slice(place, place + POINTS), at.tolist())
        place += POINTS
    for number, name in enumerate(space.names):
        own = weights_C[number]
        if name not in space.blend.datasets or own >= 1:
            continue
        weights_P = np.linspace(0.0, min(1.0, max(WIDEST, 3 * own)), POINTS)
        line_PC = np.outer((1 - weights_P) / (1 - own), weights_C)
        line_PC[:, number] = weights_P
        column = list(space.blend.datasets).index(name)
        shares_P = space.blend.data_shares_MD(line_PC)[:, column]
        chosen = float(space.blend.data_shares_MD(weights_C[None])[0, column])
        found.datasets[name] = (slice(place, place + POINTS), shares_P.tolist(), chosen)
        rows.append(line_PC)
        place += POINTS
    weights_PC = np.maximum(np.vstack(rows), 0.0)
    found.weights_PC = weights_PC / weights_PC.sum(axis=1, keepdims=True)
    return found


def _farthest(start_C: Array, end_C: Array) -> float:
    """Return how far the line from start (0) to end (1) may go on, within the simplex."""
    falls_C = start_C - end_C
    falling_C = falls_C > 1e-12
    limit = float((start_C[falling_C] / falls_C[falling_C]).min()) if falling_C.any() else 1.0
    return min(BEYOND, max(1.0, limit))


def _differences(values_P: Array) -> Array:
    return values_P - values_P[0]
