"""Pools that reach the corners: what our own strategies rank, where the published ones keep their published pools.

Uniform draws stay in the middle once there are many components: of 17, no share in 50,000 draws comes near .87, where
RegMix's published optimum is. Half of a pool here is as the sampler draws; the rest is sparse. Then the best of it are
moved, towards each other, away from each other and towards single components, as far as the constraints let them.

Axes: M mixtures, B best ones, S strengths, K constraints, C components.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nemo_demix.config import SamplerConfig, SearchConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import MixtureError
from nemo_demix.mixture import Array
from nemo_demix.search.choose import POOL_STREAM, RankedPool, rank_pool
from nemo_demix.search.ranking import Ranking, floor_weights
from nemo_demix.search.sample import distinct, max_prior_weights, sample_mixtures, to_feasible
from nemo_demix.search.space import SearchSpace

LEAST_STRENGTH = 0.25  # of the sparse draws' Dirichlet: nearly all of a row is one component
NUM_STRENGTHS = 8
ROUNDS = 4
BEST = 32  # rows that each round moves
MOVES = 64  # of each, at most
STEPS = (1.0, 0.5, 0.25, 0.05)  # of the way to the edge
REFINE_STREAM = 6  # of random numbers


class Judge(NamedTuple):
    """How the rows of a pool are ranked: capability averages, which rows are above the floors (by these and their
    averages), and the objective.
    """

    averages: Callable[[Array], Mapping[str, Array]]
    kept: Callable[[Array, Mapping[str, Array]], npt.NDArray[np.bool_]]
    objective: Callable[[Mapping[str, Array]], Array]


def wide_pool(ranking: Ranking, step: int = 0) -> RankedPool:
    """Return a pool of a search's step that reaches the corners, ranked by its predictor, with the best of it refined.

    Where no draw is above the floors, the mixture that they are counted from is what is refined: it is above them all.

    Raises:
        MixtureError: if that is not allowed by the constraints either, and as `sample_mixtures`.
    """
    settings, space = ranking.settings, ranking.space
    drawn_MC = wide_draw(settings, space, settings.pool_size, [ranking.seed, step, POOL_STREAM])
    try:
        pool = rank_pool(ranking, drawn_MC)
    except MixtureError:
        counted_from_MC = counted_from(settings, space)
        if not len(counted_from_MC):
            raise
        pool = rank_pool(ranking, counted_from_MC)
    constraints = capped(settings.sampler, space.prior, space.constraints)
    judge = Judge(ranking.averages, ranking.kept, ranking.objective)
    return refined(settings.sampler, constraints, pool, judge, [ranking.seed, step, REFINE_STREAM])


def counted_from(settings: SearchConfig, space: SearchSpace) -> Array:
    """Return the mixture that floors are counted from, which is above them all, shape (1, C); of shape (0, C) where the
    constraints do not allow it.
    """
    weights_1C = floor_weights(settings, space)[None]
    return weights_1C[space.constraints.satisfied_M(weights_1C)]


def wide_draw(settings: SearchConfig, space: SearchSpace, count: int, stream: Sequence[int]) -> Array:
    """Draw mixtures that reach the corners, float64, shape (M, C), M at most `count`; see `choose.draw`."""
    constraints = capped(settings.sampler, space.prior, space.constraints)
    return wide_mixtures(settings.sampler, space.prior, constraints, count, np.random.default_rng(list(stream)))


def capped(config: SamplerConfig, prior: Mapping[str, float], constraints: Constraints) -> Constraints:
    """Return the constraints with the sampler's caps of merge weights."""
    return constraints.with_max_weights(max_prior_weights(config, prior))


