"""Candidate mixtures: random merge weights that satisfy every constraint exactly.

The authors' script clips and then renormalises, which breaks its own cap in one sample of six. Here rows within the
constraints are kept as drawn, so "uniform" is uniform on what they allow. Where too few draws are within them, or
an equality forbids that any is, rows are drawn from the feasible set itself (hit-and-run), uniformly for either kind
of sampler. Rows are multiples of a grid, and checked again there, unless an equality forbids the grid.

Axes: M mixtures, C components, S strengths, V rows that violate a constraint.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_demix.config import SamplerConfig
from nemo_demix.constraints import Constraints
from nemo_demix.errors import ConfigError, DemixError, MixtureError, refuse
from nemo_demix.mixture import Array, check_simplex
from nemo_demix.search.hit_and_run import feasible_rows

Units = npt.NDArray[np.int32]  # multiples of the grid; a row sums to 1 / grid
Rows = npt.NDArray[Any]

MIN_GRID = 1e-5  # two rows on such a grid are equal or 2e-5 apart: near-duplicates (L1 < 1e-5) are duplicates
MIN_BATCH = 1024  # rows
MAX_DRAWS = 10  # times the wanted number of rows


def sample_mixtures(
    config: SamplerConfig,
    prior: Mapping[str, float],
    constraints: Constraints,
    count: int,
    rng: np.random.Generator,
) -> Array:
    """Return distinct random merge weights within the constraints.

    Args:
        config: Kind of sampler, its grid, and the cap of each merge weight as a multiple of its prior.
        prior: Token-count shares by component (untempered); they sum to 1.
        constraints: What the rows have to satisfy besides, and what each component was trained on.
        count: How many rows.
        rng: The only source of randomness; the same state gives the same bytes.

    Returns:
        Merge weights, float64, shape (count, C), columns in the order of `blend.components`. Rows sum to 1 and
        satisfy every constraint within 1e-9, and no two are the same. Each weight is a multiple of the grid, unless
        the constraints fix a share or a sum.

    Raises:
        ConfigError: if the sampler's settings are impossible.
        MixtureError: if the constraints exclude each other or leave fewer than `count` rows to be found.

    Memory: up to 6 arrays of shape (count, C), float64.
    Source: DeMix §2.4 (uniform on the simplex) and the released script (Dirichlet, caps, grid); method notes §5.
    """
    refuse(sampler_errors(config))
    prior_C = np.array(list(check_simplex(prior, constraints.blend.components, "prior").values()))
    constraints = constraints.with_max_weights(max_prior_weights(config, prior))
    num_units = round(1 / config.grid)
    if not constraints.suits_grid:
        exact = (rows_MC[constraints.satisfied_M(rows_MC)] for rows_MC, _ in _inside(constraints, count, rng))
        found_MC = _gather(np.empty((0, len(prior_C))), exact, count)
    else:
        units_MC: Units = np.empty((0, len(prior_C)), dtype=np.int32)
        lowest_C = constraints.feasible.lowest_C() if config.kind == "uniform" else np.zeros(len(prior_C))
        for draws in range(1, MAX_DRAWS + 1):
            drawn_MC = _draw(config, prior_C, max(count, MIN_BATCH), rng)
            if lowest_C.any():  # no row with less is feasible, and uniform on the rest is uniform still
                drawn_MC = lowest_C + (1 - lowest_C.sum()) * drawn_MC
            drawn_MC = _without_unused(constraints, drawn_MC)
            inside_MC = drawn_MC[constraints.satisfied_M(drawn_MC)]
            snapped_MC = _to_feasible_grid(inside_MC, constraints, constraints.convex.centre_C, num_units)
            units_MC = distinct(np.vstack([units_MC, snapped_MC]))
            if len(units_MC) * MAX_DRAWS < count * draws or len(units_MC) >= count:
                break  # at this rate all draws would hold too few, or these are enough
        snapped = (
            _to_feasible_grid(rows_MC, constraints, centres_MC, num_units)
            for rows_MC, centres_MC in _inside(constraints, count, rng)
        )
        found_MC = _gather(units_MC, snapped, count) / num_units
    if len(found_MC) < count:
        grid = f" on a grid of {config.grid}" if constraints.suits_grid else ""
        raise MixtureError(
            f"search.sampler: found {len(found_MC)} distinct mixtures within the constraints{grid}, expected {count}; "
            f"relax a constraint, or lower {'the grid or ' if grid else ''}the number of mixtures"
        )
    return found_MC[:count]


def max_prior_weights(config: SamplerConfig, prior: Mapping[str, float]) -> dict[str, float]:
    """Return the cap of each merge weight, by component; none where the sampler has no `max_prior_multiple`."""
    multiple = config.max_prior_multiple
    return {} if multiple is None else {name: multiple * share for name, share in prior.items()}


def sampler_errors(config: SamplerConfig) -> Iterator[DemixError]:
    """Yield errors for settings of the sampler that nothing can be drawn by."""
    if config.kind not in ("uniform", "dirichlet"):
        yield ConfigError(f"search.sampler.kind: expected uniform or dirichlet, found {config.kind!r}")
    if not MIN_GRID <= config.grid <= 0.5 or abs(round(1 / config.grid) * config.grid - 1) > 1e-9:
        yield ConfigError(
            f"search.sampler.grid: expected 1 / a whole number, from {MIN_GRID} to 0.5; found {config.grid}"
        )
    if not 0 < config.min_strength <= config.max_strength or config.num_strengths < 1:
        yield ConfigError(
            "search.sampler: expected 0 < min_strength <= max_strength and num_strengths >= 1, found "
            f"{config.min_strength}, {config.max_strength} and {config.num_strengths}"
        )
    if config.temperature <= 0:
        yield ConfigError(f"search.sampler.temperature: expected a number above 0, found {config.temperature}")


def _draw(config: SamplerConfig, prior_C: Array, count: int, rng: np.random.Generator) -> Array:
    """Return rows on the simplex, before constraints and grid; a row that underflows to all zeros is left out."""
    if config.kind == "uniform":
        gamma_MC = rng.standard_exponential((count, len(prior_C)))
    else:
        tempered_C = np.where(prior_C > 0, prior_C, 0.0) ** config.temperature
        tempered_C /= tempered_C.sum()
        strengths_S = np.geomspace(config.min_strength, config.max_strength, config.num_strengths)
        strength_M1 = rng.choice(strengths_S, size=(count, 1))
        gamma_MC = rng.standard_gamma(strength_M1 * tempered_C)
    total_M1 = gamma_MC.sum(axis=1, keepdims=True)
    kept_M = total_M1[:, 0] > 0
    drawn_MC: Array = gamma_MC[kept_M] / total_M1[kept_M]
    return drawn_MC


def _without_unused(constraints: Constraints, weights_MC: Array) -> Array:
    """Return the rows without the components that may have no weight, or whose weight is below `min_used`, scaled up to
    1.

    The largest weight of a row stays. A row of nothing else is left as it is, to be refused.
    """
    if constraints.free_C.all() and not constraints.min_used:
        return weights_MC
    used_MC = (weights_MC >= constraints.min_used) | (weights_MC == weights_MC.max(axis=1, keepdims=True))
    left_MC = np.where(used_MC & constraints.free_C, weights_MC, 0.0)
    total_M1 = left_MC.sum(axis=1, keepdims=True)
    rows_MC: Array = np.divide(left_MC, total_M1, out=weights_MC.copy(), where=total_M1 > 0)
    return rows_MC


def _inside(constraints: Constraints, count: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Yield rows drawn from the feasible set itself, with their centres: MAX_DRAWS times the wanted number at most."""
    left = MAX_DRAWS * count
    for rows_MC, centres_MC in feasible_rows(constraints, count, rng):
        yield rows_MC, centres_MC
        left -= len(rows_MC)  # a batch is smaller than asked for where some of the set's parts are single points
        if left <= 0:
            return


