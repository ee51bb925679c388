"""Candidate mixtures: random merge weights on a grid that satisfy every cap exactly.

The authors' script clips and then renormalises, which breaks its own cap in one sample of six. Here rows within the
caps are kept as drawn, so "uniform" is uniform on what the caps allow; only where ten times as many draws as wanted
hold too few of them are the others moved inside. All are checked again on the grid.

Axes: M mixtures, C components, S strengths, V rows that violate a cap.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from nemo_demix.caps import Caps
from nemo_demix.config import SamplerConfig
from nemo_demix.errors import ConfigError, MixtureError
from nemo_demix.mixture import Array, BlendMatrix, check_simplex

Units = npt.NDArray[np.int32]  # multiples of the grid; a row sums to 1 / grid

MIN_GRID = 1e-5  # two rows on such a grid are equal or 2e-5 apart: near-duplicates (L1 < 1e-5) are duplicates
MIN_BATCH = 1024  # rows
MAX_DRAWS = 10  # times the wanted number of rows


def sample_mixtures(
    config: SamplerConfig,
    prior: Mapping[str, float],
    blend: BlendMatrix,
    max_data_shares: Mapping[str, float] | None,
    count: int,
    rng: np.random.Generator,
) -> Array:
    """Distinct random merge weights, on the grid and within the caps.

    Args:
        config: Kind of sampler, its grid, and the cap of each merge weight as a multiple of its prior.
        prior: Token-count shares by component (untempered); they sum to 1.
        blend: What each component was trained on.
        max_data_shares: Largest converted share, by dataset; a dataset left out is not bounded.
        count: How many rows.
        rng: The only source of randomness; the same state gives the same bytes.

    Returns:
        Merge weights, float64, shape (count, C), columns in the order of `blend.components`. Each is a multiple of
        the grid, rows sum to 1 and satisfy every cap within 1e-12, and no two rows are the same.

    Raises:
        ConfigError: if the sampler's settings are impossible.
        MixtureError: if the caps exclude each other or leave fewer than `count` rows to be found.

    Memory: up to 16 arrays of shape (count, C), float64, where the caps exclude most draws; 6 else.
    Source: DeMix §2.4 (uniform on the simplex) and the released script (Dirichlet, caps, grid); method notes §5.
    """
    _check_config(config)
    prior_C = np.array(list(check_simplex(prior, blend.components, "prior").values()))
    multiple = config.max_prior_multiple
    max_weights = {} if multiple is None else dict(zip(blend.components, (multiple * prior_C).tolist(), strict=True))
    caps = Caps.build(blend, max_weights, max_data_shares)
    num_units = round(1 / config.grid)
    found_MC: Units = np.empty((0, len(blend.components)), dtype=np.int32)
    outside: list[Array] = []
    for _ in range(MAX_DRAWS):
        drawn_MC = caps.without_forbidden(_draw(config, prior_C, max(count, MIN_BATCH), rng))
        inside_M = caps.satisfied_M(drawn_MC)
        found_MC = _distinct(np.vstack([found_MC, _to_feasible_grid(drawn_MC[inside_M], caps, num_units)]))
        if len(found_MC) >= count:
            return found_MC[:count] / num_units
        outside.append(drawn_MC[~inside_M])
    for drawn_MC in outside:
        moved_MC = caps.apply(drawn_MC)
        found_MC = _distinct(np.vstack([found_MC, _to_feasible_grid(moved_MC, caps, num_units)]))
        if len(found_MC) >= count:
            return found_MC[:count] / num_units
    raise MixtureError(
        f"search.sampler: found {len(found_MC)} distinct mixtures within the caps on a grid of {config.grid}, "
        f"expected {count}; raise a cap, or lower the grid or the number of mixtures"
    )


def _check_config(config: SamplerConfig) -> None:
    if config.kind not in ("uniform", "dirichlet"):
        raise ConfigError(f"search.sampler.kind: expected uniform or dirichlet, found {config.kind!r}")
    if not MIN_GRID <= config.grid <= 0.5 or abs(round(1 / config.grid) * config.grid - 1) > 1e-9:
        raise ConfigError(
            f"search.sampler.grid: expected 1 / a whole number, from {MIN_GRID} to 0.5; found {config.grid}"
        )
    if not 0 < config.min_strength <= config.max_strength or config.num_strengths < 1:
        raise ConfigError(
            "search.sampler: expected 0 < min_strength <= max_strength and num_strengths >= 1, found "
            f"{config.min_strength}, {config.max_strength} and {config.num_strengths}"
        )
    if config.temperature <= 0:
        raise ConfigError(f"search.sampler.temperature: expected a number above 0, found {config.temperature}")


def _draw(config: SamplerConfig, prior_C: Array, count: int, rng: np.random.Generator) -> Array:
    """Rows on the simplex, before caps and grid; a row that underflows to all zeros is left out."""
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


def _to_feasible_grid(weights_MC: Array, caps: Caps, num_units: int) -> Units:
    """Rows on the grid that satisfy the caps there; one that cannot even near the centre is left out.

    Rounding can carry a row on a cap over it by a grid step, so such rows are moved on towards the centre.
    """
    units_MC = _to_grid(weights_MC, num_units)
    for step in _steps():
        violating_V = np.flatnonzero(~caps.satisfied_M(units_MC / num_units))
        if not violating_V.size:
            break
        moved_VC = (1 - step) * weights_MC[violating_V] + step * caps.centre_C
        units_MC[violating_V] = _to_grid(moved_VC, num_units)
    return units_MC[caps.satisfied_M(units_MC / num_units)]


def _steps() -> Iterator[float]:
    """Shares of the way to the centre: 1/256, 1/128, ... 1."""
    return (2.0**-power for power in range(8, -1, -1))


def _to_grid(weights_MC: Array, num_units: int) -> Units:
    """Nearest multiples of the grid that sum to 1 (largest remainder); weights below one grid step become 0."""
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


def _distinct(units_MC: Units) -> Units:
    """The rows without repetitions, in order of first appearance."""
    rows_M = np.ascontiguousarray(units_MC).view(np.dtype((np.void, units_MC.itemsize * units_MC.shape[1])))[:, 0]
    _, first_M = np.unique(rows_M, return_index=True)
    return units_MC[np.sort(first_M)]