def wide_mixtures(
    config: SamplerConfig, prior: Mapping[str, float], constraints: Constraints, count: int, rng: np.random.Generator
) -> Array:
    """Return distinct mixtures: half as `sample_mixtures` draws them, the rest on and near faces of what is allowed.

    Args:
        constraints: The constraints with the sampler's caps, see `capped`.

    Returns:
        Merge weights, float64, shape (M, C), M at most `count`.

    Raises:
        ConfigError, MixtureError: as `sample_mixtures`.
    """
    even_MC = sample_mixtures(config, prior, constraints, count - count // 2, rng)
    free = constraints.suits_grid
    # An equality holds for rows that exist: these are carried on to the edge.
    sparse_MC = _sparse(even_MC.shape[1], count // 2, rng) if free else even_MC[: count // 2]
    centre_MC = np.broadcast_to(constraints.convex.centre_C, sparse_MC.shape)
    room_M = _room(constraints, centre_MC, sparse_MC - centre_MC)
    if free:
        room_M = np.minimum(room_M, 1.0)
    sparse_MC = centre_MC + room_M[:, None] * (sparse_MC - centre_MC)
    return distinct(np.vstack([even_MC, to_feasible(config, constraints, sparse_MC)]))


def refined(
    config: SamplerConfig, constraints: Constraints, pool: RankedPool, judge: Judge, stream: list[int]
) -> RankedPool:
    """Return a pool with what was found by moving its best rows, round after round.

    Args:
        constraints: The constraints with the sampler's caps, see `capped`.
        stream: Seeds of random numbers that are for this pool alone.
    """
    rng = np.random.default_rng(stream)
    num_components = pool.weights_MC.shape[1]
    moves = min(MOVES, max(1, len(pool.weights_MC) // (4 * ROUNDS * BEST * len(STEPS))))  # a quarter more rows, at most
    for _ in range(ROUNDS):
        best_BC = pool.weights_MC[np.argsort(pool.objective_M, kind="stable")[:BEST]]
        others = pool.weights_MC[rng.integers(len(pool.weights_MC), size=(len(best_BC), moves))]
        near = best_BC[rng.integers(len(best_BC), size=(len(best_BC), moves))]
        corners = np.eye(num_components)[rng.integers(num_components, size=(len(best_BC), moves))]
        signs = rng.choice([-1.0, 1.0], size=(len(best_BC), moves, 1))
        kinds = rng.integers(3 if constraints.suits_grid else 2, size=(len(best_BC), moves, 1))
        goals = np.where(kinds == 0, others, np.where(kinds == 1, near, corners))
        from_MC = np.repeat(best_BC, moves, axis=0)
        direction_MC = (signs * (goals - best_BC[:, None])).reshape(-1, num_components)
        room_M = _room(constraints, from_MC, direction_MC)
        tried = [from_MC + (step * room_M)[:, None] * direction_MC for step in STEPS]
        pool = _joined(pool, judge, to_feasible(config, constraints, np.vstack(tried)))
    return pool


def _joined(pool: RankedPool, judge: Judge, rows_MC: Array) -> RankedPool:
    """Return the pool and the rows that are above the floors and new; ranks are of all of them together."""
    known = len(pool.weights_MC)
    if not len(rows_MC):
        return pool
    rows_MC = distinct(np.vstack([pool.weights_MC, rows_MC]))[known:]
    if not len(rows_MC):
        return pool
    found = judge.averages(rows_MC)
    kept_M = judge.kept(rows_MC, found)
    averages = {name: np.append(values, found[name][kept_M]) for name, values in pool.averages.items()}
    return RankedPool(np.vstack([pool.weights_MC, rows_MC[kept_M]]), averages, judge.objective(averages))


def _sparse(num_components: int, count: int, rng: np.random.Generator) -> Array:
    """Return rows on the simplex: half of small Dirichlet strengths, half uniform on faces, small faces as often as
    large.
    """
    strengths_S = np.geomspace(LEAST_STRENGTH, num_components, NUM_STRENGTHS)
    strength_M1 = rng.choice(strengths_S, size=(count - count // 2, 1))
    gamma_MC = rng.standard_gamma(np.broadcast_to(strength_M1 / num_components, (len(strength_M1), num_components)))
    sizes = np.unique(np.geomspace(1, num_components, NUM_STRENGTHS).round().astype(int))
    size_M1 = rng.choice(sizes, size=(count // 2, 1))
    place_MC = rng.random((count // 2, num_components)).argsort(axis=1)
    face_MC = np.where(place_MC < size_M1, rng.standard_exponential(place_MC.shape), 0.0)
    rows_MC = np.vstack([gamma_MC, face_MC])
    total_M1 = rows_MC.sum(axis=1, keepdims=True)
    kept_M = total_M1[:, 0] > 0  # small strengths can underflow
    rows_MC = rows_MC[kept_M] / total_M1[kept_M]
    return rows_MC


def _room(constraints: Constraints, from_MC: Array, direction_MC: Array) -> Array:
    """Return how many times the direction can be gone until a linear constraint binds, shape (M,); 0 for no
    direction.
    """
    rates_MK = np.hstack([-direction_MC, direction_MC @ constraints.matrix_KC.T])
    slack_MK = np.hstack([from_MC, constraints.bounds_K - from_MC @ constraints.matrix_KC.T])
    moving_MK = rates_MK > 1e-12
    room_MK = np.divide(slack_MK, rates_MK, out=np.full(rates_MK.shape, np.inf), where=moving_MK)
    room_M: Array = np.maximum(room_MK.min(axis=1), 0.0)
    return np.where(np.isfinite(room_M), room_M, 0.0)
