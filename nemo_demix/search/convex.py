"""The exact best mixture of predictions: convex, so its optimum comes with a bound on what any other could gain.

A weighted *mean of scores* in bits per byte is convex in the merge weights; a mean of percentile ranks is not, nor is
any objective that first compares a mixture with others.

Axes: C components, D datasets, K linear constraints (<=), E equalities, T gold tokens.
Source: MixMin for the problem; Frank and Wolfe's duality gap for the bound (Jaggi, ICML 2013).
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from nemo_demix.constraints import Constraints
from nemo_demix.constraints.convex_set import LP_OPTIONS
from nemo_demix.mixture import Array
from nemo_demix.search.token_predictions import TokenPredictions

logger = logging.getLogger(__name__)

Loss = Callable[[Array], tuple[float, Array]]  # of merge weights: value and gradient
GOAL = 1e-7  # of the value: a gap at which nothing is left to gain
LARGEST_PRICE = 1e9  # bits per byte for a nat
MAX_HALVINGS = 60


class Optimum(NamedTuple):
    """The best mixture, and how sure that is."""

    weights_C: Array
    value: float  # bits per byte
    optimality_gap: float  # bits per byte: no mixture that the constraints allow is better by more than this


def best_prediction_mixture(
    predictions: TokenPredictions, objective: Mapping[str, float], constraints: Constraints
) -> Optimum:
    """The mixture with the least weighted sum of scores, among those that satisfy the constraints.

    `search.constraints.min_used` is not convex: the optimum is found without it and moved to the nearest mixture that
    satisfies it; the gap is to the optimum without, so it tells what the move cost.

    Args:
        predictions: Of the components that the constraints are about, in the same order.
        objective: Weight of each score, at least 0, e.g. 1 / (capabilities x benchmarks in its capability).
    Raises:
        ScoreError: if a score is not in bits per byte, a weight is negative, or all are 0.
    Memory: 8 bytes a component and gold token.
    """
    search = _Search(_Loss(predictions, objective), constraints)
    if search.attempt(0.0) > 0:  # the divergence binds: find the price at which it no longer does
        low, high = 0.0, 1e-3
        while search.attempt(high) > 0 and high < LARGEST_PRICE:
            low, high = high, 8.0 * high
        for _ in range(MAX_HALVINGS):
            if search.is_settled:
                break
            middle = (low + high) / 2
            low, high = (middle, high) if search.attempt(middle) > 0 else (low, middle)
    weights_C, value = search.result()
    gap = max(value - search.bound, 0.0)
    logger.info("optimum over mixed predictions: %.6f bits/byte, at most %.2g from the best", value, gap)
    return Optimum(weights_C, value, gap)


class _Search:
    """The best allowed mixture so far, and a value below which there is none.

    The divergence from the prior is not linear: it is given a price, and what a price leads to is a bound for all.
    """

    def __init__(self, loss: "_Loss", constraints: Constraints) -> None:
        self._loss, self._constraints = loss, constraints
        self._last_C = constraints.convex.centre_C
        self._best_C, self._value = self._last_C, np.inf
        self.bound = -np.inf

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to gain."""
        return self._value - self.bound <= GOAL * abs(self.bound)

    def attempt(self, price: float) -> float:
        """Minimise loss + price x (divergence - its maximum); returns by how much the divergence is over, nats."""

        def priced(weights_C: Array) -> tuple[float, Array]:
            value, gradient_C = self._loss(weights_C)
            if not price:
                return value, gradient_C
            over, slope_C = _divergence(self._constraints, weights_C)
            return value + price * over, gradient_C + price * slope_C

        self._last_C = _descend(priced, self._constraints, self._last_C)
        value, gradient_C = priced(self._last_C)
        self.bound = max(self.bound, value + _least_change(gradient_C, self._constraints, self._last_C))
        self._keep(self._last_C)
        return _divergence(self._constraints, self._last_C)[0]

    def result(self) -> tuple[Array, float]:
        """The best mixture that satisfies everything, and its value."""
        if not self.is_settled:  # rounding or `min_used` ruled out the optimum itself
            self._keep(self._constraints.nearest(self._last_C))
        return self._best_C, self._value

    def _keep(self, weights_C: Array) -> None:
        if self._constraints.satisfied_M(weights_C[None])[0]:
            value = self._loss(weights_C)[0]
            if value < self._value:
                self._best_C, self._value = weights_C, value


