"""Mixtures drawn uniformly from a convex set, however thin it is and whatever it fixes.

Axes: M rows, P chains, V chains that a step would carry over the limit of the divergence, S supports, N directions of
the set's plane, H faces, C components.
"""

from collections.abc import Iterator
from itertools import repeat

import numpy as np

from nemo_demix.constraints import Constraints
from nemo_demix.constraints.convex_set import ConvexSet
from nemo_demix.mixture import Array

MIN_CHAINS, MAX_CHAINS = 256, 4096
MAX_SUPPORTS = 64  # the likeliest ones, where constraints want a support to be drawn
MAX_PROBES = 16  # mixtures whose nearest support is looked for, where none that was drawn is feasible
BURN_IN = 10  # times the number of directions: steps from the centre before the shape is measured, and again after
THINNING = 1  # times the number of directions: steps between two rows of a chain
MAX_SHRINKS = 60  # of a chord; then the chain stays where it is for this step


def feasible_rows(constraints: Constraints, count: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Yield batches of feasible rows without end, each row with the centre of the convex set that it is from.

    Under `min_used` a support is drawn first, as often as hit-and-run without `min_used` has just these weights
    above it; then a row, uniformly among the feasible ones of that support.

    Args:
        constraints: What the rows have to satisfy.
        count: How many rows are wanted in all: the size of a batch.
        rng: The only source of randomness.

    Yields:
        Merge weights and centres, float64, both of shape (M, C).
    """
    size = min(MAX_CHAINS, max(MIN_CHAINS, count))
    sets = _supports(constraints, rng) if constraints.min_used else [(constraints.convex, 1.0)]
    chains = []
    for convex, share in sets:
        num_chains = max(1, round(share * size))
        rows = hit_and_run(convex, num_chains, rng) if convex.dimension else repeat(convex.centre_C[None])
        chains.append((convex, rows))
    while True:
        batches = [next(rows) for _, rows in chains]
        centres = [np.tile(convex.centre_C, (len(rows), 1)) for (convex, _), rows in zip(chains, batches, strict=True)]
        order_M = rng.permutation(sum(map(len, batches)))
        yield np.vstack(batches)[order_M], np.vstack(centres)[order_M]


def _supports(constraints: Constraints, rng: np.random.Generator) -> list[tuple[ConvexSet, float]]:
    """Return the feasible sets of the likeliest supports, with the shares that rows are drawn in."""
    convex = constraints.convex
    rows_MC = next(hit_and_run(convex, MIN_CHAINS, rng)) if convex.dimension else convex.centre_C[None]
    used_SC, count_S = np.unique(rows_MC >= constraints.min_used, axis=0, return_counts=True)
    likeliest_S = np.argsort(-count_S, kind="stable")[:MAX_SUPPORTS]
    found = [(constraints.feasible.on_support(used_SC[place]), float(count_S[place])) for place in likeliest_S]
    sets = [(inside, weight) for inside, weight in found if inside is not None]
    if not sets:
        near = [constraints.feasible.support_near(weights_C) for weights_C in rows_MC[:MAX_PROBES]]
        used_SC, count_S = np.unique([used_C for used_C in near if used_C is not None], axis=0, return_counts=True)
        for used_C, weight in zip(used_SC, count_S.tolist(), strict=True):
            inside = constraints.feasible.on_support(used_C)
            assert inside is not None, "support_near returns none else"
            sets.append((inside, weight))
    total = sum(weight for _, weight in sets)
    return [(inside, weight / total) for inside, weight in sets]


def hit_and_run(convex: ConvexSet, num_chains: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield batches of rows, one a chain, without end; the chains' common distribution tends to the uniform one.

    Every step draws a direction, and then a point of the chord that the set cuts from it. Directions follow the
    set's own shape (its curvature at the centre, then the spread of the chains), so that a set a hundred times as
    long as wide mixes like a round one. Where the divergence bounds the set too, the chord is that of the faces,
    shrunk to each point outside that was drawn: the chord within a convex set stays uniform.

    Args:
        convex: The set; at least one direction.
        num_chains: Rows of a batch. Rows of one batch are independent, those of consecutive ones nearly.
        rng: The only source of randomness.

    Yields:
        Merge weights, float64, shape (num_chains, C), inside the set to rounding.

    Memory: six arrays of shape (num_chains, H).
    Source: Smith 1984 (hit-and-run); Neal 2003 §4 (shrinkage). The numbers of steps are this project's.
    """
    steps_PN = np.zeros((num_chains, convex.dimension))
    _, _, curvature_NN = convex.barrier(steps_PN[0])
    shape_NN = np.linalg.inv(np.linalg.cholesky(curvature_NN)).T
    for _ in range(BURN_IN * convex.dimension):
        steps_PN = _step(convex, steps_PN, shape_NN, rng)
    if num_chains > 4 * convex.dimension:
        shape_NN = np.linalg.cholesky(np.atleast_2d(np.cov(steps_PN, rowvar=False)))
    for _ in range(BURN_IN * convex.dimension):
        steps_PN = _step(convex, steps_PN, shape_NN, rng)
    while True:
        yield convex.points(steps_PN)
        for _ in range(THINNING * convex.dimension):
            steps_PN = _step(convex, steps_PN, shape_NN, rng)


def _step(convex: ConvexSet, steps_PN: Array, shape_NN: Array, rng: np.random.Generator) -> Array:
    """Return one step of all chains."""
    way_PN = rng.standard_normal(steps_PN.shape) @ shape_NN.T
    left_PH = np.maximum(convex.room_H - steps_PN @ convex.faces_HN.T, 0.0)
    speed_PH = way_PN @ convex.faces_HN.T
    with np.errstate(divide="ignore", invalid="ignore"):
        times_PH = left_PH / speed_PH
    last_P = np.where(speed_PH > 0, times_PH, np.inf).min(axis=1)
    first_P = np.where(speed_PH < 0, times_PH, -np.inf).max(axis=1)
    time_P = first_P + rng.random(len(steps_PN)) * (last_P - first_P)
    outside = np.arange(len(steps_PN)) if convex.divergence is not None else np.arange(0)
    for _ in range(MAX_SHRINKS):
        moved_PN = steps_PN[outside] + time_P[outside, None] * way_PN[outside]
        outside = outside[~convex.within_limit_M(moved_PN)]
        if not outside.size:
            break
        time_V = time_P[outside]
        last_P[outside] = np.where(time_V > 0, time_V, last_P[outside])
        first_P[outside] = np.where(time_V > 0, first_P[outside], time_V)
        time_P[outside] = first_P[outside] + rng.random(len(outside)) * (last_P[outside] - first_P[outside])
    time_P[outside] = 0.0
    stepped_PN: Array = steps_PN + time_P[:, None] * way_PN
    return stepped_PN
