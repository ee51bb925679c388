"""The mixture that a smooth predictor finds best: the minimum itself, not the mean of what a pool happens to hold.

Axes: M mixtures of the pool, S starts, X predicted mixtures, C components.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nemo_demix.config import SearchConfig
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array
from nemo_demix.search.choose import Choice, RankedPool, describe
from nemo_demix.search.floors import AboveFloors, Told
from nemo_demix.search.heldout import HELDOUT
from nemo_demix.search.minimise import Smooth, minimise
from nemo_demix.search.objective import linear_objective
from nemo_demix.search.pool import wide_pool
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.ranking import Ranking, floors_of
from nemo_demix.search.select import spread_rows
from nemo_demix.search.slices import Averages
from nemo_demix.search.space import SearchSpace

STARTS = 5  # of the pool's best; the best scored mixture is one more
OF_POOL = 2  # of these, where other floors are tried: the chosen mixture and what floors are counted from are more
SPACING = 0.2  # least L1 distance between starts
STEP = 1e-6  # towards a component alone: of a slope; ten times as much is too coarse for short length scales
CAUTION = 1.0  # standard deviations: a minimum is where a fitted function is most likely to be too good


def choose_refined(
    settings: SearchConfig,
    space: SearchSpace,
    rows: Sequence[ProxyRow],
    seed: int,
    step: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> Choice:
    """Return the minimum of the predicted objective above the floors, by what `lowest` minimises.

    The best scored mixture is a candidate by what the predictor says of it, which is its own score shrunk towards its
    neighbours': the best of many scores is partly luck.

    Args:
        rows: Scored mixtures, each {name, merge_weights, scores: {benchmark: {score}}}; their order does not matter.
        seed: Seed of the pool, the predictor and the folds.
        step: Step of the search, so that its pools differ.

    Raises:
        ConfigError: if the objective is not linear in the capabilities, and as `Ranking`.
        MixtureError: if no mixture of the pool is above the floors.
        ScoreError: as `Ranking`.
    """
    ranking = Ranking(settings, space, rows, seed)
    pool = wide_pool(ranking, step)
    starts_SC = starts(ranking, pool)
    weights_C = lowest(ranking, ranking.averages, starts_SC)
    said = dict(notes or {}) | ranking.heldout_note(weights_C)
    if ranking.floors or ranking.heldout is not None:
        objective = linear_objective(settings.objective, ranking.scales)
        near_SC = np.vstack([weights_C, starts_SC[:OF_POOL]])
        said["floors"] = AboveRanked(ranking, near_SC).prices(objective, weights_C)

    def refit_choice(averages: Averages) -> Array:
        return lowest(ranking, averages, weights_C[None])

    return describe(ranking, pool, weights_C, said, refit_choice)


def lowest(ranking: Ranking, averages: Averages, starts_SC: Array) -> Array:
    """Return the mixture with the least objective that keeps the floors, shape (C,); the first start if none is found.

    Args:
        averages: What the predictor, or a refit, gives: capability averages of mixtures.
        starts_SC: Mixtures to start from, the first of which keeps the floors.
    """
    objective = linear_objective(ranking.settings.objective, ranking.scales)
    worst = worst_allowed(ranking, ranking.floor_baseline, ranking.floors)
    most = None if ranking.heldout is None else ranking.heldout.most
    found_C = lowest_above(ranking, averages, starts_SC, objective, worst, most)
    return starts_SC[0] if found_C is None else found_C


def worst_allowed(ranking: Ranking, baseline: Mapping[str, float], floors: Mapping[str, float]) -> dict[str, float]:
    """Return the worst average that floors allow each capability which has one, in its scores' unit."""
    higher = {name: scale.higher_is_better for name, scale in ranking.scales.items()}
    return {name: baseline[name] - floor if higher[name] else baseline[name] + floor for name, floor in floors.items()}


