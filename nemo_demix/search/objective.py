"""The objectives of the search, from predicted capability averages; lower is better for both.

`percentile_rank` is the paper's and needs no common unit. `mean` keeps how much is gained: it is for scores of one
unit, such as bits per byte, where a rank weighs a capability's last hundredth as much as its first tenth.

Axes: M mixtures of the pool.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import rankdata

from nemo_demix.errors import ScoreError
from nemo_demix.mixture import Array


def percentile_ranks(values_M: Array, *, higher_is_better: bool) -> Array:
    """The share of the pool that each value leaves ahead of it; ties share their average rank.

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
    ranks_M: Array = rankdata(-values_M if higher_is_better else values_M, method="average")
    return (ranks_M - 1) / (values_M.size - 1)


def mean_percentile_rank(averages: Mapping[str, Array], higher_is_better: Mapping[str, bool]) -> Array:
    """DeMix's objective: each capability's percentile rank over the pool, averaged over the capabilities.

    Args:
        averages: Predicted average score by capability, each of shape (M,).
        higher_is_better: The direction of each capability's scores.

    Returns:
        Objective, float64, shape (M,), in [0, 1]; lower is better.

    Raises:
        ScoreError: if there is no capability, one lacks its direction, lengths differ or a score is not finite.

    Source: DeMix §2.4.
    """
    _check(averages, higher_is_better)
    ranks = [percentile_ranks(values_M, higher_is_better=higher_is_better[name]) for name, values_M in averages.items()]
    objective_M: Array = np.mean(ranks, axis=0)
    return objective_M


def mean_score(averages: Mapping[str, Array], higher_is_better: Mapping[str, bool]) -> Array:
    """The plain mean of the capabilities' scores, negated where higher is better.

    Args:
        averages: Predicted average score by capability, each of shape (M,), all in one unit.
        higher_is_better: The direction of each capability's scores; one for all.

    Returns:
        Objective, float64, shape (M,), in the scores' unit; lower is better.

    Raises:
        ScoreError: if there is no capability, one lacks its direction, directions or lengths differ.
    """
    _check(averages, higher_is_better)
    directions = {higher_is_better[name] for name in averages}
    if len(directions) != 1:
        raise ScoreError("objective: mean: expected scores of one direction; use search.objective=percentile_rank")
    mean_M: Array = np.mean(list(averages.values()), axis=0)
    return -mean_M if directions.pop() else mean_M


OBJECTIVES: dict[str, Callable[[Mapping[str, Array], Mapping[str, bool]], Array]] = {
    "percentile_rank": mean_percentile_rank,
    "mean": mean_score,
}


def _check(averages: Mapping[str, Array], higher_is_better: Mapping[str, bool]) -> None:
    lengths = {name: len(values_M) for name, values_M in averages.items()}
    if len(set(lengths.values())) != 1:
        raise ScoreError(f"objective: expected capabilities of one length, at least one; found {lengths}")
    missing = [name for name in averages if name not in higher_is_better]
    if missing:
        raise ScoreError(f"objective: no direction for {', '.join(missing)}; say whether higher is better")