class _Loss:
    """The weighted sum of scores, bits per byte, and its gradient."""

    def __init__(self, predictions: TokenPredictions, objective: Mapping[str, float]) -> None:
        weights_T = predictions.objective_weights_T(objective)
        used = np.flatnonzero(weights_T)
        logprobs_CT = predictions.logprobs_CT[:, used].astype(np.float64)
        largest_T = logprobs_CT.max(axis=0)
        self._ratios_CT = np.exp(logprobs_CT - largest_T)
        self._weights_T = weights_T[used] / np.log(2.0)
        self._constant = -float(self._weights_T @ largest_T)

    def __call__(self, weights_C: Array) -> tuple[float, Array]:
        mixed_T = weights_C @ self._ratios_CT
        value = self._constant - float(self._weights_T @ np.log(mixed_T))
        gradient_C: Array = -(self._ratios_CT @ (self._weights_T / mixed_T))
        return value, gradient_C


def _descend(loss: Loss, constraints: Constraints, start_C: Array) -> Array:
    """Sequential quadratic programming under the linear constraints; its end is judged by the bound alone."""
    from scipy.optimize import LinearConstraint, minimize

    scale = abs(loss(start_C)[0]) or 1.0

    def scaled(weights_C: Array) -> tuple[float, Array]:
        value, gradient_C = loss(np.maximum(weights_C, 0.0))
        return value / scale, gradient_C / scale

    conditions = [LinearConstraint(*_equalities(constraints))]
    if len(constraints.bounds_K):
        conditions.append(LinearConstraint(constraints.matrix_KC, -np.inf, constraints.bounds_K))
    found = minimize(
        scaled, start_C, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * len(start_C), constraints=conditions,
        options={"maxiter": 500, "ftol": 1e-15},
    )  # fmt: skip
    weights_C = np.clip(found.x, 0.0, 1.0)
    return weights_C / weights_C.sum()


def _least_change(gradient_C: Array, constraints: Constraints, weights_C: Array) -> float:
    """The most that a convex loss can fall from these weights under the linear constraints, as a number <= 0."""
    from scipy.optimize import linprog

    goal_C = gradient_C - gradient_C.min()  # the weights sum to 1: a constant changes nothing but the scale
    size = float(goal_C.max()) or 1.0
    equal_EC, values_E, _ = _equalities(constraints)
    found = linprog(
        goal_C / size, constraints.matrix_KC, constraints.bounds_K, equal_EC, values_E, bounds=(0, 1),
        options=LP_OPTIONS,
    )  # fmt: skip
    assert found.status == 0, f"constraints that were feasible before: {found.message}"
    return min(float(goal_C @ (found.x - weights_C)), 0.0)


def _equalities(constraints: Constraints) -> tuple[Array, Array, Array]:
    """Rows, and their values as lower and as upper bounds."""
    equal_EC = np.vstack([np.ones(constraints.matrix_KC.shape[1]), constraints.equal_EC])
    values_E = np.append(1.0, constraints.values_E)
    return equal_EC, values_E, values_E


def _divergence(constraints: Constraints, weights_C: Array) -> tuple[float, Array]:
    """How far the data shares are over `max_kl`, nats, and the gradient by the weights; -inf without a limit."""
    if constraints.max_kl is None or constraints.prior_D is None:
        return -np.inf, np.zeros_like(weights_C)
    known_D = constraints.prior_D > 0  # the others have no share at all, by a linear constraint
    rows_CD, prior_D = constraints.blend.rows_CD[:, known_D], constraints.prior_D[known_D]
    shares_D = np.maximum(weights_C @ rows_CD, 1e-300)
    logs_D = np.log(shares_D / prior_D)
    gradient_C: Array = rows_CD @ (logs_D + 1.0)
    return float(shares_D @ logs_D) - constraints.max_kl, gradient_C
