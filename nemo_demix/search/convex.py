"""The exact best mixture of predictions: convex, so its optimum comes with a bound on what any other could gain.

A weighted *mean of scores* in bits per byte is convex in the merge weights, and so is a bound on one; a mean of
percentile ranks is not, nor is any objective that first compares a mixture with others.

Axes: C components, K linear constraints (<=), E equalities, L limits, T gold tokens.
Source: MixMin for the problem; Frank and Wolfe's duality gap for the bound (Jaggi, ICML 2013).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from nemo_demix.constraints import Constraints
from nemo_demix.constraints.convex_set import LP_OPTIONS
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array
from nemo_demix.search.minimise import Smooth, divergence_limit, equalities, minimise
from nemo_demix.search.token_predictions import TokenPredictions


class Limit(NamedTuple):
    """A weighted sum of scores that may not be above a value."""

    objective: Mapping[str, float]  # weight of each score, at least 0
    most: float  # bits per byte


class Optimum(NamedTuple):
    """The best mixture, and how sure that is."""

    weights_C: Array
    value: float  # bits per byte
    optimality_gap: float  # bits per byte: no mixture that is allowed is better by more than this


@threadpool_limits.wrap(limits=1, user_api="blas")  # matrices this small are only waited for by threads
def best_prediction_mixture(
    predictions: TokenPredictions,
    objective: Mapping[str, float],
    constraints: Constraints,
    limits: Sequence[Limit] = (),
) -> Optimum:
    """Return the mixture with the least weighted sum of scores, among those that satisfy the constraints and the
    limits.

    `search.constraints.min_used` is not convex: the optimum is found without it and moved to the nearest mixture that
    satisfies it; the gap is to the optimum without, so it tells what the move cost.

    Args:
        predictions: Predictions of the components that the constraints are about, in the same order.
        objective: Weight of each score, at least 0, e.g. 1 / (capabilities x benchmarks in its capability).
        limits: Bounds on other sums of scores.
    Raises:
        ScoreError: if a score is not in bits per byte, a weight is negative, or all are 0.
        MixtureError: if no mixture was found that keeps the limits.
    Memory: 8 bytes a component and gold token, of the objective and of each limit.
    """
    loss = _Loss(predictions, objective)
    smooth = [_Loss(predictions, limit.objective, limit.most) for limit in limits]
    weights_C = minimise(loss, constraints, smooth, constraints.convex.centre_C[None])
    if weights_C is None:
        raise MixtureError(
            "search.floors: no mixture of predictions was found that keeps them under search.constraints; raise one of "
            "search.floors, search.default_floor and search.heldout_floor"
        )
    value = loss(weights_C)[0]
    gap = -_least_change(loss, constraints, [*smooth, *divergence_limit(constraints)], weights_C)
    return Optimum(weights_C, value, gap)


class _Loss:
    """The weighted sum of scores less a constant, bits per byte, and its gradient."""

    def __init__(self, predictions: TokenPredictions, objective: Mapping[str, float], less: float = 0.0) -> None:
        weights_T = predictions.objective_weights_T(objective)
        used = np.flatnonzero(weights_T)
        logprobs_CT = predictions.logprobs_CT[:, used].astype(np.float64)
        largest_T = logprobs_CT.max(axis=0)
        self._ratios_CT = np.exp(logprobs_CT - largest_T)
        self._weights_T = weights_T[used] / np.log(2.0)
        self._constant = -float(self._weights_T @ largest_T) - less

    def __call__(self, weights_C: Array) -> tuple[float, Array]:
        mixed_T = weights_C @ self._ratios_CT
        value = self._constant - float(self._weights_T @ np.log(mixed_T))
        gradient_C: Array = -(self._ratios_CT @ (self._weights_T / mixed_T))
        return value, gradient_C


def _least_change(loss: Smooth, constraints: Constraints, limits: Sequence[Smooth], weights_C: Array) -> float:
    """Return the most that a convex loss can fall from these weights, as a number <= 0: convex limits are wider
    linearised.
    """
    from scipy.optimize import linprog

    gradient_C = loss(weights_C)[1]
    goal_C = gradient_C - gradient_C.min()  # the weights sum to 1: a constant changes nothing but the scale
    size = float(goal_C.max()) or 1.0
    rows_KC, bounds_K = constraints.matrix_KC, constraints.bounds_K
    for limit in limits:
        over, slope_C = limit(weights_C)
        level = float(slope_C.min())
        rows_KC = np.vstack([rows_KC, slope_C - level])
        bounds_K = np.append(bounds_K, float(slope_C @ weights_C) - level - min(over, 0.0))
    equal_EC, values_E = equalities(constraints)
    found = linprog(goal_C / size, rows_KC, bounds_K, equal_EC, values_E, bounds=(0, 1), options=LP_OPTIONS)
    assert found.status == 0, f"constraints that were feasible before: {found.message}"
    return min(float(goal_C @ (found.x - weights_C)), 0.0)