def lowest_above(
    ranking: Ranking,
    averages: Averages,
    starts_SC: Array,
    objective: Mapping[str, float],
    worst: Mapping[str, float],
    most_heldout: float | None,
) -> Array | None:
    """Return the mixture with the least objective that keeps limits, shape (C,); None if none is found.

    What is minimised is the prediction plus `CAUTION` times its standard deviation, so that the answer is no place that
    is far from all scored mixtures and only therefore looks good. Limits are of the prediction itself.

    Args:
        averages: What the predictor, or a refit, gives: capability averages of mixtures.
        starts_SC: Mixtures to start from.
        objective: What a unit of each capability's average counts.
        worst: The worst average of capabilities that have a floor.
        most_heldout: The most that the score on held-out text may be; None: no limit.
    """
    slopes, spreads = Slopes(averages), Slopes(ranking.averages_std)
    predicted = slopes.combined(objective)
    doubt = spreads.combined({name: CAUTION * abs(weight) for name, weight in objective.items()})

    def loss(weights_C: Array) -> tuple[float, Array]:
        (value, slopes_C), (more, more_C) = predicted(weights_C), doubt(weights_C)
        return value + more, slopes_C + more_C

    limits = []
    for name, value in worst.items():
        sign = -1.0 if ranking.scales[name].higher_is_better else 1.0
        limits.append(slopes.combined({name: sign}, sign * value))
    if (heldout := ranking.heldout) is not None and most_heldout is not None:
        of_heldout = Slopes(lambda weights_XC: {HELDOUT: heldout.scores(weights_XC)})
        limits.append(of_heldout.combined({HELDOUT: 1.0}, most_heldout))
    return minimise(loss, ranking.space.constraints, limits, starts_SC)


class AboveRanked(AboveFloors):
    """What a fitted predictor says of mixtures above the floors of its settings, and above others.

    Args:
        ranking: It has floors.
        starts_SC: Mixtures to start from.
    """

    def __init__(self, ranking: Ranking, starts_SC: Array) -> None:
        super().__init__(ranking.settings, ranking.space, ranking.heldout is not None)
        self._ranking, self._starts_SC = ranking, np.vstack([starts_SC, self.baseline_C])

    def best(self, settings: SearchConfig, by_capability: Mapping[str, float]) -> Array:
        """Return what `lowest_above` finds above the floors of these settings, shape (C,)."""
        ranking, baseline = self._ranking, self.baseline
        worst = worst_allowed(ranking, baseline.averages, floors_of(settings, ranking.space))
        most = None
        if settings.heldout_floor is not None and baseline.heldout is not None:
            most = baseline.heldout + settings.heldout_floor
        found_C = lowest_above(ranking, ranking.averages, self._starts_SC, by_capability, worst, most)
        if found_C is None:
            raise MixtureError(f"search.floors: no mixture was found above {worst}, held-out text at most {most}")
        return found_C

    def told(self, weights_C: Array) -> Told:
        """Return what the predictor says of a mixture."""
        averages = {name: float(values[0]) for name, values in self._ranking.averages(weights_C[None]).items()}
        heldout = self._ranking.heldout
        return Told(averages, None if heldout is None else float(heldout.scores(weights_C[None])[0]))


class Slopes:
    """Averages at a mixture and their slopes, by differences towards each component: any predictor is enough."""

    def __init__(self, averages: Averages) -> None:
        self._averages = averages
        self._at: bytes | None = None
        self._found: dict[str, tuple[float, Array]] = {}

    def combined(self, weights: Mapping[str, float], less: float = 0.0) -> Smooth:
        """Return a weighted sum of averages, less a constant, as a function with its slopes."""

        def smooth(weights_C: Array) -> tuple[float, Array]:
            found = self._of(weights_C)
            value = sum(weight * found[name][0] for name, weight in weights.items()) - less
            slopes_C = sum((weight * found[name][1] for name, weight in weights.items()), np.zeros(len(weights_C)))
            return value, slopes_C

        return smooth

    def _of(self, weights_C: Array) -> dict[str, tuple[float, Array]]:
        key = weights_C.tobytes()
        if key != self._at:  # loss and limits are asked for at the same mixture, one after another
            rows_XC = np.vstack([weights_C, weights_C + STEP * (np.eye(len(weights_C)) - weights_C)])
            averages = self._averages(rows_XC)
            self._found = {
                name: (float(values[0]), (values[1:] - values[0]) / STEP) for name, values in averages.items()
            }
            self._at = key
        return self._found


def starts(ranking: Ranking, pool: RankedPool) -> Array:
    """Take the pool's best that are apart, and the scored mixture predicted best above the floors; shape (S, C)."""
    none_EC = np.empty((0, pool.weights_MC.shape[1]))
    found = [spread_rows(pool.weights_MC, pool.objective_M, STARTS, SPACING, none_EC)]
    weights_MC = ranking.scored.weights_MC
    averages = ranking.averages(weights_MC)
    allowed_M = ranking.kept(weights_MC, averages) & ranking.space.constraints.satisfied_M(weights_MC)
    if allowed_M.any():
        best = np.flatnonzero(allowed_M)[np.argmin(ranking.objective(averages)[allowed_M])]
        found.append(weights_MC[best][None])
    return np.vstack(found)
