"""The objectives of the search, from predicted capability averages; lower is better for all of them.

`percentile_rank` is the paper's and needs no common unit. `mean` keeps how much is gained: it is for scores of one
unit, such as bits per byte, where a rank weighs a capability's last hundredth as much as its first tenth. `utility`
puts each capability on the scale from the worst to the best proxy that was scored, which needs no common unit either.

Axes: M mixtures of the pool.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_demix.errors import ConfigError, DemixError, MixtureError, ScoreError, found_by, near, refuse
from nemo_demix.mixture import Array
from nemo_demix.prediction.correlation import average_ranks


@dataclass(frozen=True)
class Scale:
    """What a capability's scores mean.

    Attributes:
        higher_is_better: The direction of its scores.
        weight: Weight in the objective; only the ratios of weights matter.
        worst: The worst of the proxies' measured averages; `utility` alone looks at it and at `best`.
        best: The best of them.
    """

    higher_is_better: bool
    weight: float = 1.0
    worst: float = 0.0
    best: float = 0.0


def percentile_ranks(values_M: Array, *, higher_is_better: bool) -> Array:
    """Return the share of the pool that each value leaves ahead of it; ties share their average rank.

    Args:
        values_M: Scores, shape (M,), any unit.
        higher_is_better: The direction of the scores.

    Returns:
        Ranks, float64, shape (M,), from 0 (best) to 1 (worst); lower is better whatever the direction of the scores.
        A pool of one, or of equal values, ranks 0.5.

    Raises:
        ScoreError: if a value is not finite or there are none.
    """
    values_M = np.asarray(values_M, dtype=np.float64)
    if values_M.ndim != 1 or not values_M.size:
        raise ScoreError(f"percentile ranks: expected a list of scores, found shape {values_M.shape}")
    if not np.isfinite(values_M).all():
        row = int(np.argmin(np.isfinite(values_M)))
        raise ScoreError(f"percentile ranks: expected finite scores, found {values_M[row]} in row {row}")
    if values_M.size == 1:
        return np.array([0.5])
    ranks_M: Array = average_ranks(-values_M if higher_is_better else values_M)
    return (ranks_M - 1) / (values_M.size - 1)


def mean_percentile_rank(averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> Array:
    """Return DeMix's objective: each capability's percentile rank over the pool, averaged over the capabilities.

    Args:
        averages: Predicted average score by capability, each of shape (M,).
        scales: What the scores mean, by capability.

    Returns:
        Objective, float64, shape (M,), in [0, 1]; lower is better.

    Raises:
        ScoreError: if there is no capability, one lacks its scale, lengths differ or a score is not finite.

    Source: DeMix §2.4.
    """
    _check(averages, scales)
    ranks = [
        percentile_ranks(values_M, higher_is_better=scales[name].higher_is_better)
        for name, values_M in averages.items()
    ]
    return _weighted_mean(ranks, averages, scales)


def mean_score(averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> Array:
    """Return the mean of the capabilities' scores, negated where higher is better.

    Args:
        averages: Predicted average score by capability, each of shape (M,), all in one unit.
        scales: What the scores mean, by capability; all of one direction.

    Returns:
        Objective, float64, shape (M,), in the scores' unit; lower is better.

    Raises:
        ScoreError: if there is no capability, one lacks its scale, directions or lengths differ.
    """
    _check(averages, scales)
    directions = {scales[name].higher_is_better for name in averages}
    if len(directions) != 1:
        raise ScoreError("objective: mean: expected scores of one direction; use search.objective=utility")
    mean_M = _weighted_mean(list(averages.values()), averages, scales)
    return -mean_M if directions.pop() else mean_M


def negative_utility(averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> Array:
    """Return MergeMix's objective, turned round: minus the mean of the capabilities' scores, each from 0 (the worst
    proxy scored) to 1 (the best).

    Args:
        averages: Predicted average score by capability, each of shape (M,).
        scales: What the scores mean, by capability, with the worst and the best measured average.

    Returns:
        Objective, float64, shape (M,); lower is better, -1 is as good as the best proxy in every capability. A
        capability in which all proxies scored the same tells nothing and counts 0.

    Raises:
        ScoreError: if there is no capability, one lacks its scale, or lengths differ.

    Source: MergeMix (arXiv:2601.17858): macro average of normalised scores.
    """
    _check(averages, scales)
    utilities = []
    for name, values_M in averages.items():
        span = scales[name].best - scales[name].worst
        utilities.append((values_M - scales[name].worst) / span if span else np.zeros(len(values_M)))
    return -_weighted_mean(utilities, averages, scales)


@dataclass(frozen=True)
class Objective:
    """An objective, and what it says of itself.

    Attributes:
        name: What `search.objective` calls it.
        of: The objective of a pool, shape (M,), from averages by capability and their scales; lower is better.
        unit: Where it is a weighted sum of the averages, so smooth and, for losses, convex: the size of an average that
            counts as one; 0: that capability does not count. None: it is no such sum.
        needs_one_unit: It adds averages up as they are, so they have to be of one unit.
        is_rank: It looks at the order alone, so that a long tail of scores is worth no more than their middle.
    """

    name: str
    of: Callable[[Mapping[str, Array], Mapping[str, Scale]], Array]
    unit: Callable[[Scale], float] | None = None
    needs_one_unit: bool = False
    is_rank: bool = False

    def __call__(self, averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> Array:
        """Return the objective of a pool, see `of`."""
        return self.of(averages, scales)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("percentile_rank", mean_percentile_rank, is_rank=True),
        Objective("mean", mean_score, unit=lambda scale: 1.0, needs_one_unit=True),
        Objective("utility", negative_utility, unit=lambda scale: abs(scale.best - scale.worst)),
    )
}
LINEAR = tuple(name for name, objective in OBJECTIVES.items() if objective.unit is not None)


def linear_objective(kind: str, scales: Mapping[str, Scale]) -> dict[str, float]:
    """Return what a unit of each capability's average counts in an objective of `LINEAR`, up to a constant; lower is
    better.

    Args:
        kind: One of `LINEAR`.
        scales: What the scores mean, by capability; one in which `utility` sees no spread counts 0.

    Raises:
        ConfigError: if the objective is another.
    """
    unit_of = OBJECTIVES[kind].unit
    if unit_of is None:
        raise ConfigError(
            f"search.objective={kind}: cannot be minimised exactly: ranks have no slope; expected one of "
            f"{', '.join(LINEAR)}"
        )
    total = sum(scale.weight for scale in scales.values())
    found = {}
    for name, scale in scales.items():
        unit = unit_of(scale)
        sign = -1.0 if scale.higher_is_better else 1.0
        found[name] = sign * scale.weight / (total * unit) if unit else 0.0
    return found


def capability_weights(given: Mapping[str, float], capabilities: Mapping[str, bool]) -> dict[str, float]:
    """Return the weight of each capability in the objective: 1 where none is given.

    Raises:
        ConfigError: if a capability is unknown, a weight is not a finite number >= 0, or all are 0.
    """
    _check_capabilities("search.capability_weights", given, capabilities)
    weights = {name: float(given.get(name, 1.0)) for name in capabilities}
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(weights.values()):
        raise ConfigError(f"search.capability_weights: expected numbers >= 0, one above 0; found {dict(given)}")
    return weights


def floor_errors(floors: Mapping[str, float], known: Collection[str]) -> Iterator[DemixError]:
    """Yield errors for floors of capabilities that are not in the objective, or that are no numbers from 0."""
    yield from found_by(lambda: _check_capabilities("search.floors", floors, known))
    if bad := {name: value for name, value in floors.items() if not (np.isfinite(value) and value >= 0)}:
        yield ConfigError(f"search.floors: expected numbers >= 0 in the scores' unit, found {bad}")


def above_floors(
    averages: Mapping[str, Array],
    baseline: Mapping[str, float],
    floors: Mapping[str, float],
    scales: Mapping[str, Scale],
) -> npt.NDArray[np.bool_]:
    """Return which mixtures are predicted to be worse than the baseline by no more than each floor allows.

    Args:
        averages: Predicted average score by capability, each of shape (M,).
        baseline: The baseline's predicted averages.
        floors: How much worse a mixture may be, by capability, in the scores' unit.
        scales: What the scores mean, by capability.

    Returns:
        bool, shape (M,).

    Raises:
        ConfigError: if a capability is unknown or a floor is not a number >= 0.
    """
    refuse(floor_errors(floors, averages))
    above_M = np.ones(len(next(iter(averages.values()))), dtype=bool)
    for name, floor in floors.items():
        above_M &= worse_by(averages[name], baseline[name], scales[name]) <= floor
    return above_M


def nearest_miss(
    averages: Mapping[str, Array],
    baseline: Mapping[str, float],
    floors: Mapping[str, float],
    scales: Mapping[str, Scale],
) -> MixtureError:
    """Return what to raise where no mixture is above all floors: how near the nearest comes, and in which
    capability.
    """
    names = list(floors)
    excess_FM = np.array([worse_by(averages[name], baseline[name], scales[name]) - floors[name] for name in names])
    nearest = int(np.argmin(excess_FM.max(axis=0)))
    worst = int(np.argmax(excess_FM[:, nearest]))
    return MixtureError(
        f"search.floors: no mixture of the pool is above all of {dict(floors)}; the nearest is predicted to be worse "
        f"than the floors' baseline by {excess_FM[worst, nearest] + floors[names[worst]]:.4g} in {names[worst]}; raise "
        "that floor"
    )


def worse_by(values_M: Array, baseline: float, scale: Scale) -> Array:
    """Return how much worse than a baseline each score is, shape (M,), in the scores' unit; negative: better."""
    return baseline - values_M if scale.higher_is_better else values_M - baseline


def _weighted_mean(columns: list[Array], averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> Array:
    mean_M: Array = np.average(columns, axis=0, weights=[scales[name].weight for name in averages])
    return mean_M


def _check_capabilities(key: str, given: Mapping[str, float], known: Collection[str]) -> None:
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(
            f"{key}: no capability {', '.join(unknown)} in the objective; expected some of {list(known)}"
            f"{near(unknown[0], known)}"
        )


def _check(averages: Mapping[str, Array], scales: Mapping[str, Scale]) -> None:
    lengths = {name: len(values_M) for name, values_M in averages.items()}
    if len(set(lengths.values())) != 1:
        raise ScoreError(f"objective: expected capabilities of one length, at least one; found {lengths}")
    missing = [name for name in averages if name not in scales]
    if missing:
        raise ScoreError(f"objective: no direction for {', '.join(missing)}; say whether higher is better")
