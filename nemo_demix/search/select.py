"""What a ranked pool gives: the next iteration's mixtures, and the final mixture.

Axes: M mixtures of the pool, T selected ones, E mixtures already scored, C components.
"""

import numpy as np
import numpy.typing as npt

from nemo_demix.constraints import Constraints
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array

NEAR_DUPLICATE_L1 = 1e-5  # as in the released script


def top_rows(objective_M: Array, count: int) -> npt.NDArray[np.intp]:
    """Return row numbers of the `count` lowest objectives, shape (count,), best first; ties keep the pool's order.

    Raises:
        MixtureError: if the pool has fewer than `count` rows, or `count` is below 1.
    """
    if not 1 <= count <= len(objective_M):
        raise MixtureError(f"selection: expected a count from 1 to the pool's {len(objective_M)} rows, found {count}")
    return np.argsort(objective_M, kind="stable")[:count]


def up_to_top_rows(objective_M: Array, count: int) -> npt.NDArray[np.intp]:
    """Return what `top_rows` does, shape (min(count, M),): all rows where a pool has fewer, as floors may leave few."""
    return top_rows(objective_M, min(count, len(objective_M)))


def draw_next(
    weights_MC: Array, objective_M: Array, share: float, count: int, exclude_EC: Array, rng: np.random.Generator
) -> Array:
    """Return the next iteration's mixtures: drawn uniformly, without replacement, from the top of the ranked pool.

    Args:
        weights_MC: The pool's merge weights, float64, shape (M, C); no two rows the same.
        objective_M: The pool's objective, shape (M,); lower is better.
        share: The share of the pool to draw from, best first, in (0, 1]; rounded up to whole rows.
        count: How many mixtures.
        exclude_EC: Merge weights already scored, shape (E, C); rows within L1 1e-5 of one are not drawn again.
        rng: The only source of randomness.

    Returns:
        Merge weights, float64, shape (count, C), in the order drawn.

    Raises:
        MixtureError: if `share` is out of range, or its rows hold fewer than `count` new mixtures.

    Source: DeMix §2.4.
    """
    from scipy.spatial.distance import cdist

    if not 0 < share <= 1:
        raise MixtureError(f"search.resample_top: expected a share in (0, 1], found {share}")
    top_T = top_rows(objective_M, int(np.ceil(share * len(objective_M))))
    if len(exclude_EC):
        near_T = cdist(weights_MC[top_T], exclude_EC, "cityblock").min(axis=1) < NEAR_DUPLICATE_L1
        top_T = top_T[~near_T]
    if len(top_T) < count:
        raise MixtureError(
            f"search: the top {share:.2%} of a pool of {len(objective_M)} holds {len(top_T)} new mixtures, expected "
            f"{count}; raise search.resample_top or search.pool_size"
        )
    drawn_TC: Array = weights_MC[rng.choice(top_T, size=count, replace=False)]
    return drawn_TC


def mean_of_top(weights_MC: Array, objective_M: Array, count: int, constraints: Constraints | None = None) -> Array:
    """Return the final mixture: the mean of the `count` best.

    The mean satisfies all convex constraints that the rows satisfy, but not `min_used`: a component that few of them
    use has a small weight in it. Then these are dropped and the nearest feasible mixture of the others is taken;
    where there is none, the best row that is feasible itself.

    Args:
        weights_MC: The pool's merge weights, float64, shape (M, C).
        objective_M: The pool's objective, shape (M,); lower is better.
        count: How many rows.
        constraints: What the result satisfies, whatever the rows do; None: nothing.

    Returns:
        Merge weights, float64, shape (C,), summing to 1.

    Raises:
        MixtureError: if the pool has fewer than `count` rows, `count` is below 1, or neither the mean can be repaired
            nor is a row feasible.

    Source: DeMix §2.4 (the top 128; the released script takes 1280).
    """
    mean_C: Array = weights_MC[top_rows(objective_M, count)].mean(axis=0)
    if constraints is None or constraints.satisfied_M(mean_C[None])[0]:
        return mean_C
    repaired_C = constraints.nearest_of_used(mean_C)
    if repaired_C is not None:
        return repaired_C
    feasible_V = np.flatnonzero(constraints.satisfied_M(weights_MC))
    if not feasible_V.size:
        raise MixtureError(
            f"selection: none of the pool's {len(weights_MC)} rows satisfies search.constraints, and their mean cannot "
            "be repaired; draw the pool with the same constraints"
        )
    best_C: Array = weights_MC[feasible_V[np.argmin(objective_M[feasible_V])]]
    return best_C


def spread_rows(weights_MC: Array, objective_M: Array, count: int, spacing: float, exclude_EC: Array) -> Array:
    """Return the best rows that keep a distance from each other and from rows already scored: a local penalty.

    Args:
        weights_MC: The pool's merge weights, shape (M, C).
        objective_M: The pool's objective, shape (M,); lower is better.
        spacing: Least L1 distance between two rows taken. It is halved as often as needed to find `count` rows.
        exclude_EC: Rows already scored, shape (E, C).

    Returns:
        At most `count` rows, best first; fewer only where the pool has no more that differ.
    """
    from scipy.spatial.distance import cdist

    order_M = np.argsort(objective_M, kind="stable")
    while True:
        free_M = np.ones(len(order_M), dtype=bool)
        if len(exclude_EC):
            free_M = cdist(weights_MC[order_M], exclude_EC, "cityblock").min(axis=1) >= spacing
        taken: list[Array] = []
        while len(taken) < count and free_M.any():
            taken.append(weights_MC[order_M[int(np.argmax(free_M))]])
            free_M &= np.abs(weights_MC[order_M] - taken[-1]).sum(axis=1) >= spacing
        if len(taken) == count or spacing < 1e-5:
            return np.array(taken).reshape(-1, weights_MC.shape[1])
        spacing /= 2