def _gather(found_MC: Rows, batches: Iterator[Rows], count: int) -> Rows:
    """Return the distinct rows of `found_MC`, and of so many batches as make them `count`, or of all."""
    waiting: list[Rows] = []
    while len(found_MC) < count:
        batch_MC = next(batches, None)
        if batch_MC is not None:
            waiting.append(batch_MC)
        if batch_MC is None or len(found_MC) + sum(map(len, waiting)) >= count:
            found_MC, waiting = distinct(np.vstack([found_MC, *waiting])), []
        if batch_MC is None:
            break
    return found_MC


def _to_feasible_grid(weights_MC: Array, constraints: Constraints, centres_MC: Array, num_units: int) -> Units:
    """Return rows on the grid that satisfy the constraints there; one that cannot even near a centre is left out.

    Rounding can carry a row over a bound by a grid step, so such rows are moved on towards their centre.
    """
    units_MC = _to_grid(weights_MC, num_units)
    centres_MC = np.broadcast_to(centres_MC, weights_MC.shape)
    for step in _steps():
        violating_V = np.flatnonzero(~constraints.satisfied_M(units_MC / num_units))
        if not violating_V.size:
            break
        moved_VC = (1 - step) * weights_MC[violating_V] + step * centres_MC[violating_V]
        units_MC[violating_V] = _to_grid(moved_VC, num_units)
    return units_MC[constraints.satisfied_M(units_MC / num_units)]


