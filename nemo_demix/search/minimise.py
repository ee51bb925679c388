"""The least value of a smooth function of the merge weights, under the constraints and under smooth limits of its own.

Sequential quadratic programming, from several starts where the function is not convex.

Axes: C components, S starts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from nemo_demix.constraints import Constraints
from nemo_demix.mixture import Array

# Merge weights -> value and gradient. Weights sum to 1, so only the gradient's differences between components count.
Smooth = Callable[[Array], tuple[float, Array]]
RESTARTS = 10
SETTLED = 1e-9  # largest change of a weight, or relative change of the loss, at which a descent has nothing to add
WITHIN = 5e-7  # of its own scale, within which a limit holds: thrice what fp32 probabilities make of bits per byte


@threadpool_limits.wrap(limits=1, user_api="blas")  # matrices this small are only waited for by threads
def minimise(loss: Smooth, constraints: Constraints, limits: Sequence[Smooth], starts_SC: Array) -> Array | None:
    """Return the best mixture found that satisfies everything; None if none does.

    `search.constraints.min_used` leaves no convex set: what is found without it is moved to the nearest mixture that
    satisfies it.

    Args:
        loss: What is minimised.
        constraints: Constraints of the search.
        limits: Functions that have to be at most 0, in units of the loss.
        starts_SC: Mixtures to start from, shape (S, C); those that satisfy everything are candidates themselves.

    Returns:
        Merge weights, float64, shape (C,).
    """
    smooth = [*limits, *divergence_limit(constraints)]
    best_C, least = None, np.inf
    for start_C in starts_SC:
        end_C, end = start_C, loss(start_C)[0]
        for _ in range(RESTARTS):  # a descent that rounding stopped short goes on with a fresh curvature
            before_C, before = end_C, end
            end_C = _descend(loss, constraints, smooth, end_C)
            end = loss(end_C)[0]
            if np.abs(end_C - before_C).max() < SETTLED or abs(end - before) < SETTLED * abs(before):
                break
        for weights_C in (start_C, end_C, constraints.nearest(end_C)):
            if constraints.satisfied_M(weights_C[None])[0] and all(limit(weights_C)[0] <= WITHIN for limit in limits):
                value = loss(weights_C)[0]
                if value < least:
                    best_C, least = weights_C, value
    return best_C


def equalities(constraints: Constraints) -> tuple[Array, Array]:
    """Return rows, (E, C), and values, shape (E,), of all equalities: the weights' sum of 1, and those of the
    constraints.
    """
    equal_EC = np.vstack([np.ones(constraints.matrix_KC.shape[1]), constraints.equal_EC])
    return equal_EC, np.append(1.0, constraints.values_E)


def divergence_limit(constraints: Constraints) -> list[Smooth]:
    """Return how far the data shares are over `max_kl`, in nats, as a limit; none where it is not bounded."""
    prior_D, limit = constraints.prior_D, constraints.max_kl
    if limit is None or prior_D is None:
        return []
    known_D = prior_D > 0  # the others have no share at all, by a linear constraint
    rows_CD, known_prior_D = constraints.blend.rows_CD[:, known_D], prior_D[known_D]

    def over(weights_C: Array) -> tuple[float, Array]:
        shares_D = np.maximum(weights_C @ rows_CD, 1e-300)
        logs_D = np.log(shares_D / known_prior_D)
        gradient_C: Array = rows_CD @ (logs_D + 1.0)
        return float(shares_D @ logs_D) - limit, gradient_C

    return [over]


def _descend(loss: Smooth, constraints: Constraints, limits: Sequence[Smooth], start_C: Array) -> Array:
    from scipy.optimize import LinearConstraint, NonlinearConstraint, minimize

    scale = abs(loss(start_C)[0]) or 1.0

    def scaled(weights_C: Array) -> tuple[float, Array]:
        value, gradient_C = loss(_inside(weights_C))
        return value / scale, gradient_C / scale

    equal_EC, values_E = equalities(constraints)
    conditions: list[object] = [LinearConstraint(equal_EC, values_E, values_E)]
    if len(constraints.bounds_K):
        conditions.append(LinearConstraint(constraints.matrix_KC, -np.inf, constraints.bounds_K))
    conditions += [
        NonlinearConstraint(
            lambda weights_C, limit=limit: limit(_inside(weights_C))[0],
            -np.inf,
            0.0,
            jac=lambda weights_C, limit=limit: limit(_inside(weights_C))[1][None],
        )
        for limit in limits
    ]
    found = minimize(
        scaled, start_C, jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * len(start_C), constraints=conditions,
        options={"maxiter": 500, "ftol": 1e-15},
    )  # fmt: skip
    return _inside(found.x)


def _inside(weights_C: Array) -> Array:
    """Put weights back on the simplex: a step may be beyond it by rounding."""
    clipped_C = np.clip(weights_C, 0.0, 1.0)
    return clipped_C / clipped_C.sum()