def _steps() -> Iterator[float]:
    """Return shares of the way to the centre: 1/256, 1/128, ... 1."""
    return (2.0**-power for power in range(8, -1, -1))


def _to_grid(weights_MC: Array, num_units: int) -> Units:
    """Return nearest multiples of the grid that sum to 1 (largest remainder); weights below one grid step become 0."""
    units_MC = weights_MC * num_units
    floor_M1 = np.minimum(1.0, units_MC.max(axis=1, keepdims=True))  # the largest weight of a row always stays
    units_MC[units_MC < floor_M1 - 1e-9] = 0.0
    units_MC *= num_units / units_MC.sum(axis=1, keepdims=True)
    whole_MC = np.floor(units_MC + 1e-9)
    short_M1 = num_units - whole_MC.sum(axis=1, keepdims=True)
    order_MC = np.argsort(whole_MC - units_MC, axis=1, kind="stable")
    place_MC = np.empty_like(order_MC)
    np.put_along_axis(place_MC, order_MC, np.arange(units_MC.shape[1])[None], axis=1)
    return (whole_MC + (place_MC < short_M1)).astype(np.int32)


def to_feasible(config: SamplerConfig, constraints: Constraints, weights_MC: Array) -> Array:
    """Turn rows on the simplex into a pool's: on the grid where that can be, without those that break a rule.

    Returns:
        The rows that are left, float64, shape (at most M, C).
    """
    weights_MC = np.where(np.abs(weights_MC) < 1e-12, 0.0, weights_MC)  # an edge is met but for rounding
    if not constraints.suits_grid:
        rows_MC: Array = weights_MC[constraints.satisfied_M(weights_MC)]
        return rows_MC
    num_units = round(1 / config.grid)
    weights_MC = _without_unused(constraints, weights_MC)
    return _to_feasible_grid(weights_MC, constraints, constraints.convex.centre_C, num_units) / num_units


def distinct(rows_MC: Rows) -> Rows:
    """Return the rows without repetitions, in order of first appearance."""
    bytes_M = np.ascontiguousarray(rows_MC).view(np.dtype((np.void, rows_MC.itemsize * rows_MC.shape[1])))[:, 0]
    _, first_M = np.unique(bytes_M, return_index=True)
    return rows_MC[np.sort(first_M)]
